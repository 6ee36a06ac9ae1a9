//! How a mount begins and ends, what it leaves, and what it replaces.

use super::mounted::Mounted;
use crate::{
    device::{Odd, memory},
    running::succeed,
};
use silt_export::{
    Export as _, StopSignal,
    fuse::{Access, FileAddress, MountPoint, PointKind, Server, mount},
};
use silt_types::ErrorKind;
use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
    sync::atomic::Ordering,
};

const MIB: u64 = 1 << 20;

fn at(path: &Path) -> FileAddress {
    FileAddress { path: path.to_owned(), access: Access::Owner }
}

#[test]
fn a_fuse_file_that_was_made_goes_and_one_that_was_there_stays() {
    for was_there in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        if was_there {
            File::create(&path).unwrap();
        }
        let server = Server::bind(&at(&path)).unwrap();
        let stop = StopSignal::new().unwrap();
        std::thread::scope(|scope| {
            let running = scope.spawn(|| server.run(memory(MIB), &stop));
            assert_eq!(fs::metadata(&path).unwrap().len(), MIB);
            let busy = Server::bind(&at(&path)).unwrap_err();
            assert_eq!(busy.kind(), ErrorKind::Busy);
            stop.trigger();
            running.join().unwrap().unwrap();
        });
        assert_eq!(path.exists(), was_there);
        assert!(!was_there || fs::metadata(&path).unwrap().len() == 0);
    }
}

#[test]
fn a_fuse_server_that_never_runs_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    drop(Server::bind(&at(&path)).unwrap());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// What a server that was killed leaves: a mount on which every call fails.
#[test]
fn a_dead_fuse_mount_is_replaced() {
    for kind in [PointKind::File, PointKind::Folder] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("place");
        let (device, mount_of_the_dead) =
            mount(MountPoint::take(&path, kind).unwrap(), Access::Owner).unwrap();
        // Its lock goes with a process; here it is let go of, and the mount is left.
        mount_of_the_dead.leave_to(|| Ok(()));
        drop((mount_of_the_dead, device));
        assert!(fs::metadata(&path).unwrap_err().raw_os_error().is_some(), "nobody answers");
        let point = MountPoint::take(&path, kind).unwrap();
        let (_device, again) = mount(point, Access::Owner).unwrap();
        again.undo().unwrap();
        assert!(!path.exists(), "the dead one had made it");
    }
}

#[test]
fn what_others_have_mounted_at_a_fuse_file_is_left_alone() {
    let other = Mounted::serve(memory(MIB));
    let error = MountPoint::take(&other.file, PointKind::File).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert_eq!(fs::metadata(&other.file).unwrap().len(), MIB);
}

#[test]
fn a_fuse_file_that_others_unmount_ends_its_server_well() {
    let device = Odd::new(MIB as usize, false);
    let mounted = Mounted::serve(device.clone());
    File::options().write(true).open(&mounted.file).unwrap().write_all_at(&[1; 512], 0).unwrap();
    let file = mounted.file.clone();
    succeed("fuse3", "fusermount3", &["-u", file.to_str().unwrap()]);
    mounted.join().unwrap();
    assert!(!file.exists());
    assert_eq!(device.flushes.load(Ordering::Relaxed), 1, "all is durable");
}

#[test]
fn whoever_has_a_fuse_file_open_does_not_hold_up_its_end() {
    let device = Odd::new(MIB as usize, false);
    let mounted = Mounted::serve(device.clone());
    let (path, held) = (mounted.file.clone(), FileHeld::open(&mounted.file));
    held.0.write_all_at(&[5; 4096], 0).unwrap();
    assert_eq!(mounted.server.clients(), 1);
    mounted.stop().unwrap();
    assert!(!path.exists());
    assert_eq!(device.flushes.load(Ordering::Relaxed), 1);
    let writes = device.writes.load(Ordering::Relaxed);
    assert!(held.0.write_all_at(&[6; 4096], 0).is_err(), "nobody serves it");
    assert!(held.0.sync_all().is_err(), "and nobody says that it is durable");
    assert_eq!(device.writes.load(Ordering::Relaxed), writes);
}

/// Told apart from a path, which leads elsewhere by then.
struct FileHeld(File);

impl FileHeld {
    fn open(path: &Path) -> FileHeld {
        FileHeld(File::options().read(true).write(true).open(path).unwrap())
    }
}

#[test]
fn a_device_that_hangs_is_reported_and_does_not_hang_a_fuse_server() {
    let device = Odd::new(MIB as usize, true);
    device.is_cold.store(true, Ordering::Relaxed);
    let mounted = Mounted::serve(device.clone());
    let file = File::open(&mounted.file).unwrap();
    device.gate.close();
    let reader = std::thread::spawn(move || file.read_at(&mut [0; 512], 0));
    device.gate.wait_for(1);
    let error = mounted.stop().unwrap_err();
    assert!(error.chain().contains("wait for the device"), "{error:?}");
    device.gate.open();
    let _ = reader.join().unwrap();
}

#[test]
fn a_slow_read_of_a_fuse_file_does_not_hold_up_quick_ones() {
    let device = Odd::new(4 * MIB as usize, false);
    let mounted = Mounted::serve(device.clone());
    let path = mounted.file.clone();
    let direct = || {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECT;
        File::from(rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).unwrap())
    };
    device.is_cold.store(true, Ordering::Relaxed);
    device.gate.close();
    let slow: Vec<_> = (0..8)
        .map(|number| {
            let file = direct();
            std::thread::spawn(move || file.read_at(&mut [0; 4096], number * 4096).unwrap())
        })
        .collect();
    device.gate.wait_for(8);
    device.is_cold.store(false, Ordering::Relaxed);
    let file = direct();
    for number in 0..100 {
        assert_eq!(file.read_at(&mut [0; 4096], number * 4096).unwrap(), 4096);
    }
    device.gate.open();
    slow.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), 4096));
}

#[test]
fn a_fuse_device_that_panics_or_fails_is_an_error_and_the_next_request_is_served() {
    let device = Odd::new(MIB as usize, false);
    let mounted = Mounted::serve(device.clone());
    let file = File::options().read(true).write(true).open(&mounted.file).unwrap();
    let code = |result: std::io::Result<()>| result.unwrap_err().raw_os_error().unwrap();
    for (kind, errno) in [(ErrorKind::NoSpace, 28), (ErrorKind::Corrupt, 5), (ErrorKind::Io, 5)] {
        device.fail(Some(kind));
        assert_eq!(code(file.write_all_at(&[1; 4096], 0)), errno, "{kind:?}");
        assert_eq!(code(file.sync_data()), errno, "{kind:?}");
    }
    device.fail(None);
    device.panics.store(true, Ordering::Relaxed);
    for _ in 0..20 {
        assert_eq!(code(file.write_all_at(&[1; 4096], 0)), 5);
        assert_eq!(code(file.sync_data()), 5);
    }
    device.panics.store(false, Ordering::Relaxed);
    file.write_all_at(&[1; 4096], 0).unwrap();
    file.sync_data().unwrap();
}

#[test]
fn the_mode_and_owner_of_a_fuse_file_can_be_narrowed() {
    let mounted = Mounted::serve(memory(MIB));
    let mode = || fs::metadata(&mounted.file).unwrap().mode() & 0o7777;
    assert_eq!(mode(), 0o600);
    fs::set_permissions(&mounted.file, std::os::unix::fs::PermissionsExt::from_mode(0o6440))
        .unwrap();
    assert_eq!(mode(), 0o440, "never anybody else's rights");
}
