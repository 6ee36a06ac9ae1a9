use super::*;
use crate::{Delta, MapBuilder, VolumeParts};
use proptest::prelude::*;
use silt_store::{ChunkKind, ChunkSink as _, MemoryChunks};
use silt_types::{DeltaId, DiskId, ErrorKind, NoProgress};
use std::{path::PathBuf, sync::Arc};
use tempfile::TempDir;

const BLOCKS: u64 = 600;

/// What a block is filled with; 0 is zero.
type Fill = (u64, u8);

/// Disks over chunks in memory, with deltas in a folder.
struct Bench {
    temp: TempDir,
    chunks: Arc<MemoryChunks>,
    deltas: u8,
}

impl Bench {
    fn new() -> Bench {
        Bench {
            temp: tempfile::tempdir().unwrap(),
            chunks: Arc::new(MemoryChunks::new()),
            deltas: 0,
        }
    }

    /// A sealed disk in which each of these blocks is a chunk filled with a byte.
    fn sealed(&self, size_bytes: u64, fills: &[Fill]) -> DiskId {
        let mut map = MapBuilder::new(&*self.chunks, size_bytes).unwrap();
        let mut fills = fills.to_vec();
        fills.retain(|(block, byte)| *block * BLOCK_SIZE_BYTES < size_bytes && *byte != 0);
        fills.sort();
        fills.dedup_by_key(|fill| fill.0);
        for (block, byte) in fills {
            let id = self.chunks.put(ChunkKind::DiskData, &[byte; BLOCK]).unwrap();
            map.map(block, 1, id, 0).unwrap();
        }
        map.finish().unwrap()
    }

    /// A frozen delta with these blocks.
    fn delta(&mut self, size_bytes: u64, fills: &[Fill]) -> PathBuf {
        self.deltas += 1;
        let dir = self.temp.path().join(self.deltas.to_string());
        let id = DeltaId::from_bytes([self.deltas; 16]);
        let delta = Delta::create(&dir, id, size_bytes).unwrap();
        for (block, byte) in fills.iter().filter(|fill| fill.0 * BLOCK_SIZE_BYTES < size_bytes) {
            delta.write_blocks([*byte; BLOCK].as_slice().into(), *block).unwrap();
        }
        drop(delta.freeze().unwrap());
        dir
    }

    fn open(&self, base: DiskId, frozen: &[&PathBuf], size_bytes: u64) -> Volume {
        let frozen = frozen.iter().map(|dir| (*dir).clone()).collect();
        let source = self.chunks.clone();
        Volume::open(VolumeParts { source, base, frozen, own: None, size_bytes, lease: None })
            .unwrap()
    }
}

fn read_all(volume: &Volume) -> Vec<u8> {
    let mut bytes = vec![0; volume.geometry().size_bytes as usize];
    volume.read_at(&mut bytes, 0).unwrap();
    bytes.resize((BLOCKS as usize + 2) * BLOCK, 0);
    bytes
}

fn naive(a: &Volume, b: &Volume) -> Vec<u64> {
    let (a, b) = (read_all(a), read_all(b));
    let blocks = a.chunks(BLOCK).zip(b.chunks(BLOCK)).enumerate();
    blocks.filter(|(_, (a, b))| a != b).map(|(block, _)| block as u64).collect()
}

fn differing(a: &Volume, b: &Volume) -> Vec<u64> {
    let found = VolumePair::new(a, b).unwrap().differing_blocks(&NoProgress).unwrap();
    let blocks: Vec<u64> = found.ranges().flat_map(|range| range.start..range.end()).collect();
    assert_eq!((blocks.len() as u64, blocks.is_empty()), (found.len(), found.is_empty()));
    let ranges: Vec<_> = found.ranges().collect();
    assert!(ranges.windows(2).all(|two| two[0].end() < two[1].start), "{ranges:?}");
    blocks
}

fn fills() -> impl Strategy<Value = Vec<Fill>> {
    let block = prop_oneof![4 => 0..40u64, 2 => 250..260u64, 1 => 590..BLOCKS];
    prop::collection::vec((block, 0u8..3), 0..30)
}

