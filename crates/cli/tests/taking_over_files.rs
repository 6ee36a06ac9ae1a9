//! `silt serve --take-over` of a disk that is a file: programs that have it open go on. These need what `files` needs, and a
//! kernel that sends requests again (Linux 6.9).

use crate::{
    silt::{Server, Silt, is_root, judge, pseudo_random, wait_for, wait_for_end},
    taking_over::{take_over, with_volume},
};
use rustix::process::{Pid, Signal, kill_process};
use silt_testkit::file_client::FileClient;
use silt_volume::BlockDevice as _;
use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{fs::FileExt as _, fs::PermissionsExt as _, net::UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

const SIZE: u64 = 16 << 20;

/// Serves a disk as the file `disk`; returns once that is as long as the disk.
fn serve(silt: &Silt, name: &str, options: &[&str]) -> Server {
    let command = silt.command(&[&["serve", name, "--fuse", "disk"], options].concat());
    let server = silt.start(command, silt.path("disk"));
    wait_for("the mount", || {
        fs::metadata(silt.path("disk")).is_ok_and(|found| found.len() == SIZE)
    });
    server
}

/// Everybody ended well, and what was mounted is gone.
fn all_ended(first: Server, mut others: Vec<Child>, at: &Path) {
    assert!(first.ended().success());
    others.iter_mut().for_each(|server| assert!(wait_for_end(server).success()));
    assert!(!at.exists(), "it was made, and is still there");
}

fn fio(silt: &Silt, options: &[&str]) -> Child {
    let mut fio = Command::new("fio");
    fio.args(["--name=x", "--rw=randwrite", "--bsrange=4k-64k", "--verify=crc32c"]);
    fio.args(["--verify_state_save=0", "--verify_fatal=1", "--fsync=20", "--allow_file_create=0"]);
    fio.arg(format!("--filename={}", silt.path("disk").display())).args(options);
    fio.current_dir(silt.path("")).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn fio_verifies_a_fuse_file_through_four_servers() {
    let silt = with_volume();
    let first = serve(&silt, "vm", &[]);
    let direct = ["--direct=1", "--ioengine=libaio", "--iodepth=16", "--size=8M", "--loops=40"];
    let buffered = ["--ioengine=psync", "--offset=8M", "--size=8M", "--loops=10"];
    let fios = [fio(&silt, &direct), fio(&silt, &buffered)];
    let others: Vec<_> = (0..3).map(|_| take_over(&silt, &[])).collect();
    for fio in fios {
        let done = fio.wait_with_output().unwrap();
        let said = [done.stdout, done.stderr].concat();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&said));
    }
    silt.ok(&["stop", "vm"]);
    all_ended(first, others, &silt.path("disk"));
    silt.assert_verified();
}

/// Some of the requests wait in the server for the limit, some in the kernel: none may be lost, or be answered twice.
#[test]
fn what_is_under_way_when_a_fuse_file_is_taken_over_is_done_and_stays() {
    let silt = with_volume();
    let first = serve(&silt, "vm", &["--iops", "200"]);
    let disk = silt.path("disk");
    fs::set_permissions(&disk, fs::Permissions::from_mode(0o640)).unwrap();
    let over = AtomicBool::new(false);
    let block = |number: u64| pseudo_random(6000, number + 1);
    // Each thread has a twelfth of the disk; the lengths are such that blocks are merged.
    let (threads, area) = (12, SIZE / 12 / 4096 * 4096);
    let (others, written) = thread::scope(|scope| {
        let write = |thread: u64| {
            let client = FileClient::open(&disk).unwrap();
            let mut round = 0;
            while !over.load(Ordering::Relaxed) {
                let at = thread * area + round % 100 * 6000;
                let bytes = block(thread << 32 | round);
                client.write_at(&bytes, at).unwrap();
                let mut found = vec![0; bytes.len()];
                client.read_at(&mut found, at).unwrap();
                assert!(found == bytes, "thread {thread}, round {round}");
                if round % 16 == thread {
                    client.flush().unwrap();
                }
                round += 1;
            }
            round
        };
        let writers: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || write(thread))).collect();
        let options: [&[&str]; 3] = [&["--iops", "200"], &[], &["--cache", "1M"]];
        let others: Vec<_> = options.iter().map(|options| take_over(&silt, options)).collect();
        let exports = &silt.json(&["ps"])[0]["exports"];
        assert_eq!(exports[0]["clients"], threads, "opens are counted on: {exports}");
        over.store(true, Ordering::Relaxed);
        (others, writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>())
    });
    assert_eq!(fs::metadata(&disk).unwrap().permissions().mode() & 0o777, 0o640);
    silt.ok(&["stop", "vm"]);
    all_ended(first, others, &disk);
    let bytes = silt.exported("vm");
    for (thread, rounds) in (0..threads).zip(written) {
        for round in rounds.saturating_sub(100)..rounds {
            let at = (thread * area + round % 100 * 6000) as usize;
            assert!(bytes[at..][..6000] == block(thread << 32 | round), "{thread} {round}");
        }
    }
    silt.assert_verified();
}

