//! Snapshots: kept while a volume is written, sealed behind its back, gone back to, branched from.

use crate::silt::{Server, Silt, pseudo_random, wait_for};
use serde_json::Value;
use silt_testkit::nbd_client::NbdClient;
use silt_volume::BlockDevice as _;
use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
};

const BLOCK: u64 = 4096;

/// A store with `image` and `vm`, a volume on it, and the bytes of both.
fn furnished() -> (Silt, Vec<u8>) {
    let silt = Silt::new();
    silt.small_image("image");
    silt.json(&["clone", "image", "vm"]);
    let disk = silt.exported("vm");
    (silt, disk)
}

/// Where the server of the only served volume answers commands.
fn control_socket(silt: &Silt) -> PathBuf {
    let run = fs::read_dir(silt.store().join("run")).unwrap();
    let mut folders = run.map(|entry| entry.unwrap().path());
    let folder = folders.find(|path| path.extension().is_some_and(|e| e == "writer"));
    folder.unwrap().join("control")
}

/// What is written: bytes at a place, each round its own.
fn patch(disk: &mut [u8], client: &NbdClient, round: u8) {
    let bytes = pseudo_random(40_000, u64::from(round));
    let at = 1_000_001 + usize::from(round) * 17_000;
    client.write_at(&bytes, at as u64).unwrap();
    disk[at..at + bytes.len()].copy_from_slice(&bytes);
}

fn connect(server: &Server) -> NbdClient {
    NbdClient::connect(&server.socket).unwrap()
}

/// Serves a volume, writes a round, and ends the server.
fn write(silt: &Silt, volume: &str, disk: &mut [u8], round: u8) {
    let server = silt.serve(volume, &[]);
    patch(disk, &connect(&server), round);
    server.stop();
}

