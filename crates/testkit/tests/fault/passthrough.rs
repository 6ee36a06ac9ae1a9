//! What a program sees through the mount is what the file system below would have shown it.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom as Position, Write as _},
    os::{
        fd::AsFd as _,
        unix::{
            fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink},
            net::{UnixListener, UnixStream},
        },
    },
    thread,
};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FlockOperation, Mode, OFlags, RenameFlags, SeekFrom,
};

use silt_testkit::fault::FaultFs;

use super::{Mounted, python};

fn opened(mounted: &Mounted, name: &str) -> File {
    let path = mounted.at(name);
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

#[test]
fn fuse_names_links_and_folders_reach_the_backing_folder() {
    let Some(m) = Mounted::new() else { return };
    fs::create_dir_all(m.at("a/b")).unwrap();
    fs::write(m.at("a/b/file"), b"hello").unwrap();
    fs::hard_link(m.at("a/b/file"), m.at("a/second")).unwrap();
    symlink("b/file", m.at("a/soft")).unwrap();
    fs::rename(m.at("a/b/file"), m.at("moved")).unwrap();
    assert_eq!(fs::read(m.backing("moved")).unwrap(), b"hello");
    assert_eq!(fs::metadata(m.at("a/second")).unwrap().nlink(), 2);
    assert_eq!(fs::read_link(m.at("a/soft")).unwrap().to_str(), Some("b/file"));
    assert_eq!(
        fs::metadata(m.at("moved")).unwrap().ino(),
        fs::metadata(m.at("a/second")).unwrap().ino()
    );
    fs::remove_file(m.at("a/soft")).unwrap();
    fs::remove_dir(m.at("a/b")).unwrap();
    assert!(fs::remove_dir(m.at("a")).is_err());
    let mut names: Vec<_> =
        fs::read_dir(m.at("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a", "moved"]);
}

#[test]
fn fuse_a_folder_of_thousands_lists_every_name_once() {
    let Some(m) = Mounted::new() else { return };
    for number in 0..3000 {
        File::create(m.backing(&format!("file-with-a-longer-name-{number}"))).unwrap();
    }
    let names: std::collections::BTreeSet<_> =
        fs::read_dir(m.at("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3000);
}

#[test]
fn fuse_rename_flags_are_obeyed() {
    let Some(m) = Mounted::new() else { return };
    fs::write(m.at("one"), b"1").unwrap();
    fs::write(m.at("two"), b"2").unwrap();
    let rename = |flags| rustix::fs::renameat_with(CWD, m.at("one"), CWD, m.at("two"), flags);
    assert_eq!(rename(RenameFlags::NOREPLACE), Err(rustix::io::Errno::EXIST));
    rename(RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read(m.at("one")).unwrap(), b"2");
    assert_eq!(fs::read(m.at("two")).unwrap(), b"1");
}

#[test]
fn fuse_an_unlinked_open_file_lives_until_it_is_closed() {
    let Some(m) = Mounted::new() else { return };
    let mut file = opened(&m, "gone");
    file.write_all(b"before").unwrap();
    fs::remove_file(m.at("gone")).unwrap();
    // The name is free, and what takes it is another file.
    fs::write(m.at("gone"), b"another").unwrap();
    file.write_all(b" after").unwrap();
    file.set_len(100).unwrap();
    file.seek(Position::Start(0)).unwrap();
    let mut text = [0; 12];
    file.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"before after");
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    assert_eq!(fs::read(m.at("gone")).unwrap(), b"another");
}

#[test]
fn fuse_a_nameless_file_is_refused_so_that_programs_fall_back() {
    let Some(m) = Mounted::new() else { return };
    let flags = OFlags::TMPFILE | OFlags::RDWR;
    let error = rustix::fs::open(m.at(""), flags, Mode::from_raw_mode(0o600)).unwrap_err();
    assert_eq!(error, rustix::io::Errno::OPNOTSUPP);
    let mut file = tempfile::tempfile_in(m.at("")).unwrap();
    file.write_all(b"falls back to a name that is removed at once").unwrap();
}

#[test]
fn fuse_fallocate_and_holes_come_through() {
    let Some(m) = Mounted::new() else { return };
    let file = opened(&m, "sparse");
    file.write_all_at(&[7; 65536], 0).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 8192, 16384).unwrap();
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Hole(0)), Ok(8192));
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Data(8192)), Ok(24576));
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Data(65536)), Err(rustix::io::Errno::NXIO));
    let mut bytes = [1; 4096];
    file.read_exact_at(&mut bytes, 8192).unwrap();
    assert_eq!(bytes, [0; 4096]);
    let before = file.metadata().unwrap().blocks();
    rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 65536, 1 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 65536);
    assert!(fs::metadata(m.backing("sparse")).unwrap().blocks() > before);
    rustix::fs::fallocate(&file, FallocateFlags::ZERO_RANGE, 24576, 65536).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 24576 + 65536);
    file.read_exact_at(&mut bytes, 24576).unwrap();
    assert_eq!(bytes, [0; 4096]);
}

#[test]
fn fuse_modes_owners_and_times_are_what_was_asked_for() {
    let Some(m) = Mounted::new() else { return };
    let flags = OFlags::CREATE | OFlags::WRONLY;
    rustix::fs::open(m.at("file"), flags, Mode::from_raw_mode(0o640)).unwrap();
    assert_eq!(fs::metadata(m.backing("file")).unwrap().mode() & 0o7777, 0o640);
    fs::set_permissions(m.at("file"), fs::Permissions::from_mode(0o4711)).unwrap();
    assert_eq!(fs::metadata(m.backing("file")).unwrap().mode() & 0o7777, 0o4711);
    let time = rustix::fs::Timespec { tv_sec: -5, tv_nsec: 123_456_789 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, m.at("file"), &times, AtFlags::empty()).unwrap();
    for path in [m.at("file"), m.backing("file")] {
        let meta = fs::metadata(path).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (-5, 123_456_789));
    }
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(m.at("file"), Some(12), Some(34)).unwrap();
        let meta = fs::metadata(m.backing("file")).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (12, 34));
    }
}

