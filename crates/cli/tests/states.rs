//! State ids: what a virtual machine's memory may be paired with, through stops, kills, snapshots and sealing.

use crate::silt::{Server, Silt, pseudo_random};
use silt_testkit::nbd_client::NbdClient;
use silt_volume::BlockDevice as _;
use std::collections::HashSet;

fn furnished() -> Silt {
    let silt = Silt::new();
    silt.small_image("image");
    silt.json(&["clone", "image", "vm"]);
    silt
}

fn state(silt: &Silt, name: &str) -> String {
    silt.json(&["state", name])["state_id"].as_str().unwrap().to_owned()
}

fn connect(server: &Server) -> NbdClient {
    NbdClient::connect(&server.socket).unwrap()
}

fn write(silt: &Silt, name: &str, seed: u64) {
    let server = silt.serve(name, &[]);
    connect(&server).write_at(&pseudo_random(10_000, seed), 5_000).unwrap();
    server.stop();
}

/// A change of a disk, not flushed.
type Change = fn(&NbdClient);

/// Each changes bytes of a disk, or may: of blocks that the delta has already, so that nothing joins.
const CHANGES: [(&str, Change); 4] = [
    ("write", |client| client.write_at(&[7; 512], 8192).unwrap()),
    ("part of a block", |client| client.write_at(&[8; 100], 8200).unwrap()),
    ("discard", |client| client.discard(8192, 4096).unwrap()),
    ("zeroes", |client| client.write_zeroes(8200, 50, false).unwrap()),
];

#[test]
fn a_state_lasts_through_stops_and_kills_until_the_first_write_whatever_it_is() {
    let silt = furnished();
    write(&silt, "vm", 1);
    let mut met = HashSet::from([state(&silt, "image")]);
    for (what, change) in CHANGES {
        let server = silt.serve("vm", &[]);
        let told = state(&silt, "vm");
        assert!(met.insert(told.clone()), "{what}: a state was told twice");
        assert_eq!(silt.json(&["info", "vm"])["state_id"], told.as_str(), "{what}");
        server.kill();
        assert_eq!(state(&silt, "vm"), told, "{what}: killed without a write");
        silt.serve("vm", &["--expect", &told]).stop();
        assert_eq!(state(&silt, "vm"), told, "{what}: stopped without a write");
        // Answered, and not flushed: a kill right after that finds another state.
        let server = silt.serve("vm", &["--expect", &told]);
        let client = connect(&server);
        change(&client);
        assert!(silt.json(&["info", "vm"])["state_id"].is_null(), "{what}");
        server.kill();
        drop(client);
        assert!(silt.json(&["info", "vm"])["state_id"].is_null(), "{what}: it may not be durable");
        let args = ["serve", "vm", "--nbd", "sock", "--expect", &told];
        let message = silt.fails(6, &args);
        let now = state(&silt, "vm");
        assert!(now != told, "{what}: two states of one id");
        assert!(message.contains(&told) && message.contains(&now), "{message}");
        let read_only = ["serve", "vm", "--nbd", "sock", "--read-only", "--expect", &told];
        silt.fails(6, &read_only);
        silt.serve("vm", &["--read-only", "--expect", &now]).stop();
    }
    silt.assert_verified();
}

#[test]
fn a_state_that_was_told_under_a_client_ends_with_its_next_write_even_if_killed_in_it() {
    let silt = furnished();
    let server = silt.serve("vm", &[]);
    let client = connect(&server);
    client.write_at(&[1; 4096], 4096).unwrap();
    let mut told = vec![state(&silt, "image"), state(&silt, "vm")];
    assert_eq!(state(&silt, "vm"), told[1], "asked again");
    for round in 2..5 {
        client.write_at(&[round; 4096], 4096).unwrap();
        told.push(state(&silt, "vm"));
    }
    assert_eq!(told.iter().collect::<HashSet<_>>().len(), 5);
    server.kill();
    assert_eq!(state(&silt, "vm"), told[4], "the last one is what is there");
    assert_eq!(silt.exported("vm")[4096], 4);
    silt.assert_verified();
}

