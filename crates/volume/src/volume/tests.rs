mod marks;
mod rotation;

use super::*;
use crate::{DiskMap, MapBuilder};
use proptest::prelude::*;
use silt_store::{Chunk, ChunkKind, ChunkSink as _, KeyContext, MemoryChunks};
use silt_types::{BLOCK_SIZE_BYTES, ChunkId, DeltaId, ErrorKind};
use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};
use tempfile::TempDir;

const BLOCK: usize = BLOCK_SIZE_BYTES as usize;
const SECTOR: usize = 512;

/// Two leaves and a bit, ending within a block.
const BASE_LEN: usize = 300 * BLOCK + 1000;
/// Longer than the base, ending within a block.
const LEN: usize = 330 * BLOCK + 3 * SECTOR;

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|n| (n / 7) as u8 ^ (n >> 11) as u8 ^ seed | 1).collect()
}

/// A base of whole chunks, short chunks, parts of chunks, chunks used twice, and holes; and its bytes.
fn base(chunks: &MemoryChunks) -> (DiskId, Vec<u8>) {
    let mut bytes = vec![0; 301 * BLOCK];
    let mut map = MapBuilder::new(chunks, BASE_LEN as u64).unwrap();
    let long = pattern(16 * BLOCK, 1);
    let short = pattern(2 * BLOCK + 5, 2);
    let tiny = pattern(3, 3);
    let whole = pattern(BLOCK, 4);
    let places: [(usize, usize, usize, &[u8]); 9] = [
        (0, 16, 0, &long),
        (20, 3, 0, &short),
        (23, 1, 0, &tiny),
        (24, 8, 8, &long),
        (60, 2, 1, &short),
        (62, 16, 0, &short),
        (250, 16, 0, &long),
        (290, 4, 2, &long),
        // Behind the end of the disk there is more of this chunk, which nobody may see.
        (300, 1, 0, &whole),
    ];
    for (block, len, offset, content) in places {
        let id = chunks.put(ChunkKind::DiskData, content).unwrap();
        map.map(block as u64, len as u64, id, offset as u64).unwrap();
        let from = &content[(offset * BLOCK).min(content.len())..];
        let from = &from[..from.len().min(len * BLOCK)];
        bytes[block * BLOCK..][..from.len()].copy_from_slice(from);
    }
    bytes.truncate(BASE_LEN);
    bytes.resize(LEN, 0);
    (map.finish().unwrap(), bytes)
}

/// A volume over [`base`], its deltas in a folder of its own.
struct Fixture {
    temp: TempDir,
    chunks: Arc<MemoryChunks>,
    base: DiskId,
    frozen: Vec<PathBuf>,
    own: PathBuf,
    deltas: u8,
}

impl Fixture {
    fn new() -> (Fixture, Vec<u8>) {
        let chunks = Arc::new(MemoryChunks::new());
        let (base, bytes) = base(&chunks);
        let temp = tempfile::tempdir().unwrap();
        let mut fixture =
            Fixture { temp, chunks, base, frozen: Vec::new(), own: PathBuf::new(), deltas: 0 };
        fixture.add_delta();
        (fixture, bytes)
    }

    fn add_delta(&mut self) {
        self.deltas += 1;
        self.own = self.temp.path().join(format!("delta-{}", self.deltas));
        Delta::create(&self.own, DeltaId::from_bytes([self.deltas; 16]), LEN as u64).unwrap();
    }

    /// What is written from now on goes to a new delta over those there are.
    fn freeze(&mut self) {
        Delta::open(&self.own).unwrap().freeze().unwrap();
        self.frozen.insert(0, self.own.clone());
        self.add_delta();
    }

    fn parts(&self) -> VolumeParts {
        VolumeParts {
            source: self.chunks.clone(),
            base: self.base,
            frozen: self.frozen.clone(),
            own: Some(self.own.clone()),
            size_bytes: LEN as u64,
            lease: None,
        }
    }

    fn open(&self) -> Volume {
        Volume::open(self.parts()).unwrap()
    }

