//! Power cuts: right protocols survive every state, each planted mistake is found, seeds replay.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::Path,
};

use silt_testkit::fault::{
    Choice, Errno, Later, Limits, Model, Op, OpClass, Plan, PowerState, Recording,
};

use super::Mounted;

/// 3,000 bytes, so that a version spans sectors and ends inside one.
fn version(number: u8) -> Vec<u8> {
    vec![number; 3000]
}

/// Which steps of a safe replace are taken.
#[derive(Clone, Copy)]
struct Protocol {
    syncs_file: bool,
    syncs_folder: bool,
}

const RIGHT: Protocol = Protocol { syncs_file: true, syncs_folder: true };

fn replace(dir: &Path, protocol: Protocol, number: u8) {
    let mut file = File::create(dir.join("temporary")).unwrap();
    file.write_all(&version(number)).unwrap();
    if protocol.syncs_file {
        file.sync_all().unwrap();
    }
    fs::rename(dir.join("temporary"), dir.join("name")).unwrap();
    if protocol.syncs_folder {
        File::open(dir).unwrap().sync_all().unwrap();
    }
}

/// Records three replacements, each marked when it is answered.
fn record(m: &Mounted, protocol: Protocol) -> Recording {
    replace(&m.at(""), RIGHT, 0);
    m.fs.start_recording().unwrap();
    for number in 1..4 {
        replace(&m.at(""), protocol, number);
        m.fs.mark(&number.to_string());
    }
    m.fs.take_recording().unwrap()
}

/// What must hold: the file is one whole version, none older than the last answered.
fn check(dir: &Path, state: &PowerState<'_>) -> Result<(), String> {
    let bytes = fs::read(dir.join("name")).map_err(|error| format!("unreadable: {error}"))?;
    let answered: u8 = state.marks().last().map_or(0, |mark| mark.parse().unwrap());
    let number = bytes.first().copied().ok_or("empty")?;
    if bytes != version(number) {
        return Err(format!("neither old nor new, {} bytes", bytes.len()));
    }
    if number < answered { Err(format!("{number} after {answered} was answered")) } else { Ok(()) }
}

