//! Reading: newest layer first, each chunk decoded once.

use super::{Layer, Layers, Volume};
use crate::map::{ChunkPlace, DiskMap};
use silt_store::{Chunk, KeyContext};
use silt_sys::iobuf::IoBufMut;
use silt_types::{BLOCK_SIZE_BYTES, ChunkId, Result};
use std::sync::PoisonError;

/// How far a read may go for what it needs.
#[derive(Clone, Copy)]
enum Effort {
    /// To the disk, and through decoding.
    Any,
    /// Only to what is decoded already. Data of deltas counts as such: it is usually in the page cache.
    Hot,
}

/// The chunk that a read used last: extents that neighbour each other, or enclose a block of a delta, often share it.
type Last = Option<(ChunkId, Chunk)>;

impl Volume {
    pub(super) fn read(&self, buf: IoBufMut<'_>, offset: u64) -> Result<()> {
        self.check(offset, buf.len() as u64)?;
        // Nobody is kept waiting while chunks are fetched.
        let layers = self.layers();
        if let Some(readahead) = &self.readahead {
            readahead.miss(&layers, offset, buf.len() as u64);
        }
        self.read_layers(&layers, buf, offset, Effort::Any).map(|_| ())
    }

    /// True if all of it was hot; else `buf` may be filled in part.
    pub(super) fn read_if_hot(&self, buf: IoBufMut<'_>, offset: u64) -> Result<bool> {
        self.check(offset, buf.len() as u64)?;
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        let len = buf.len() as u64;
        let is_hot = self.read_layers(&layers, buf, offset, Effort::Hot)?;
        if let Some(readahead) = self.readahead.as_ref().filter(|_| is_hot) {
            readahead.hit(&layers, offset, len);
        }
        Ok(is_hot)
    }

    /// Reads a whole block, even where the disk ends within it; it is zero from there on.
    pub(super) fn read_block(
        &self,
        layers: &Layers,
        buf: &mut [u8; BLOCK_SIZE_BYTES as usize],
        block: u64,
    ) -> Result<()> {
        let buf = buf.as_mut_slice().into();
        self.read_layers(layers, buf, block * BLOCK_SIZE_BYTES, Effort::Any).map(|_| ())
    }

    fn read_layers(
        &self,
        layers: &Layers,
        mut rest: IoBufMut<'_>,
        offset: u64,
        effort: Effort,
    ) -> Result<bool> {
        let end_block = (offset + rest.len() as u64).div_ceil(BLOCK_SIZE_BYTES);
        let mut at = offset;
        let mut last = None;
        while !rest.is_empty() {
            let block = at / BLOCK_SIZE_BYTES;
            let (layer, blocks) = layers.locate(block, end_block);
            let run_end = (block + blocks) * BLOCK_SIZE_BYTES;
            let len = rest.len().min((run_end - at) as usize);
            let part = rest.take(len);
            match layer {
                Layer::Own(own) => own.readv_at(part, at)?,
                Layer::Frozen(delta) => delta.readv_at(part, at)?,
                Layer::Base => {
                    if !self.read_base(&layers.base, part, at, effort, &mut last)? {
                        return Ok(false);
                    }
                }
            }
            at += len as u64;
        }
        Ok(true)
    }

    fn read_base(
        &self,
        base: &DiskMap,
        mut rest: IoBufMut<'_>,
        offset: u64,
        effort: Effort,
        last: &mut Last,
    ) -> Result<bool> {
        let base_len = base.disk_id().size_bytes;
        let mut at = offset;
        while !rest.is_empty() && at < base_len {
            let block = at / BLOCK_SIZE_BYTES;
            let extent = match effort {
                Effort::Any => base.lookup(block)?,
                Effort::Hot => match base.lookup_hot(block)? {
                    Some(extent) => extent,
                    None => return Ok(false),
                },
            };
            // A base that ends within a block ends there, whatever its chunk holds behind.
            let extent_end = ((block + extent.len_blocks) * BLOCK_SIZE_BYTES).min(base_len);
            let len = rest.len().min((extent_end - at) as usize);
            let part = rest.take(len);
            match extent.place {
                None => part.fill_zero(),
                Some(place) => {
                    let Some(chunk) = self.chunk(place, effort, last)? else { return Ok(false) };
                    let start = place.offset_blocks * BLOCK_SIZE_BYTES + at % BLOCK_SIZE_BYTES;
                    copy_padded(chunk, start as usize, part);
                }
            }
            at += len as u64;
        }
        rest.fill_zero();
        Ok(true)
    }

    fn chunk<'a>(
        &self,
        place: ChunkPlace,
        effort: Effort,
        last: &'a mut Last,
    ) -> Result<Option<&'a Chunk>> {
        if last.as_ref().is_none_or(|(id, _)| *id != place.chunk) {
            let found = match effort {
                Effort::Any => Some(self.source.get(KeyContext::Content, &place.chunk)?),
                Effort::Hot => self.source.get_hot(KeyContext::Content, &place.chunk),
            };
            *last = found.map(|chunk| (place.chunk, chunk));
        }
        Ok(last.as_ref().map(|(_, chunk)| chunk))
    }
}

/// Copies bytes of a chunk, which reads as zero beyond its end.
fn copy_padded(chunk: &[u8], start: usize, mut out: IoBufMut<'_>) {
    let found = chunk.get(start..).unwrap_or_default();
    let len = found.len().min(out.len());
    out.take(len).copy_from(&found[..len]);
    out.fill_zero();
}