    fn open_read_only(&self) -> Volume {
        let frozen = [std::slice::from_ref(&self.own), &self.frozen].concat();
        Volume::open(VolumeParts { frozen, own: None, ..self.parts() }).unwrap()
    }
}

fn read_all(volume: &Volume) -> Vec<u8> {
    let mut bytes = vec![0xee; LEN];
    volume.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// The first difference, for a message that fits a page.
fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    if let Some(at) = found.iter().zip(expected).position(|(a, b)| a != b) {
        panic!("{what}: byte {at} (block {}) is {} not {}", at / BLOCK, found[at], expected[at]);
    }
    assert_eq!(found.len(), expected.len(), "{what}");
}

fn check_status(volume: &Volume, bytes: &[u8], offset: usize, len: usize, runs_max: usize) {
    let runs = volume.block_status(offset as u64, len as u64, runs_max).unwrap();
    assert!(!runs.is_empty() && runs.len() <= runs_max);
    let mut at = offset;
    for run in &runs {
        let run_bytes = &bytes[at..at + run.len_bytes as usize];
        assert!(run.len_bytes > 0 && (!run.zero || run_bytes.iter().all(|byte| *byte == 0)));
        assert!(run.zero || !run.hole);
        at += run.len_bytes as usize;
    }
    assert!(at <= offset + len);
    assert!(at == offset + len || runs.len() == runs_max);
}

#[test]
fn an_image_reads_as_it_was_built_and_takes_no_writes() {
    let (fixture, bytes) = Fixture::new();
    let volume = Volume::open(VolumeParts { own: None, ..fixture.parts() }).unwrap();
    assert_same(&read_all(&volume), &bytes, "image");
    assert_eq!(volume.geometry(), Geometry { size_bytes: LEN as u64, read_only: true });
    let writes = [
        volume.write_at(&[1], 0),
        volume.flush(),
        volume.discard(0, 4096),
        volume.write_zeroes(0, 1, true),
    ];
    assert!(writes.into_iter().all(|result| result.unwrap_err().kind() == ErrorKind::Invalid));
    volume.close().unwrap();
}

#[test]
fn a_volume_that_reads_ahead_reads_the_same_while_it_is_written() {
    let (fixture, mut bytes) = Fixture::new();
    let mut volume = fixture.open();
    volume.read_ahead();
    for round in 0..20u8 {
        for at in (0..LEN).step_by(3 * BLOCK) {
            let end = (at + 3 * BLOCK).min(LEN);
            let mut found = vec![0xee; end - at];
            if !volume.read_hot(found.as_mut_slice().into(), at as u64).unwrap() {
                volume.read_at(&mut found, at as u64).unwrap();
            }
            assert_same(&found, &bytes[at..end], "read in order");
            // Just where the next read is being prepared for.
            let ahead = (end + 5 * BLOCK + usize::from(round) * 100).min(LEN - 700);
            volume.write_at(&[round; 700], ahead as u64).unwrap();
            bytes[ahead..ahead + 700].fill(round);
        }
    }
    drop(volume);
    let (_, untouched) = base(&fixture.chunks);
    let mut image = Volume::open(VolumeParts { own: None, ..fixture.parts() }).unwrap();
    image.read_ahead();
    for at in (0..LEN).step_by(BLOCK) {
        let mut found = vec![0; BLOCK.min(LEN - at)];
        image.read_at(&mut found, at as u64).unwrap();
        assert_same(&found, &untouched[at..at + found.len()], "the image");
    }
}

#[test]
fn requests_beyond_the_disk_are_invalid() {
    let (fixture, _) = Fixture::new();
    let volume = fixture.open();
    let size = LEN as u64;
    for (offset, len) in [(size, 1), (size - 1, 2), (u64::MAX, 1), (0, size + 1)] {
        let mut buf = vec![0; len as usize];
        let results = [
            volume.read_at(&mut buf, offset),
            volume.read_hot(buf.as_mut_slice().into(), offset).map(|_| ()),
            volume.write_at(&buf, offset),
            volume.discard(offset, len),
            volume.write_zeroes(offset, len, false),
            volume.block_status(offset, len, 5).map(|_| ()),
        ];
        for result in results {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Invalid, "{offset} {len}");
        }
    }
    volume.read_at(&mut [], size).unwrap();
    volume.write_at(&[], size).unwrap();
    volume.discard(size, 0).unwrap();
    volume.write_zeroes(size, 0, true).unwrap();
    assert_eq!(volume.blocks_modified(), 0);
}

