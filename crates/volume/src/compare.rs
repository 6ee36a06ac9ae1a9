//! Where two disks differ, in time proportional to the difference.
//!
//! Two steps. What *may* differ is told by maps and records alone: blocks whose places in the two maps differ, and blocks
//! of deltas, those deltas left out that both disks share over the same base. What *does* differ is told by comparing the
//! bytes of these blocks: so a block that was written again with the same bytes is no difference.
//!
//! Not for files: `silt_ext4::reader::changes` asks this for what need not be read. A disk that ends before the other
//! reads as zero from there on.

use crate::{BlockDevice as _, DeltaReader, Volume, diff_maps, map::same_places};
use roaring::{RoaringBitmap, bitmap};
use silt_types::{BLOCK_SIZE_BYTES, BlockRange, Error, Progress, Result};
use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
};

/// Blocks read and compared at a time: 1 MiB. Holds chunks whole where they are.
const PIECE_BLOCKS: u64 = 256;
const BLOCK: usize = BLOCK_SIZE_BYTES as usize;

/// Two disks that do not change, and the blocks in which they may differ.
pub struct VolumePair<'a> {
    a: &'a Volume,
    b: &'a Volume,
    may_differ: RoaringBitmap,
}

/// Blocks that differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DifferingBlocks(RoaringBitmap);

impl DifferingBlocks {
    /// Number of blocks.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether the disks are equal.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The blocks in ascending ranges that do not adjoin.
    pub fn ranges(&self) -> impl Iterator<Item = BlockRange> + '_ {
        let mut blocks = self.0.iter();
        std::iter::from_fn(move || next_range(&mut blocks))
    }
}

impl<'a> VolumePair<'a> {
    /// Finds out where the disks may differ. Reads the nodes that differ between the maps of their bases, and no content.
    /// `Invalid` if one of them can be written; `Corrupt` or `NotFound` if a node is damaged or missing.
    pub fn new(a: &'a Volume, b: &'a Volume) -> Result<VolumePair<'a>> {
        if !a.geometry().read_only || !b.geometry().read_only {
            return Err(Error::invalid("disks that can be written cannot be compared"));
        }
        let mut may_differ = RoaringBitmap::new();
        for range in diff_maps(&a.base_map(), &b.base_map()) {
            insert(&mut may_differ, range?);
        }
        let (a_deltas, b_deltas) = (a.frozen(), b.frozen());
        let mut deltas = [&a_deltas[..], &b_deltas[..]];
        if a.base() == b.base() {
            leave_out_shared(&mut deltas);
        }
        for delta in deltas.into_iter().flatten() {
            may_differ |= delta.members();
        }
        // Where a layer ends within a block, what is behind that end depends on what lies below.
        for end in [a, b].into_iter().flat_map(ends_within_blocks) {
            insert(&mut may_differ, BlockRange { start: end / BLOCK_SIZE_BYTES, len: 1 });
        }
        Ok(VolumePair { a, b, may_differ })
    }

    /// Number of blocks that may differ.
    pub fn blocks_that_may_differ(&self) -> u64 {
        self.may_differ.len()
    }

    /// Bytes that the first disk, and the second, hold where they may differ: both may hold the same there, written anew.
    /// Reads no content.
    pub fn bytes_held_that_may_differ(&self) -> Result<(u64, u64)> {
        let (mut blocks, mut held) = (self.may_differ.iter(), (0, 0));
        while let Some(range) = next_range(&mut blocks) {
            held.0 += self.a.bytes_held(range)?;
            held.1 += self.b.bytes_held(range)?;
        }
        Ok(held)
    }

    /// How many of `len_bytes` bytes, from `a_offset` of the first disk and `b_offset` of the second on, are known to be
    /// equal without reading them: because nothing changed there, or because both are the same part of a chunk. The
    /// ranges must lie on their disks. Costs a look-up in each map for each run where the offsets differ.
    pub fn known_equal(&self, a_offset: u64, b_offset: u64, len_bytes: u64) -> Result<u64> {
        if a_offset == b_offset {
            let end = a_offset + len_bytes;
            let blocks = a_offset / BLOCK_SIZE_BYTES..end.div_ceil(BLOCK_SIZE_BYTES);
            let first = next_member(&self.may_differ, blocks.start);
            let first = first.filter(|block| *block < blocks.end);
            return Ok(match first {
                Some(block) => (block * BLOCK_SIZE_BYTES).saturating_sub(a_offset),
                None => len_bytes,
            });
        }
        if !(a_offset | b_offset).is_multiple_of(BLOCK_SIZE_BYTES) {
            return Ok(0);
        }
        let (a_block, b_block) = (a_offset / BLOCK_SIZE_BYTES, b_offset / BLOCK_SIZE_BYTES);
        let len = len_bytes.div_ceil(BLOCK_SIZE_BYTES);
        let len = sealed_blocks(self.a, a_block, len).min(sealed_blocks(self.b, b_block, len));
        let same = same_places(&self.a.base_map(), a_block, &self.b.base_map(), b_block, len)?;
        Ok((same * BLOCK_SIZE_BYTES).min(len_bytes))
    }

    /// Compares the bytes wherever they may differ, with every core. `Corrupt`, naming the chunk, if one is damaged.
    pub fn differing_blocks(&self, progress: &dyn Progress) -> Result<DifferingBlocks> {
        progress.begin("comparing", self.may_differ.len() * BLOCK_SIZE_BYTES);
        let compare = Compare {
            pair: self,
            rest: Mutex::new((self.may_differ.iter(), None)),
            found: Mutex::new(Ok(RoaringBitmap::new())),
            progress,
        };
        thread::scope(|scope| {
            let threads = thread::available_parallelism().map_or(1, usize::from);
            (0..threads).for_each(|_| drop(scope.spawn(|| compare.work())));
        });
        compare.found.into_inner().unwrap_or_else(PoisonError::into_inner).map(DifferingBlocks)
    }
}

