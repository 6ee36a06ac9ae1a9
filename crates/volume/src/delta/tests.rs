use super::*;
use proptest::prelude::*;
use silt_format::{DELTA_SECTOR_LEN, DeltaLogHeader, DeltaLogState, DeltaNotes};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
};
use tempfile::TempDir;

const BLOCK: usize = BLOCK_SIZE_BYTES as usize;
const SECTOR: usize = DELTA_SECTOR_LEN;
const ID: DeltaId = DeltaId::from_bytes([3; 16]);

fn new(blocks: u64) -> (TempDir, PathBuf, Delta) {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("delta");
    let delta = Delta::create(&dir, ID, blocks * BLOCK_SIZE_BYTES).unwrap();
    (temp, dir, delta)
}

fn run(start: u64, len: u64) -> BlockRange {
    BlockRange { start, len }
}

fn write(delta: &Delta, block: u64, value: u8) {
    delta.write_blocks([value; BLOCK].as_slice().into(), block).unwrap();
}

/// What the end of the machine takes from a delta that nobody has open, besides what else it may: the next boot is another.
fn power_cut(dir: &Path) {
    let _ = fs::remove_file(dir.join("map.boot"));
}

/// Every second block from `start` on: as many runs as blocks.
fn write_scattered(delta: &Delta, start: u64, count: u64) {
    (0..count).for_each(|n| delta.zero_blocks(run(start + 2 * n, 1), Space::Release).unwrap());
}

fn members(dir: &Path) -> Result<Vec<u64>> {
    let delta = DeltaReader::open(dir)?;
    Ok((0..delta.size_bytes() / BLOCK_SIZE_BYTES).filter(|block| delta.contains(*block)).collect())
}

fn error_of(dir: &Path) -> Error {
    let error = Delta::open(dir).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), DeltaReader::open(dir).map(|_| ()).unwrap_err().kind());
    error
}

fn assert_damaged(dir: &Path, what: &str) {
    let error = error_of(dir);
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error:?}");
    assert!(error.chain().contains("map.log is damaged at sector"), "{what}: {error:?}");
}

#[test]
fn only_what_was_flushed_is_in_after_a_crash_and_zero_is_a_value() {
    let (_temp, dir, delta) = new(100);
    write(&delta, 7, 1);
    write(&delta, 8, 2);
    delta.zero_blocks(run(20, 5), Space::Release).unwrap();
    delta.flush().unwrap();
    write(&delta, 50, 3);
    drop(delta);
    power_cut(&dir);
    let delta = Delta::open(&dir).unwrap();
    assert_eq!(members(&dir).unwrap(), [7, 8, 20, 21, 22, 23, 24]);
    let mut buf = [9; 2 * BLOCK];
    delta.readv_at(buf.as_mut_slice().into(), 7 * BLOCK_SIZE_BYTES).unwrap();
    assert_eq!((buf[0], buf[BLOCK]), (1, 2));
    delta.readv_at(buf.as_mut_slice().into(), 22 * BLOCK_SIZE_BYTES).unwrap();
    assert_eq!(buf, [0; 2 * BLOCK]);
    assert_eq!((delta.blocks_modified(), delta.size_bytes(), delta.id()), (7, 409_600, ID));
}

/// A guest that lived on under a new server read old data: blocks that it had been answered for and had not flushed were gone.
#[test]
fn what_was_answered_is_in_when_only_the_process_ended() {
    let (_temp, dir, delta) = new(100);
    write(&delta, 1, 1);
    delta.flush().unwrap();
    write(&delta, 7, 2);
    delta.zero_blocks(run(20, 2), Space::Release).unwrap();
    drop(delta);
    assert_eq!(members(&dir).unwrap(), [1, 7, 20, 21]);
    let delta = Delta::open(&dir).unwrap();
    write(&delta, 30, 3);
    drop(delta);
    // A second time, with what the first one was noted for, and of a block that the log has meanwhile.
    let delta = Delta::open(&dir).unwrap();
    delta.flush().unwrap();
    write(&delta, 40, 4);
    drop(delta);
    assert_eq!(members(&dir).unwrap(), [1, 7, 20, 21, 30, 40]);
    power_cut(&dir);
    assert_eq!(members(&dir).unwrap(), [1, 7, 20, 21, 30]);
}