fn size() -> impl Strategy<Value = u64> {
    let blocks = prop_oneof![Just(30), Just(256), Just(300), Just(BLOCKS)];
    (blocks, prop_oneof![Just(0u64), Just(512), Just(3584)])
        .prop_map(|(blocks, more)| blocks * BLOCK_SIZE_BYTES + more)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn disks_differ_where_their_bytes_do(
        bases in [fills(), fills()],
        deltas in [fills(), fills(), fills()],
        base_sizes in [size(), size()],
        sizes in [size(), size()],
        one_base: bool,
        shared: bool,
    ) {
        let mut bench = Bench::new();
        let base_a = bench.sealed(base_sizes[0], &bases[0]);
        let base_b =
            if one_base { base_a } else { bench.sealed(base_sizes[1], &bases[1]) };
        let size_a = sizes[0].max(base_a.size_bytes);
        let size_b = sizes[1].max(base_b.size_bytes);
        let below = bench.delta(size_a.min(size_b), &deltas[0]);
        let own_a = bench.delta(size_a, &deltas[1]);
        let own_b = bench.delta(size_b, &deltas[2]);
        let b_frozen: &[&PathBuf] = if shared { &[&own_b, &below] } else { &[&own_b] };
        let a = bench.open(base_a, &[&own_a, &below], size_a);
        let b = bench.open(base_b, b_frozen, size_b);
        prop_assert_eq!(differing(&a, &b), naive(&a, &b));
        prop_assert_eq!(differing(&a, &a), Vec::<u64>::new());

        // What is said to be equal without reading is equal.
        let pair = VolumePair::new(&a, &b).unwrap();
        let (x, y) = (read_all(&a), read_all(&b));
        let end = size_a.min(size_b) / BLOCK_SIZE_BYTES * BLOCK_SIZE_BYTES;
        for (from_a, from_b) in [(0, 0), (1, 0), (0, 250), (255, 255), (12, 3), (251, 250)] {
            let (from_a, from_b) = (from_a * BLOCK_SIZE_BYTES, from_b * BLOCK_SIZE_BYTES);
            for len in [100, BLOCK_SIZE_BYTES, 20 * BLOCK_SIZE_BYTES] {
                if from_a.max(from_b) + len > end {
                    continue;
                }
                let known = pair.known_equal(from_a, from_b, len).unwrap();
                prop_assert!(known <= len);
                let (from_a, from_b, known) = (from_a as usize, from_b as usize, known as usize);
                prop_assert!(x[from_a..from_a + known] == y[from_b..from_b + known]);
            }
        }
    }
}

#[test]
fn what_was_written_again_with_the_same_bytes_is_no_difference() {
    let mut bench = Bench::new();
    let size = BLOCKS * BLOCK_SIZE_BYTES;
    let base = bench.sealed(size, &[(3, 1), (300, 2)]);
    let same = bench.delta(size, &[(3, 1), (300, 2), (7, 0)]);
    let other = bench.delta(size, &[(300, 1)]);
    let (a, b) = (bench.open(base, &[], size), bench.open(base, &[&same], size));
    assert_eq!(VolumePair::new(&a, &b).unwrap().blocks_that_may_differ(), 3);
    assert!(differing(&a, &b).is_empty());
    let c = bench.open(base, &[&other, &same], size);
    assert_eq!(differing(&a, &c), [300]);
    // Both have the lower delta: it is not even looked at.
    assert_eq!(VolumePair::new(&b, &c).unwrap().blocks_that_may_differ(), 1);
}

#[test]
fn equal_places_at_other_offsets_are_known_to_be_equal() {
    let bench = Bench::new();
    let size = BLOCKS * BLOCK_SIZE_BYTES;
    let long: Vec<u8> = (0..16 * BLOCK).map(|n| (n / 5) as u8 | 1).collect();
    let id = bench.chunks.put(ChunkKind::DiskData, &long).unwrap();
    let at = |block| {
        let mut map = MapBuilder::new(&*bench.chunks, size).unwrap();
        map.map(block, 16, id, 0).unwrap();
        bench.open(map.finish().unwrap(), &[], size)
    };
    let (a, b) = (at(10), at(250));
    let pair = VolumePair::new(&a, &b).unwrap();
    let bytes = |blocks: u64| blocks * BLOCK_SIZE_BYTES;
    assert_eq!(pair.known_equal(bytes(10), bytes(250), bytes(16)).unwrap(), bytes(16));
    assert_eq!(pair.known_equal(bytes(12), bytes(252), bytes(2) + 5).unwrap(), bytes(2) + 5);
    assert_eq!(pair.known_equal(bytes(10), bytes(251), bytes(4)).unwrap(), 0);
    assert_eq!(pair.known_equal(bytes(10) + 512, bytes(250) + 512, 512).unwrap(), 0);
}

#[test]
fn disks_that_can_be_written_are_refused_and_damage_is_an_error() {
    let bench = Bench::new();
    let base = bench.sealed(BLOCK_SIZE_BYTES, &[(0, 1)]);
    let dir = bench.temp.path().join("own");
    drop(Delta::create(&dir, DeltaId::from_bytes([9; 16]), BLOCK_SIZE_BYTES).unwrap());
    let parts = |base, own| VolumeParts {
        source: bench.chunks.clone(),
        base,
        frozen: Vec::new(),
        own,
        size_bytes: BLOCK_SIZE_BYTES,
        lease: None,
    };
    let writable = Volume::open(parts(base, Some(dir))).unwrap();
    let image = Volume::open(parts(base, None)).unwrap();
    let refused = VolumePair::new(&image, &writable).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    // A map that is not there, and content that is not there.
    let missing = silt_types::ChunkId::from_bytes([7; 32]);
    let lost = DiskId { root: missing, size_bytes: BLOCK_SIZE_BYTES };
    let lost = Volume::open(parts(lost, None)).unwrap();
    assert_eq!(VolumePair::new(&image, &lost).err().unwrap().kind(), ErrorKind::NotFound);
    let mut map = MapBuilder::new(&*bench.chunks, BLOCK_SIZE_BYTES).unwrap();
    map.map(0, 1, missing, 0).unwrap();
    let hollow = Volume::open(parts(map.finish().unwrap(), None)).unwrap();
    let pair = VolumePair::new(&image, &hollow).unwrap();
    assert_eq!(pair.differing_blocks(&NoProgress).unwrap_err().kind(), ErrorKind::NotFound);
}
