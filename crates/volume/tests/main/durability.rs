//! What a volume answered survives every power cut and every failure of the file system (invariants 4 and 5).
//!
//! One story of writes, zeros, flushes and reopenings runs on the fault layer. What the disk may hold afterwards is
//! worked out for each sector: its value at the last flush that was answered, or one written since.

use silt_testkit::fault::{Errno, FaultFs, Later, Limits, Model, OpClass, Plan, PowerState};
use silt_types::{DeltaId, ErrorKind, Result};
use silt_volume::{BlockDevice as _, Delta, Volume};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};
use tempfile::TempDir;

const BLOCK: usize = 4096;
const SECTOR: usize = 512;
const BLOCKS: usize = 600;
pub(super) const SIZE: usize = BLOCKS * BLOCK;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Sectors from here on, and their value.
    Write(usize, usize, u8),
    /// Sectors from here on; whether the space is given back.
    Zero(usize, usize, bool),
    Flush,
    Reopen,
}

use Step::{Flush, Reopen, Write, Zero};

fn story() -> Vec<Step> {
    let mut steps = vec![
        Write(0, 32, 1),
        Write(67, 3, 2),
        Flush,
        Write(4, 2, 3),
        Zero(8, 16, true),
        Write(80, 8, 4),
        Flush,
        Reopen,
        Zero(16, 8, false),
        Write(20, 1, 5),
    ];
    // More runs than a sector of the log holds, so that its append can be torn.
    steps.extend((0..75).map(|n| Write(400 + 16 * n, 1, 6)));
    steps.extend([Flush, Write(400, 2, 7), Zero(408, 8, true), Zero(64, 8, true), Flush, Flush]);
    steps.extend([Write(64, 1, 8), Reopen, Write(72, 8, 9), Write(0, 8, 10), Flush]);
    steps
}

/// A mounted layer, gone when it is dropped; `None`, with a printed reason, where this machine cannot mount.
pub(super) struct Mounted {
    pub(super) layer: FaultFs,
    pub(super) temp: TempDir,
}

impl Mounted {
    pub(super) fn new() -> Option<Mounted> {
        if let Some(reason) = FaultFs::unavailable() {
            println!("skipped: {reason}");
            return None;
        }
        let temp = tempfile::tempdir().unwrap();
        let [backing, mount] = ["backing", "mount"].map(|name| temp.path().join(name));
        for dir in [&backing, &mount] {
            fs::create_dir(dir).unwrap();
        }
        Some(Mounted { layer: FaultFs::mount(&backing, &mount).unwrap(), temp })
    }

    pub(super) fn delta(&self) -> PathBuf {
        self.layer.mountpoint().join("delta")
    }
}

pub(super) fn create(dir: &Path) -> Result<()> {
    Delta::create(dir, DeltaId::from_bytes([1; 16]), SIZE as u64)?;
    File::open(dir.parent().unwrap()).unwrap().sync_all().unwrap();
    Ok(())
}

/// How far a story came: steps that were begun, and how many of these the last answered flush covers.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    begun: usize,
    flushed: usize,
}

/// Plays the story and tells of each step before it begins and after it was answered.
fn play(dir: &Path, steps: &[Step], mut tell: impl FnMut(Progress)) -> (Result<()>, Progress) {
    let mut progress = Progress::default();
    let mut run = || {
        let mut volume = super::open(dir, SIZE as u64)?;
        for (number, step) in steps.iter().enumerate() {
            progress.begun = number + 1;
            tell(progress);
            match *step {
                Write(at, len, value) => {
                    volume.write_at(&vec![value; len * SECTOR], (at * SECTOR) as u64)?;
                }
                Zero(at, len, unmap) => {
                    volume.write_zeroes((at * SECTOR) as u64, (len * SECTOR) as u64, unmap)?;
                }
                Flush => {
                    after_failure(&volume, volume.flush())?;
                    progress.flushed = progress.begun;
                }
                Reopen => {
                    after_failure(&volume, volume.close())?;
                    progress.flushed = progress.begun;
                    drop(volume);
                    volume = super::open(dir, SIZE as u64)?;
                }
            }
            tell(progress);
        }
        Ok(())
    };
    (run(), progress)
}