/// The first state that breaks the promise, and how many were looked at.
fn first_violation(
    recording: &Recording,
    model: Model,
    check: impl Fn(&Path, &PowerState<'_>) -> Result<(), String>,
) -> (usize, Option<String>) {
    let limits = Limits { states: 100, seed: 7 };
    let mut seen = 0;
    for state in recording.states(model, &limits) {
        seen += 1;
        let dir = tempfile::tempdir().unwrap();
        state.materialize(dir.path()).unwrap();
        if let Err(what) = check(dir.path(), &state) {
            let report = format!("{}: {what}\n{}", state.cut(), state.story(12));
            return (seen, Some(report));
        }
    }
    (seen, None)
}

#[test]
fn fuse_a_safe_replace_survives_every_power_cut() {
    let Some(m) = Mounted::new() else { return };
    let recording = record(&m, RIGHT);
    for model in [Model::Posix, Model::Ext4] {
        let (seen, violation) = first_violation(&recording, model, check);
        assert_eq!(violation, None, "{model:?}");
        assert!(seen > 20, "{model:?}: only {seen} states");
        println!("{model:?}: {seen} states of {} operations", recording.ops().len());
    }
}

#[test]
fn fuse_a_forgotten_fsync_before_rename_is_found() {
    let Some(m) = Mounted::new() else { return };
    let recording = record(&m, Protocol { syncs_file: false, ..RIGHT });
    for model in [Model::Posix, Model::Ext4] {
        let (_, violation) = first_violation(&recording, model, check);
        let violation = violation.expect("the planted mistake is found");
        println!("{violation}");
        assert!(violation.contains("neither old nor new") || violation.contains("empty"));
    }
}

#[test]
fn fuse_a_forgotten_fsync_of_the_folder_is_found() {
    let Some(m) = Mounted::new() else { return };
    let recording = record(&m, Protocol { syncs_folder: false, ..RIGHT });
    for model in [Model::Posix, Model::Ext4] {
        let (_, violation) = first_violation(&recording, model, check);
        let violation = violation.expect("the planted mistake is found");
        assert!(violation.contains("was answered"), "{violation}");
    }
}

/// Appends a record and then the count of records in the first sector.
fn append(file: &File, syncs_between: bool, number: u64) {
    file.write_all_at(&[number as u8; 512], number * 512).unwrap();
    if syncs_between {
        file.sync_data().unwrap();
    }
    file.write_all_at(&number.to_le_bytes(), 0).unwrap();
    file.sync_data().unwrap();
}

fn check_log(dir: &Path, _: &PowerState<'_>) -> Result<(), String> {
    let bytes = fs::read(dir.join("log")).map_err(|error| error.to_string())?;
    let count = bytes.get(..8).map_or(0, |head| u64::from_le_bytes(head.try_into().unwrap()));
    for number in 1..=count as usize {
        let record = bytes.get(number * 512..(number + 1) * 512);
        if record != Some(&[number as u8; 512][..]) {
            return Err(format!("record {number} of {count} is missing"));
        }
    }
    Ok(())
}

#[test]
fn fuse_a_count_that_overtakes_its_record_is_found() {
    let Some(m) = Mounted::new() else { return };
    for syncs_between in [true, false] {
        let _ = fs::remove_file(m.at("log"));
        let log = File::create(m.at("log")).unwrap();
        m.fs.start_recording().unwrap();
        for number in 1..6 {
            append(&log, syncs_between, number);
        }
        let recording = m.fs.take_recording().unwrap();
        for model in [Model::Posix, Model::Ext4] {
            let (_, violation) = first_violation(&recording, model, check_log);
            assert_eq!(violation.is_none(), syncs_between, "{model:?}: {violation:?}");
        }
    }
}

#[test]
fn fuse_a_write_larger_than_a_sector_is_torn() {
    let Some(m) = Mounted::new() else { return };
    fs::write(m.at("file"), [1; 4096]).unwrap();
    m.fs.start_recording().unwrap();
    let file = OpenOptions::new().write(true).open(m.at("file")).unwrap();
    file.write_all_at(&[2; 4096], 0).unwrap();
    file.sync_all().unwrap();
    let recording = m.fs.take_recording().unwrap();
    let mut torn = 0;
    for state in recording.states(Model::Posix, &Limits { states: 200, seed: 1 }) {
        let dir = tempfile::tempdir().unwrap();
        state.materialize(dir.path()).unwrap();
        let bytes = fs::read(dir.path().join("file")).unwrap();
        for sector in bytes.chunks(512) {
            assert!(sector == [1; 512] || sector == [2; 512], "torn inside a sector");
        }
        torn += u32::from(bytes.contains(&1) && bytes.contains(&2));
        let synced = state.cut().after == recording.ops().len();
        assert!(!synced || bytes == [2; 4096], "{}", state.cut());
    }
    assert!(torn > 20, "{torn} torn states");
}

#[test]
fn fuse_a_failed_fsync_is_not_made_good_by_the_next() {
    let Some(m) = Mounted::new() else { return };
    let file = File::create(m.at("file")).unwrap();
    m.fs.start_recording().unwrap();
    let errno = Errno::IO;
    m.fs.set_plan(Plan::FailAt { class: OpClass::Sync, op: 0, errno, later: Later::Work });
    file.write_all_at(&[1; 512], 0).unwrap();
    assert!(file.sync_all().is_err());
    file.write_all_at(&[2; 512], 512).unwrap();
    file.sync_all().unwrap();
    m.fs.mark("answered");
    let recording = m.fs.take_recording().unwrap();
    assert!(recording.ops().iter().any(|op| matches!(op, Op::FsyncFailed { .. })));
    let lost = recording
        .states(Model::Posix, &Limits { states: 100, seed: 1 })
        .filter(|state| state.marks().next().is_some())
        .any(|state| {
            let dir = tempfile::tempdir().unwrap();
            state.materialize(dir.path()).unwrap();
            let bytes = fs::read(dir.path().join("file")).unwrap();
            assert_eq!(bytes[512..], [2; 512], "what the second fsync covers");
            bytes[..512] == [0; 512]
        });
    assert!(lost);
}

#[test]
fn fuse_synchronous_writes_need_no_fsync() {
    let Some(m) = Mounted::new() else { return };
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::RDWR | rustix::fs::OFlags::DSYNC;
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let file = File::from(rustix::fs::open(m.at("file"), flags, mode).unwrap());
    m.fs.start_recording().unwrap();
    file.write_all_at(&[1; 512], 0).unwrap();
    let recording = m.fs.take_recording().unwrap();
    assert!(
        matches!(recording.ops(), [Op::Write { .. }, Op::Fsync { .. }]),
        "{:?}",
        recording.ops()
    );
}

#[test]
fn fuse_with_nothing_lost_the_last_state_is_the_folder_itself() {
    let Some(m) = Mounted::new() else { return };
    fs::write(m.at("kept"), [5; 9000]).unwrap();
    m.fs.start_recording().unwrap();
    fs::create_dir_all(m.at("a/b")).unwrap();
    fs::write(m.at("a/b/file"), [6; 70_000]).unwrap();
    fs::hard_link(m.at("a/b/file"), m.at("a/second")).unwrap();
    std::os::unix::fs::symlink("second", m.at("a/soft")).unwrap();
    fs::rename(m.at("a/b"), m.at("c")).unwrap();
    let file = OpenOptions::new().write(true).open(m.at("kept")).unwrap();
    file.set_len(5000).unwrap();
    file.set_len(20_000).unwrap();
    let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 100, 4500).unwrap();
    fs::remove_file(m.at("a/second")).unwrap();
    fs::write(m.at("kept.new"), b"x").unwrap();
    rustix::fs::renameat_with(
        rustix::fs::CWD,
        m.at("kept.new"),
        rustix::fs::CWD,
        m.at("kept"),
        rustix::fs::RenameFlags::EXCHANGE,
    )
    .unwrap();
    let recording = m.fs.take_recording().unwrap();
    for model in [Model::Posix, Model::Ext4] {
        let cut = format!("{}:{}:kept", format!("{model:?}").to_lowercase(), recording.ops().len());
        let state = recording.state(cut.parse().unwrap()).unwrap();
        assert_eq!(state.cut().choice, Choice::Kept);
        let dir = m.beside().join(format!("{model:?}"));
        state.materialize(&dir).unwrap();
        let differ = std::process::Command::new("diff")
            .args(["-r", "--no-dereference"])
            .args([m.backing(""), dir])
            .output()
            .unwrap();
        assert!(differ.status.success(), "{}", String::from_utf8_lossy(&differ.stdout));
    }
}