#[test]
fn parts_that_do_not_fit_are_invalid() {
    let (mut fixture, _) = Fixture::new();
    let open = |parts| Volume::open(parts).map(|_| ()).unwrap_err().kind();
    let parts = fixture.parts();
    assert_eq!(open(VolumeParts { size_bytes: 4096, ..parts }), ErrorKind::Invalid);
    let parts = fixture.parts();
    assert_eq!(open(VolumeParts { size_bytes: LEN as u64 + 1, ..parts }), ErrorKind::Invalid);
    let parts = fixture.parts();
    assert_eq!(
        open(VolumeParts { size_bytes: (1 << 44) + 1, own: None, ..parts }),
        ErrorKind::Invalid
    );
    fixture.freeze();
    let nine = vec![fixture.frozen[0].clone(); 9];
    assert_eq!(open(VolumeParts { frozen: nine, ..fixture.parts() }), ErrorKind::Invalid);
    let volume = fixture.open();
    assert_eq!(open(fixture.parts()), ErrorKind::Busy);
    drop(volume);
}

#[test]
fn zero_stays_zero_through_eight_frozen_deltas_and_each_layer_hides_those_below() {
    let (mut fixture, mut bytes) = Fixture::new();
    for layer in 0..8 {
        let volume = fixture.open();
        // Each writes where the one before zeroed, and zeroes where the one before wrote; blocks 8 to 15 only once.
        let (written, zeroed) = if layer % 2 == 0 { (0, 4) } else { (4, 0) };
        volume.write_at(&[layer + 1; 4 * BLOCK], (written * BLOCK) as u64).unwrap();
        bytes[written * BLOCK..][..4 * BLOCK].fill(layer + 1);
        volume.discard((zeroed * BLOCK) as u64, 4 * BLOCK_SIZE_BYTES).unwrap();
        bytes[zeroed * BLOCK..][..4 * BLOCK].fill(0);
        let once = (8 + usize::from(layer)) * BLOCK;
        volume.write_zeroes(once as u64 + 100, 1000, true).unwrap();
        bytes[once + 100..][..1000].fill(0);
        volume.close().unwrap();
        drop(volume);
        fixture.freeze();
        assert_same(&read_all(&fixture.open()), &bytes, &format!("after layer {layer}"));
    }
    assert_eq!(fixture.frozen.len(), 8);
    let volume = fixture.open_read_only_frozen();
    assert_same(&read_all(&volume), &bytes, "read-only");
    assert_eq!(volume.blocks_modified(), 16);
    let volume = fixture.open();
    volume.write_at(&[9], 5).unwrap();
    bytes[5] = 9;
    assert_same(&read_all(&volume), &bytes, "a byte over eight layers");
    check_status(&volume, &bytes, 0, LEN, 100);
}

impl Fixture {
    fn open_read_only_frozen(&self) -> Volume {
        Volume::open(VolumeParts { own: None, ..self.parts() }).unwrap()
    }
}

/// The end of a long run is searched for, not walked to: a terabyte of zeros behind a base took seconds to export.
#[test]
fn long_runs_of_frozen_deltas_end_where_another_layer_begins() {
    let (mut fixture, mut bytes) = Fixture::new();
    let layers: [(usize, usize, u8); 5] =
        [(20, 100, 1), (60, 190, 0), (255, 1, 3), (150, 70, 4), (64, 66, 5)];
    for (block, blocks, value) in layers {
        let (at, len) = (block * BLOCK, blocks * BLOCK);
        let volume = fixture.open();
        match value {
            0 => volume.discard(at as u64, len as u64).unwrap(),
            _ => volume.write_at(&vec![value; len], at as u64).unwrap(),
        }
        bytes[at..at + len].fill(value);
        volume.close().unwrap();
        drop(volume);
        fixture.freeze();
    }
    let volume = fixture.open_read_only_frozen();
    for block in 0..LEN / BLOCK {
        let at = block * BLOCK;
        let mut found = vec![0xee; LEN - at];
        volume.read_at(&mut found, at as u64).unwrap();
        assert_same(&found, &bytes[at..], &format!("from block {block} on"));
        check_status(&volume, &bytes, at, LEN - at, 100);
    }
}