/// A flush that failed is never taken back: nothing is accepted any more.
fn after_failure(volume: &Volume, flushed: Result<()>) -> Result<()> {
    if flushed.is_err() {
        for later in [volume.flush(), volume.write_at(&[1], 0), volume.discard(0, SIZE as u64)] {
            assert_eq!(later.unwrap_err().kind(), ErrorKind::Io, "a retry never succeeds");
        }
    }
    flushed
}

/// The values that each sector may have.
fn allowed(steps: &[Step], progress: Progress) -> Vec<Vec<u8>> {
    let mut sectors = vec![vec![0]; SIZE / SECTOR];
    for (number, step) in steps[..progress.begun].iter().enumerate() {
        let (at, len, value) = match *step {
            Write(at, len, value) => (at, len, value),
            Zero(at, len, _) => (at, len, 0),
            Flush | Reopen => continue,
        };
        for values in &mut sectors[at..at + len] {
            if number < progress.flushed {
                values.clear();
            }
            values.push(value);
        }
    }
    sectors
}

fn check(dir: &Path, steps: &[Step], progress: Progress) -> Result<(), String> {
    let volume = super::open(dir, SIZE as u64).map_err(|error| format!("{error:?}"))?;
    let mut bytes = vec![0xee; SIZE];
    volume.read_at(&mut bytes, 0).map_err(|error| format!("{error:?}"))?;
    for (number, values) in allowed(steps, progress).iter().enumerate() {
        let sector = &bytes[number * SECTOR..][..SECTOR];
        if !values.iter().any(|value| sector.iter().all(|byte| byte == value)) {
            return Err(format!("sector {number} holds {} instead of {values:?}", sector[0]));
        }
    }
    // It can be used again, and says the same when asked once more.
    volume.write_at(&[99; BLOCK], (SIZE - BLOCK) as u64).map_err(|error| format!("{error:?}"))?;
    volume.close().map_err(|error| format!("{error:?}"))?;
    drop(volume);
    let volume = super::open(dir, SIZE as u64).map_err(|error| format!("{error:?}"))?;
    let mut again = vec![0xee; SIZE];
    volume.read_at(&mut again, 0).map_err(|error| format!("{error:?}"))?;
    if again[..SIZE - BLOCK] != bytes[..SIZE - BLOCK] {
        return Err("it changed from one opening to the next".into());
    }
    Ok(())
}

/// The progress at a power cut, from the marks; `None` before the delta was made.
fn progress_of(state: &PowerState<'_>) -> Option<Progress> {
    let mark = state.marks().last()?;
    let (begun, flushed) = mark.split_once(' ').unwrap();
    Some(Progress { begun: begun.parse().unwrap(), flushed: flushed.parse().unwrap() })
}

fn survives_power_cuts(mounted: &Mounted, steps: &[Step], limit: usize) {
    let recording = mounted.layer.take_recording().unwrap();
    for model in [Model::Posix, Model::Ext4] {
        let limits = Limits { states: limit, seed: 11 };
        let mut seen = 0;
        for state in recording.states(model, &limits) {
            let Some(progress) = progress_of(&state) else { continue };
            seen += 1;
            let temp = tempfile::tempdir_in(mounted.temp.path()).unwrap();
            state.materialize(temp.path()).unwrap();
            if let Err(what) = check(&temp.path().join("delta"), steps, progress) {
                panic!("{}: {progress:?}: {what}\n{}", state.cut(), state.story(30));
            }
        }
        println!("{model:?}: {seen} states");
        assert!(seen > 20);
    }
}

#[test]
fn fuse_what_was_flushed_survives_every_power_cut() {
    let Some(mounted) = Mounted::new() else { return };
    mounted.layer.start_recording().unwrap();
    create(&mounted.delta()).unwrap();
    mounted.layer.mark("0 0");
    let mark = |at: Progress| mounted.layer.mark(&format!("{} {}", at.begun, at.flushed));
    let steps = story();
    play(&mounted.delta(), &steps, mark).0.unwrap();
    survives_power_cuts(&mounted, &steps, 300);
}