#[test]
fn notes_of_another_boot_or_another_delta_and_damaged_ones_count_for_nothing() {
    let (_temp, dir, delta) = new(100);
    write(&delta, 7, 2);
    drop(delta);
    let boot = silt_sys::boot::boot_id().unwrap();
    let path = dir.join("map.boot");
    let note = |boot, id, run| DeltaNotes::new(&boot, &id).encode(run).to_vec();
    let good = note(boot, ID, run(7, 1));
    assert_eq!(fs::read(&path).unwrap(), good);
    let mut flipped = good.clone();
    flipped[0] ^= 1;
    let bad = [
        note([1; 16], ID, run(3, 1)),
        note(boot, DeltaId::from_bytes([4; 16]), run(3, 1)),
        note(boot, ID, run(99, 2)),
        flipped,
        vec![0; 16],
    ];
    fs::write(&path, [bad.concat(), good[..15].to_vec()].concat()).unwrap();
    assert_eq!(members(&dir).unwrap(), [] as [u64; 0]);
    fs::write(&path, [bad.concat(), good].concat()).unwrap();
    assert_eq!(members(&dir).unwrap(), [7]);
    let delta = Delta::open(&dir).unwrap();
    delta.close().unwrap();
    drop(delta);
    assert!(!path.exists(), "the log has all");
}

#[test]
fn notes_take_no_more_space_than_what_is_not_flushed_needs() {
    let (_temp, dir, delta) = new(10_000);
    for n in 0..20 {
        write_scattered(&delta, 200 * n, 100);
        delta.flush().unwrap();
    }
    assert_eq!(fs::metadata(dir.join("map.boot")).unwrap().len(), 100 * 16);
}

#[test]
fn files_are_private_and_the_folder_is_locked() {
    let (_temp, dir, delta) = new(100);
    write(&delta, 0, 1);
    for (path, mode) in
        [(dir.clone(), 0o700), (dir.join("map.log"), 0o600), (dir.join("data.000"), 0o600)]
    {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode);
    }
    assert_eq!(Delta::open(&dir).map(|_| ()).unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(
        Delta::create(&dir, ID, 4096).map(|_| ()).unwrap_err().kind(),
        ErrorKind::AlreadyExists
    );
    drop(delta);
    Delta::open(&dir).unwrap();
}

#[test]
fn blocks_on_both_sides_of_a_file_border_are_one_write() {
    const BORDER: u64 = (1 << 40) / BLOCK_SIZE_BYTES;
    let (_temp, dir, delta) = new((1 << 32) - 1);
    let data: Vec<u8> = (0..4 * BLOCK).map(|n| (n / 100) as u8).collect();
    delta.write_blocks(data.as_slice().into(), BORDER - 2).unwrap();
    delta.zero_blocks(run(BORDER + 1, 1), Space::Release).unwrap();
    write(&delta, (1 << 32) - 2, 9);
    let delta = delta.freeze().unwrap();
    let files = ["data.000", "data.001", "data.015", "map.log"];
    let mut found: Vec<_> = fs::read_dir(&dir).unwrap().map(|f| f.unwrap().file_name()).collect();
    found.sort();
    assert_eq!(found, files);
    let mut read = vec![0; 4 * BLOCK];
    delta.readv_at(read.as_mut_slice().into(), (BORDER - 2) * BLOCK_SIZE_BYTES).unwrap();
    assert_eq!(read[..3 * BLOCK], data[..3 * BLOCK]);
    assert_eq!(read[3 * BLOCK..], [0; BLOCK]);
    let runs: Vec<_> = delta.runs().map(|run| run.unwrap()).collect();
    let expected = [
        (BORDER - 2, 2, false),
        (BORDER, 1, false),
        (BORDER + 1, 1, true),
        ((1 << 32) - 2, 1, false),
    ]
    .map(|(start, len, hole)| DeltaRun { range: run(start, len), hole });
    assert_eq!(runs, expected);
    assert!(delta.allocated_bytes().unwrap() <= 64 * 1024);
    assert!(DeltaReader::open(&dir).unwrap().contains((1 << 32) - 2));
}