#[test]
fn discarding_what_is_zero_already_adds_nothing() {
    let (fixture, bytes) = Fixture::new();
    let volume = fixture.open();
    volume.discard(32 * BLOCK_SIZE_BYTES, 28 * BLOCK_SIZE_BYTES).unwrap();
    volume.write_zeroes(302 * BLOCK_SIZE_BYTES, 20 * BLOCK_SIZE_BYTES, true).unwrap();
    assert_eq!(volume.blocks_modified(), 0);
    assert_same(&read_all(&volume), &bytes, "nothing changed");
    volume.discard(0, LEN as u64).unwrap();
    // 3 + 1 + 3 chunks of the 9 read as zero in whole blocks too, but the map does not know that.
    assert_eq!(volume.blocks_modified(), 16 + 3 + 1 + 8 + 2 + 16 + 16 + 4 + 1);
    volume.write_zeroes(40 * BLOCK_SIZE_BYTES, 1, true).unwrap();
    volume.write_zeroes(32 * BLOCK_SIZE_BYTES, 4 * BLOCK_SIZE_BYTES, false).unwrap();
    assert_eq!(volume.blocks_modified(), 67 + 1 + 4);
    let tail = LEN % BLOCK;
    assert!(read_all(&volume)[..LEN - tail].iter().all(|byte| *byte == 0));
}

#[test]
fn status_tells_holes_of_the_map_and_of_deltas() {
    let (fixture, _) = Fixture::new();
    let volume = fixture.open();
    volume.write_at(&[1; 2 * BLOCK], 40 * BLOCK_SIZE_BYTES).unwrap();
    volume.discard(4 * BLOCK_SIZE_BYTES, 4 * BLOCK_SIZE_BYTES).unwrap();
    let runs = volume.block_status(BLOCK_SIZE_BYTES + 1, 59 * BLOCK_SIZE_BYTES, 100).unwrap();
    let found: Vec<_> = runs.iter().map(|run| (run.len_bytes, run.hole)).collect();
    let b = BLOCK_SIZE_BYTES;
    let expected = [
        (3 * b - 1, false),
        (4 * b, true),
        (8 * b, false),
        (4 * b, true),
        (12 * b, false),
        (8 * b, true),
    ];
    assert_eq!(found[..6], expected);
    assert_eq!(found[6..], [(2 * b, false), (18 * b, true), (1, false)]);
    assert_eq!(volume.block_status(0, LEN as u64, 1).unwrap().len(), 1);
    for (len, runs) in [(0, 1), (1, 0)] {
        assert_eq!(volume.block_status(0, len, runs).unwrap_err().kind(), ErrorKind::Invalid);
    }
}

/// Counts what is read, and forgets to have anything at hand.
struct Cold {
    chunks: Arc<MemoryChunks>,
    reads: AtomicUsize,
    hot: AtomicBool,
}

impl ChunkSource for Cold {
    fn get(&self, context: KeyContext, id: &ChunkId) -> Result<Chunk> {
        if context == KeyContext::Content {
            self.reads.fetch_add(1, Ordering::Relaxed);
            thread::yield_now();
        }
        self.chunks.get(context, id)
    }

    fn get_hot(&self, context: KeyContext, id: &ChunkId) -> Option<Chunk> {
        self.hot.load(Ordering::Relaxed).then(|| self.chunks.get_hot(context, id)).flatten()
    }
}

fn cold(fixture: &Fixture) -> (Arc<Cold>, Volume) {
    let (reads, hot) = (AtomicUsize::new(0), AtomicBool::new(false));
    let source = Arc::new(Cold { chunks: fixture.chunks.clone(), reads, hot });
    (source.clone(), Volume::open(VolumeParts { source, ..fixture.parts() }).unwrap())
}

