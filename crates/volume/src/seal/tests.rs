use super::*;
use crate::{
    BlockDevice as _, ChunkPlace, Delta, DeltaReader, DiskMap, MapBuilder, Volume, VolumeParts,
};
use proptest::prelude::*;
use region::{DirtyKind, REGION_BLOCKS_MAX, Regions};
use silt_store::{Chunk, ChunkKind, KeyContext, MemoryChunks};
use silt_types::{BlockRange, CHUNK_BLOCKS_MAX, ChunkId, DeltaId, ErrorKind, NoProgress};
use std::{
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};
use tempfile::TempDir;

const BLOCK: usize = BLOCK_SIZE_BYTES as usize;

/// Chunks in memory that remember what was put, and how often content was read.
#[derive(Default)]
struct Chunks {
    memory: MemoryChunks,
    put: Mutex<Vec<(ChunkKind, usize)>>,
    content_reads: AtomicU64,
}

impl ChunkSink for Chunks {
    fn put(&self, kind: ChunkKind, content: &[u8]) -> Result<ChunkId> {
        assert!(content.iter().any(|byte| *byte != 0), "a chunk is never all zero");
        self.put.lock().unwrap().push((kind, content.len()));
        self.memory.put(kind, content)
    }
}

impl ChunkSource for Chunks {
    fn get(&self, context: KeyContext, id: &ChunkId) -> Result<Chunk> {
        self.content_reads.fetch_add((context == KeyContext::Content).into(), Ordering::Relaxed);
        self.memory.get(context, id)
    }

    fn get_hot(&self, context: KeyContext, id: &ChunkId) -> Option<Chunk> {
        self.memory.get_hot(context, id)
    }
}

impl Chunks {
    /// Lengths of the chunks of content put since the last call.
    fn taken(&self) -> Vec<usize> {
        let put = std::mem::take(&mut *self.put.lock().unwrap());
        put.into_iter()
            .filter(|(kind, _)| *kind != ChunkKind::MapNode)
            .map(|(_, len)| len)
            .collect()
    }
}

/// A disk without a file system, and deltas over it.
struct Fixture {
    temp: TempDir,
    chunks: Arc<Chunks>,
    base: DiskId,
    deltas: u8,
}

impl Fixture {
    /// A base that reads as zero.
    fn zero(size_bytes: u64) -> Fixture {
        let base = DiskId { root: DiskId::ZERO_ROOT, size_bytes };
        let temp = tempfile::tempdir().unwrap();
        Fixture { temp, chunks: Arc::default(), base, deltas: 0 }
    }

    /// The folder of a delta of a disk of this length, to which `change` was done.
    fn delta(&mut self, size_bytes: u64, change: impl FnOnce(&Volume)) -> PathBuf {
        self.deltas += 1;
        let dir = self.temp.path().join(self.deltas.to_string());
        Delta::create(&dir, DeltaId::from_bytes([self.deltas; 16]), size_bytes).unwrap();
        let volume = Volume::open(VolumeParts {
            source: self.chunks.clone(),
            base: self.base,
            frozen: vec![],
            own: Some(dir.clone()),
            size_bytes,
            lease: None,
        });
        let volume = volume.unwrap();
        change(&volume);
        volume.close().unwrap();
        dir
    }

    fn seal(&self, delta: &Path) -> Result<Sealed> {
        self.seal_with(delta, 2)
    }

    fn seal_with(&self, delta: &Path, workers: usize) -> Result<Sealed> {
        let delta = DeltaReader::open(delta)?;
        let parts = SealParts {
            source: self.chunks.clone(),
            domain: &Domain::published(),
            base: self.base,
            delta: &delta,
        };
        let workers = NonZeroUsize::new(workers).unwrap();
        seal_with(parts, &*self.chunks, &NoProgress, workers)
    }

    /// Seals, checks that nothing reads otherwise, and goes on from there.
    fn rebase(&mut self, delta: &Path) -> Sealed {
        let expected = self.read(self.base, Some(delta));
        let sealed = self.seal(delta).unwrap();
        assert_same(&self.read(sealed.disk, None), &expected);
        let counts = sealed.counts;
        let sum = counts.blocks_zero
            + counts.blocks_unchanged
            + counts.blocks_along_files
            + counts.blocks_on_grid;
        assert_eq!(sum, counts.blocks_dirty, "{counts:?}");
        self.base = sealed.disk;
        sealed
    }

    fn read(&self, base: DiskId, delta: Option<&Path>) -> Vec<u8> {
        let size = delta.map(|dir| DeltaReader::open(dir).unwrap().size_bytes());
        let size_bytes = size.unwrap_or(base.size_bytes);
        let volume = Volume::open(VolumeParts {
            source: self.chunks.clone(),
            base,
            frozen: delta.iter().map(|dir| dir.to_path_buf()).collect(),
            own: None,
            size_bytes,
            lease: None,
        });
        let mut bytes = vec![0xee; size_bytes as usize];
        volume.unwrap().read_at(&mut bytes, 0).unwrap();
        bytes
    }
}