#[test]
fn a_snapshot_has_the_state_it_was_taken_in_and_so_has_what_comes_of_it() {
    let silt = furnished();
    assert_eq!(state(&silt, "vm"), state(&silt, "image"));
    write(&silt, "vm", 1);
    let server = silt.serve("vm", &[]);
    let paused = state(&silt, "vm");
    let taken = silt.json(&["snapshot", "vm@a"])["state_id"].as_str().unwrap().to_owned();
    assert_eq!(taken, paused, "nothing was written between");
    assert_eq!(state(&silt, "vm"), taken, "nor after");
    server.kill();
    assert_eq!(state(&silt, "vm"), taken);
    silt.serve("vm", &["--expect", &taken]).stop();
    // At rest it is the same.
    assert_eq!(silt.json(&["snapshot", "vm@again"])["state_id"], taken.as_str());
    write(&silt, "vm", 2);
    let later = state(&silt, "vm");
    assert!(later != taken);
    silt.json(&["clone", "vm@a", "clone"]);
    let check = |when: &str| {
        for name in ["vm@a", "vm@again", "clone"] {
            assert_eq!(state(&silt, name), taken, "{name} {when}");
            assert_eq!(silt.json(&["info", name])["state_id"], taken.as_str(), "{name} {when}");
        }
    };
    check("unsealed");
    silt.json(&["seal"]);
    check("sealed");
    assert_eq!(state(&silt, "vm"), later);
    silt.json(&["rollback", "vm@a"]);
    assert_eq!(state(&silt, "vm"), taken);
    assert_eq!(state(&silt, "vm@before-rollback-1"), later);
    silt.serve("clone", &["--expect", &taken]).stop();
    check("served and not written");
    // Of a sealed snapshot, with a folder of its own or without.
    silt.json(&["clone", "vm@a", "late"]);
    silt.serve("late", &["--expect", &taken]).stop();
    write(&silt, "clone", 3);
    write(&silt, "late", 3);
    let states = ["vm@a", "clone", "late"].map(|name| state(&silt, name));
    assert_eq!(HashSet::from(states).len(), 3, "each writes a history of its own");
    silt.assert_verified();
}

#[test]
fn another_length_is_another_state_and_an_image_is_in_one_for_ever() {
    let silt = furnished();
    let image = state(&silt, "image");
    silt.json(&["resize", "vm", "20M"]);
    let longer = state(&silt, "vm");
    assert!(longer != image);
    silt.json(&["resize", "vm", "16M", "--shrink"]);
    assert_eq!(state(&silt, "vm"), image, "the same disk as before");
    let dir = silt.path("small-tree");
    silt.json(&["build", dir.to_str().unwrap(), "same", "--size", "16M"]);
    assert_eq!(state(&silt, "same"), image);
    silt.serve("image", &["--read-only", "--expect", &image]).stop();
    silt.fails(6, &["serve", "image", "--read-only", "--nbd", "s", "--expect", &longer]);
    silt.fails(6, &["serve", "vm", "--nbd", "s", "--expect", "no-state"]);
    silt.fails(3, &["state", "nobody"]);
    silt.assert_verified();
}

/// The command that asked for a snapshot was killed: the catalog follows the header, and the state goes with it.
#[test]
fn what_a_killed_commands_snapshot_froze_keeps_its_state() {
    let silt = furnished();
    let server = silt.serve("vm", &[]);
    connect(&server).write_at(&[5; 4096], 0).unwrap();
    let told = state(&silt, "vm");
    crate::snapshots::freeze_and_vanish(&silt);
    assert_eq!(state(&silt, "vm"), told);
    server.kill();
    assert_eq!(state(&silt, "vm"), told);
    assert_eq!(silt.json(&["snapshot", "vm@a"])["state_id"], told.as_str());
    silt.json(&["seal"]);
    assert_eq!((state(&silt, "vm@a"), state(&silt, "vm")), (told.clone(), told));
    silt.assert_verified();
}
