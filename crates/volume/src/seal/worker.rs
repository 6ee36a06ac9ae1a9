//! What becomes of one region: its units are read, compared with the base, and what is new is put into the sink.

use super::{
    SealCounts,
    frozen::{BLOCK, BaseReader, FrozenDisk},
    hints::{FileHints, FilePlace},
    region::{DirtyKind, Region},
    unit::{UNIT_BLOCKS, Unit, mask, runs},
};
use crate::map::{ChunkPlace, MapChange};
use silt_format::MAP_LEAF_BLOCKS;
use silt_store::{ChunkKind, ChunkSink, Domain, KeyContext};
use silt_types::{
    BLOCK_SIZE_BYTES, BlockRange, CHUNK_BLOCKS_MAX, CHUNK_SIZE_BYTES_MAX, Progress, Result,
};

/// What all workers share.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    pub(super) frozen: &'a FrozenDisk<'a>,
    pub(super) hints: &'a FileHints,
    pub(super) domain: &'a Domain,
    pub(super) sink: &'a dyn ChunkSink,
    pub(super) progress: &'a dyn Progress,
}

/// What came of a region.
#[derive(Default)]
pub(super) struct SealedRegion {
    /// Ascending.
    pub(super) changes: Vec<MapChange>,
    pub(super) counts: SealCounts,
}

/// Does one region after the other. Its buffers are as long as the longest region.
pub(super) struct Worker<'a> {
    work: Work<'a>,
    base: BaseReader<'a>,
    data: RegionData,
    unit: Unit,
    done: SealedRegion,
}

/// Which unit a block belongs to. Units are done in this order, so that neighbours in files become neighbours in packs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum UnitKey {
    Step { file: u32, number: u64 },
    Cell(u64),
}

/// Blocks of a region that follow each other in a unit and on the disk.
#[derive(Clone, Copy)]
struct Piece {
    unit: UnitKey,
    /// First block in the unit.
    first: usize,
    disk: BlockRange,
}

impl<'a> Worker<'a> {
    pub(super) fn new(work: Work<'a>) -> Worker<'a> {
        let base = work.frozen.base_reader();
        let data = RegionData::default();
        Worker { work, base, data, unit: Unit::new(), done: SealedRegion::default() }
    }

    pub(super) fn seal(&mut self, region: &Region) -> Result<SealedRegion> {
        self.done = SealedRegion::default();
        self.data.read(region, self.work.frozen, &mut self.base)?;
        for run in &region.runs {
            self.done.counts.blocks_dirty += run.range.len;
            if run.kind == DirtyKind::Hole {
                self.zero(run.range)?;
            }
        }
        let pieces = self.pieces(region);
        for unit in pieces.chunk_by(|one, next| one.unit == next.unit) {
            self.begin_unit(unit)?;
            self.read_unit()?;
            self.settle()?;
        }
        let mut done = std::mem::take(&mut self.done);
        done.changes.sort_unstable_by_key(|change| change.range.start);
        Ok(done)
    }

    /// Makes blocks zero that are so in the delta.
    fn zero(&mut self, range: BlockRange) -> Result<()> {
        self.done.counts.blocks_zero += range.len;
        if range.len > MAP_LEAF_BLOCKS {
            // Without a look: the map drops whole subtrees unread, and one that had nothing there stays the same.
            self.done.changes.push(MapChange { range, place: None });
            return Ok(());
        }
        let mut places = [None; MAP_LEAF_BLOCKS as usize];
        let places = &mut places[..range.len as usize];
        self.base.places(range, places)?;
        let mut start = range.start;
        for alike in places.chunk_by(|one, next| one.is_some() == next.is_some()) {
            let range = BlockRange { start, len: alike.len() as u64 };
            if alike[0].is_some() {
                self.done.changes.push(MapChange { range, place: None });
            }
            start = range.end();
        }
        Ok(())
    }

    /// The data of a region, cut at the borders of units and sorted by them.
    fn pieces(&self, region: &Region) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for run in region.runs.iter().filter(|run| run.kind != DirtyKind::Hole) {
            let mut at = run.range.start;
            while at < run.range.end() {
                let (owner, alike) = self.work.hints.owner(at);
                let (unit, block) = match owner {
                    Some(FilePlace { file, block }) => {
                        (UnitKey::Step { file, number: block / CHUNK_BLOCKS_MAX }, block)
                    }
                    None => (UnitKey::Cell(at / CHUNK_BLOCKS_MAX), at),
                };
                let first = block % CHUNK_BLOCKS_MAX;
                let len = alike.min(run.range.end() - at).min(CHUNK_BLOCKS_MAX - first);
                let disk = BlockRange { start: at, len };
                pieces.push(Piece { unit, first: first as usize, disk });
                at += len;
            }
        }
        pieces.sort_unstable_by_key(|piece| (piece.unit, piece.first));
        pieces
    }