/// Folders of deltas that there are.
fn delta_folders(silt: &Silt) -> Vec<PathBuf> {
    let folders = |dir: PathBuf| {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    folders(silt.store().join("volumes")).into_iter().flat_map(folders).collect()
}

#[test]
fn a_snapshot_keeps_what_was_there_sealed_or_not() {
    let (silt, mut disk) = furnished();
    let unwritten = silt.json(&["snapshot", "vm@clean"]);
    assert_eq!(unwritten["disk_id"], silt.json(&["info", "image"])["disk_id"]);
    write(&silt, "vm", &mut disk, 1);
    let first = disk.clone();
    let taken = silt.json(&["snapshot", "vm@first"]);
    assert!(taken["disk_id"].is_null(), "{taken:#}");
    write(&silt, "vm", &mut disk, 2);
    silt.json(&["clone", "vm@first", "branch"]);
    let look = |what: &str| {
        for (name, expected) in [("vm@first", &first), ("branch", &first), ("vm", &disk)] {
            assert!(&silt.exported(name) == expected, "{name} {what}");
        }
        silt.assert_verified();
    };
    look("before it is sealed");
    let info = silt.json(&["info", "vm@first"]);
    assert_eq!((&info["kind"], &info["frozen_deltas"]), (&"snapshot".into(), &1.into()));
    let report = silt.json(&["seal", "vm"]);
    assert_eq!(report["deltas"], 1, "{report:#}");
    look("after it was sealed");
    let info = silt.json(&["info", "vm@first"]);
    assert!(info["disk_id"].is_string() && info["blocks_modified"] == 0, "{info:#}");
    assert_eq!(delta_folders(&silt).len(), 1, "the own delta is left: {:?}", delta_folders(&silt));
    assert_eq!(silt.json(&["seal"])["deltas"], 0);
    let waited = silt.json(&["snapshot", "vm@second", "--wait"]);
    assert!(waited["disk_id"].is_string(), "{waited:#}");
    assert!(silt.exported("vm@second") == disk);
    assert_eq!(silt.names(), ["image", "branch", "vm", "vm@clean", "vm@first", "vm@second"]);
    // A snapshot of what did not change is the same disk.
    let again = silt.json(&["snapshot", "vm@third"]);
    assert_eq!(again["disk_id"], waited["disk_id"]);
    silt.assert_verified();
}

#[test]
fn a_served_volume_is_kept_branched_and_sealed_while_its_guest_goes_on() {
    let (silt, mut disk) = furnished();
    let server = silt.serve("vm", &[]);
    let client = connect(&server);
    let mut kept = Vec::new();
    for round in 1..=12 {
        patch(&mut disk, &client, round);
        // Nobody flushes: what was answered is in the snapshot, and durable with it.
        silt.json(&["snapshot", &format!("vm@s{round}")]);
        kept.push(disk.clone());
        if round % 5 == 0 {
            silt.json(&["seal", "vm"]);
        }
    }
    patch(&mut disk, &client, 13);
    silt.json(&["clone", "vm", "branch"]);
    let mut now = vec![0; disk.len()];
    client.read_at(&mut now, 0).unwrap();
    assert!(now == disk, "the guest reads what it wrote");
    let look = || {
        for (round, expected) in (1..).zip(&kept) {
            assert!(&silt.exported(&format!("vm@s{round}")) == expected, "round {round}");
        }
        assert!(silt.exported("branch") == disk);
        silt.assert_verified();
    };
    look();
    silt.json(&["flatten", "vm"]);
    look();
    client.read_at(&mut now, 0).unwrap();
    assert!(now == disk, "the guest reads the same from what was sealed");
    assert_eq!(silt.json(&["info", "vm"])["blocks_modified"], 0);
    patch(&mut disk, &client, 14);
    client.flush().unwrap();
    server.kill();
    assert!(silt.exported("vm") == disk, "after the server was killed");
    silt.assert_verified();
}

/// A command that asked a server to freeze may be killed before it says so in the catalog. The guest goes on in the new
/// delta, and nothing of that may be lost.
#[test]
fn a_snapshot_whose_command_was_killed_loses_no_write() {
    for killed_too in [false, true] {
        let (silt, mut disk) = furnished();
        let server = silt.serve("vm", &[]);
        let client = connect(&server);
        for round in [1, 2] {
            patch(&mut disk, &client, round);
            freeze_and_vanish(&silt);
        }
        patch(&mut disk, &client, 3);
        client.flush().unwrap();
        assert_eq!(silt.json(&["info", "vm"])["frozen_deltas"], 2, "the server is asked");
        if !killed_too {
            silt.json(&["snapshot", "vm@a"]);
            assert!(silt.exported("vm@a") == disk);
        }
        patch(&mut disk, &client, 4);
        client.flush().unwrap();
        drop(client);
        // Another change of the catalog must not make the header look older than it is.
        silt.json(&["rename", "vm", "renamed"]);
        if killed_too {
            server.kill()
        } else {
            server.stop()
        }
        silt.json(&["rename", "renamed", "vm"]);
        assert!(silt.exported("vm") == disk, "killed too: {killed_too}");
        silt.assert_verified();
        write(&silt, "vm", &mut disk, 5);
        silt.json(&["seal"]);
        assert!(silt.exported("vm") == disk);
        silt.assert_verified();
    }
}

/// Asks the server of a volume as a command does, and is gone.
pub(crate) fn freeze_and_vanish(silt: &Silt) {
    let own =
        delta_folders(silt).into_iter().min_by_key(|d| fs::metadata(d).unwrap().created().unwrap());
    let own = own.unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    let base = silt.json(&["info", "image"])["disk_id"].as_str().unwrap().to_owned();
    let mut stream = UnixStream::connect(control_socket(silt)).unwrap();
    let layering = serde_json::json!({ "base": base, "deltas": [own] });
    let question = serde_json::json!({ "ask": "snapshot", "layering": layering, "generation": 2 });
    writeln!(stream, "{question}").unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    assert!(answer.starts_with("{\"layers\""), "{answer}");
}

#[test]
fn what_comes_to_a_control_socket_is_answered_with_an_error_and_harms_nobody() {
    let (silt, _) = furnished();
    let server = silt.serve("vm", &[]);
    let socket = control_socket(&silt);
    let long = "x".repeat(100_000);
    let other = r#"{"ask":"snapshot","layering":{"base":"00:1","deltas":["zz"]},"generation":1}"#;
    let none = format!(
        r#"{{"ask":"rebase","layering":{{"base":"{}:4096","deltas":["{}"]}}}}"#,
        "1".repeat(64),
        "2".repeat(32)
    );
    for line in
        ["nonsense", "{}", "{\"ask\":\"mercy\"}", "\"layers\" \"layers\"", other, &none, &long]
    {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let _ = stream.write_all(line.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = BufReader::new(stream).read_line(&mut answer);
        // Whoever is still sending when it is refused may not hear of it.
        let is_heard = line.len() < 100_000;
        assert!(
            answer.starts_with("{\"error\"") || answer.is_empty() && !is_heard,
            "{line:.50}: {answer}"
        );
    }
    let mut disk = silt.exported("image");
    patch(&mut disk, &connect(&server), 1);
    silt.json(&["snapshot", "vm@a"]);
    assert!(silt.exported("vm@a") == disk);
    server.stop();
    silt.assert_verified();
}

#[test]
fn a_rollback_goes_back_and_keeps_what_it_leaves() {
    let (silt, mut disk) = furnished();
    write(&silt, "vm", &mut disk, 1);
    silt.json(&["snapshot", "vm@one"]);
    let one = disk.clone();
    write(&silt, "vm", &mut disk, 2);
    let two = disk.clone();
    let back = silt.json(&["rollback", "vm@one"]);
    assert_eq!(back["kept"], "vm@before-rollback-1");
    assert!(silt.exported("vm") == one && silt.exported("vm@before-rollback-1") == two);
    // Nothing was written since: there is nothing to keep.
    assert!(silt.json(&["rollback", "vm@one"])["kept"].is_null());
    let mut third = one.clone();
    write(&silt, "vm", &mut third, 3);
    assert!(silt.json(&["rollback", "vm@before-rollback-1", "--discard"])["kept"].is_null());
    assert!(silt.exported("vm") == two);
    silt.json(&["seal"]);
    assert!(silt.exported("vm") == two && silt.exported("vm@one") == one);
    let server = silt.serve("vm", &[]);
    assert!(silt.fails(5, &["rollback", "vm@one"]).contains("served"));
    server.stop();
    silt.json(&["rollback", "vm@one"]);
    assert!(silt.exported("vm") == one);
    silt.fails(3, &["rollback", "vm@none"]);
    silt.fails(6, &["rollback", "vm"]);
    silt.fails(6, &["rollback", "image@one"]);
    silt.assert_verified();
}

#[test]
fn names_of_snapshots_are_checked_and_taken_once() {
    let (silt, _) = furnished();
    silt.json(&["snapshot", "vm@a"]);
    silt.fails(4, &["snapshot", "vm@a"]);
    for bad in ["vm", "vm@", "@a", "vm@a@b", "vm@..", "vm@-x", "vm@a/b", "vm@a b", "vm@\n"] {
        silt.fails(6, &["snapshot", bad]);
    }
    let long = format!("vm@{}", "n".repeat(129));
    silt.fails(6, &["snapshot", &long]);
    silt.fails(6, &["snapshot", "image@a"]);
    silt.fails(3, &["snapshot", "none@a"]);
    silt.fails(3, &["export", "vm@none", "file"]);
    silt.fails(3, &["clone", "image@a", "x"]);
    silt.assert_verified();
}

#[test]
fn removal_names_dependants_and_never_harms_a_clone() {
    let (silt, mut disk) = furnished();
    write(&silt, "vm", &mut disk, 1);
    silt.json(&["snapshot", "vm@a"]);
    let kept = disk.clone();
    write(&silt, "vm", &mut disk, 2);
    silt.json(&["snapshot", "vm@b"]);
    silt.json(&["clone", "vm@a", "branch"]);
    let message = silt.fails(5, &["rm", "vm"]);
    assert!(message.contains("vm@a"), "{message}");
    silt.json(&["rm", "vm@a"]);
    assert!(silt.exported("branch") == kept && silt.exported("vm@b") == disk);
    // All or none.
    silt.fails(3, &["rm", "branch", "none"]);
    silt.fails(5, &["rm", "branch", "vm"]);
    assert!(silt.exported("branch") == kept);
    silt.json(&["rm", "vm", "--recursive"]);
    assert_eq!(silt.names(), ["image", "branch"]);
    assert!(silt.exported("branch") == kept);
    silt.assert_verified();
    silt.json(&["seal"]);
    assert!(silt.exported("branch") == kept);
    silt.json(&["rm", "branch"]);
    assert_eq!(fs::read_dir(silt.store().join("volumes")).unwrap().count(), 0, "nothing is left");
    let server = silt.serve("image", &["--read-only"]);
    assert!(silt.fails(5, &["rm", "image"]).contains(&server.pid().to_string()));
    server.kill();
    silt.json(&["rm", "image"]);
    assert!(silt.names().is_empty());
}

#[test]
fn images_are_made_of_volumes_served_or_not() {
    let (silt, mut disk) = furnished();
    let server = silt.serve("vm", &[]);
    let client = connect(&server);
    patch(&mut disk, &client, 1);
    let made = silt.json(&["commit", "vm", "second"]);
    assert!(silt.exported("second") == disk);
    assert_eq!(silt.json(&["info", "second"])["disk_id"], made["disk_id"]);
    silt.fails(4, &["commit", "vm", "second"]);
    let before = disk.clone();
    silt.json(&["snapshot", "vm@a"]);
    patch(&mut disk, &client, 2);
    silt.json(&["commit", "vm", "second", "--replace"]);
    silt.json(&["commit", "vm@a", "third"]);
    assert!(silt.exported("second") == disk && silt.exported("third") == before);
    silt.fails(6, &["commit", "image", "fourth"]);
    drop(client);
    server.stop();
    silt.json(&["rm", "vm", "-r"]);
    assert_eq!(silt.names(), ["image", "second", "third"], "nothing passing is left");
    silt.assert_verified();
}

#[test]
fn renaming_changes_the_name_alone() {
    let (silt, mut disk) = furnished();
    let server = silt.serve("vm", &[]);
    let client = connect(&server);
    patch(&mut disk, &client, 1);
    silt.json(&["snapshot", "vm@a"]);
    silt.json(&["rename", "vm", "web"]);
    silt.json(&["rename", "web@a", "web@b"]);
    silt.json(&["rename", "image", "debian"]);
    assert_eq!(silt.names(), ["debian", "web", "web@b"]);
    assert!(silt.exported("web@b") == disk);
    patch(&mut disk, &client, 2);
    silt.json(&["snapshot", "web@c"]);
    assert!(silt.exported("web@c") == disk);
    silt.fails(4, &["rename", "web", "debian"]);
    silt.fails(4, &["rename", "web@b", "web@c"]);
    silt.fails(6, &["rename", "web@b", "other@b"]);
    silt.fails(6, &["rename", "web", "web@x"]);
    silt.fails(3, &["rename", "vm", "x"]);
    drop(client);
    server.stop();
    assert!(silt.exported("web") == disk);
    silt.assert_verified();
}

#[test]
fn a_volume_grows_and_shrinks_only_where_nothing_is_lost() {
    let (silt, mut disk) = furnished();
    write(&silt, "vm", &mut disk, 1);
    silt.json(&["snapshot", "vm@small"]);
    write(&silt, "vm", &mut disk, 2);
    let small = disk.len() as u64;
    for bad in ["0", "17T", "16777217M"] {
        silt.fails(6, &["resize", "vm", bad]);
    }
    assert_eq!(silt.json(&["resize", "vm", &(small + 1).to_string()])["size"], small + 1);
    assert_eq!(silt.exported("vm").len() as u64, small + 1);
    silt.json(&["resize", "vm", "32M"]);
    disk.resize(32 << 20, 0);
    assert!(silt.exported("vm") == disk);
    let tail = pseudo_random(50_000, 9);
    let server = silt.serve("vm", &[]);
    connect(&server).write_at(&tail, 30_000_001).unwrap();
    disk[30_000_001..][..tail.len()].copy_from_slice(&tail);
    assert!(silt.fails(5, &["resize", "vm", "64M"]).contains("served"));
    silt.json(&["snapshot", "vm@grown"]);
    server.stop();
    silt.json(&["seal"]);
    assert!(silt.exported("vm") == disk && silt.exported("vm@grown") == disk);
    assert_eq!(silt.exported("vm@small").len() as u64, small);
    silt.fails(6, &["resize", "vm", "16M"]);
    // Behind the end of the file system nothing counts, whatever it is; in it everything does.
    silt.fails(6, &["resize", "vm", "15M", "--shrink"]);
    assert!(silt.exported("vm") == disk, "refused, and nothing was done");
    silt.json(&["resize", "vm", "16M", "--shrink"]);
    disk.truncate(16 << 20);
    assert!(silt.exported("vm") == disk);
    silt.json(&["resize", "vm", "40M"]);
    disk.resize(40 << 20, 0);
    assert!(silt.exported("vm") == disk, "what was cut off does not come back");
    silt.json(&["rollback", "vm@small"]);
    assert_eq!(silt.exported("vm").len() as u64, small);
    silt.assert_verified();
}

#[test]
fn many_clones_are_made_all_or_none() {
    let (silt, mut disk) = furnished();
    write(&silt, "vm", &mut disk, 1);
    let made = silt.json(&["clone", "vm", "worker", "-n", "20"]);
    assert_eq!(made["volumes"].as_array().unwrap().len(), 20);
    assert!(silt.exported("worker-20") == disk);
    silt.json(&["rm", "worker-3"]);
    let names = silt.names();
    silt.fails(4, &["clone", "vm", "worker", "-n", "4"]);
    assert_eq!(silt.names(), names, "none");
    silt.fails(6, &["clone", "vm", "x", "-n", "0"]);
    silt.fails(6, &["clone", "vm", "x", "-n", "10001"]);
    silt.json(&["seal"]);
    assert!(silt.exported("worker-1") == disk);
    silt.assert_verified();
}

#[test]
fn zero_stays_zero_through_every_generation() {
    let (silt, mut disk) = furnished();
    let range = (BLOCK * 300)..(BLOCK * 320);
    let (start, end) = (range.start as usize, range.end as usize);
    let server = silt.serve("vm", &[]);
    let client = connect(&server);
    client.write_at(&pseudo_random(end - start, 5), range.start).unwrap();
    silt.json(&["snapshot", "vm@written"]);
    client.discard(range.start, range.end - range.start).unwrap();
    disk[start..end].fill(0);
    silt.json(&["snapshot", "vm@zeroed"]);
    drop(client);
    server.stop();
    silt.json(&["clone", "vm@zeroed", "copy"]);
    silt.json(&["resize", "copy", "20M"]);
    write(&silt, "copy", &mut disk, 1);
    disk.resize(20 << 20, 0);
    for sealed in [false, true] {
        if sealed {
            silt.json(&["seal"]);
        }
        assert!(silt.exported("copy") == disk, "sealed: {sealed}");
        assert!(silt.exported("vm@zeroed")[start..end].iter().all(|byte| *byte == 0));
        assert!(silt.exported("vm@written")[start..end] == pseudo_random(end - start, 5));
    }
    silt.assert_verified();
}

#[test]
fn sealing_begins_by_itself() {
    let (silt, mut disk) = furnished();
    write(&silt, "vm", &mut disk, 1);
    let mut command = silt.command(&["snapshot", "vm@a"]);
    assert!(command.env_remove("SILT_SEAL").status().unwrap().success());
    wait_for("the seal", || silt.json(&["info", "vm@a"])["disk_id"].is_string());
    // It ends once it has published, and removed what nobody needs.
    wait_for("the end of the sealer", || {
        fs::read_dir(silt.store().join("leases")).unwrap().count() == 0
            && delta_folders(&silt).is_empty()
    });
    assert!(silt.exported("vm@a") == disk);
    silt.assert_verified();
}

#[test]
fn what_is_rewritten_as_it_was_is_not_stored_again() {
    let (silt, disk) = furnished();
    let before = silt.json(&["info"])["bytes_unique"].as_u64().unwrap();
    let server = silt.serve("vm", &[]);
    let client = connect(&server);
    for (number, piece) in (0..).zip(disk.chunks(1 << 20)) {
        client.write_at(piece, number << 20).unwrap();
    }
    drop(client);
    server.stop();
    let taken = silt.json(&["snapshot", "vm@same", "--wait"]);
    assert_eq!(taken["disk_id"], silt.json(&["info", "image"])["disk_id"]);
    assert_eq!(silt.json(&["info"])["bytes_unique"].as_u64().unwrap(), before);
}

/// A store of a later build is refused with the code that says so, and left as it is.
#[test]
fn a_store_of_a_newer_format_is_unsupported() {
    let silt = Silt::new();
    silt.small_image("image");
    let path = silt.store().join("store");
    let mut bytes = fs::read(&path).unwrap();
    let newer = u16::from_le_bytes([bytes[8], bytes[9]]) + 1;
    bytes[8..10].copy_from_slice(&newer.to_le_bytes());
    let sum = crc32c(&bytes[..60]);
    bytes[60..64].copy_from_slice(&sum.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    for command in [&["ls"][..], &["verify"], &["clone", "image", "vm"], &["info"]] {
        silt.fails(9, command);
    }
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

/// CRC-32C by its definition (RFC 3720, appendix B.4).
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |sum: u32, _| if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 };
    !bytes.iter().fold(!0u32, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), step))
}

