//! `silt serve --fuse` and `silt mount`: disks as files, how they begin and end. They need root, or a /dev/fuse that this
//! user may open and `fusermount3` (package fuse3).

use crate::silt::{NOBODY, Ran, Silt, is_root, judge, pseudo_random, wait_for, wait_for_end};
use rustix::process::{Pid, Signal, kill_process};
use silt_testkit::file_client::FileClient;
use silt_volume::BlockDevice as _;
use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::{
        fs::FileExt as _, fs::MetadataExt as _, fs::PermissionsExt as _, process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

const SIZE: u64 = 16 << 20;

fn with_volume() -> Silt {
    let silt = Silt::new();
    silt.small_image("image");
    silt.json(&["clone", "image", "volume"]);
    silt
}

/// A process that has something mounted; killed when dropped.
struct Mounted {
    child: Child,
    at: PathBuf,
}

impl Mounted {
    /// Serves a disk as a file; returns once that is as long as the disk.
    fn serve(silt: &Silt, name: &str, file: &str, options: &[&str]) -> Mounted {
        let args = ["serve", name, "--fuse", file];
        let mounted = Mounted::start(silt.command(&[&args, options].concat()), silt.path(file));
        mounted.wait_until(|at| fs::metadata(at).is_ok_and(|found| found.len() == SIZE))
    }

    /// Shows sealed disks in a folder; returns once it has the image.
    fn show(silt: &Silt, folder: &str) -> Mounted {
        let mounted = Mounted::start(silt.command(&["mount", folder]), silt.path(folder));
        mounted.wait_until(|at| at.join("image").exists())
    }

    fn start(mut command: Command, at: PathBuf) -> Mounted {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Mounted { child, at }
    }

    fn wait_until(mut self, is_ready: impl Fn(&Path) -> bool) -> Mounted {
        wait_for("the mount", || {
            if let Some(status) = self.child.try_wait().unwrap() {
                let mut said = String::new();
                self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                panic!("it ended early: {status} {said}");
            }
            is_ready(&self.at)
        });
        self
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The end, which must be a good one.
    fn end(mut self) {
        let status = wait_for_end(&mut self.child);
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(status.success(), "{status} {said}");
        assert!(!self.at.exists(), "it was made, and is still there");
    }

    fn stop(self) {
        self.signal(Signal::TERM);
        self.end();
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The processes that it started.
    fn helpers(&self) -> Vec<Pid> {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let pids = children.split_whitespace().map(|pid| pid.parse().unwrap());
        pids.map(|pid| Pid::from_raw(pid).unwrap()).collect()
    }

    fn open(&self) -> FileClient {
        FileClient::open(&self.at).unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Ended already where a test stopped it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_volume_is_a_fuse_file_and_what_was_synced_survives_a_kill() {
    let silt = with_volume();
    let server = Mounted::serve(&silt, "volume", "disk", &[]);
    let (file, bytes) = (server.open(), pseudo_random(1 << 20, 3));
    file.write_at(&bytes, 4 << 20).unwrap();
    file.discard(1 << 20, 1 << 20).unwrap();
    file.flush().unwrap();
    assert_eq!(
        silt.json(&["info", "volume"])["served_by"]["address"].as_str(),
        Some("disk"),
        "as it was said"
    );
    silt.fails(5, &["serve", "volume", "--fuse", "elsewhere"]);
    assert!(!silt.path("elsewhere").exists());
    server.kill();
    drop(file);
    // What the killed server had mounted goes by itself, and if it does not, with the next server.
    let mut server = Mounted::serve(&silt, "volume", "disk", &[]);
    let mut found = vec![0; 1 << 20];
    server.open().read_at(&mut found, 4 << 20).unwrap();
    assert!(found == bytes);
    server.signal(Signal::TERM);
    assert!(wait_for_end(&mut server.child).success());
    let disk = silt.exported("volume");
    assert!(disk[4 << 20..][..1 << 20] == bytes);
    assert!(disk[1 << 20..][..1 << 20].iter().all(|byte| *byte == 0));
    silt.assert_verified();
}

#[test]
fn a_fuse_server_killed_in_the_middle_of_writes_has_lost_nothing_that_was_synced() {
    let silt = with_volume();
    let server = Mounted::serve(&silt, "volume", "disk", &[]);
    let synced = AtomicU64::new(0);
    let block = |number: u64| pseudo_random(4096, number + 1);
    thread::scope(|scope| {
        let (file, synced) = (server.open(), &synced);
        let writer = scope.spawn(move || {
            for number in 0.. {
                let at = (number % 2000) * 4096;
                let written = file.write_at(&block(number), at).and_then(|()| file.flush());
                if written.is_err() {
                    return number;
                }
                synced.store(number + 1, Ordering::Relaxed);
            }
            0
        });
        wait_for("some writes", || synced.load(Ordering::Relaxed) >= 50);
        kill_process(Pid::from_child(&server.child), Signal::KILL).unwrap();
        assert!(writer.join().unwrap() >= 50);
    });
    drop(server);
    let synced = synced.into_inner();
    let disk = silt.exported("volume");
    // The one after the last may be there as well, over the oldest.
    for number in (synced.saturating_sub(1999)..synced).skip(1) {
        let at = (number % 2000) as usize * 4096;
        assert!(disk[at..][..4096] == block(number), "block {number} of {synced}");
    }
    silt.assert_verified();
}

/// Nobody is left who could clean up: the mount is there, and every call on it fails.
#[test]
fn a_fuse_file_whose_server_and_helper_were_killed_is_served_again() {
    let silt = with_volume();
    let server = Mounted::serve(&silt, "volume", "disk", &[]);
    let helpers = server.helpers();
    assert_eq!(helpers.len(), 1, "the broker");
    for helper in helpers {
        kill_process(helper, Signal::KILL).unwrap();
    }
    let file = server.open();
    file.write_at(&[9; 4096], 8 << 20).unwrap();
    file.flush().unwrap();
    server.kill();
    drop(file);
    let dead = fs::metadata(silt.path("disk")).unwrap_err();
    assert_eq!(dead.raw_os_error(), Some(107), "Transport endpoint is not connected");
    let server = Mounted::serve(&silt, "volume", "disk", &[]);
    let mut found = [0; 4096];
    server.open().read_at(&mut found, 8 << 20).unwrap();
    assert_eq!(found, [9; 4096]);
    server.stop();
}

#[test]
fn a_termination_ends_a_fuse_file_that_is_open_and_all_of_it_is_durable() {
    let silt = with_volume();
    for (seed, signal) in [(1, Signal::TERM), (2, Signal::INT)] {
        let server = Mounted::serve(&silt, "volume", "disk", &[]);
        let (file, bytes) = (server.open(), pseudo_random(1 << 20, seed));
        file.write_at(&bytes, 4 << 20).unwrap();
        server.signal(signal);
        server.end();
        assert!(file.write_at(&[1; 512], 0).is_err());
        assert!(silt.exported("volume")[4 << 20..][..1 << 20] == bytes, "{signal:?}");
    }
    silt.assert_verified();
}

#[test]
fn a_place_for_a_fuse_file_is_left_as_it_was_found() {
    let silt = with_volume();
    File::create(silt.path("empty")).unwrap();
    fs::write(silt.path("full"), "precious").unwrap();
    fs::create_dir(silt.path("folder")).unwrap();
    silt.fails(4, &["serve", "volume", "--fuse", "full"]);
    silt.fails(4, &["serve", "volume", "--fuse", "folder"]);
    silt.fails(3, &["serve", "volume", "--fuse", "missing/disk"]);
    assert_eq!(fs::read(silt.path("full")).unwrap(), b"precious");
    let mut server = Mounted::serve(&silt, "volume", "empty", &[]);
    silt.json(&["clone", "image", "other"]);
    let message = silt.fails(5, &["serve", "other", "--fuse", "empty"]);
    assert!(message.contains("something is mounted there"), "{message}");
    server.signal(Signal::TERM);
    assert!(wait_for_end(&mut server.child).success());
    assert_eq!(fs::metadata(silt.path("empty")).unwrap().len(), 0);
    // Clients of two files would each have a cache that knows nothing of the other's writes.
    silt.fails(6, &["serve", "volume", "--fuse", "one", "--fuse", "two"]);
    silt.fails(6, &["serve", "image", "--fuse", "one"]);
    silt.fails(2, &["serve", "image", "--nbd", "one", "--allow-other"]);
}

#[test]
fn an_image_is_a_fuse_file_that_nobody_writes_in_several_places() {
    let silt = with_volume();
    let image = silt.exported("image");
    let one = Mounted::serve(&silt, "image", "one", &["--read-only", "--fuse", "two"]);
    wait_for("the other", || fs::metadata(silt.path("two")).is_ok_and(|disk| disk.len() == SIZE));
    for file in ["one", "two"] {
        assert!(fs::read(silt.path(file)).unwrap() == image);
        assert!(FileClient::open(&silt.path(file)).is_err());
    }
    one.stop();
    assert!(!silt.path("two").exists());
}

#[test]
fn with_root_and_a_loop_device_a_fuse_file_is_mounted_trimmed_and_let_go_of() {
    if !is_root() {
        return;
    }
    let silt = with_volume();
    let server = Mounted::serve(&silt, "volume", "disk", &[]);
    fs::create_dir(silt.path("files")).unwrap();
    let (disk, files) = (silt.path("disk"), silt.path("files"));
    judge("mount", &["-o".as_ref(), "loop".as_ref(), disk.as_os_str(), files.as_os_str()]);
    let bytes = pseudo_random(4 << 20, 8);
    fs::write(files.join("gone"), &bytes).unwrap();
    fs::write(files.join("kept"), &bytes[..100_000]).unwrap();
    judge("sync", &["-f".as_ref(), files.as_os_str()]);
    let allocated = || silt.json(&["info", "volume"])["delta_bytes_allocated"].as_u64().unwrap();
    let before = allocated();
    fs::remove_file(files.join("gone")).unwrap();
    judge("sync", &["-f".as_ref(), files.as_os_str()]);
    judge("fstrim", &[files.as_os_str()]);
    let after = allocated();
    assert!(after + (3 << 20) < before, "{before} bytes, then {after}");
    judge("umount", &[files.as_os_str()]);
    // The loop device may hold the file for a moment yet.
    server.stop();
    let exported = silt.path("exported");
    silt.ok(&["export", "volume", exported.to_str().unwrap()]);
    judge("e2fsck", &["-fn".as_ref(), exported.as_os_str()]);
    let out = format!("dump /kept {}", silt.path("kept").display());
    judge("debugfs", &["-R".as_ref(), out.as_ref(), exported.as_os_str()]);
    assert!(fs::read(silt.path("kept")).unwrap() == bytes[..100_000]);
}

#[test]
fn root_lets_other_users_at_a_fuse_file_only_if_told_to() {
    if !is_root() {
        return;
    }
    let silt = with_volume();
    for options in [&[][..], &["--allow-other"]] {
        let server = Mounted::serve(&silt, "volume", "disk", options);
        let mut other = Command::new("dd");
        other.args(["if=disk", "of=/dev/null", "bs=4k", "count=1"]).current_dir(silt.path(""));
        let read = Ran::of(other.uid(NOBODY).gid(NOBODY));
        assert_eq!(read.status.success(), !options.is_empty(), "{read:?}");
        // Narrowed to one user, as a jailer would.
        std::os::unix::fs::chown(silt.path("disk"), Some(1), Some(1)).unwrap();
        fs::set_permissions(silt.path("disk"), fs::Permissions::from_mode(0o600)).unwrap();
        assert!(!Ran::of(&mut other).status.success());
        server.stop();
    }
}

/// A user of a machine whose /dev/fuse is as distributions have it, in a namespace of its own.
#[test]
fn root_as_any_user_a_fuse_file_is_served_through_fusermount3() {
    if !is_root() {
        return;
    }
    let silt = Silt::as_user(NOBODY);
    silt.small_image("image");
    silt.json(&["clone", "image", "volume"]);
    fs::create_dir(silt.path("dev")).unwrap();
    let script = "set -e\n\
        mount -t tmpfs dev dev; mknod -m 666 dev/fuse c 10 229; mount --bind dev/fuse /dev/fuse\n\
        exec setpriv --reuid 65534 --regid 65534 --clear-groups sh -euc '\n\
        \"$1\" serve volume --fuse disk --allow-other 2>refused && exit 1\n\
        PATH=/nowhere \"$1\" serve volume --fuse disk 2>missing && exit 1\n\
        \"$1\" serve volume --fuse disk & server=$!\n\
        until [ \"$(stat -c %s disk 2>/dev/null)\" = 16777216 ]; do sleep 0.02; done\n\
        printf hello | dd of=disk bs=1 seek=9000000 conv=notrunc,fsync 2>/dev/null\n\
        kill -TERM $server; wait $server\n\
        ! [ -e disk ]\n\
        \"$1\" mount disks & server=$!\n\
        until [ -e disks/image ]; do sleep 0.02; done\n\
        cp disks/image copy\n\
        kill -TERM $server; wait $server\n\
        ! [ -e disks ]' sh \"$1\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_silt")]);
    command.env("SILT_STORE", silt.store()).env("SILT_SEAL", "manual");
    command.current_dir(silt.path("")).stdin(Stdio::null());
    let ran = Ran::of(&mut command);
    assert!(ran.status.success(), "{ran:?}");
    let said = |file: &str| fs::read_to_string(silt.path(file)).unwrap();
    assert!(said("refused").contains("user_allow_other in /etc/fuse.conf"), "{}", said("refused"));
    assert!(said("missing").contains("install the package fuse3"), "{}", said("missing"));
    assert!(silt.exported("volume")[9_000_000..].starts_with(b"hello"));
    assert!(silt.exported("image") == fs::read(silt.path("copy")).unwrap());
}

#[test]
fn images_and_snapshots_are_files_of_a_folder_that_come_and_go_with_them() {
    let silt = with_volume();
    let image = silt.exported("image");
    let server = Mounted::serve(&silt, "volume", "disk", &[]);
    let shown = Mounted::show(&silt, "disks");
    let names = || {
        let found = fs::read_dir(&shown.at).unwrap();
        let mut names: Vec<_> =
            found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["image"]);
    server.open().write_at(&[3; 4096], 8 << 20).unwrap();
    silt.json(&["snapshot", "volume@before"]);
    assert_eq!(names(), ["image", "volume@before"], "sealed or not");
    let path = |name: &str| shown.at.join(name);
    let inode = |name: &str| fs::metadata(path(name)).unwrap().ino();
    let (unsealed, of_image) = (inode("volume@before"), inode("image"));
    let open = File::open(path("volume@before")).unwrap();
    server.open().write_at(&[4; 4096], 8 << 20).unwrap();
    let before = fs::read(path("volume@before")).unwrap();
    assert!(before[8 << 20..][..4096] == [3; 4096] && before.len() as u64 == SIZE);
    assert!(fs::read(path("image")).unwrap() == image);
    silt.json(&["seal", "volume"]);
    assert_eq!((inode("volume@before"), inode("image")), (unsealed, of_image), "the same files");
    assert!(fs::read(path("volume@before")).unwrap() == before);
    judge("cmp", &[path("volume@before").as_ref(), path("volume@before").as_ref()]);
    assert_eq!(inode("image"), of_image);
    for absent in ["volume", "nothing", "volume@nothing", "not a name", "@", "a@b@c"] {
        assert!(fs::metadata(path(absent)).is_err(), "{absent}");
    }
    for refused in [File::create(path("new")), File::options().write(true).open(path("image"))] {
        assert!(refused.is_err());
    }
    assert!(fs::remove_file(path("image")).is_err());
    silt.json(&["rm", "volume@before"]);
    assert_eq!(names(), ["image"]);
    let mut found = vec![0; 4096];
    open.read_exact_at(&mut found, 8 << 20).unwrap();
    assert!(found == [3; 4096], "who has it open keeps it");
    // Another disk under the same name is another file, and nothing of the old one is shown.
    silt.json(&["commit", "volume", "later"]);
    silt.json(&["rm", "image"]);
    silt.json(&["rename", "later", "image"]);
    assert_ne!(inode("image"), of_image);
    assert!(fs::read(path("image")).unwrap()[8 << 20..][..4096] == [4; 4096]);
    drop(open);
    shown.stop();
    server.stop();
}

#[test]
fn a_folder_of_disks_that_others_unmount_ends_well() {
    let silt = with_volume();
    fs::create_dir_all(silt.path("disks/inhabited")).unwrap();
    silt.fails(4, &["mount", "disks"]);
    fs::remove_dir_all(silt.path("disks")).unwrap();
    let shown = Mounted::show(&silt, "disks");
    silt.fails(5, &["mount", "disks"]);
    judge("fusermount3", &["-u".as_ref(), shown.at.as_os_str()]);
    shown.end();
    let shown = Mounted::show(&silt, "disks");
    shown.kill();
    assert!(fs::read_dir(silt.path("disks")).is_err(), "a dead mount");
    Mounted::show(&silt, "disks").stop();
}
