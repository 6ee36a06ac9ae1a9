//! `silt gc`: how small a store becomes, what stays, and what it minds.

use crate::silt::{Ran, Silt, pseudo_random, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use silt_testkit::{fault::every_file_of, nbd_client::NbdClient};
use silt_volume::BlockDevice as _;
use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Child, Stdio},
    thread,
    time::Duration,
};

/// A folder of files that are `of` alone, and some that all have.
fn tree(silt: &Silt, of: u64) -> String {
    let dir = silt.path(format!("tree-{of}"));
    fs::create_dir_all(&dir).unwrap();
    for file in 0..40 {
        let seed = if file % 4 == 0 { file } else { file + 1000 * of };
        fs::write(dir.join(file.to_string()), pseudo_random(150_000, seed)).unwrap();
    }
    dir.to_str().unwrap().to_owned()
}

/// What `du` says.
fn allocated(dir: &Path) -> u64 {
    let size = |path: &Path| fs::symlink_metadata(path).map_or(0, |found| found.blocks() * 512);
    every_file_of(dir).unwrap().iter().map(|path| size(path)).sum()
}

fn number(document: &Value, field: &str) -> u64 {
    document[field].as_u64().unwrap_or_else(|| panic!("{field} of {document}"))
}

/// A store that holds one image of many, after one collection, beside one that never held the others.
#[test]
fn a_collected_store_is_as_small_as_one_that_never_held_what_went() {
    let silt = Silt::new();
    let trees: Vec<_> = (1..=6).map(|n| tree(&silt, n)).collect();
    for (n, tree) in trees.iter().enumerate() {
        silt.ok(&["build", tree, &format!("image-{n}")]);
    }
    let kept = silt.exported("image-3");
    let (before, packs) = (allocated(&silt.store()), silt.store().join("packs"));
    let packs_before = every_file_of(&packs).unwrap();
    for n in [0, 1, 2, 4, 5] {
        silt.ok(&["rm", &format!("image-{n}")]);
    }
    let would = silt.json(&["gc", "--dry-run"]);
    assert_eq!(every_file_of(&packs).unwrap(), packs_before);
    let done = silt.json(&["gc"]);
    assert_eq!(done["chunks_removed"], would["chunks_removed"]);
    assert!(number(&done, "bytes_freed") > before / 2, "{done}");
    silt.assert_verified();
    assert!(silt.exported("image-3") == kept);

    let fresh = Silt::new();
    fresh.ok(&["build", &trees[3], "image-3"]);
    let (collected, alone) = (allocated(&silt.store()), allocated(&fresh.store()));
    assert!(collected * 10 <= alone * 11, "{collected} beside {alone}");
    let (one, other) = (silt.json(&["info"]), fresh.json(&["info"]));
    for field in ["chunks", "bytes_unique", "bytes_unique_file_data"] {
        let (one, other) = (number(&one, field), number(&other, field));
        assert!(one >= other && one * 20 <= other * 21, "{field}: {one} beside {other}");
    }
    // And what is removed whole leaves next to nothing.
    silt.ok(&["rm", "image-3"]);
    silt.ok(&["gc"]);
    assert_eq!(number(&silt.json(&["info"]), "chunks"), 0);
    assert!(allocated(&silt.store()) < 200 << 10, "{}", allocated(&silt.store()));
    silt.assert_verified();
}

#[test]
fn volumes_snapshots_and_clones_keep_what_they_read() {
    let silt = Silt::new();
    silt.ok(&["build", &tree(&silt, 1), "base", "--size", "64M"]);
    silt.ok(&["clone", "base", "vm"]);
    let server = silt.serve("vm", &[]);
    let client = NbdClient::connect(&server.socket).unwrap();
    for round in 0..4_u8 {
        client.write_at(&pseudo_random(1 << 20, round.into()), u64::from(round) << 20).unwrap();
        client.flush().unwrap();
        silt.ok(&["snapshot", &format!("vm@s{round}"), "--wait"]);
    }
    silt.ok(&["clone", "vm@s1", "side"]);
    silt.ok(&["rm", "base", "vm@s0", "vm@s1"]);
    let kept: Vec<_> = ["side", "vm@s2", "vm@s3"].map(|name| silt.exported(name)).into();
    silt.ok(&["gc"]);
    silt.assert_verified();
    for (name, kept) in ["side", "vm@s2", "vm@s3"].iter().zip(&kept) {
        assert!(silt.exported(name) == *kept, "{name}");
    }
    // The server goes on reading what was moved under it.
    let mut block = vec![0; kept[2].len()];
    client.read_at(&mut block, 0).unwrap();
    assert!(block == kept[2]);
    drop(client);
    server.stop();
    silt.ok(&["rm", "vm", "side", "--recursive"]);
    silt.ok(&["gc"]);
    assert_eq!(number(&silt.json(&["info"]), "chunks"), 0);
}