    /// Lets the unit have these blocks, and those of other regions that the file has in the same step.
    fn begin_unit(&mut self, pieces: &[Piece]) -> Result<()> {
        let Work { frozen, hints, .. } = self.work;
        let unit = &mut self.unit;
        let mut in_file = 0;
        match pieces[0].unit {
            UnitKey::Cell(_) => unit.begin(ChunkKind::DiskData, CHUNK_SIZE_BYTES_MAX),
            UnitKey::Step { file, number } => {
                let start = number * CHUNK_SIZE_BYTES_MAX as u64;
                let left = hints.size_bytes(file).saturating_sub(start);
                unit.begin(ChunkKind::FileData, left.min(CHUNK_SIZE_BYTES_MAX as u64) as usize);
                let (start, end) = (number * CHUNK_BLOCKS_MAX, (number + 1) * CHUNK_BLOCKS_MAX);
                for run in hints.step(file, number) {
                    for block in run.start().max(start)..run.end().min(end) {
                        let n = (block - start) as usize;
                        unit.disk[n] = run.disk_block(block);
                        in_file |= 1 << n;
                        unit.dirty |= u16::from(frozen.delta.contains(unit.disk[n])) << n;
                    }
                }
            }
        }
        for piece in pieces {
            let len = piece.disk.len as usize;
            for (n, block) in (piece.first..).zip(piece.disk.start..piece.disk.end()) {
                unit.disk[n] = block;
            }
            unit.dirty |= mask(piece.first, len);
            unit.ours |= mask(piece.first, len);
        }
        // Blocks that nobody ever wrote read as zero: that is known of them without the delta.
        let mut zero = 0;
        for (start, len) in unit.disk_runs(in_file & !unit.dirty) {
            let range = BlockRange { start: unit.disk[start], len: len as u64 };
            let mut places = [None; UNIT_BLOCKS];
            self.base.places(range, &mut places[..len])?;
            let unmapped = (start..start + len).filter(|n| places[n - start].is_none());
            zero = unmapped.fold(zero, |zero, n| zero | 1 << n);
        }
        unit.whole = in_file != 0 && in_file & !unit.dirty == zero;
        Ok(())
    }

    fn read_unit(&mut self) -> Result<()> {
        let unit = &mut self.unit;
        for (start, len) in runs(!unit.dirty) {
            unit.content[start * BLOCK..(start + len) * BLOCK].fill(0);
        }
        for (start, len) in unit.disk_runs(unit.dirty) {
            let range = BlockRange { start: unit.disk[start], len: len as u64 };
            let bytes = &mut unit.content[start * BLOCK..(start + len) * BLOCK];
            self.data.copy(bytes, range, self.work.frozen)?;
            self.base.places(range, &mut unit.base[start..start + len])?;
        }
        Ok(())
    }

    /// Decides about the blocks of the unit.
    fn settle(&mut self) -> Result<()> {
        let unit = &self.unit;
        let (ours, nonzero) = (unit.ours, unit.nonzero());
        let zero = unit.dirty & !nonzero;
        let tail = unit.dirty_tail();
        let body = nonzero & !tail;
        for (start, len) in unit.disk_runs(zero & ours & unit.mapped()) {
            let range = BlockRange { start: unit.disk[start], len: len as u64 };
            self.done.changes.push(MapChange { range, place: None });
        }
        let (whole, end) = (unit.whole, unit.len_bytes);
        let unchanged = self.unchanged_named(body)?;
        let unchanged = unchanged | self.unchanged_compared(nonzero & !unchanged)?;
        let changed = body & !unchanged;
        if whole && changed == body {
            self.put(body, 0..end, self.unit.kind)?;
        } else {
            for (start, len) in runs(changed) {
                let bytes = start * BLOCK..end.min((start + len) * BLOCK);
                self.put(mask(start, len), bytes, self.unit.kind)?;
            }
        }
        for (start, len) in runs(tail & !unchanged) {
            let bytes = start * BLOCK..(start + len) * BLOCK;
            self.put(mask(start, len), bytes, ChunkKind::DiskData)?;
        }
        let counts = &mut self.done.counts;
        let count = |blocks: u16| u64::from((blocks & ours).count_ones());
        counts.blocks_zero += count(zero);
        counts.blocks_unchanged += count(unchanged);
        match self.unit.kind {
            ChunkKind::FileData => counts.blocks_along_files += count(nonzero & !unchanged),
            _ => counts.blocks_on_grid += count(nonzero & !unchanged),
        }
        Ok(())
    }