/// What is sealed may be just what was there: then the base keeps its name, and the server has to let go of the delta all
/// the same, or it could freeze no more after eight of them.
#[test]
fn a_server_lets_go_of_deltas_that_changed_nothing() {
    let (silt, disk) = furnished();
    let server = silt.serve("vm", &[]);
    let client = connect(&server);
    for round in 0..10 {
        client.write_at(&disk[..1 << 16], 0).unwrap();
        let taken = silt.json(&["snapshot", &format!("vm@s{round}"), "--wait"]);
        assert_eq!(taken["disk_id"], silt.json(&["info", "image"])["disk_id"], "{round}");
        assert_eq!(silt.json(&["info", "vm"])["frozen_deltas"], 0, "{round}");
    }
    let mut now = vec![0; disk.len()];
    client.read_at(&mut now, 0).unwrap();
    assert!(now == disk);
    assert_eq!(delta_folders(&silt).len(), 1);
}

/// Removal takes a turn with each volume: not twice with one, and in one order whatever the command line says.
#[test]
fn removals_wait_neither_for_themselves_nor_for_one_another_for_ever() {
    let (silt, _) = furnished();
    let removed = silt.json(&["rm", "vm", "vm"]);
    assert_eq!(removed["removed"].as_array().unwrap().len(), 1, "{removed:#}");
    for _ in 0..20 {
        silt.json(&["clone", "image", "one"]);
        silt.json(&["clone", "image", "two"]);
        std::thread::scope(|scope| {
            for names in [["one", "two"], ["two", "one"]] {
                let silt = &silt;
                scope.spawn(move || silt.run(&["rm", names[0], names[1]]));
            }
        });
        assert_eq!(silt.names(), ["image"]);
    }
    silt.json(&["rm", "image", "image"]);
    silt.assert_verified();
}