/// Whoever has a disk open goes on reading it, whatever becomes of its name.
#[test]
fn fuse_what_was_removed_stays_for_who_has_it_open_and_goes_afterwards() {
    let silt = Silt::new();
    silt.ok(&["build", &tree(&silt, 1), "image"]);
    silt.ok(&["clone", "image", "vm"]);
    silt.ok(&["snapshot", "vm@s"]);
    let disk = silt.exported("image");
    let shown = silt.path("shown");
    let mut mount = silt.command(&["mount", shown.to_str().unwrap()]).spawn().unwrap();
    wait_for("the folder", || shown.join("image").exists());
    let mut file = File::open(shown.join("image")).unwrap();
    let server = silt.serve("vm@s", &["--read-only"]);
    let client = NbdClient::connect(&server.socket).unwrap();
    silt.ok(&["build", &tree(&silt, 2), "image", "--replace"]);
    silt.ok(&["rm", "vm", "--recursive"]);
    silt.ok(&["gc"]);
    let mut read = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut read).unwrap();
    assert!(read == disk);
    let mut read = vec![0; disk.len()];
    client.read_at(&mut read, 0).unwrap();
    assert!(read == disk);
    drop((file, client));
    server.stop();
    kill_process(Pid::from_child(&mount), Signal::TERM).unwrap();
    assert!(mount.wait().unwrap().success());
    assert!(number(&silt.json(&["gc"]), "chunks_removed") > 0);
    silt.assert_verified();
}

