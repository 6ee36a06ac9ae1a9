//! Order between writes that let a block join the delta.
//!
//! The race: a write of one sector of a block that is not in the delta reads the whole block from below, puts its sector
//! in, and writes the whole block. If meanwhile another write of that block begins and ends, be it of another sector or
//! of the whole block, the first one's merged block undoes it, though it was answered. So a merge holds the block alone,
//! and every other write that may let the block join takes part in the lock too. Once a block is in, sectors are written
//! where they are, nothing is merged, and no lock is needed; blocks never leave.

use silt_types::BlockRange;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

const STRIPES: usize = 64;
/// Neighbouring blocks on one stripe: the usual large write then takes few.
const STRIPE_BLOCKS: u64 = 16;

/// Locks on blocks, striped over the disk.
pub(super) struct FirstTouch {
    stripes: [RwLock<()>; STRIPES],
}

impl Default for FirstTouch {
    fn default() -> FirstTouch {
        FirstTouch { stripes: [const { RwLock::new(()) }; STRIPES] }
    }
}

impl FirstTouch {
    /// Keeps merges away from one block and each other. A holder must not take another lock of these.
    pub(super) fn merge(&self, block: u64) -> RwLockWriteGuard<'_, ()> {
        let stripe = (block / STRIPE_BLOCKS) as usize % STRIPES;
        self.stripes[stripe].write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps merges away from whole blocks that are written without looking at what they were. Several may hold the same
    /// blocks: whole writes that overlap end in either order. Stripes are taken in ascending order, each once.
    pub(super) fn replace(&self, blocks: BlockRange) -> Vec<RwLockReadGuard<'_, ()>> {
        let first = blocks.start / STRIPE_BLOCKS;
        let count = (blocks.end().div_ceil(STRIPE_BLOCKS) - first).min(STRIPES as u64);
        let mut taken = [false; STRIPES];
        (first..first + count).for_each(|stripe| taken[stripe as usize % STRIPES] = true);
        let needed = self.stripes.iter().zip(taken).filter(|(_, taken)| *taken);
        needed.map(|(stripe, _)| stripe.read().unwrap_or_else(PoisonError::into_inner)).collect()
    }
}