#[test]
fn discarded_space_is_given_back_and_kept_space_is_not() {
    let (_temp, _dir, delta) = new(1024);
    delta.write_blocks(vec![1; 256 * BLOCK].as_slice().into(), 0).unwrap();
    delta.flush().unwrap();
    let full = delta.allocated_bytes().unwrap();
    assert!(full >= 1 << 20);
    delta.zero_blocks(run(0, 128), Space::Release).unwrap();
    delta.flush().unwrap();
    assert!(delta.allocated_bytes().unwrap() <= full - (1 << 19));
    delta.zero_blocks(run(0, 512), Space::Keep).unwrap();
    delta.flush().unwrap();
    assert!(delta.allocated_bytes().unwrap() >= 2 << 20);
    let mut buf = vec![1; 512 * BLOCK];
    delta.readv_at(buf.as_mut_slice().into(), 0).unwrap();
    assert!(buf.iter().all(|byte| *byte == 0));
}

#[test]
fn every_flipped_bit_of_the_log_is_noticed_and_named() {
    for close in [false, true] {
        let (_temp, dir, delta) = new(1000);
        write_scattered(&delta, 0, 70);
        delta.flush().unwrap();
        if close {
            delta.close().unwrap();
        }
        drop(delta);
        let path = dir.join("map.log");
        let good = fs::read(&path).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        let used = 3 * SECTOR;
        // Behind the records lies what is reserved for more, and zero.
        for bit in (0..used * 8).chain((used * 8..good.len() * 8).step_by(977)) {
            let flipped = good[bit / 8] ^ 1 << (bit % 8);
            file.write_all_at(&[flipped], bit as u64 / 8).unwrap();
            let error = DeltaReader::open(&dir).map(|_| ()).unwrap_err();
            file.write_all_at(&good[bit / 8..][..1], bit as u64 / 8).unwrap();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{close} {bit}");
            let sector = format!("map.log is damaged at sector {}", bit / 8 / SECTOR);
            assert!(error.chain().contains(&sector), "{close} {bit}: {error:?}");
        }
    }
}

/// A log of three appends of two sectors each, and its bytes; closed or as a crash leaves it.
fn three_appends(close: bool) -> (TempDir, PathBuf, Vec<u8>) {
    let (temp, dir, delta) = new(10_000);
    for n in 0..3 {
        write_scattered(&delta, n * 1000, 100);
        delta.flush().unwrap();
    }
    if close {
        delta.close().unwrap();
    }
    drop(delta);
    power_cut(&dir);
    let log = fs::read(dir.join("map.log")).unwrap();
    (temp, dir, log[..7 * SECTOR].to_vec())
}

#[test]
fn a_closed_log_that_was_changed_in_any_sector_is_damaged() {
    let (_temp, dir, log) = three_appends(true);
    let path = dir.join("map.log");
    assert_eq!(fs::metadata(&path).unwrap().len(), log.len() as u64, "nothing is left reserved");
    for len in 0..log.len() {
        if len % 64 == 0 || len % SECTOR == 1 {
            fs::write(&path, &log[..len]).unwrap();
            assert_damaged(&dir, &format!("cut to {len}"));
        }
    }
    for sector in 0..7 {
        let mut bad = log.clone();
        bad[sector * SECTOR..(sector + 1) * SECTOR].fill(0);
        fs::write(&path, bad).unwrap();
        assert_damaged(&dir, &format!("sector {sector} zeroed"));
    }
    fs::write(&path, [log.as_slice(), &log[..SECTOR]].concat()).unwrap();
    assert_damaged(&dir, "something behind the end");
}

