//! The layers of a disk, newest first, and which of them a block reads from.

use super::{read_only, rotate::Recorded};
use crate::{
    delta::{Delta, DeltaReader, MembersGuard},
    map::DiskMap,
};
use roaring::RoaringBitmap;
use silt_types::{BLOCK_SIZE_BYTES, Result};
use std::sync::Arc;

/// Blocks that are looked at one by one before the end of a run is searched for: few reads are longer, and for them this is
/// faster.
const BLOCKS_STEPPED: u64 = 64;

/// What a disk is made of at a moment.
pub(super) struct Layers {
    /// The sealed disk below everything.
    pub(super) base: Arc<DiskMap>,
    /// Frozen deltas, newest first.
    pub(super) frozen: Vec<Arc<DeltaReader>>,
    /// The delta that is written to.
    pub(super) own: Option<Arc<Delta>>,
    /// Whether a crash would leave these layers, and not those before the last rotation.
    pub(super) recorded: Recorded,
}

/// The layer that a block reads from.
#[derive(Clone, Copy)]
pub(super) enum Layer<'a> {
    Own(&'a Delta),
    Frozen(&'a DeltaReader),
    Base,
}

impl PartialEq for Layer<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Layer::Own(_), Layer::Own(_)) | (Layer::Base, Layer::Base) => true,
            (Layer::Frozen(one), Layer::Frozen(other)) => std::ptr::eq(*one, *other),
            _ => false,
        }
    }
}

impl Layers {
    /// The delta to write to; `Invalid` if there is none, `Io` if a rotation failed.
    pub(super) fn writable(&self) -> Result<&Delta> {
        self.recorded.must_not_have_failed()?;
        self.own.as_deref().ok_or_else(read_only)
    }

    pub(super) fn blocks_modified(&self) -> u64 {
        let frozen = self.frozen.iter().map(|delta| delta.members());
        let mut all = frozen.fold(RoaringBitmap::new(), |all, members| all | members);
        if let Some(own) = &self.own {
            all |= own.members().all();
        }
        all.len()
    }

    pub(super) fn allocated_bytes(&self) -> Result<u64> {
        let own = self.own.as_ref().map_or(Ok(0), |own| own.allocated_bytes())?;
        self.frozen.iter().try_fold(own, |sum, delta| Ok(sum + delta.allocated_bytes()?))
    }

    /// The layer of `block`, and how many blocks from it on, up to `end`, have the same; fewer may be told of many. Costs a
    /// look-up in each delta for each block, so callers bound the range; on a disk that cannot be written a constant.
    pub(super) fn locate(&self, block: u64, end: u64) -> (Layer<'_>, u64) {
        let members = self.own.as_ref().map(|own| own.members());
        let layer_of = |block| self.layer_of(members.as_ref(), block);
        let layer = layer_of(block);
        let near = match members {
            None => end.min(block + BLOCKS_STEPPED),
            Some(_) => end,
        };
        let rest = (block + 1..near).take_while(|next| layer_of(*next) == layer);
        let blocks = 1 + rest.count() as u64;
        match block + blocks {
            at if at == near && near < end => (layer, self.frozen_alike(near - 1, end) - block),
            _ => (layer, blocks),
        }
    }

    /// Where, at `end` at the latest, the frozen deltas may first hold other blocks than at `block`: those down to the one
    /// that has it.
    fn frozen_alike(&self, block: u64, end: u64) -> u64 {
        let mut alike = end;
        for delta in &self.frozen {
            let first = u32::try_from(block).unwrap_or(u32::MAX);
            let Some(run) = delta.members().range(first..).next_range() else { continue };
            let (start, past) = (u64::from(*run.start()), u64::from(*run.end()) + 1);
            if start <= block {
                return alike.min(past);
            }
            alike = alike.min(start);
        }
        alike
    }

    fn layer_of(&self, own: Option<&MembersGuard<'_>>, block: u64) -> Layer<'_> {
        if own.is_some_and(|members| members.contains(block)) {
            return self.own.as_deref().map_or(Layer::Base, Layer::Own);
        }
        let frozen = self.frozen.iter().find(|delta| delta.contains(block));
        frozen.map_or(Layer::Base, |delta| Layer::Frozen(delta))
    }

    /// Whether the base reads as zero at a block, and for how many blocks up to `end` that can be told at once.
    pub(super) fn base_zero_at(&self, block: u64, end: u64) -> Result<(bool, u64)> {
        if block * BLOCK_SIZE_BYTES >= self.base.disk_id().size_bytes {
            return Ok((true, end - block));
        }
        let extent = self.base.lookup(block)?;
        Ok((extent.place.is_none(), extent.len_blocks.min(end - block)))
    }
}
