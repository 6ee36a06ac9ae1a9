//! Keeping to bounds: before a write that needs space for blocks of the own delta begins, that space is asked for. So a write
//! that is refused has changed nothing, and no lock is held that anything else waits for.
//!
//! Writes where all blocks take space already never come here.

use super::{Layers, Volume};
use crate::delta::Delta;
use silt_store::{Allowance, DeltaSpace, LimitsFile, Portions, WhenFull};
use silt_types::{BLOCK_SIZE_BYTES, BlockRange, ErrorKind, Result};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

/// How a volume may grow.
pub(super) struct Growth {
    portions: Portions,
    delta_bytes_max: Option<u64>,
    is_full: AtomicBool,
}

impl Volume {
    /// From now on space is asked for before the delta grows. What the deltas take together stays within `delta_bytes_max`, or
    /// where there is none within what the store says: `limits`, unless it says otherwise later. Costs a look at the holes of the delta, if it has some.
    pub fn bound_by(
        &mut self,
        allowance: Arc<dyn Allowance>,
        limits: &LimitsFile,
        delta_bytes_max: Option<u64>,
    ) -> Result<()> {
        if let Some(own) = &self.layers().own {
            own.find_holes()?;
        }
        let (portions, is_full) = (Portions::new(allowance, limits), AtomicBool::new(false));
        self.growth = Some(Growth { portions, delta_bytes_max, is_full });
        Ok(())
    }

    /// Whether the last write that needed space was refused.
    pub fn is_full(&self) -> bool {
        self.growth.as_ref().is_some_and(|growth| growth.is_full.load(Relaxed))
    }

    /// What its guest meets when it is full, by the store. As it was told last.
    pub fn when_full(&self) -> WhenFull {
        self.growth.as_ref().map_or(WhenFull::Error, |growth| growth.portions.when_full())
    }

    /// What its deltas may take together, in bytes. As it was told last.
    pub fn delta_bytes_max(&self) -> Option<u64> {
        let growth = self.growth.as_ref()?;
        growth.delta_bytes_max.or_else(|| growth.portions.delta_max())
    }

    /// Lets `write` fill blocks for which there is space. `NoSpace`, and it was not begun, if there is none.
    pub(super) fn growing(
        &self,
        layers: &Layers,
        own: &Delta,
        blocks: BlockRange,
        write: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let written = self.find_space(layers, own, blocks).and_then(|()| write());
        let is_full = written.as_ref().is_err_and(|error| error.kind() == ErrorKind::NoSpace);
        if let Some(growth) = &self.growth
            && growth.is_full.load(Relaxed) != is_full
        {
            growth.is_full.store(is_full, Relaxed);
        }
        if written.is_ok() {
            own.takes_space(blocks);
        }
        written
    }

    fn find_space(&self, layers: &Layers, own: &Delta, blocks: BlockRange) -> Result<()> {
        let Some(growth) = &self.growth else { return Ok(()) };
        let bytes = own.members().without_space(blocks) * BLOCK_SIZE_BYTES;
        growth.portions.take(bytes, || {
            let bytes = layers.allocated_bytes()?;
            Ok(Some(DeltaSpace { bytes, bytes_max: growth.delta_bytes_max }))
        })
    }
}