#[test]
fn disks_are_read_while_what_they_read_through_is_sealed() {
    let (silt, mut disk) = furnished();
    let mut kept = Vec::new();
    for round in 1..=7 {
        write(&silt, "vm", &mut disk, round);
        silt.json(&["snapshot", &format!("vm@s{round}")]);
        kept.push(disk.clone());
    }
    let sealing = silt.command(&["seal"]).stdout(std::process::Stdio::null()).spawn();
    let mut sealing = sealing.unwrap();
    while sealing.try_wait().unwrap().is_none() {
        for (round, expected) in (1..).zip(&kept) {
            assert!(&silt.exported(&format!("vm@s{round}")) == expected, "round {round}");
        }
        silt.json(&["info", "vm"]);
    }
    assert!(silt.exported("vm") == disk);
    silt.assert_verified();
}

#[test]
fn lineage_shows_what_came_from_what_whatever_became_of_it() {
    let (silt, mut disk) = furnished();
    write(&silt, "vm", &mut disk, 1);
    silt.json(&["snapshot", "vm@a"]);
    silt.json(&["clone", "vm@a", "branch"]);
    silt.json(&["clone", "branch", "twig"]);
    silt.json(&["rename", "vm", "web"]);
    let expected = "image  image, 16.0 MiB
  web  volume, 16.0 MiB
    @a  snapshot, 16.0 MiB, not sealed yet
      branch  volume, 16.0 MiB
        twig  volume, 16.0 MiB
";
    assert_eq!(silt.ok(&["ls", "--tree"]), expected);
    assert_eq!(silt.json(&["ls", "--tree"]), silt.json(&["ls"]));
    silt.json(&["rm", "web", "image", "--recursive"]);
    let expected = "branch  volume, 16.0 MiB, from vm@a, which is gone
  twig  volume, 16.0 MiB
";
    assert_eq!(silt.ok(&["ls", "--tree"]), expected);
    assert!(silt.exported("twig") == disk);
}