#[test]
fn an_open_log_may_have_lost_only_the_end_of_its_last_append() {
    let (_temp, dir, log) = three_appends(false);
    let path = dir.join("map.log");
    for sector in 1..7 {
        let mut bad = log.clone();
        bad[sector * SECTOR..(sector + 1) * SECTOR].fill(0);
        fs::write(&path, bad).unwrap();
        if sector < 5 {
            assert_damaged(&dir, &format!("sector {sector} zeroed before a later append"));
        } else {
            assert_eq!(members(&dir).unwrap().len(), if sector == 5 { 200 } else { 260 });
        }
    }
    let mut swapped = log.clone();
    swapped[5 * SECTOR..].rotate_left(SECTOR);
    fs::write(&path, swapped).unwrap();
    assert_damaged(&dir, "two sectors swapped");
    fs::write(&path, [&log[..SECTOR], &log[2 * SECTOR..]].concat()).unwrap();
    assert_damaged(&dir, "a sector taken out");
}

#[test]
fn what_is_left_of_a_torn_append_never_comes_back() {
    let (_temp, dir, log) = three_appends(false);
    let mut torn = log;
    torn[5 * SECTOR..6 * SECTOR].fill(0);
    fs::write(dir.join("map.log"), torn).unwrap();
    let delta = Delta::open(&dir).unwrap();
    assert_eq!(delta.blocks_modified(), 200, "of the last append, the first sector is lost");
    // Its second sector would follow this one in sequence.
    write(&delta, 9000, 1);
    delta.flush().unwrap();
    drop(delta);
    power_cut(&dir);
    assert_eq!(members(&dir).unwrap().len(), 201);
}

#[test]
fn a_log_is_never_shorter_than_it_was_when_last_closed() {
    let (_temp, dir, _) = three_appends(true);
    let delta = Delta::open(&dir).unwrap();
    write(&delta, 9000, 1);
    delta.flush().unwrap();
    drop(delta);
    power_cut(&dir);
    let path = dir.join("map.log");
    let log = fs::read(&path).unwrap();
    let state = DeltaLogHeader::decode(&log[..SECTOR]).unwrap().state;
    assert_eq!(state, DeltaLogState::Open { sectors_min: 6 });
    fs::write(&path, &log[..7 * SECTOR]).unwrap();
    assert_eq!(members(&dir).unwrap().len(), 300, "the last append alone may be lost");
    fs::write(&path, &log[..6 * SECTOR]).unwrap();
    assert_damaged(&dir, "cut before its last close");
}

#[test]
fn blocks_beyond_the_disk_and_logs_beyond_all_bounds_are_damage() {
    let (_temp, dir, delta) = new(10);
    delta.close().unwrap();
    drop(delta);
    let path = dir.join("map.log");
    let record = silt_format::DeltaRecord { sequence: 1, batch_first: 1, runs: vec![run(9, 2)] };
    let open = DeltaLogState::Open { sectors_min: 0 };
    let header = DeltaLogHeader {
        id: ID,
        size_bytes: 10 * BLOCK_SIZE_BYTES,
        state: open,
        write_generation: 1,
    };
    fs::write(&path, [header.encode(), record.encode()].concat()).unwrap();
    assert_damaged(&dir, "a block beyond the disk");
    fs::write(&path, header.encode()).unwrap();
    assert_eq!(members(&dir).unwrap(), [] as [u64; 0]);
    fs::File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    assert_damaged(&dir, "a log of a TiB");
    fs::write(&path, "no log").unwrap();
    assert_damaged(&dir, "garbage");
    fs::remove_file(&path).unwrap();
    assert!(error_of(&dir).chain().contains("map.log"));
}