#[test]
fn a_long_read_decodes_each_chunk_once_even_around_blocks_of_the_delta() {
    let (fixture, _) = Fixture::new();
    let (source, volume) = cold(&fixture);
    for block in [3, 5, 251, 256] {
        volume.write_at(&[1; BLOCK], block * BLOCK_SIZE_BYTES).unwrap();
    }
    volume.read_at(&mut vec![0; 16 * BLOCK], 0).unwrap();
    assert_eq!(source.reads.swap(0, Ordering::Relaxed), 1);
    // Over the border of two leaves.
    volume.read_at(&mut vec![0; 16 * BLOCK], 250 * BLOCK_SIZE_BYTES).unwrap();
    assert_eq!(source.reads.load(Ordering::Relaxed), 1);
}

#[test]
fn hot_reads_answer_only_what_needs_no_work() {
    let (fixture, bytes) = Fixture::new();
    let (source, volume) = cold(&fixture);
    let mut buf = [0; BLOCK];
    assert!(
        !volume.read_hot(buf.as_mut_slice().into(), 0).unwrap(),
        "neither leaf nor chunk is at hand"
    );
    volume.read_at(&mut buf, 0).unwrap();
    assert!(
        !volume.read_hot(buf.as_mut_slice().into(), 0).unwrap(),
        "the leaf is, the chunk is not"
    );
    assert!(
        volume.read_hot(buf.as_mut_slice().into(), 17 * BLOCK_SIZE_BYTES).unwrap(),
        "zeros of a known leaf"
    );
    assert!(
        volume.read_hot(buf.as_mut_slice().into(), 310 * BLOCK_SIZE_BYTES).unwrap(),
        "behind the base"
    );
    volume.write_at(&[5; BLOCK], 2 * BLOCK_SIZE_BYTES).unwrap();
    assert!(
        volume.read_hot(buf.as_mut_slice().into(), 2 * BLOCK_SIZE_BYTES).unwrap(),
        "in the delta"
    );
    assert_eq!(buf, [5; BLOCK]);
    source.hot.store(true, Ordering::Relaxed);
    assert!(volume.read_hot(buf.as_mut_slice().into(), BLOCK_SIZE_BYTES).unwrap());
    assert_same(&buf, &bytes[BLOCK..2 * BLOCK], "hot");
}

/// The lost update: two threads write different sectors of a block that is in no delta yet; each merges its sector into
/// what it read from below, and the later merge must not undo the earlier one.
#[test]
fn partial_writes_of_many_threads_to_one_block_all_last() {
    let (fixture, _) = Fixture::new();
    let (_, volume) = cold(&fixture);
    thread::scope(|scope| {
        for sector in 0..8 {
            let volume = &volume;
            scope.spawn(move || {
                for block in 0..300 {
                    let offset = block * BLOCK + sector * SECTOR;
                    let value = (block as u8).wrapping_mul(8).wrapping_add(sector as u8);
                    // Some as part of a longer write whose other blocks are whole, some as zeros.
                    volume.write_at(&[value; SECTOR], offset as u64).unwrap();
                    let mut read = [0; SECTOR];
                    volume.read_at(&mut read, offset as u64).unwrap();
                    assert_eq!(read, [value; SECTOR], "block {block} sector {sector}");
                }
            });
        }
    });
    let bytes = read_all(&volume);
    for (n, sector) in bytes[..300 * BLOCK].chunks(SECTOR).enumerate() {
        assert!(sector.iter().all(|byte| *byte == n as u8), "sector {n}");
    }
}

/// As above, but one thread writes whole blocks: its answered write must not be undone by a merge that began before.
#[test]
fn whole_writes_are_not_undone_by_merges() {
    let (fixture, _) = Fixture::new();
    let (_, volume) = cold(&fixture);
    for block in 0..300u64 {
        let offset = block * BLOCK_SIZE_BYTES;
        thread::scope(|scope| {
            scope.spawn(|| volume.write_at(&[1; SECTOR], offset).unwrap());
            scope.spawn(|| match block % 3 {
                0 => volume.write_at(&[2; BLOCK], offset).unwrap(),
                1 => volume.write_zeroes(offset, BLOCK_SIZE_BYTES, false).unwrap(),
                _ => volume
                    .write_at(&[2; 2 * BLOCK], offset.saturating_sub(BLOCK_SIZE_BYTES))
                    .unwrap(),
            });
        });
        let mut buf = [9; BLOCK];
        volume.read_at(&mut buf, offset).unwrap();
        let whole = if block % 3 == 1 { 0 } else { 2 };
        assert!([1, whole].contains(&buf[0]), "block {block}");
        assert!(buf[SECTOR..].iter().all(|byte| *byte == whole), "block {block}");
    }
}

