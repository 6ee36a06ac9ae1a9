//! What is cut as one: a 64 KiB step of a file, or a cell of the 64 KiB grid over what belongs to no file.
//!
//! A unit knows its blocks, where on the disk they are and what they hold. Sets of them are masks, bit `n` for block `n`.

use super::frozen::BLOCK;
use crate::map::ChunkPlace;
use silt_store::ChunkKind;
use silt_types::{CHUNK_SIZE_BYTES_MAX, ChunkId, is_zero, runs_of_bits};

/// Blocks of a unit.
pub(super) const UNIT_BLOCKS: usize = CHUNK_SIZE_BYTES_MAX / BLOCK;

/// A step or a cell.
pub(super) struct Unit {
    /// What its chunks are.
    pub(super) kind: ChunkKind,
    /// Where its content ends: at the end of the file in its last step.
    pub(super) len_bytes: usize,
    /// All that the file has here is known: its blocks are dirty, or were never written and read as zero. So one chunk can
    /// be all of the step.
    pub(super) whole: bool,
    /// Where blocks are on the disk; of use for dirty ones.
    pub(super) disk: [u64; UNIT_BLOCKS],
    /// Blocks whose content is known.
    pub(super) dirty: u16,
    /// Of those, blocks that the region at hand decides about.
    pub(super) ours: u16,
    /// Where dirty blocks are in the base.
    pub(super) base: [Option<ChunkPlace>; UNIT_BLOCKS],
    /// The content of dirty blocks to their borders; zero in all others.
    pub(super) content: Box<[u8]>,
}

impl Unit {
    pub(super) fn new() -> Unit {
        Unit {
            kind: ChunkKind::DiskData,
            len_bytes: CHUNK_SIZE_BYTES_MAX,
            whole: false,
            disk: [0; UNIT_BLOCKS],
            dirty: 0,
            ours: 0,
            base: [None; UNIT_BLOCKS],
            content: vec![0; CHUNK_SIZE_BYTES_MAX].into(),
        }
    }

    /// Lets it be another one, without blocks so far. Its content is still the old one's.
    pub(super) fn begin(&mut self, kind: ChunkKind, len_bytes: usize) {
        (self.kind, self.len_bytes) = (kind, len_bytes);
        (self.whole, self.dirty, self.ours) = (false, 0, 0);
        self.base = [None; UNIT_BLOCKS];
    }

    /// The content of a block.
    pub(super) fn block(&self, n: usize) -> &[u8] {
        &self.content[n * BLOCK..(n + 1) * BLOCK]
    }

    /// Dirty blocks that are not all zero.
    pub(super) fn nonzero(&self) -> u16 {
        select(|n| self.dirty >> n & 1 == 1 && !is_zero(self.block(n)))
    }

    /// The last block of the file, if it is dirty and something else than zero lies behind the file's end.
    pub(super) fn dirty_tail(&self) -> u16 {
        let last = self.len_bytes / BLOCK;
        if self.len_bytes.is_multiple_of(BLOCK) || self.dirty >> last & 1 == 0 {
            return 0;
        }
        let behind = &self.content[self.len_bytes..(last + 1) * BLOCK];
        if is_zero(behind) { 0 } else { 1 << last }
    }

    /// Blocks that the base maps.
    pub(super) fn mapped(&self) -> u16 {
        select(|n| self.base[n].is_some())
    }

    /// The chunk of the base that has these blocks just where one would have that begins with block `first`.
    pub(super) fn base_chunk(&self, blocks: u16, first: usize) -> Option<ChunkId> {
        let chunk = self.base[blocks.trailing_zeros() as usize % UNIT_BLOCKS]?.chunk;
        let fits = |n: usize| {
            self.base[n] == Some(ChunkPlace { chunk, offset_blocks: (n - first) as u64 })
        };
        let blocks = (0..UNIT_BLOCKS).filter(|n| blocks >> n & 1 == 1);
        blocks.into_iter().all(fits).then_some(chunk)
    }

    /// Runs of blocks that follow each other here and on the disk, as first block and number.
    pub(super) fn disk_runs(&self, blocks: u16) -> impl Iterator<Item = (usize, usize)> + use<> {
        let disk = self.disk;
        runs(blocks).flat_map(move |(start, len)| {
            let mut at = start;
            std::iter::from_fn(move || {
                let first = at;
                while at < start + len && disk[at] == disk[first] + (at - first) as u64 {
                    at += 1;
                }
                (at > first).then(|| (first, at - first))
            })
        })
    }
}

/// Runs of blocks that follow each other, as first block and number.
pub(super) fn runs(blocks: u16) -> impl Iterator<Item = (usize, usize)> {
    runs_of_bits(blocks).map(|run| (run.start as usize, run.len as usize))
}

/// The mask of `len` blocks from `start` on.
pub(super) fn mask(start: usize, len: usize) -> u16 {
    (((1u32 << len) - 1) << start) as u16
}

fn select(chosen: impl Fn(usize) -> bool) -> u16 {
    (0..UNIT_BLOCKS).filter(|n| chosen(*n)).fold(0, |blocks, n| blocks | 1 << n)
}