/// A history as name, kind and parent of each state, the oldest first.
fn history(silt: &Silt, volume: &str) -> Vec<[String; 3]> {
    let states = silt.json(&["log", volume]);
    let text = |state: &Value, key: &str| state[key].as_str().unwrap_or("-").to_owned();
    let states = states.as_array().unwrap().iter().rev();
    states.map(|state| ["name", "kind", "parent"].map(|key| text(state, key))).collect()
}

#[test]
fn a_history_shows_snapshots_rollbacks_and_clones_and_what_each_went_on_from() {
    let (silt, mut disk) = furnished();
    write(&silt, "vm", &mut disk, 1);
    silt.json(&["snapshot", "vm@a"]);
    let mut other = disk.clone();
    write(&silt, "vm", &mut disk, 2);
    silt.json(&["rollback", "vm@a"]);
    write(&silt, "vm", &mut other, 3);
    silt.json(&["snapshot", "vm@b"]);
    silt.json(&["clone", "vm@a", "branch"]);
    silt.json(&["snapshot", "branch@x"]);
    let expected = [
        ["image", "image", "-"],
        ["vm@a", "snapshot", "image"],
        ["vm@before-rollback-1", "rollback", "vm@a"],
        ["vm@b", "snapshot", "vm@a"],
        ["branch", "clone", "vm@a"],
        ["vm", "volume", "vm@b"],
    ];
    assert_eq!(history(&silt, "vm"), expected);
    let of_branch = [
        ["image", "image", "-"],
        ["vm@a", "snapshot", "image"],
        ["branch@x", "snapshot", "vm@a"],
        ["branch", "volume", "branch@x"],
    ];
    assert_eq!(history(&silt, "branch"), of_branch);
    // What a removed snapshot's children went on from is what it went on from itself.
    silt.json(&["rm", "vm@a"]);
    let names = history(&silt, "vm");
    assert_eq!(names[1..3].iter().map(|s| &s[2]).collect::<Vec<_>>(), ["image", "image"]);
    assert_eq!(history(&silt, "branch")[1], ["branch@x", "snapshot", "image"]);
    // A source that is gone.
    silt.json(&["rm", "vm", "--recursive"]);
    assert_eq!(history(&silt, "branch")[0], ["branch@x", "snapshot", "-"]);
    silt.fails(3, &["log", "vm"]);
    silt.fails(6, &["log", "image"]);
    silt.fails(6, &["log", "branch@x"]);
    silt.assert_verified();
}