#[test]
fn fuse_rewriting_the_log_survives_every_power_cut() {
    let Some(mounted) = Mounted::new() else { return };
    create(&mounted.delta()).unwrap();
    // Every flush that finds a new block appends a sector, and a log of more than 512 is rewritten.
    let mut steps: Vec<_> = (0..520).flat_map(|n| [Write(8 * n, 8, n as u8), Flush]).collect();
    steps.extend([Write(0, 3, 77), Reopen, Write(8 * 599, 8, 88), Flush]);
    let tell = |at: Progress| {
        if at.flushed == 2 * 508 && at.begun == at.flushed {
            mounted.layer.start_recording().unwrap();
        }
        mounted.layer.mark(&format!("{} {}", at.begun, at.flushed));
    };
    play(&mounted.delta(), &steps, tell).0.unwrap();
    let log = fs::metadata(mounted.delta().join("map.log")).unwrap().len();
    assert!(log < 64 << 10, "it was rewritten: {log}");
    survives_power_cuts(&mounted, &steps, 300);
}

/// A process dies with a record and data that it wrote but never synced. The next one finds both in the page cache and lets
/// its guest read them; so a flush that it answers has to cover them.
#[test]
fn fuse_what_a_killed_process_left_is_durable_once_it_was_read_and_flushed() {
    let Some(mounted) = Mounted::new() else { return };
    mounted.layer.start_recording().unwrap();
    create(&mounted.delta()).unwrap();
    mounted.layer.mark("0 0");
    let steps = [Write(0, 8, 1), Write(0, 8, 2)];
    let open = || super::open(&mounted.delta(), SIZE as u64).unwrap();
    let read = |volume: &Volume| {
        let mut buf = [0; BLOCK];
        volume.read_at(&mut buf, 0).unwrap();
        buf[0]
    };
    let volume = open();
    mounted.layer.mark("1 0");
    volume.write_at(&[1; BLOCK], 0).unwrap();
    // Folder, data, and then the record itself; the write has opened the header.
    mounted.layer.set_plan(Plan::CrashAt { class: OpClass::Sync, op: 2 });
    volume.flush().unwrap_err();
    mounted.layer.set_plan(Plan::None);
    drop(volume);
    let volume = open();
    assert_eq!(read(&volume), 1, "the record is written, though not synced");
    volume.flush().unwrap();
    mounted.layer.mark("1 1");
    mounted.layer.mark("2 1");
    volume.write_at(&[2; BLOCK], 0).unwrap();
    drop(volume);
    let volume = open();
    assert_eq!(read(&volume), 2);
    volume.flush().unwrap();
    mounted.layer.mark("2 2");
    drop(volume);
    survives_power_cuts(&mounted, &steps, 200);
}

#[test]
fn fuse_after_any_failing_operation_what_was_flushed_is_there() {
    let Some(mounted) = Mounted::new() else { return };
    let steps = story();
    create(&mounted.delta()).unwrap();
    mounted.layer.set_plan(Plan::None);
    play(&mounted.delta(), &steps, |_| ()).0.unwrap();
    let count = mounted.layer.op_count(OpClass::Any);
    println!("{count} operations");
    let plans = |op| {
        let fail = |errno| Plan::FailAt { class: OpClass::Any, op, errno, later: Later::Work };
        [fail(Errno::IO), fail(Errno::NOSPC), Plan::CrashAt { class: OpClass::Any, op }]
    };
    for (number, plan) in (0..count).flat_map(plans).enumerate() {
        fs::remove_dir_all(mounted.delta()).unwrap();
        create(&mounted.delta()).unwrap();
        mounted.layer.set_plan(plan);
        let (result, progress) = play(&mounted.delta(), &steps, |_| ());
        mounted.layer.set_plan(Plan::None);
        if let Err(error) = &result {
            let kinds = [ErrorKind::Io, ErrorKind::NoSpace];
            assert!(kinds.contains(&error.kind()), "{number} {plan:?}: {error:?}");
        }
        if let Err(what) = check(&mounted.delta(), &steps, progress) {
            panic!("{plan:?}: {progress:?}: {what} after {result:?}");
        }
    }
}