    /// Blocks of chunks that would be made again as the base has them: their names tell, and the base is not read.
    fn unchanged_named(&self, blocks: u16) -> Result<u16> {
        let unit = &self.unit;
        let same = |blocks: u16, first: usize, end: usize| {
            unit.base_chunk(blocks, first).is_some_and(|chunk| {
                let content = &unit.content[first * BLOCK..end];
                self.work.domain.chunk_id(KeyContext::Content, content) == chunk
            })
        };
        if blocks == 0 {
            return Ok(0);
        }
        if unit.whole && same(blocks, 0, unit.len_bytes) {
            return Ok(blocks);
        }
        let parts = runs(blocks).filter(|(start, len)| {
            same(mask(*start, *len), *start, unit.len_bytes.min((start + len) * BLOCK))
        });
        Ok(parts.fold(0, |unchanged, (start, len)| unchanged | mask(start, len)))
    }

    /// Blocks that hold what they hold in the base.
    fn unchanged_compared(&mut self, blocks: u16) -> Result<u16> {
        let mut unchanged = 0;
        for n in (0..UNIT_BLOCKS).filter(|n| blocks >> n & 1 == 1) {
            if let Some(place) = self.unit.base[n]
                && self.base.holds(place, self.unit.block(n))?
            {
                unchanged |= 1 << n;
            }
        }
        Ok(unchanged)
    }

    /// Makes a chunk of these bytes of the unit, and maps to it those of the blocks that the region decides about.
    fn put(&mut self, blocks: u16, bytes: std::ops::Range<usize>, kind: ChunkKind) -> Result<()> {
        let blocks = blocks & self.unit.ours;
        if blocks == 0 {
            return Ok(());
        }
        let first = bytes.start / BLOCK;
        self.done.counts.chunks += 1;
        self.done.counts.bytes += bytes.len() as u64;
        let chunk = self.work.sink.put(kind, &self.unit.content[bytes])?;
        for (start, len) in self.unit.disk_runs(blocks) {
            let range = BlockRange { start: self.unit.disk[start], len: len as u64 };
            let place = ChunkPlace { chunk, offset_blocks: (start - first) as u64 };
            self.done.changes.push(MapChange { range, place: Some(place) });
        }
        Ok(())
    }
}

/// The bytes of a region, read in pieces as large as adjoin.
#[derive(Default)]
struct RegionData {
    bytes: Vec<u8>,
    /// Blocks, and where in `bytes` the first of them begins; ascending.
    runs: Vec<(BlockRange, usize)>,
}

impl RegionData {
    fn read(
        &mut self,
        region: &Region,
        frozen: &FrozenDisk<'_>,
        base: &mut BaseReader<'_>,
    ) -> Result<()> {
        self.runs.clear();
        let mut at = 0;
        for run in &region.runs {
            let len = run.range.len as usize * BLOCK;
            if run.kind == DirtyKind::Hole {
                continue;
            }
            if self.bytes.len() < at + len {
                self.bytes.resize(at + len, 0);
            }
            let bytes = &mut self.bytes[at..at + len];
            match run.kind {
                DirtyKind::Uncovered => base.read(bytes, run.range.start, 0)?,
                _ => frozen.delta.read_at(bytes, run.range.start * BLOCK_SIZE_BYTES)?,
            }
            self.runs.push((run.range, at));
            at += len;
        }
        Ok(())
    }

    /// Fills `out` with dirty blocks, from here where the region has them, else from the delta.
    fn copy(&self, out: &mut [u8], range: BlockRange, frozen: &FrozenDisk<'_>) -> Result<()> {
        let mut next = self.runs.partition_point(|(run, _)| run.end() <= range.start);
        let (mut rest, mut at) = (out, range.start);
        while at < range.end() {
            let run = self.runs.get(next).filter(|(run, _)| run.start < range.end());
            let end = match run {
                Some((run, _)) if run.start <= at => run.end().min(range.end()),
                Some((run, _)) => run.start,
                None => range.end(),
            };
            let (part, behind) = rest.split_at_mut((end - at) as usize * BLOCK);
            match run {
                Some((run, from)) if run.start <= at => {
                    let from = from + (at - run.start) as usize * BLOCK;
                    part.copy_from_slice(&self.bytes[from..from + part.len()]);
                    next += 1;
                }
                _ => frozen.delta.read_at(part, at * BLOCK_SIZE_BYTES)?,
            }
            (rest, at) = (behind, end);
        }
        Ok(())
    }
}