#[test]
fn a_history_tells_what_each_state_holds_of_its_own_served_or_not() {
    let (silt, disk) = furnished();
    let held = |when: &str| {
        let states = silt.json(&["log", "vm"]);
        let states = states.as_array().unwrap().iter().rev();
        let bytes = |state: &Value, key: &str| {
            state[key].as_u64().unwrap_or_else(|| panic!("{when}: {state:#}"))
        };
        states.map(|s| (bytes(s, "bytes_own"), bytes(s, "bytes_shared"))).collect::<Vec<_>>()
    };
    let mapped = held("at first")[0].0;
    assert_eq!(held("at first"), [(mapped, 0), (0, mapped)]);
    let server = silt.serve("vm", &[]);
    let client = connect(&server);
    let free = (0..disk.len() as u64 / BLOCK).rev().filter(|n| {
        let at = (n * BLOCK) as usize;
        disk[at..at + BLOCK as usize].iter().all(|byte| *byte == 0)
    });
    let free: Vec<u64> = free.take(5).collect();
    for block in &free {
        client.write_at(&pseudo_random(4096, *block), block * BLOCK).unwrap();
    }
    client.flush().unwrap();
    assert_eq!(held("served"), [(mapped, 0), (5 * BLOCK, mapped)]);
    silt.json(&["snapshot", "vm@five"]);
    client.write_zeroes(free[0] * BLOCK, BLOCK, true).unwrap();
    client.write_at(&pseudo_random(4096, free[1]), free[1] * BLOCK).unwrap();
    client.flush().unwrap();
    let five = (5 * BLOCK, mapped);
    assert_eq!(held("then"), [(mapped, 0), five, (BLOCK, mapped + 3 * BLOCK)]);
    drop(client);
    server.stop();
    silt.json(&["snapshot", "vm@four"]);
    silt.json(&["seal"]);
    // What was written as it was before is no change.
    let four = (0, mapped + 4 * BLOCK);
    assert_eq!(held("sealed"), [(mapped, 0), five, four, (0, mapped + 4 * BLOCK)]);
    let text = silt.ok(&["log", "vm"]);
    assert!(text.lines().nth(1).unwrap().starts_with("* vm "), "{text}");
}

/// A snapshot that went between the look at the catalog and the one at its disk had made `log` fail.
#[test]
fn a_history_can_be_looked_at_while_snapshots_go() {
    let (silt, mut disk) = furnished();
    let names: Vec<_> = (10..50).map(|number| format!("vm@{number}")).collect();
    for (round, name) in (1..).zip(&names) {
        if round % 8 == 1 {
            write(&silt, "vm", &mut disk, round);
        }
        silt.json(&["snapshot", name]);
    }
    let looks = std::thread::scope(|scope| {
        let changes = scope.spawn(|| {
            // The newest first: a look comes to them last.
            names.iter().rev().for_each(|name| drop(silt.json(&["rm", name])));
        });
        let mut looks = 0;
        while !changes.is_finished() {
            let history = silt.json(&["log", "vm"]);
            assert_eq!(history[0]["name"], "vm", "{history:#}");
            looks += 1;
        }
        looks
    });
    assert!(looks > 0);
}
