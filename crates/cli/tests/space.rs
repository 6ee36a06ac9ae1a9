//! No space left: said with exit code 8, nothing half done, and all is well once there is space again.

use crate::silt::{Silt, is_root, pseudo_random};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use silt_testkit::nbd_client::NbdClient;
use silt_types::ErrorKind;
use silt_volume::BlockDevice as _;
use std::{ffi::CString, fs, path::PathBuf};

/// A small file system in memory; gone when dropped.
pub(crate) struct Small {
    at: PathBuf,
}

impl Small {
    /// Where the store lies.
    pub(crate) fn mount(silt: &Silt, kib: u64) -> Small {
        Small::mount_at(silt.store(), kib)
    }

    pub(crate) fn mount_at(at: PathBuf, kib: u64) -> Small {
        fs::create_dir_all(&at).unwrap();
        let size = CString::new(format!("size={kib}k")).unwrap();
        mount("tmpfs", &at, "tmpfs", MountFlags::empty(), Some(&*size)).unwrap();
        Small { at }
    }

    pub(crate) fn make_read_only(&self) {
        mount_remount(&self.at, MountFlags::RDONLY, "").unwrap();
    }

    pub(crate) fn resize(&self, kib: u64) {
        mount_remount(&self.at, MountFlags::empty(), format!("size={kib}k")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = unmount(&self.at, UnmountFlags::DETACH);
    }
}

fn source(silt: &Silt) -> String {
    let dir = silt.small_tree("tree");
    for n in 0..20 {
        fs::write(dir.join(format!("file-{n}")), pseudo_random(100_000, n)).unwrap();
    }
    dir.to_str().unwrap().to_owned()
}

#[test]
fn root_tmpfs_a_build_without_space_is_said_and_leaves_a_store_that_works() {
    if !is_root() {
        return;
    }
    for kib in [4, 20, 40, 60, 80, 100, 120, 160, 200, 240, 300, 500, 900, 1500, 1800, 2000, 2100] {
        let silt = Silt::new();
        let dir = source(&silt);
        let small = Small::mount(&silt, kib);
        let ran = silt.run(&["build", &dir, "image"]);
        assert_eq!(ran.status.code(), Some(8), "{kib} KiB: {ran:?}");
        small.resize(64 << 10);
        if small.at.join("store").exists() {
            assert!(silt.names().is_empty(), "{kib} KiB");
            silt.assert_verified();
        }
        silt.json(&["build", &dir, "image"]);
        silt.assert_verified();
    }
}

#[test]
fn root_tmpfs_clones_and_removals_without_space_are_whole_or_absent() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let dir = source(&silt);
    let small = Small::mount(&silt, 64 << 10);
    silt.json(&["build", &dir, "image"]);
    silt.json(&["clone", "image", "volume"]);
    let used = crate::silt::disk_usage(&small.at) >> 10;
    let mut refused = 0;
    for spare in [0, 4, 8, 16, 32, 40, 48, 64, 96, 128, 192] {
        small.resize(used + spare);
        let name = format!("clone-{spare}");
        let mut expected = silt_names_with_space(&silt, &small);
        for args in [&["clone", "image", &name][..], &["rm", &name]] {
            small.resize(used + spare);
            let ran = silt.run(args);
            match ran.status.code() {
                Some(0) if args[0] == "clone" => expected.push(name.clone()),
                Some(0) => expected.retain(|kept| *kept != name),
                Some(3) if args[0] == "rm" && !expected.contains(&name) => {}
                Some(8) => refused += 1,
                _ => panic!("{args:?} with {spare} KiB: {ran:?}"),
            }
            expected.sort();
            assert_eq!(silt_names_with_space(&silt, &small), expected, "{args:?} {spare}");
        }
        silt.assert_verified();
    }
    assert!(refused > 0);
}

fn silt_names_with_space(silt: &Silt, small: &Small) -> Vec<String> {
    small.resize(64 << 10);
    let mut names = silt.names();
    names.sort();
    names
}