#[test]
fn fuse_a_printed_power_cut_builds_the_same_state_again() {
    let Some(m) = Mounted::new() else { return };
    let recording = record(&m, Protocol { syncs_file: false, syncs_folder: false });
    let limits = Limits { states: 150, seed: 99 };
    let words = |limits| -> Vec<String> {
        recording.states(Model::Posix, &limits).map(|state| state.cut().to_string()).collect()
    };
    let first = words(limits);
    assert_eq!(first, words(limits));
    assert!(first.iter().any(|word| word.contains("mixed")));
    for (word, state) in first.iter().zip(recording.states(Model::Posix, &limits)) {
        let again = recording.state(word.parse().unwrap()).unwrap();
        assert_eq!(again.cut(), state.cut());
        let (one, two) = (m.beside().join("one"), m.beside().join("two"));
        state.materialize(&one).unwrap();
        again.materialize(&two).unwrap();
        assert_eq!(fs::read(one.join("name")).ok(), fs::read(two.join("name")).ok(), "{word}");
        fs::remove_dir_all(one).unwrap();
        fs::remove_dir_all(two).unwrap();
    }
    assert!("posix:9".parse::<silt_testkit::fault::PowerCut>().is_err());
    assert!(recording.state("ext4:9999:lost".parse().unwrap()).is_err());
}

#[test]
fn fuse_a_recording_in_another_order_has_the_late_operations_last() {
    let Some(m) = Mounted::new() else { return };
    m.fs.start_recording().unwrap();
    fs::write(m.at("first"), b"1").unwrap();
    fs::write(m.at("second"), b"2").unwrap();
    m.fs.mark("end");
    let recording = m.fs.take_recording().unwrap();
    let length = recording.ops().len();
    let is_first = |op: &Op| matches!(op, Op::Write { bytes, .. } if **bytes == *b"1");
    let changed = recording.with_last(0..length - 1, is_first);
    assert_eq!(changed.ops().len(), length);
    assert!(is_first(&changed.ops()[length - 2]), "before the mark, which is not in the range");
    let state = changed.state(format!("posix:{}:kept", length - 2).parse().unwrap()).unwrap();
    let dir = m.beside().join("state");
    state.materialize(&dir).unwrap();
    let read = |name| fs::read(dir.join(name)).unwrap();
    assert_eq!((read("first"), read("second")), (Vec::new(), b"2".to_vec()));
}