/// Drops the oldest deltas from both lists as long as they are the same ones.
fn leave_out_shared(deltas: &mut [&[Arc<DeltaReader>]; 2]) {
    while let [[rest_a @ .., a], [rest_b @ .., b]] = *deltas {
        if a.id() != b.id() {
            return;
        }
        *deltas = [rest_a, rest_b];
    }
}

fn insert(blocks: &mut RoaringBitmap, range: BlockRange) {
    // The largest disk has 2^32 blocks, so every block that there is has a number of 32 bits.
    let last = u32::try_from(range.end() - 1).unwrap_or(u32::MAX);
    if let Ok(first) = u32::try_from(range.start) {
        blocks.insert_range(first..=last);
    }
}

fn next_range(blocks: &mut bitmap::Iter<'_>) -> Option<BlockRange> {
    let range = blocks.next_range()?;
    let (start, last) = (u64::from(*range.start()), u64::from(*range.end()));
    Some(BlockRange { start, len: last + 1 - start })
}

/// The first block of the set at or behind `block`.
fn next_member(blocks: &RoaringBitmap, block: u64) -> Option<u64> {
    let mut rest = blocks.range(u32::try_from(block).ok()?..);
    rest.next().map(u64::from)
}

/// Lengths of the layers of a disk, and its own, that are not whole blocks.
fn ends_within_blocks(volume: &Volume) -> Vec<u64> {
    let deltas = volume.frozen().into_iter().map(|delta| delta.size_bytes());
    let ends = deltas.chain([volume.geometry().size_bytes, volume.base().size_bytes]);
    ends.filter(|end| end % BLOCK_SIZE_BYTES != 0).collect()
}

/// How many of `len` blocks from `block` on come whole from the base, as far as deltas tell from the first of them on.
fn sealed_blocks(volume: &Volume, block: u64, len: u64) -> u64 {
    let whole = volume.base().size_bytes / BLOCK_SIZE_BYTES;
    let end = whole.min(block.saturating_add(len));
    let deltas = volume.frozen();
    let written = deltas.iter().filter_map(|delta| next_member(delta.members(), block));
    written.chain([end]).min().unwrap_or(end).saturating_sub(block)
}

/// What the threads of one comparison share.
struct Compare<'a> {
    pair: &'a VolumePair<'a>,
    /// The blocks still to be compared; the range that was taken from them last, as far as it is left.
    rest: Mutex<(bitmap::Iter<'a>, Option<BlockRange>)>,
    found: Mutex<Result<RoaringBitmap>>,
    progress: &'a dyn Progress,
}

impl Compare<'_> {
    fn work(&self) {
        let mut found = RoaringBitmap::new();
        let mut buffers = [0, 1].map(|_| vec![0; PIECE_BLOCKS as usize * BLOCK]);
        let done = loop {
            let failed = self.found.lock().unwrap_or_else(PoisonError::into_inner).is_err();
            let Some(piece) = self.take().filter(|_| !failed) else { break Ok(()) };
            if let Err(error) = self.pair.compare_piece(piece, &mut buffers, &mut found) {
                break Err(error);
            }
            self.progress.advance(piece.len * BLOCK_SIZE_BYTES);
        };
        let mut all = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        match (&mut *all, done) {
            (Ok(all), Ok(())) => *all |= found,
            (Ok(_), Err(error)) => *all = Err(error),
            (Err(_), _) => {}
        }
    }

    /// The next piece, at most [`PIECE_BLOCKS`] long.
    fn take(&self) -> Option<BlockRange> {
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        let (blocks, left) = &mut *rest;
        let range = left.take().or_else(|| next_range(blocks))?;
        let len = range.len.min(PIECE_BLOCKS);
        if len < range.len {
            *left = Some(BlockRange { start: range.start + len, len: range.len - len });
        }
        Some(BlockRange { start: range.start, len })
    }
}

impl VolumePair<'_> {
    fn compare_piece(
        &self,
        piece: BlockRange,
        buffers: &mut [Vec<u8>; 2],
        found: &mut RoaringBitmap,
    ) -> Result<()> {
        let [a, b] = buffers;
        let len = piece.len as usize * BLOCK;
        let (a, b) = (&mut a[..len], &mut b[..len]);
        read_padded(self.a, a, piece.start * BLOCK_SIZE_BYTES)?;
        read_padded(self.b, b, piece.start * BLOCK_SIZE_BYTES)?;
        if a == b {
            return Ok(());
        }
        for (n, (a, b)) in a.chunks(BLOCK).zip(b.chunks(BLOCK)).enumerate() {
            if a != b {
                insert(found, BlockRange { start: piece.start + n as u64, len: 1 });
            }
        }
        Ok(())
    }
}

/// Reads bytes of a disk that is zero behind its end.
fn read_padded(volume: &Volume, buf: &mut [u8], offset: u64) -> Result<()> {
    let len = volume.geometry().size_bytes.saturating_sub(offset).min(buf.len() as u64);
    let (data, behind) = buf.split_at_mut(len as usize);
    behind.fill(0);
    if data.is_empty() { Ok(()) } else { volume.read_at(data, offset) }
}

#[cfg(test)]
mod tests;