#[test]
fn a_damaged_base_is_an_error_and_leaves_the_rest_readable() {
    let (fixture, _) = Fixture::new();
    let disk = DiskId { root: ChunkId::from_bytes([8; 32]), size_bytes: BASE_LEN as u64 };
    let volume = Volume::open(VolumeParts { base: disk, ..fixture.parts() }).unwrap();
    let mut buf = [0; BLOCK];
    let error = volume.read_at(&mut buf, 0).unwrap_err();
    assert!(error.chain().contains(&disk.root.to_string()), "{error:?}");
    assert!(volume.write_at(&[1], 0).is_err(), "no write pretends to know the rest of the block");
    volume.write_at(&[1; BLOCK], 0).unwrap();
    volume.read_at(&mut buf, 0).unwrap();
    assert_eq!(buf, [1; BLOCK]);
}

#[derive(Clone, Debug)]
enum Step {
    Write { at: usize, len: usize, seed: u8 },
    Zero { at: usize, len: usize, unmap: bool },
    Discard { at: usize, len: usize },
    Read { at: usize, len: usize },
    Flush,
    Close,
    Crash,
    Freeze,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Near borders of blocks, chunks, leaves, base and disk.
    let borders = [0, 20, 24, 60, 62, 255, 256, 294, 300, 301, 330].map(|block| block * BLOCK);
    let at = prop_oneof![
        (prop::sample::select(borders.to_vec()), -1500i64..1500)
            .prop_map(|(at, by)| (at as i64 + by).clamp(0, LEN as i64 - 1) as usize),
        (0..LEN / SECTOR).prop_map(|sector| sector * SECTOR),
    ];
    let len = prop_oneof![
        Just(SECTOR),
        Just(BLOCK),
        1..3 * BLOCK,
        1..40 * BLOCK,
        (1..8usize).prop_map(|n| n * BLOCK)
    ];
    let range = (at, len).prop_map(|(at, len)| (at, len.min(LEN - at)));
    prop::collection::vec(
        prop_oneof![
            6 => (range.clone(), 1..=255u8).prop_map(|((at, len), seed)| Step::Write { at, len, seed }),
            3 => (range.clone(), any::<bool>()).prop_map(|((at, len), unmap)| Step::Zero { at, len, unmap }),
            2 => range.clone().prop_map(|(at, len)| Step::Discard { at, len }),
            3 => range.prop_map(|(at, len)| Step::Read { at, len }),
            2 => Just(Step::Flush),
            1 => Just(Step::Close),
            2 => Just(Step::Crash),
            1 => Just(Step::Freeze),
        ],
        1..40,
    )
}

/// What the disk holds, and what each sector may hold after a crash.
struct Model {
    now: Vec<u8>,
    /// For each sector, its values since the last flush, the one at the flush first.
    since_flush: Vec<Vec<Vec<u8>>>,
}

impl Model {
    fn new(now: Vec<u8>) -> Model {
        let mut model = Model { now, since_flush: Vec::new() };
        model.flushed();
        model
    }

    fn flushed(&mut self) {
        self.since_flush = self.now.chunks(SECTOR).map(|sector| vec![sector.to_vec()]).collect();
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        self.now[at..at + bytes.len()].copy_from_slice(bytes);
        for sector in at / SECTOR..(at + bytes.len()).div_ceil(SECTOR) {
            let end = LEN.min((sector + 1) * SECTOR);
            self.since_flush[sector].push(self.now[sector * SECTOR..end].to_vec());
        }
    }