fn start(silt: &Silt, args: &[&str]) -> Child {
    silt.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn builds_and_collections_wait_for_one_another_and_neither_fails() {
    let silt = Silt::new();
    let trees: Vec<_> = (0..4).map(|n| tree(&silt, n)).collect();
    silt.ok(&["build", &trees[0], "kept"]);
    let kept = silt.exported("kept");
    for round in 0..4 {
        let builds: Vec<_> = (1..4)
            .map(|n| start(&silt, &["build", &trees[n], &format!("image-{n}"), "--replace"]))
            .collect();
        let collections: Vec<_> = (0..2).map(|_| start(&silt, &["gc"])).collect();
        for child in builds.into_iter().chain(collections) {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        silt.assert_verified();
        if round % 2 == 0 {
            silt.ok(&["rm", "image-1", "image-2"]);
        }
    }
    assert!(silt.exported("kept") == kept);
}

#[test]
fn killed_at_any_moment_a_collection_is_gone_on_with_by_the_next() {
    let silt = Silt::new();
    let trees: Vec<_> = (0..4).map(|n| tree(&silt, n)).collect();
    silt.ok(&["build", &trees[0], "kept"]);
    let kept = silt.exported("kept");
    for round in 0..24_u64 {
        for tree in &trees[1..] {
            silt.ok(&["build", tree, "passing", "--replace"]);
        }
        silt.ok(&["rm", "passing"]);
        let mut collection = start(&silt, &["gc"]);
        thread::sleep(Duration::from_micros(round * 4000));
        let _ = collection.kill();
        collection.wait().unwrap();
        silt.assert_verified();
    }
    silt.ok(&["gc"]);
    assert!(silt.exported("kept") == kept);
    silt.assert_verified();
    let fresh = Silt::new();
    fresh.ok(&["build", &trees[0], "kept"]);
    let (collected, alone) = (allocated(&silt.store()), allocated(&fresh.store()));
    assert!(collected * 10 <= alone * 11, "{collected} beside {alone}");
}

#[test]
fn a_name_that_cannot_be_read_stops_it_and_its_removal_lets_it_go_on() {
    let silt = Silt::new();
    silt.ok(&["build", &tree(&silt, 1), "good"]);
    silt.ok(&["build", &tree(&silt, 2), "bad"]);
    silt.ok(&["build", &tree(&silt, 3), "gone"]);
    silt.ok(&["rm", "gone"]);
    let good = silt.exported("good");
    let root = silt.json(&["info", "bad"])["disk_id"].as_str().unwrap().to_owned();
    let root: String = root.split('/').next().unwrap_or(&root).chars().take(64).collect();
    let bytes: Vec<u8> =
        (0..32).map(|n| u8::from_str_radix(&root[2 * n..2 * n + 2], 16).unwrap()).collect();
    let database = rusqlite::Connection::open(silt.store().join("catalog.db")).unwrap();
    let offset: (i64, i64) = database
        .query_row("SELECT offset, pack FROM chunk WHERE id = ?", [bytes], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    let pack: Vec<u8> = database
        .query_row("SELECT id FROM pack WHERE number = ?", [offset.1], |row| row.get(0))
        .unwrap();
    drop(database);
    let pack: String = pack.iter().map(|byte| format!("{byte:02x}")).collect();
    let path = silt.store().join("packs").join(format!("{pack}.pack"));
    let mut content = fs::read(&path).unwrap();
    content[offset.0 as usize + 4] ^= 1;
    fs::write(&path, content).unwrap();
    let before = number(&silt.json(&["info"]), "chunks");
    let message = silt.fails(7, &["gc"]);
    assert!(message.contains("image bad") && message.contains("silt rm"), "{message}");
    assert_eq!(number(&silt.json(&["info"]), "chunks"), before);
    silt.ok(&["rm", "bad"]);
    // What is damaged may share a pack with what is not; it is left, and told of, or gone.
    let ran: Ran = silt.run(&["--json", "gc"]);
    assert!(number(&ran.document(), "chunks_removed") > 0, "{ran:?}");
    assert!(silt.exported("good") == good);
}

#[test]
fn what_killed_commands_left_goes_too() {
    let silt = Silt::new();
    silt.ok(&["build", &tree(&silt, 1), "image", "--size", "64M"]);
    silt.ok(&["clone", "image", "vm"]);
    let server = silt.serve("vm", &[]);
    NbdClient::connect(&server.socket).unwrap().write_at(&[1; 4096], 0).unwrap();
    server.kill();
    let volumes = silt.store().join("volumes");
    let volume = fs::read_dir(&volumes).unwrap().next().unwrap().unwrap().path();
    let dead = volumes.join("00112233445566778899aabbccddeeff");
    fs::create_dir_all(dead.join("ffeeddccbbaa99887766554433221100")).unwrap();
    fs::create_dir_all(volume.join("ffeeddccbbaa99887766554433221100")).unwrap();
    fs::create_dir_all(volume.join("0feeddccbbaa99887766554433221100.tmp")).unwrap();
    fs::write(silt.store().join("leases/00112233445566778899aabbccddeeff"), "").unwrap();
    let blobs = silt.store().join("caches/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join("sha256-00"), pseudo_random(100_000, 3)).unwrap();
    silt.ok(&["gc"]);
    assert!(!dead.exists());
    let left: Vec<_> = fs::read_dir(&volume)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("ffee") || name.starts_with("0fee"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(fs::read_dir(&blobs).unwrap().count(), 0);
    assert_eq!(fs::read_dir(silt.store().join("run")).unwrap().count(), 0);
    let leases = fs::read_dir(silt.store().join("leases")).unwrap();
    let leases: Vec<_> = leases.map(|lease| lease.unwrap().file_name()).collect();
    assert_eq!(leases, ["lock"]);
    silt.assert_verified();
    let mut block = [0; 4096];
    let server = silt.serve("vm", &[]);
    NbdClient::connect(&server.socket).unwrap().read_at(&mut block, 0).unwrap();
    assert_eq!(block, [1; 4096], "a killed server loses nothing");
    server.stop();
}

#[test]
fn caches_go_when_they_are_of_no_use_and_when_asked() {
    let silt = Silt::new();
    let kept = tree(&silt, 1);
    thread::sleep(Duration::from_millis(2100));
    silt.ok(&["build", &kept, "kept"]);
    silt.ok(&["build", &tree(&silt, 2), "gone"]);
    thread::sleep(Duration::from_millis(2100));
    silt.ok(&["build", &kept, "kept", "--replace"]);
    silt.ok(&["build", silt.path("tree-2").to_str().unwrap(), "gone", "--replace"]);
    let caches = || fs::read_dir(silt.store().join("caches/folders")).unwrap().count();
    assert_eq!(caches(), 2);
    silt.ok(&["rm", "gone"]);
    silt.ok(&["gc"]);
    assert_eq!(caches(), 1);
    let again = silt.json(&["build", &kept, "kept", "--replace"]);
    assert_eq!(number(&again, "bytes_read"), 0);
    silt.ok(&["gc", "--caches"]);
    assert_eq!(caches(), 0);
    assert_ne!(number(&silt.json(&["build", &kept, "kept", "--replace"]), "bytes_read"), 0);
}

/// What a removal would free is what the next collection removes, whatever is shared.
#[test]
fn what_a_removal_would_free_is_what_goes() {
    let silt = Silt::new();
    for n in 1..=3 {
        silt.ok(&["build", &tree(&silt, n), &format!("image-{n}"), "--size", "64M"]);
    }
    silt.ok(&["clone", "image-1", "vm"]);
    let server = silt.serve("vm", &[]);
    let client = NbdClient::connect(&server.socket).unwrap();
    for (round, name) in ["vm@a", "vm@b"].iter().enumerate() {
        client.write_at(&pseudo_random(1 << 20, round as u64), (round as u64) << 21).unwrap();
        client.flush().unwrap();
        silt.ok(&["snapshot", name, "--wait"]);
    }
    client.write_at(&pseudo_random(1 << 20, 9), 40 << 20).unwrap();
    drop(client);
    server.stop();
    // It stands on the same disk as the volume.
    assert_eq!(number(&silt.json(&["why", "image-1"])["would_free"], "chunks"), {
        let alone = silt.json(&["rm", "--dry-run", "image-1"]);
        number(&alone["would_free"], "chunks")
    });
    let cases: [&[&str]; 4] =
        [&["image-2"], &["vm@a"], &["vm", "--recursive"], &["image-1", "image-3"]];
    for case in cases {
        let needed = || number(&silt.json(&["gc"]), "chunks_needed");
        let before = needed();
        let would = silt.json(&[&["rm", "--dry-run"], case].concat());
        let deltas = || -> u64 {
            let files = silt.files_called("data.000");
            files.iter().map(|file| fs::metadata(file).unwrap().blocks() * 512).sum()
        };
        let deltas_before = deltas();
        silt.ok(&[&["rm"], case].concat());
        let freed = &would["would_free"];
        assert_eq!(number(freed, "delta_bytes"), deltas_before - deltas(), "{case:?}");
        assert_eq!(number(freed, "chunks"), before - needed(), "{case:?}");
    }
    assert_eq!(number(&silt.json(&["gc"]), "chunks_needed"), 0);
}

#[test]
fn chunks_and_packs_are_kept_by_those_who_need_them() {
    let silt = Silt::new();
    for n in 1..=2 {
        silt.ok(&["build", &tree(&silt, n), &format!("image-{n}")]);
    }
    silt.ok(&["clone", "image-1", "vm"]);
    let database = rusqlite::Connection::open(silt.store().join("catalog.db")).unwrap();
    let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut statement = database.prepare("SELECT id FROM chunk").unwrap();
    let chunks: Vec<_> =
        statement.query_map([], |row| row.get(0)).unwrap().map(|id| hex(id.unwrap())).collect();
    let mut statement = database.prepare("SELECT id FROM pack ORDER BY number").unwrap();
    let packs: Vec<_> =
        statement.query_map([], |row| row.get(0)).unwrap().map(|id| hex(id.unwrap())).collect();
    drop(statement);
    let needed_by = |what: &str| -> Vec<String> {
        let why = silt.json(&["why", what]);
        let names = why["needed_by"].as_array().unwrap();
        names.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    let (mut by_all, mut by_one) = (0, 0);
    for chunk in chunks.iter().step_by(7) {
        match needed_by(chunk).join(" ").as_str() {
            "image image-1 image image-2 volume vm" => by_all += 1,
            "image image-2" => by_one += 1,
            "image image-1" | "image image-1 volume vm" => {}
            other => panic!("{other}"),
        }
    }
    assert!(by_all > 0 && by_one > 0, "{by_all} {by_one}");
    assert_eq!(needed_by(&packs[1]), ["image image-2"]);
    silt.ok(&["rm", "image-2"]);
    assert_eq!(needed_by(&packs[1]), [] as [&str; 0]);
    assert!(silt.ok(&["why", &packs[1]]).contains("nothing needs it"));
    silt.fails(3, &["why", &"0".repeat(64)]);
    silt.fails(3, &["why", &"0".repeat(32)]);
    silt.fails(3, &["why", "nobody"]);
}