#[test]
fn data_that_is_gone_is_damage_and_named() {
    let (_temp, dir, delta) = new(1000);
    write(&delta, 999, 1);
    delta.freeze().unwrap();
    let path = dir.join("data.000");
    fs::File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
    let short = error_of(&dir);
    fs::remove_file(&path).unwrap();
    for error in [short, error_of(&dir)] {
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.chain().contains("data.000"), "{error:?}");
    }
}

#[test]
fn a_data_file_that_a_crash_left_without_length_is_completed() {
    let (_temp, dir, delta) = new(1000);
    drop(delta);
    fs::write(dir.join("data.000"), b"").unwrap();
    let delta = Delta::open(&dir).unwrap();
    write(&delta, 3, 4);
    delta.freeze().unwrap();
    assert_eq!(members(&dir).unwrap(), [3]);
    assert_eq!(fs::metadata(dir.join("data.000")).unwrap().len(), 1000 * BLOCK_SIZE_BYTES);
}

#[test]
fn a_log_that_says_the_same_again_and_again_is_rewritten() {
    let (_temp, dir, delta) = new(100_000);
    let log_len = || fs::metadata(dir.join("map.log")).unwrap().len();
    let mut longest = 0;
    for n in 0..1100 {
        write(&delta, n, n as u8);
        delta.flush().unwrap();
        longest = longest.max(log_len());
    }
    assert!(longest <= (256 + 32 + 1) << 10, "{longest}");
    assert!(log_len() < 128 << 10, "rewritten twice by now: {}", log_len());
    // A record that needs its length is not rewritten: one sector for 60 blocks, and nothing to gain.
    write_scattered(&delta, 20_000, 35_000);
    delta.flush().unwrap();
    write(&delta, 2000, 1);
    delta.flush().unwrap();
    assert!(log_len() > 35_000 / 60 * 512);
    drop(delta);
    let found = members(&dir).unwrap();
    assert_eq!(found.len(), 1100 + 35_000 + 1);
    assert_eq!(Delta::open(&dir).unwrap().blocks_modified(), found.len() as u64);
}

#[test]
fn a_crash_while_the_log_is_rewritten_leaves_the_old_one() {
    let (_temp, dir, delta) = new(1000);
    write(&delta, 1, 1);
    delta.flush().unwrap();
    drop(delta);
    fs::write(dir.join(".map.log.new"), b"half of").unwrap();
    assert_eq!(Delta::open(&dir).unwrap().blocks_modified(), 1);
    assert!(!dir.join(".map.log.new").exists());
}

#[test]
fn flushes_of_many_threads_cover_what_each_wrote_before() {
    let (_temp, dir, delta) = new(10_000);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (delta, dir) = (&delta, &dir);
            scope.spawn(move || {
                for n in 0..40 {
                    write(delta, thread * 1000 + 2 * n, 1);
                    delta.flush().unwrap();
                    // A reader may meet a record that is just being written; what was answered must be there.
                    if let Ok(found) = DeltaReader::open(dir) {
                        (0..=n).for_each(|n| assert!(found.contains(thread * 1000 + 2 * n)));
                    }
                }
            });
        }
    });
    drop(delta);
    assert_eq!(members(&dir).unwrap().len(), 160);
}