fn assert_same(found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len());
    if let Some(at) = found.iter().zip(expected).position(|(a, b)| a != b) {
        panic!("byte {at} (block {}) is {} not {}", at / BLOCK, found[at], expected[at]);
    }
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|n| (n / 7) as u8 ^ (n >> 11) as u8 ^ seed | 1).collect()
}

/// What a guest does to a disk. Numbers are bytes.
#[derive(Clone, Debug)]
enum Op {
    Write {
        at: usize,
        len: usize,
        seed: u8,
    },
    Zero {
        at: usize,
        len: usize,
    },
    Discard {
        at: usize,
        len: usize,
    },
    /// Writes what is there already.
    Again {
        at: usize,
        len: usize,
    },
}

impl Op {
    fn apply(&self, volume: &Volume, size: usize) {
        let (Op::Write { at, len, .. }
        | Op::Zero { at, len }
        | Op::Discard { at, len }
        | Op::Again { at, len }) = *self;
        let at = at.min(size - 1);
        let len = len.min(size - at);
        let (start, length) = (at as u64, len as u64);
        match self {
            Op::Write { seed, .. } => volume.write_at(&pattern(len, *seed), start).unwrap(),
            Op::Zero { .. } => volume.write_zeroes(start, length, false).unwrap(),
            Op::Discard { .. } => volume.discard(start, length).unwrap(),
            Op::Again { .. } => {
                let mut bytes = vec![0; len];
                volume.read_at(&mut bytes, start).unwrap();
                volume.write_at(&bytes, start).unwrap();
            }
        }
    }
}

/// Ends within a block.
const LEN: usize = 700 * BLOCK + 1000;
const GROWN: usize = 1500 * BLOCK + 512;

fn ops(size: usize) -> impl Strategy<Value = Vec<Op>> {
    let at = (0..size / BLOCK + 1, prop_oneof![3 => Just(0), 1 => 0..BLOCK])
        .prop_map(|(block, byte)| block * BLOCK + byte);
    let len = prop_oneof![
        2 => 1..3 * BLOCK,
        2 => (1usize..40).prop_map(|blocks| blocks * BLOCK),
        1 => (1usize..600).prop_map(|blocks| blocks * BLOCK),
    ];
    let op = (at, len, 0u8..8, 0..5).prop_map(|(at, len, seed, what)| match what {
        0 | 1 => Op::Write { at, len, seed },
        2 => Op::Zero { at, len },
        3 => Op::Discard { at, len },
        _ => Op::Again { at, len },
    });
    prop::collection::vec(op, 0..25)
}

/// Runs of blocks, the chunk they are in and where in it: with whole, short and shared chunks, and holes.
fn base_extents() -> impl Strategy<Value = Vec<(u64, u64, u8, u64)>> {
    prop::collection::vec((0u64..60, 1u64..17, 0u8..6, 0u64..16), 0..30)
}

fn build_base(chunks: &Chunks, extents: &[(u64, u64, u8, u64)]) -> DiskId {
    let mut map = MapBuilder::new(chunks, LEN as u64).unwrap();
    let lengths = [16 * BLOCK, 16 * BLOCK - 5, 9 * BLOCK + 77, BLOCK, 3, 5 * BLOCK];
    let mut at = 0;
    for (gap, len, seed, offset) in extents {
        at += gap;
        let len = (*len).min(CHUNK_BLOCKS_MAX - offset).min(701u64.saturating_sub(at));
        if len == 0 {
            break;
        }
        let content = pattern(lengths[usize::from(*seed)], *seed);
        let chunk = chunks.put(ChunkKind::DiskData, &content).unwrap();
        map.map(at, len, chunk, *offset).unwrap();
        at += len;
    }
    map.finish().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_sealed_disk_reads_as_the_volume_did_whatever_was_done(
        extents in base_extents(),
        first in ops(LEN),
        second in ops(GROWN),
        third in ops(GROWN),
    ) {
        let mut fixture = Fixture::zero(LEN as u64);
        fixture.base = build_base(&fixture.chunks, &extents);
        for (size, ops) in [(LEN, first), (GROWN, second), (GROWN, third)] {
            let delta = fixture.delta(size as u64, |volume| {
                ops.iter().for_each(|op| op.apply(volume, size));
            });
            let alone = fixture.seal_with(&delta, 1).unwrap();
            let disk = fixture.rebase(&delta).disk;
            prop_assert_eq!(alone.disk, disk, "the number of threads shows");
        }
    }
}

