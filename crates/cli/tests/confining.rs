//! What a server gives up, seen from outside. That nothing gets out of it is `silt-engine`'s test, from inside.

use crate::silt::{NOBODY, Silt, is_root, judge, wait_for};
use serde_json::Value;
use std::{ffi::OsStr, fs, process::Command};

#[test]
fn what_is_in_force_is_said_and_true() {
    let silt = Silt::new();
    silt.small_image("base");
    silt.ok(&["clone", "base", "vm"]);
    let server = silt.serve("vm", &["--print-confinement", "--require-confinement"]);
    // Who was answered once is served by what is confined.
    judge("nbdinfo", &["--size", &server.uri()].map(OsStr::new));
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').trim().to_owned()
    };
    assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"));
    assert_eq!(field("Umask"), "0077");
    // No handle on what others share: the database is open to nobody in this process.
    for descriptor in fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap() {
        let target = fs::read_link(descriptor.unwrap().path()).unwrap_or_default();
        assert!(!target.to_string_lossy().contains("catalog.db"), "{target:?}");
    }
    let told = String::from_utf8(server.terminate().stdout).unwrap();
    let packs = format!("reads {}", silt.store().join("packs").display());
    for line in ["files (Landlock, version", &packs, "system calls (seccomp):", "privileges: none"]
    {
        assert!(told.contains(line), "no {line:?} in {told}");
    }
}

#[test]
fn the_document_of_a_server_says_how_it_is_confined() {
    let silt = Silt::new();
    silt.small_image("base");
    let server = silt.serve("base", &["--read-only", "--json"]);
    let document: Value = serde_json::from_slice(&server.terminate().stdout).unwrap();
    let confinement = &document["confinement"];
    assert!(confinement["landlock"].as_u64().unwrap() >= 1, "{document:#}");
    assert_eq!(confinement["write"].as_array().unwrap().len(), 0, "it is read-only");
    assert!(confinement["system_calls"].as_u64().unwrap() < 120, "{document:#}");
}

#[test]
fn root_a_server_becomes_the_user_whose_the_store_is() {
    if !is_root() {
        return;
    }
    let silt = Silt::as_user(NOBODY);
    silt.small_image("base");
    silt.ok(&["clone", "base", "vm"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_silt"));
    command.env("SILT_STORE", silt.store());
    let socket = silt.path("vm.sock");
    command.args(["serve", "vm", "--user", "nobody", "--nbd"]).arg(&socket);
    let server = silt.start(command, socket);
    judge("nbdinfo", &["--size", &server.uri()].map(OsStr::new));
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let ids = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
        line.split_whitespace().map(|id| id.parse::<u32>().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((ids("Uid:"), ids("Groups:")), (vec![NOBODY; 4], vec![]));
    let uri = server.uri();
    let write = ["-f", "raw", "-c", "write -P 7 1M 64k", "-c", "flush", &uri].map(OsStr::new);
    judge("qemu-io", &write);
    server.stop();
    silt.assert_verified();
    let ran = silt.run(&["serve", "vm", "--nbd", "x", "--user", "no-such-user"]);
    assert_eq!(ran.status.code(), Some(3), "{ran:?}");
}

#[test]
fn a_killed_server_is_cleaned_up_after() {
    let silt = Silt::new();
    silt.small_image("base");
    silt.ok(&["clone", "base", "vm"]);
    let server = silt.serve("vm", &[]);
    let socket = server.socket.clone();
    // The broker hears of the socket when it is there already.
    judge("nbdinfo", &["--size", &server.uri()].map(OsStr::new));
    server.kill();
    wait_for("the broker to clean up", || !socket.exists());
    let run = silt.store().join("run");
    wait_for("the broker to clean up", || fs::read_dir(&run).unwrap().count() == 0);
    silt.serve("vm", &[]).stop();
}