#[test]
fn a_read_only_fuse_file_for_everybody_is_taken_over_with_an_nbd_export_beside_it() {
    let silt = Silt::new();
    silt.small_image("image");
    let for_all: &[&str] = if is_root() { &["--allow-other"] } else { &[] };
    let socket = silt.path("socket");
    let options = [&["--read-only", "--nbd", socket.to_str().unwrap()], for_all].concat();
    let first = serve(&silt, "image", &options);
    let disk = silt.path("disk");
    let (mode, file) =
        (fs::metadata(&disk).unwrap().permissions().mode(), File::open(&disk).unwrap());
    let mut before = vec![0; 1 << 20];
    file.read_exact_at(&mut before, 0).unwrap();
    let mut command = silt.command(&["serve", "image", "--take-over"]);
    let mut next = command.stdout(Stdio::null()).spawn().unwrap();
    assert!(first.ended().success());
    let direct = format!("if={} of=after bs=1M count=1 iflag=direct", disk.display());
    let mut dd = Command::new("dd");
    dd.args(direct.split(' ')).current_dir(silt.path("")).stderr(Stdio::null());
    assert!(dd.status().unwrap().success());
    assert!(fs::read(silt.path("after")).unwrap() == before);
    assert_eq!(fs::metadata(&disk).unwrap().permissions().mode(), mode);
    assert!(File::options().write(true).open(&disk).is_err());
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    judge("nbdinfo", &["--size", &uri].map(OsStr::new));
    silt.ok(&["stop", "image"]);
    assert!(wait_for_end(&mut next).success());
    assert!(!disk.exists() && !socket.exists());
}

#[test]
fn a_killed_server_that_had_taken_a_fuse_file_over_leaves_nothing_mounted() {
    let silt = with_volume();
    let first = serve(&silt, "vm", &[]);
    let client = FileClient::open(&silt.path("disk")).unwrap();
    let mut next = take_over(&silt, &[]);
    assert!(first.ended().success());
    client.write_at(&[7; 4096], 0).unwrap();
    client.flush().unwrap();
    kill_process(Pid::from_child(&next), Signal::KILL).unwrap();
    next.wait().unwrap();
    wait_for("its broker", || !silt.path("disk").exists());
    assert!(client.read_at(&mut [0; 4096], 1 << 20).is_err(), "nobody answers any more");
    drop(client);
    let server = serve(&silt, "vm", &[]);
    let mut found = [0; 4096];
    FileClient::open(&silt.path("disk")).unwrap().read_at(&mut found, 0).unwrap();
    assert_eq!(found, [7; 4096]);
    server.stop();
}

/// Whoever asks for the file and is gone before it has it.
#[test]
fn programs_get_an_error_when_whoever_takes_a_fuse_file_over_fails() {
    let silt = with_volume();
    let first = serve(&silt, "vm", &[]);
    let disk = silt.path("disk");
    let client = FileClient::open(&disk).unwrap();
    client.write_at(&[3; 4096], 0).unwrap();
    let servers = fs::read_dir(silt.store().join("run")).unwrap().flatten();
    let mut controls = servers.map(|server| server.path().join("control"));
    let control = controls.find(|control| control.exists()).unwrap();
    let mut next = UnixStream::connect(control).unwrap();
    next.write_all(b"{\"ask\":\"take_over\"}\n").unwrap();
    let mut said = String::new();
    BufReader::new(next.try_clone().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains("done"), "{said}");
    drop(next);
    assert!(!first.ended().success());
    assert!(client.read_at(&mut [0; 4096], 1 << 20).is_err(), "nobody answers any more");
    drop(client);
    // What was answered is there, and a mount that nobody answers for is replaced.
    let server = serve(&silt, "vm", &[]);
    let mut found = [0; 4096];
    FileClient::open(&disk).unwrap().read_at(&mut found, 0).unwrap();
    assert_eq!(found, [3; 4096]);
    server.stop();
}
