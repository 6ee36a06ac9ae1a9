//! `silt serve --take-over`: a new process under the clients of an old one.

use crate::silt::{Ran, Silt, judge, wait_for};
use silt_testkit::nbd_client::NbdClient;
use silt_volume::BlockDevice as _;
use std::{
    ffi::OsStr,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

pub(crate) fn with_volume() -> Silt {
    let silt = Silt::new();
    silt.small_image("image");
    silt.json(&["clone", "image", "vm"]);
    silt
}

/// Starts the next server and waits until it is the one.
pub(crate) fn take_over(silt: &Silt, options: &[&str]) -> Child {
    let mut command = silt.command(&[&["serve", "vm", "--take-over"], options].concat());
    let child = command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
    wait_for("the next server", || {
        let servers = silt.json(&["ps"]);
        let is_it = |server: &serde_json::Value| server["pid"] == child.id();
        servers.as_array().is_some_and(|servers| servers.iter().any(is_it))
    });
    child
}

#[test]
fn a_client_writes_and_reads_on_through_five_servers() {
    let silt = with_volume();
    let first = silt.serve("vm", &[]);
    let socket = first.socket.clone();
    let over = AtomicBool::new(false);
    let mut servers = thread::scope(|scope| {
        let client = scope.spawn(|| {
            let client = NbdClient::connect(&socket).unwrap();
            let mut round = 0u64;
            while !over.load(Ordering::Relaxed) {
                let bytes = round.to_le_bytes().repeat(1024);
                let at = round % 1000 * 8192;
                client.write_at(&bytes, at).unwrap();
                if round.is_multiple_of(32) {
                    client.flush().unwrap();
                }
                let mut found = vec![0; 8192];
                client.read_at(&mut found, at).unwrap();
                assert!(found == bytes, "round {round}");
                round += 1;
            }
        });
        let options: [&[&str]; 4] = [&[], &["--iops", "100000"], &[], &["--cache", "1M"]];
        let servers: Vec<_> = options.iter().map(|options| take_over(&silt, options)).collect();
        over.store(true, Ordering::Relaxed);
        client.join().unwrap();
        servers
    });
    assert!(first.ended().success());
    let mut last = servers.pop().unwrap();
    servers.iter_mut().for_each(|server| assert!(server.wait().unwrap().success()));
    assert_eq!(silt.json(&["ps"]).as_array().unwrap().len(), 1);
    // A new client finds the same socket, and the end is as always.
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    judge("nbdinfo", &["--size", &uri].map(OsStr::new));
    silt.ok(&["stop", "vm"]);
    assert!(last.wait().unwrap().success());
    assert!(!socket.exists(), "the last one removes the socket");
    silt.assert_verified();
}

#[test]
fn fio_verifies_what_it_wrote_while_servers_take_over() {
    let silt = with_volume();
    let first = silt.serve("vm", &[]);
    let uri = format!("--uri={}", first.uri());
    let mut fio = Command::new("fio");
    fio.args(["--name=x", "--ioengine=nbd", "--rw=randwrite", "--bsrange=4k-64k", "--size=12M"]);
    fio.args(["--iodepth=16", "--verify=crc32c", "--verify_state_save=0", "--loops=30"]);
    fio.args(["--fsync=20", &uri]).current_dir(silt.path(""));
    let fio = fio.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut servers: Vec<_> = (0..3).map(|_| take_over(&silt, &[])).collect();
    let done = fio.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    silt.ok(&["stop", "vm"]);
    servers.iter_mut().for_each(|server| assert!(server.wait().unwrap().success()));
    assert!(first.ended().success());
}

#[test]
fn nobody_is_taken_over_from_where_nobody_serves() {
    let silt = with_volume();
    silt.fails(3, &["serve", "vm", "--take-over"]);
    let ran: Ran = silt.run(&["serve", "vm", "--take-over", "--nbd", "x"]);
    assert_eq!(ran.status.code(), Some(2), "{ran:?}");
    let one = silt.serve_at("one", "image", &["--read-only"]);
    let other = silt.serve_at("other", "image", &["--read-only"]);
    silt.fails(5, &["serve", "image", "--take-over"]);
    one.stop();
    other.stop();
}