    fn crashed(&mut self, found: Vec<u8>) {
        for (sector, (found, allowed)) in found.chunks(SECTOR).zip(&self.since_flush).enumerate() {
            let known = allowed.iter().any(|value| value == found);
            assert!(
                known,
                "sector {sector} holds neither what was flushed nor what was written since"
            );
        }
        self.now = found;
        self.flushed();
    }
}

fn play(steps: &[Step]) {
    let (mut fixture, bytes) = Fixture::new();
    let mut model = Model::new(bytes);
    let mut volume = fixture.open();
    for step in steps {
        match *step {
            Step::Write { at, len, seed } => {
                let data = pattern(len, seed);
                volume.write_at(&data, at as u64).unwrap();
                model.write(at, &data);
            }
            Step::Zero { at, len, unmap } => {
                volume.write_zeroes(at as u64, len as u64, unmap).unwrap();
                model.write(at, &vec![0; len]);
            }
            Step::Discard { at, len } => {
                volume.discard(at as u64, len as u64).unwrap();
                let (start, end) = (at.next_multiple_of(BLOCK), (at + len) / BLOCK * BLOCK);
                model.write(start.min(end), &vec![0; end.saturating_sub(start)]);
            }
            Step::Read { at, len } => {
                let mut buf = vec![0xee; len];
                volume.read_at(&mut buf, at as u64).unwrap();
                assert_same(&buf, &model.now[at..at + len], &format!("read of {len} at {at}"));
                if volume.read_hot(buf.as_mut_slice().into(), at as u64).unwrap() {
                    assert_same(&buf, &model.now[at..at + len], "hot read");
                }
                check_status(&volume, &model.now, at, len, 1 + at % 7);
            }
            Step::Flush => {
                volume.flush().unwrap();
                model.flushed();
            }
            Step::Close | Step::Freeze => {
                volume.close().unwrap();
                model.flushed();
                drop(volume);
                if matches!(step, Step::Freeze) && fixture.frozen.len() < 8 {
                    fixture.freeze();
                }
                volume = fixture.open();
            }
            Step::Crash => {
                drop(volume);
                volume = fixture.open();
                model.crashed(read_all(&volume));
            }
        }
    }
    assert_same(&read_all(&volume), &model.now, "at the end");
    check_status(&volume, &model.now, 0, LEN, 1000);
    volume.close().unwrap();
    drop(volume);
    if fixture.frozen.len() < 8 {
        assert_same(&read_all(&fixture.open_read_only()), &model.now, "read-only");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_volume_is_the_bytes_that_were_written_through_crashes_and_layers(steps in steps()) {
        play(&steps);
    }
}

#[test]
fn headers_are_replaced_whole_and_locks_exclude() {
    let temp = tempfile::tempdir().unwrap();
    let dir: &Path = temp.path();
    let mut header = silt_format::VolumeHeader {
        id: silt_types::VolumeId::from_bytes([1; 16]),
        name: "vm".parse().unwrap(),
        base: DiskId { root: DiskId::ZERO_ROOT, size_bytes: 0 },
        size_bytes: 4096,
        frozen: vec![],
        own: None,
        generation: 1,
        state: silt_types::StateId::from_bytes([2; 32]),
    };
    assert!(crate::read_volume_header(dir).unwrap_err().chain().contains("header"));
    for generation in 1..3 {
        header.generation = generation;
        crate::write_volume_header(dir, &header).unwrap();
        assert_eq!(crate::read_volume_header(dir).unwrap(), header);
    }
    std::fs::write(dir.join("header"), vec![0; 5000]).unwrap();
    assert_eq!(crate::read_volume_header(dir).unwrap_err().kind(), ErrorKind::Corrupt);
    let lock = crate::VolumeLock::acquire(dir).unwrap();
    let error = crate::VolumeLock::acquire(dir).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("served or in use"), "{error}");
    drop(lock);
    crate::VolumeLock::acquire(dir).unwrap();
    let map = DiskMap::open(Arc::new(MemoryChunks::new()), header.base).unwrap();
    assert_eq!(map.lookup(0).unwrap_err().kind(), ErrorKind::Invalid);
}
