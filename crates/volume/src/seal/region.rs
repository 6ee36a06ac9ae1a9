//! The dirty blocks of a disk in ascending order, in regions of bounded length.
//!
//! Regions follow from the delta alone, and end where a cell of the 64 KiB grid does: so cells never lie in two.

use super::{dirty::DirtyRuns, frozen::FrozenDisk};
use silt_types::{BlockRange, CHUNK_BLOCKS_MAX, Result};
use std::iter::Peekable;

/// Blocks with data in a region, and holes besides. 4 MiB: more would only push one another out of the processor's
/// caches, less would make workers wait for each other.
pub(super) const REGION_BLOCKS_MAX: u64 = 1024;

/// What a run of dirty blocks is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DirtyKind {
    /// The delta holds bytes, which may be zero.
    Data,
    /// The delta says that the blocks are zero.
    Hole,
    /// Of the base; see [`FrozenDisk::uncovered_block`].
    Uncovered,
}

/// Dirty blocks that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DirtyRun {
    pub(super) range: BlockRange,
    pub(super) kind: DirtyKind,
}

/// The dirty blocks of a part of the disk, ascending.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) runs: Vec<DirtyRun>,
}

/// Iterator over the regions of a disk.
pub(super) struct Regions<'a> {
    delta: Peekable<DirtyRuns<'a>>,
    uncovered: Option<u64>,
    /// What the last region had no room for.
    rest: Option<DirtyRun>,
}

impl<'a> Regions<'a> {
    pub(super) fn new(frozen: &FrozenDisk<'a>) -> Regions<'a> {
        let delta = frozen.delta.runs().peekable();
        Regions { delta, uncovered: frozen.uncovered_block(), rest: None }
    }

    fn next_run(&mut self) -> Result<Option<DirtyRun>> {
        if let Some(rest) = self.rest.take() {
            return Ok(Some(rest));
        }
        let next = match self.delta.peek() {
            Some(Ok(run)) => Some(run.range.start),
            _ => None,
        };
        let first = self.uncovered.take_if(|block| next.is_none_or(|next| *block < next));
        if let Some(start) = first {
            let range = BlockRange { start, len: 1 };
            return Ok(Some(DirtyRun { range, kind: DirtyKind::Uncovered }));
        }
        let run = self.delta.next().transpose()?;
        Ok(run.map(|run| DirtyRun {
            range: run.range,
            kind: if run.hole { DirtyKind::Hole } else { DirtyKind::Data },
        }))
    }

    fn next_region(&mut self) -> Result<Region> {
        let mut region = Region::default();
        let mut room = REGION_BLOCKS_MAX;
        // The end of the cell of the grid that the region has come to.
        let mut cell_end = 0;
        while let Some(run) = self.next_run()? {
            let BlockRange { start, len } = run.range;
            let is_hole = run.kind == DirtyKind::Hole;
            let last_whole = (start + room) / CHUNK_BLOCKS_MAX * CHUNK_BLOCKS_MAX;
            let end_max = cell_end.max(if is_hole && room > 0 { u64::MAX } else { last_whole });
            if start >= end_max {
                self.rest = Some(run);
                break;
            }
            let taken = len.min(end_max - start);
            region.runs.push(DirtyRun { range: BlockRange { start, len: taken }, ..run });
            room = room.saturating_sub(if is_hole { 1 } else { taken });
            cell_end = (start + taken).next_multiple_of(CHUNK_BLOCKS_MAX);
            if taken < len {
                let range = BlockRange { start: start + taken, len: len - taken };
                self.rest = Some(DirtyRun { range, ..run });
                break;
            }
        }
        Ok(region)
    }
}

impl Iterator for Regions<'_> {
    type Item = Result<Region>;

    fn next(&mut self) -> Option<Result<Region>> {
        let region = self.next_region();
        if region.as_ref().is_ok_and(|region| region.runs.is_empty()) { None } else { Some(region) }
    }
}