#[test]
fn root_tmpfs_a_guest_is_told_that_there_is_no_space_and_goes_on_afterwards() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let dir = source(&silt);
    let small = Small::mount(&silt, 64 << 10);
    silt.json(&["build", &dir, "image", "--size", "32M"]);
    silt.json(&["clone", "image", "volume"]);
    let mut expected = silt.exported("volume");
    let server = silt.serve("volume", &[]);
    let client = NbdClient::connect(&server.socket).unwrap();
    small.resize(crate::silt::disk_usage(&small.at) / 1024 + 1024);
    let bytes = pseudo_random(65_536, 9);
    let (mut written, mut refused) = (0, 0);
    for at in (0..(32 << 20)).step_by(65_536) {
        match client.write_at(&bytes, at) {
            Ok(()) => {
                expected[at as usize..][..65_536].copy_from_slice(&bytes);
                written += 1;
            }
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Io), "{error:?}");
                refused += 1;
            }
        }
    }
    assert!(written > 4 && refused > 4, "{written} {refused}");
    // What was not taken may be old or new in each sector; what was is there.
    let mut now = vec![0; expected.len()];
    client.read_at(&mut now, 0).unwrap();
    for (sector, (now, old)) in now.chunks(512).zip(expected.chunks(512)).enumerate() {
        let new = &bytes[sector % 128 * 512..][..512];
        assert!(now == old || now == new, "sector {sector}");
    }
    small.resize(128 << 10);
    for at in (0..(32 << 20)).step_by(65_536) {
        client.write_at(&bytes, at).unwrap();
    }
    client.flush().unwrap();
    drop(client);
    server.stop();
    silt.assert_verified();
    assert!(silt.exported("volume").chunks(65_536).all(|chunk| chunk == bytes));
}

/// What cannot be made durable is no good end, and is said beside the one document.
#[test]
fn root_tmpfs_a_server_that_ends_without_space_says_so_and_loses_nothing_flushed() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let dir = source(&silt);
    let small = Small::mount(&silt, 64 << 10);
    silt.json(&["build", &dir, "image", "--size", "32M"]);
    silt.json(&["clone", "image", "volume"]);
    let server = silt.serve("volume", &["--json"]);
    let client = NbdClient::connect(&server.socket).unwrap();
    client.write_at(&[1; 4096], 4096).unwrap();
    client.flush().unwrap();
    // Many runs of blocks, so that their record needs space, and then none of it left.
    for block in (100..4000).step_by(2) {
        client.write_at(&[2; 4096], block * 4096).unwrap();
    }
    small.resize(crate::silt::disk_usage(&small.at) / 1024);
    drop(client);
    let ran = server.terminate();
    assert!(matches!(ran.status.code(), Some(0 | 8 | 10)), "{ran:?}");
    assert_eq!(ran.document()["name"], "volume");
    assert_eq!(ran.status.success(), ran.stderr.is_empty(), "{ran:?}");
    small.resize(64 << 10);
    silt.assert_verified();
    assert!(silt.exported("volume")[4096..8192] == [1; 4096]);
    silt.serve("volume", &[]).stop();
}

#[test]
fn root_tmpfs_an_export_without_space_says_so_and_what_was_there_stays() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let dir = source(&silt);
    silt.json(&["build", &dir, "image", "--size", "32M"]);
    silt.json(&["clone", "image", "volume"]);
    silt.json(&["snapshot", "volume@before"]);
    let server = silt.serve("volume", &[]);
    let client = NbdClient::connect(&server.socket).unwrap();
    client.write_at(&pseudo_random(3 << 20, 1), 20 << 20).unwrap();
    client.flush().unwrap();
    drop(client);
    server.stop();
    let small = Small::mount_at(silt.path("target"), 1024);
    let (file, list) = (small.at.join("file"), small.at.join("file.blocks"));
    fs::write(&file, "precious").unwrap();
    fs::write(&list, "its list").unwrap();
    let file_name = file.to_str().unwrap();
    let options: [&[&str]; 3] = [&[], &["--format", "qcow2"], &["--since", "volume@before"]];
    for options in options {
        let args = [&["export", "volume", file_name], options].concat();
        for kib in [16, 300, 2000] {
            small.resize(kib);
            silt.fails(8, &args);
            let mut names: Vec<_> =
                fs::read_dir(&small.at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            assert_eq!(names, ["file", "file.blocks"], "{options:?}");
            assert_eq!(fs::read(&file).unwrap(), b"precious");
            assert_eq!(fs::read(&list).unwrap(), b"its list");
        }
    }
    small.resize(64 << 10);
    for options in options {
        silt.json(&[&["export", "volume", file_name], options].concat());
    }
    assert_ne!(fs::read(&list).unwrap(), b"its list");
}