#[test]
fn what_is_written_again_as_it_was_changes_nothing_and_needs_no_reading() {
    let size = 8 << 20;
    let mut fixture = Fixture::zero(size);
    let content = pattern(3 << 20, 3);
    let write = |volume: &Volume| volume.write_at(&content, 5 * BLOCK_SIZE_BYTES).unwrap();
    let delta = fixture.delta(size, write);
    let first = fixture.rebase(&delta);
    assert_eq!(first.counts.blocks_on_grid, 768);
    let (chunks, _) = (fixture.chunks.memory.len(), fixture.chunks.taken());
    let again = fixture.delta(size, write);
    let reads = fixture.chunks.content_reads.load(Ordering::Relaxed);
    let second = fixture.seal(&again).unwrap();
    assert_eq!(fixture.chunks.content_reads.load(Ordering::Relaxed), reads);
    assert_eq!((second.disk, second.counts.blocks_unchanged), (first.disk, 768));
    assert_eq!((fixture.chunks.memory.len(), fixture.chunks.taken()), (chunks, vec![]));
}

#[test]
fn one_changed_block_in_each_step_is_one_block_stored() {
    let size = 8 << 20;
    let mut fixture = Fixture::zero(size);
    let mut content = pattern(8 << 20, 5);
    let delta = fixture.delta(size, |volume| volume.write_at(&content, 0).unwrap());
    fixture.rebase(&delta);
    fixture.chunks.taken();
    for step in 0..128 {
        content[step * (64 << 10) + 70 * step] ^= 0x55;
    }
    let delta = fixture.delta(size, |volume| volume.write_at(&content, 0).unwrap());
    let sealed = fixture.rebase(&delta);
    assert_eq!(fixture.chunks.taken(), vec![BLOCK; 128]);
    assert_eq!((sealed.counts.blocks_on_grid, sealed.counts.blocks_unchanged), (128, 2048 - 128));
}

#[test]
fn zero_blocks_are_mapped_nowhere_however_they_came_to_be() {
    let size = 64 << 20;
    let mut fixture = Fixture::zero(size);
    let delta = fixture.delta(size, |volume| {
        volume.write_at(&pattern(40 << 20, 1), 0).unwrap();
    });
    fixture.rebase(&delta);
    let delta = fixture.delta(size, |volume| {
        volume.discard(0, 30 << 20).unwrap();
        volume.write_at(&vec![0; 5 << 20], 30 << 20).unwrap();
        volume.write_zeroes(35 << 20, 29 << 20, false).unwrap();
    });
    let sealed = fixture.rebase(&delta);
    assert_eq!(sealed.disk.root, DiskId::ZERO_ROOT);
    assert_eq!(sealed.counts.blocks_zero, sealed.counts.blocks_dirty);
}

/// A base may end within a block, and a chunk hold more than that: growing must not bring it to light.
#[test]
fn what_a_chunk_holds_behind_the_end_of_the_base_stays_hidden_when_the_disk_grows() {
    let len = 10 * BLOCK_SIZE_BYTES + 100;
    let mut fixture = Fixture::zero(len);
    let chunk = fixture.chunks.put(ChunkKind::DiskData, &pattern(16 * BLOCK, 9)).unwrap();
    let mut map = MapBuilder::new(&*fixture.chunks, len).unwrap();
    map.map(0, 11, chunk, 0).unwrap();
    fixture.base = map.finish().unwrap();
    let delta = fixture.delta(40 * BLOCK_SIZE_BYTES, |volume| {
        volume.write_at(&[1; 4096], 4096).unwrap();
        volume.write_at(&[2; 4096], 30 * BLOCK_SIZE_BYTES).unwrap();
    });
    let sealed = fixture.rebase(&delta);
    assert_eq!(sealed.counts.blocks_dirty, 3);
    let delta = fixture.delta(10_000 * BLOCK_SIZE_BYTES, |_| {});
    let grown = fixture.rebase(&delta);
    assert_eq!((grown.counts, grown.disk.size_bytes), (SealCounts::default(), 40_960_000));
}

