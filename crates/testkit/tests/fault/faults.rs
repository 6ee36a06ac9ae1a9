//! Plans: what fails, what is left on the backing folder, and that it can be counted on.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::Path,
};

use rustix::fs::FallocateFlags;
use silt_testkit::fault::{Errno, Later, OpClass, Plan};

use super::Mounted;

/// Replaces `dir/name` by temporary file, fsync, rename and fsync of the folder.
fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join("temporary");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, dir.join(name))?;
    File::open(dir)?.sync_all()
}

#[test]
fn fuse_each_operation_of_a_safe_replace_can_fail_and_leaves_old_or_new() {
    let Some(m) = Mounted::new() else { return };
    replace(&m.at(""), "name", b"old").unwrap();
    m.fs.set_plan(Plan::None);
    replace(&m.at(""), "name", b"new").unwrap();
    let steps = m.fs.op_count(OpClass::Any);
    assert_eq!(steps, 5, "create, write, fsync, rename, fsync of the folder");
    for later in [Later::Work, Later::Fail] {
        for op in 0..steps {
            m.fs.set_plan(Plan::None);
            let _ = fs::remove_file(m.at("temporary"));
            replace(&m.at(""), "name", b"old").unwrap();
            m.fs.set_plan(Plan::FailAt { class: OpClass::Any, op, errno: Errno::IO, later });
            let error = replace(&m.at(""), "name", b"new").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()), "step {op}");
            assert!(m.fs.tripped());
            let left = fs::read(m.backing("name")).unwrap();
            assert_eq!(left, if op < 4 { b"old" } else { b"new" }, "step {op}");
        }
    }
}

#[test]
fn fuse_one_class_alone_fails_with_the_chosen_error() {
    let Some(m) = Mounted::new() else { return };
    let plan =
        Plan::FailAt { class: OpClass::Sync, op: 1, errno: Errno::DQUOT, later: Later::Work };
    m.fs.set_plan(plan);
    let file = File::create(m.at("file")).unwrap();
    for expected in [Ok(()), Err(Some(Errno::DQUOT.raw_os_error())), Ok(())] {
        file.write_all_at(b"data", 0).unwrap();
        assert_eq!(file.sync_all().map_err(|error| error.raw_os_error()), expected);
    }
    assert_eq!(m.fs.op_count(OpClass::Sync), 3);
    assert_eq!(m.fs.op_count(OpClass::Write), 3);
    assert_eq!(m.fs.op_count(OpClass::Name), 1);
}

#[test]
fn fuse_nothing_passes_a_crash_and_everything_works_after_it() {
    let Some(m) = Mounted::new() else { return };
    let file = File::create(m.at("file")).unwrap();
    m.fs.set_plan(Plan::CrashAt { class: OpClass::Write, op: 2 });
    for block in 0..5 {
        let written = file.write_all_at(&[1; 4096], block * 4096);
        assert_eq!(written.is_ok(), block < 2);
    }
    assert!(fs::create_dir(m.at("folder")).is_err());
    assert!(fs::rename(m.at("file"), m.at("other")).is_err());
    assert!(File::open(m.at("file")).is_err(), "reading is over too");
    drop(file);
    assert_eq!(fs::metadata(m.backing("file")).unwrap().len(), 8192);
    m.fs.set_plan(Plan::None);
    // What the kernel had cached of the failed writes must not be believed.
    assert_eq!(fs::read(m.at("file")).unwrap(), vec![1; 8192]);
    fs::rename(m.at("file"), m.at("other")).unwrap();
}

#[test]
fn fuse_a_full_disk_refuses_growth_and_takes_overwriting() {
    let Some(m) = Mounted::new() else { return };
    let file = File::create(m.at("file")).unwrap();
    m.fs.set_plan(Plan::NoSpaceAfter { bytes: 64 << 10 });
    file.write_all_at(&[1; 60 << 10], 0).unwrap();
    let full = |answer: io::Result<()>| {
        let kind = answer.map_err(|error| error.kind());
        assert_eq!(kind, Err(io::ErrorKind::StorageFull));
    };
    full(file.write_all_at(&[1; 8192], 60 << 10));
    file.write_all_at(&[2; 60 << 10], 0).unwrap();
    file.write_all_at(&[2; 4096], 60 << 10).unwrap();
    full(file.write_all_at(&[1], 1 << 20));
    full(File::create(m.at("second")).map(drop));
    full(fs::create_dir(m.at("folder")));
    assert_eq!(rustix::fs::statvfs(m.at("")).unwrap().f_bavail, 0);
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 0, 16 << 10).unwrap();
    file.write_all_at(&[3; 8192], 1 << 20).unwrap();
    let second = File::create(m.at("second")).unwrap();
    full(second.write_all_at(&[4; 16 << 10], 0));
    fs::remove_file(m.at("file")).unwrap();
    second.write_all_at(&[4; 16 << 10], 0).unwrap();
}

#[test]
fn fuse_reserved_space_is_spent_once() {
    let Some(m) = Mounted::new() else { return };
    let file = File::create(m.at("file")).unwrap();
    m.fs.set_plan(Plan::NoSpaceAfter { bytes: 64 << 10 });
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 64 << 10).unwrap();
    assert!(rustix::fs::fallocate(&file, FallocateFlags::empty(), 64 << 10, 4096).is_err());
    file.write_all_at(&[1; 64 << 10], 0).unwrap();
}