/// A small tmpfs, unmounted at the end; `None`, with a printed reason, where that is not allowed.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "silt-test"])
            .arg(dir.path())
            .output();
        match mount {
            Ok(output) if output.status.success() => Some(SmallDisk(dir)),
            other => {
                println!("skipped: cannot mount a tmpfs: {other:?}");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn root_a_full_disk_refuses_writes_and_the_delta_goes_on() {
    let Some(disk) = SmallDisk::mount("1m") else { return };
    let dir = disk.0.path().join("delta");
    let delta = Delta::create(&dir, ID, 1 << 30).unwrap();
    write(&delta, 0, 1);
    delta.flush().unwrap();
    let written = (1..1000)
        .take_while(|n| delta.write_blocks([2; BLOCK].as_slice().into(), *n).is_ok())
        .count() as u64;
    assert!(written > 100);
    let error = delta.write_blocks([3; BLOCK].as_slice().into(), 5000).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
    let error = delta.zero_blocks(run(5000, 10), Space::Keep).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
    // More to record than fits the pages that the log has: it has reserved some.
    write_scattered(&delta, 100_000, 60 * 20);
    delta.flush().unwrap();
    write(&delta, 1, 7);
    delta.zero_blocks(run(0, 1), Space::Release).unwrap();
    write(&delta, 6000, 8);
    delta.close().unwrap();
    drop(delta);
    let delta = DeltaReader::open(&dir).unwrap();
    assert_eq!(delta.blocks_modified(), written + 2 + 60 * 20);
    assert!(!delta.contains(5000) && delta.contains(6000));
}

#[test]
fn root_a_log_that_cannot_grow_poisons_the_delta_until_it_is_opened_anew() {
    let Some(disk) = SmallDisk::mount("256k") else { return };
    let dir = disk.0.path().join("delta");
    let delta = Delta::create(&dir, ID, 1 << 30).unwrap();
    write(&delta, 0, 1);
    delta.flush().unwrap();
    let ballast = disk.0.path().join("ballast");
    fs::File::create(&ballast).unwrap().write_all_at(&[1; 1 << 20], 0).unwrap_err();
    // Zeroed blocks need no space of their own, only notes, and records when there is none for notes: more than is reserved.
    let mut zeroed = (0..60 * 200).map(|n| delta.zero_blocks(run(100 + 2 * n, 1), Space::Release));
    let error = zeroed.find_map(Result::err).unwrap();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
    fs::remove_file(&ballast).unwrap();
    let later = [
        delta.flush(),
        delta.close(),
        delta.overwrite([1].as_slice().into(), 0),
        delta.write_blocks([1; BLOCK].as_slice().into(), 0),
        delta.zero_blocks(run(0, 1), Space::Release),
    ];
    for result in later {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.chain().contains("opened anew"), "{error:?}");
    }
    drop(delta);
    let delta = Delta::open(&dir).unwrap();
    assert!(delta.members().contains(0));
    write(&delta, 1, 1);
    delta.flush().unwrap();
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u8, u8),
    Zero(u64, u8, bool),
    /// Scattered blocks, so that an append has several sectors.
    Scatter(u64),
    Flush,
    Close,
    /// The process ends; the machine does not.
    Kill,
    /// A power cut in the middle of a flush: which of the sectors it appended are there, and how long the file is.
    PowerCut(u64, u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..500u64, 1..9u8, 1..=255u8).prop_map(|(at, len, value)| Step::Write(at, len, value)),
        2 => (0..500u64, 1..20u8, any::<bool>()).prop_map(|(at, len, keep)| Step::Zero(at, len, keep)),
        1 => (0..2000u64).prop_map(|at| Step::Scatter(600 + at)),
        2 => Just(Step::Flush),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
        2 => (any::<u64>(), any::<u8>()).prop_map(|(kept, cut)| Step::PowerCut(kept, cut)),
    ];
    prop::collection::vec(step, 1..25)
}

/// What each block that is in holds, by the first byte of it.
type Model = BTreeMap<u64, u8>;

static CASE: AtomicU64 = AtomicU64::new(0);