#[test]
fn a_delta_shorter_than_the_base_is_refused() {
    let mut fixture = Fixture::zero(1 << 20);
    let delta = fixture.delta(1 << 20, |_| {});
    fixture.base.size_bytes = 2 << 20;
    assert_eq!(fixture.seal(&delta).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn a_lost_chunk_of_the_base_is_an_error_only_where_it_is_needed() {
    let size = 1 << 20;
    let mut fixture = Fixture::zero(size);
    let lost = Domain::published().chunk_id(KeyContext::Content, &pattern(16 * BLOCK, 4));
    let mut map = MapBuilder::new(&*fixture.chunks, size).unwrap();
    map.map(16, 16, lost, 0).unwrap();
    fixture.base = map.finish().unwrap();
    let beside = fixture.delta(1 << 20, |volume| volume.write_at(&[7; 4096], 0).unwrap());
    fixture.seal(&beside).unwrap();
    let same = fixture.delta(1 << 20, |volume| {
        volume.write_at(&pattern(16 * BLOCK, 4), 16 * BLOCK_SIZE_BYTES).unwrap();
    });
    assert_eq!(fixture.seal(&same).unwrap().disk, fixture.base);
    let other = fixture.delta(1 << 20, |volume| {
        volume.write_at(&[7; 4096], 17 * BLOCK_SIZE_BYTES).unwrap();
    });
    assert_eq!(fixture.seal(&other).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn scattered_blocks_of_a_tib_cost_a_few_nodes_each() {
    const BLOCKS: u64 = 2000;
    let size = 1 << 40;
    let mut fixture = Fixture::zero(size);
    let delta = fixture.delta(size, |volume| {
        for n in 0..BLOCKS {
            let block = n * 134_217 % (size / BLOCK_SIZE_BYTES);
            volume.write_at(&pattern(BLOCK, n as u8), block * BLOCK_SIZE_BYTES).unwrap();
        }
    });
    let sealed = fixture.seal(&delta).unwrap();
    assert_eq!(sealed.counts.blocks_on_grid, BLOCKS);
    let map = DiskMap::open(fixture.chunks.clone(), sealed.disk).unwrap();
    assert!(map.map_bytes().unwrap() < BLOCKS * 200, "{:?}", map.map_bytes());
    let place = map.lookup(134_217).unwrap().place.unwrap();
    assert!(matches!(place, ChunkPlace { offset_blocks: 0, .. }));
}

#[test]
fn regions_are_bounded_and_never_part_a_cell_of_the_grid() {
    let size = 64 << 20;
    let mut fixture = Fixture::zero(size);
    let delta = fixture.delta(size, |volume| {
        volume.write_at(&pattern(9 << 20, 1), 7 * BLOCK_SIZE_BYTES).unwrap();
        for block in (3000..9000).step_by(3) {
            volume.write_at(&[1; BLOCK], block * BLOCK_SIZE_BYTES).unwrap();
        }
        volume.write_zeroes(40 << 20, 20 << 20, true).unwrap();
        volume.write_at(&[1; BLOCK], 50 << 20).unwrap();
    });
    let delta = DeltaReader::open(&delta).unwrap();
    let frozen = FrozenDisk::new(fixture.chunks.clone(), fixture.base, &delta).unwrap();
    let (mut last_cell, mut blocks, mut count) = (None, 0, 0);
    for region in Regions::new(&frozen) {
        let runs = region.unwrap().runs;
        let data = runs.iter().filter(|run| run.kind != DirtyKind::Hole);
        assert!(data.map(|run| run.range.len).sum::<u64>() <= REGION_BLOCKS_MAX + 16);
        assert!(last_cell.is_none_or(|cell| cell < runs[0].range.start / CHUNK_BLOCKS_MAX));
        last_cell = runs.last().map(|run| (run.range.end() - 1) / CHUNK_BLOCKS_MAX);
        blocks += runs.iter().map(|run| run.range.len).sum::<u64>();
        count += 1;
    }
    assert_eq!(blocks, delta.blocks_modified());
    assert!(count >= 4, "{count}");
}

#[test]
fn a_new_disk_is_dirty_in_the_cells_that_may_have_data_and_nowhere_behind_its_end() {
    let mut bytes = vec![0; 300_000];
    bytes[70_000] = 1;
    bytes[299_999] = 2;
    let mut disk = NewDisk::new(&bytes).unwrap();
    assert_eq!((disk.data_bytes(), disk.next_dirty(0)), (0, None));
    disk.add_data(70_000..70_001);
    disk.add_data(299_000..1 << 50);
    assert_eq!(disk.data_bytes(), 65_536 + (300_000 - 262_144));
    let runs: Vec<_> = disk.runs().map(|run| run.unwrap().range).collect();
    let range = |start, len| BlockRange { start, len };
    assert_eq!(runs, [range(16, 16), range(64, 10)]);
    let next = [0, 16, 20, 32, 73, 74, 1 << 40].map(|block| disk.next_dirty(block));
    assert_eq!(next, [Some(16), Some(16), Some(20), Some(64), Some(73), None, None]);
    let dirty: Vec<u64> = (0..80).filter(|block| disk.contains(*block)).collect();
    assert_eq!(dirty, (16..32).chain(64..74).collect::<Vec<_>>());
    let fixture = Fixture::zero(0);
    let sealed = disk.import(&Domain::published(), &*fixture.chunks, &NoProgress).unwrap();
    assert_eq!(sealed.disk.size_bytes, 300_000);
    assert_same(&fixture.read(sealed.disk, None), &bytes);
    assert_eq!(fixture.chunks.taken(), [4096, 4096]);
}