#[test]
fn root_fuse_other_users_own_what_they_make() {
    let Some(m) = Mounted::new() else { return };
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can let other users in");
        return;
    }
    for path in [m.beside().to_path_buf(), m.at("")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    fs::write(m.at("secret"), b"of root").unwrap();
    fs::set_permissions(m.at("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let script =
        "umask 027; mkdir dir && echo text >dir/file && ln -s file dir/link && ! cat secret";
    let ran = std::process::Command::new("setpriv")
        .args(["--reuid=4321", "--regid=1234", "--clear-groups", "sh", "-c", script])
        .current_dir(m.at(""))
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    for (name, mode) in [("dir", 0o750), ("dir/file", 0o640), ("dir/link", 0o777)] {
        let meta = fs::symlink_metadata(m.backing(name)).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (4321, 1234, mode), "{name}");
    }
}

#[test]
fn fuse_locks_hold_between_processes_and_descriptors() {
    let Some(m) = Mounted::new() else { return };
    let (one, two) = (opened(&m, "lock"), opened(&m, "lock"));
    rustix::fs::flock(&one, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert!(rustix::fs::flock(&two, FlockOperation::NonBlockingLockExclusive).is_err());
    rustix::fs::flock(&one, FlockOperation::Unlock).unwrap();
    rustix::fs::flock(&two, FlockOperation::NonBlockingLockExclusive).unwrap();
    // POSIX locks, as SQLite takes them: another process must see ours. One interpreter holds, a second asks.
    let script = "import fcntl,os,subprocess,sys\n\
        f=open(sys.argv[1],'r+b'); fcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB,10,5)\n\
        if len(sys.argv)==2: sys.exit(subprocess.call([sys.executable,__file__,sys.argv[1],'x']))\n";
    let path = m.beside().join("lock.py");
    fs::write(&path, script).unwrap();
    let asked = python().arg(&path).arg(m.at("lock")).output();
    let asked = asked.unwrap();
    assert_eq!(asked.status.code(), Some(1), "the second process got the lock");
    let complaint = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(complaint.contains("BlockingIOError"), "{complaint}");
}

#[test]
fn fuse_sockets_can_be_bound_and_reached() {
    let Some(m) = Mounted::new() else { return };
    let listener = UnixListener::bind(m.at("socket")).unwrap();
    let mut stream = UnixStream::connect(m.at("socket")).unwrap();
    let (mut other, _) = listener.accept().unwrap();
    stream.write_all(b"hi").unwrap();
    let mut text = [0; 2];
    other.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hi");
}

#[test]
fn fuse_threads_write_their_own_parts_of_one_file() {
    let Some(m) = Mounted::new() else { return };
    let file = opened(&m, "shared");
    thread::scope(|scope| {
        for part in 0..8u8 {
            let file = &file;
            scope.spawn(move || {
                for block in 0..32u64 {
                    let at = (block * 8 + u64::from(part)) * 4096;
                    file.write_all_at(&[part + 1; 4096], at).unwrap();
                    file.sync_data().unwrap();
                }
            });
        }
    });
    let bytes = fs::read(m.backing("shared")).unwrap();
    assert_eq!(bytes.len(), 8 * 32 * 4096);
    for (block, bytes) in bytes.chunks(4096).enumerate() {
        assert!(bytes.iter().all(|byte| *byte == block as u8 % 8 + 1), "block {block}");
    }
}

#[test]
fn fuse_a_large_write_and_an_aligned_direct_one_arrive_whole() {
    let Some(m) = Mounted::new() else { return };
    let bytes: Vec<u8> = (0..3_000_001u32).map(|n| (n % 251) as u8).collect();
    fs::write(m.at("large"), &bytes).unwrap();
    assert_eq!(fs::read(m.backing("large")).unwrap(), bytes);
    let flags = OFlags::RDONLY | OFlags::DIRECT;
    let direct = File::from(rustix::fs::open(m.at("large"), flags, Mode::empty()).unwrap());
    let mut read = vec![0; 1 << 20];
    direct.read_exact_at(&mut read, 4096).unwrap();
    assert_eq!(read, bytes[4096..4096 + (1 << 20)]);
}

#[test]
fn fuse_a_folder_is_not_mounted_on_what_lies_in_it() {
    let Some(m) = Mounted::new() else { return };
    fs::create_dir(m.backing("inside")).unwrap();
    for (backing, mountpoint) in [("", "inside"), ("inside", ""), ("", "")] {
        let error = FaultFs::mount(&m.backing(backing), &m.backing(mountpoint)).err().unwrap();
        assert_eq!(error.kind(), silt_types::ErrorKind::Invalid);
    }
}

#[test]
fn fuse_a_dropped_mount_is_gone_even_while_a_file_is_open() {
    let Some(m) = Mounted::new() else { return };
    let file = opened(&m, "open");
    let Mounted { fs: layer, dir } = m;
    let mountpoint = layer.mountpoint().to_path_buf();
    drop(layer);
    assert_eq!(fs::read_dir(&mountpoint).unwrap().count(), 0, "still mounted");
    file.write_all_at(b"late", 0).unwrap();
    assert_eq!(fs::read(dir.path().join("backing/open")).unwrap(), b"late");
    let _ = file.as_fd();
}