fn check(dir: &Path, atleast: &Model, atmost: &Model) -> Model {
    let delta = DeltaReader::open(dir).unwrap();
    let mut found = Model::new();
    let mut blocks = 0;
    for run in delta.runs() {
        let run = run.unwrap();
        blocks += run.range.len;
        for block in run.range.start..run.range.end() {
            let mut buf = [9; BLOCK];
            delta.readv_at(buf.as_mut_slice().into(), block * BLOCK_SIZE_BYTES).unwrap();
            assert!(buf.iter().all(|byte| *byte == buf[0]) && (!run.hole || buf[0] == 0));
            found.insert(block, buf[0]);
        }
    }
    assert_eq!(blocks, delta.blocks_modified());
    assert!(atleast.keys().all(|block| found.contains_key(block)));
    // Data lies in place: a block that is in has its last value, whenever that was flushed.
    assert!(found.iter().all(|(block, value)| atmost.get(block) == Some(value)));
    found
}

fn play(root: &Path, steps: &[Step]) {
    let dir = root.join(format!("delta-{}", CASE.fetch_add(1, Ordering::Relaxed)));
    let log = dir.join("map.log");
    let mut delta = Delta::create(&dir, ID, 4000 * BLOCK_SIZE_BYTES).unwrap();
    let (mut now, mut flushed) = (Model::new(), Model::new());
    for step in steps {
        match *step {
            Step::Write(at, len, value) => {
                let bytes = vec![value; usize::from(len) * BLOCK];
                delta.write_blocks(bytes.as_slice().into(), at).unwrap();
                (at..at + u64::from(len)).for_each(|block| _ = now.insert(block, value));
            }
            Step::Zero(at, len, keep) => {
                let space = if keep { Space::Keep } else { Space::Release };
                delta.zero_blocks(run(at, len.into()), space).unwrap();
                (at..at + u64::from(len)).for_each(|block| _ = now.insert(block, 0));
            }
            Step::Scatter(at) => {
                write_scattered(&delta, at, 150);
                (0..150).for_each(|n| _ = now.insert(at + 2 * n, 0));
            }
            Step::Flush => {
                delta.flush().unwrap();
                flushed = now.clone();
            }
            Step::Close | Step::Kill => {
                if matches!(step, Step::Close) {
                    delta.close().unwrap();
                    flushed = now.clone();
                }
                drop(delta);
                now = check(&dir, &now, &now);
                delta = Delta::open(&dir).unwrap();
            }
            Step::PowerCut(kept, cut) => {
                let before = fs::read(&log).unwrap();
                delta.flush().unwrap();
                drop(delta);
                power_cut(&dir);
                tear(&log, &before, kept, cut);
                now = check(&dir, &flushed, &now);
                flushed = now.clone();
                delta = Delta::open(&dir).unwrap();
            }
        }
    }
    drop(delta);
    check(&dir, &now, &now);
    fs::remove_dir_all(dir).unwrap();
}

/// Takes back what a flush wrote behind the sectors that were there before, as if it had not been answered yet.
fn tear(log: &Path, before: &[u8], kept: u64, cut: u8) {
    let mut bytes = fs::read(log).unwrap();
    let used = |bytes: &[u8]| {
        let sectors = bytes.chunks(SECTOR).skip(1);
        1 + sectors.take_while(|sector| sector.iter().any(|byte| *byte != 0)).count()
    };
    let (old, new) = (used(before), used(&bytes));
    for sector in old..new {
        if kept >> (sector - old) & 1 == 0 {
            bytes[sector * SECTOR..(sector + 1) * SECTOR].fill(0);
        }
    }
    if cut.is_multiple_of(2) {
        bytes.truncate((old + usize::from(cut) % (new - old + 1)) * SECTOR);
    }
    fs::write(log, bytes).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_delta_holds_what_was_answered_through_kills_and_what_was_flushed_through_power_cuts(steps in steps()) {
        let temp = tempfile::tempdir().unwrap();
        play(temp.path(), &steps);
        // tmpfs can punch but not zero ranges, so this goes another way.
        if let Ok(temp) = tempfile::tempdir_in("/dev/shm") {
            play(temp.path(), &steps);
        }
    }
}
