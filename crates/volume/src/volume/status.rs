//! Telling holes and zeros, without reading data.

use super::{Layer, Layers, Volume};
use crate::device::BlockStatus;
use silt_types::{BLOCK_SIZE_BYTES, BlockRange, Error, Result};

/// The longest range that one call looks at; a longer one is answered for its beginning.
const STATUS_LEN_MAX: u64 = 4 << 30;

/// Runs asked for at a time.
const STATUS_RUNS: usize = 64;

impl Volume {
    /// Runs of blocks that some layer holds as data are neither hole nor zero, even where they happen to be zero; all
    /// others are both.
    pub(super) fn status(
        &self,
        offset: u64,
        len_bytes: u64,
        runs_max: usize,
    ) -> Result<Vec<BlockStatus>> {
        self.check(offset, len_bytes)?;
        if len_bytes == 0 || runs_max == 0 {
            return Err(Error::invalid("the status of nothing was asked for"));
        }
        let layers = self.layers();
        let end = offset + len_bytes.min(STATUS_LEN_MAX);
        let mut runs: Vec<BlockStatus> = Vec::new();
        let mut at = offset;
        while at < end {
            let (layer, blocks) =
                layers.locate(at / BLOCK_SIZE_BYTES, end.div_ceil(BLOCK_SIZE_BYTES));
            let run_end = ((at / BLOCK_SIZE_BYTES + blocks) * BLOCK_SIZE_BYTES).min(end);
            while at < run_end {
                let (len_bytes, hole) = layers.hole_at(layer, at, run_end)?;
                let full = runs.len() == runs_max;
                match runs.last_mut() {
                    Some(last) if last.hole == hole => last.len_bytes += len_bytes,
                    _ if full => return Ok(runs),
                    _ => runs.push(BlockStatus { len_bytes, hole, zero: hole }),
                }
                at += len_bytes;
            }
        }
        Ok(runs)
    }

    /// Bytes of a range that some layer holds as data. What lies behind the end of the disk counts for nothing. Costs a
    /// look-up for each run, and reads no data.
    pub fn bytes_held(&self, range: BlockRange) -> Result<u64> {
        let end = (range.end() * BLOCK_SIZE_BYTES).min(self.size_bytes());
        let (mut at, mut held) = (range.start * BLOCK_SIZE_BYTES, 0);
        while at < end {
            for run in self.status(at, end - at, STATUS_RUNS)? {
                at += run.len_bytes;
                held += if run.hole { 0 } else { run.len_bytes };
            }
        }
        Ok(held)
    }
}

impl Layers {
    fn hole_at(&self, layer: Layer<'_>, at: u64, end: u64) -> Result<(u64, bool)> {
        let space = match layer {
            Layer::Own(own) => own.space_at(at, end)?,
            Layer::Frozen(delta) => delta.space_at(at, end)?,
            Layer::Base => {
                let block = at / BLOCK_SIZE_BYTES;
                let (zero, blocks) = self.base_zero_at(block, end.div_ceil(BLOCK_SIZE_BYTES))?;
                return Ok((((block + blocks) * BLOCK_SIZE_BYTES).min(end) - at, zero));
            }
        };
        Ok((space.len_bytes, space.hole))
    }
}
