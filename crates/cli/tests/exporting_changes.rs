//! `silt export --since`: whoever has the older disk gets the newer one from the file and its list.

use crate::silt::{Ran, Silt, pseudo_random};
use silt_testkit::nbd_client::NbdClient;
use silt_volume::BlockDevice as _;
use std::{
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
    path::Path,
    process::Command,
};

const BLOCK: usize = 4096;
const MIB: u64 = 1 << 20;

/// A line of a list: offset and length in bytes, and whether the range is told to be zero.
type Line = (usize, usize, bool);

fn lines(list: &Path) -> Vec<Line> {
    let text = fs::read_to_string(list).unwrap();
    let line = |line: &str| {
        let [offset, len, kind] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        assert!(["data", "zero"].contains(&kind), "{line}");
        (offset.parse().unwrap(), len.parse().unwrap(), kind == "zero")
    };
    text.lines().map(line).collect()
}

/// What a backup program does.
fn apply(older: &mut Vec<u8>, file: &[u8], list: &[Line]) {
    older.resize(file.len(), 0);
    for (offset, len, _) in list {
        older[*offset..offset + len].copy_from_slice(&file[*offset..offset + len]);
    }
}

/// Exports two disks whole and what changed between them, and compares; the list of what changed.
fn judged(silt: &Silt, name: &str, since: &str) -> Vec<Line> {
    let (older, newer) = (silt.exported(since), silt.exported(name));
    let told = silt.json(&["export", name, "changes", "--since", since]);
    let (path, list) = (silt.path("changes"), lines(&silt.path("changes.blocks")));
    let file = fs::read(&path).unwrap();
    let mut restored = older.clone();
    apply(&mut restored, &file, &list);
    assert!(restored == newer, "{name} since {since}: {list:?}");

    let (mut end, mut last_kind, mut written) = (0, None, 0);
    for (offset, len, zero) in &list {
        assert!(*offset > end || *offset == end && last_kind != Some(zero), "{list:?}");
        assert!(file[end..*offset].iter().all(|byte| *byte == 0), "not listed before {offset}");
        for at in (*offset..offset + len).step_by(BLOCK) {
            let range = at..(at + BLOCK).min(newer.len());
            let mut before =
                older[range.start.min(older.len())..range.end.min(older.len())].to_vec();
            before.resize(range.len(), 0);
            assert!(before != newer[range.clone()], "the block at {at} did not change");
            assert_eq!(newer[range].iter().all(|byte| *byte == 0), *zero, "at {at}");
        }
        written += if *zero { 0 } else { *len };
        (end, last_kind) = (offset + len, Some(zero));
    }
    assert!(file[end..].iter().all(|byte| *byte == 0), "not listed behind {end}");
    let space = fs::metadata(&path).unwrap().blocks() as usize * 512;
    assert!(space <= written.next_multiple_of(BLOCK) + 64 * BLOCK, "{space} for {written}");
    let changed: usize = list.iter().map(|(_, len, _)| len).sum();
    let blocks: usize = list.iter().map(|(_, len, _)| len.div_ceil(BLOCK)).sum();
    assert_eq!(told["size"], newer.len());
    assert_eq!(told["bytes_differing"], changed);
    assert_eq!(told["blocks_differing"], blocks);
    assert_eq!(told["bytes_written"], written);
    assert_eq!((&told["name"], &told["since"]), (&name.into(), &since.into()));
    assert_eq!((&told["file"], &told["list"]), (&"changes".into(), &"changes.blocks".into()));
    list
}

/// A store with `image`, `vm` on it, and `vm@clean`.
fn furnished() -> Silt {
    let silt = Silt::new();
    silt.small_image("image");
    silt.json(&["clone", "image", "vm"]);
    silt.json(&["snapshot", "vm@clean"]);
    silt
}

fn with_client(silt: &Silt, volume: &str, work: impl FnOnce(&NbdClient)) {
    let server = silt.serve(volume, &[]);
    let client = NbdClient::connect(&server.socket).unwrap();
    work(&client);
    client.flush().unwrap();
    drop(client);
    server.stop();
}

/// Writes at odd places, and zeros in three ways; `round` makes each time another.
fn churn(client: &NbdClient, round: u64) {
    for part in 0..5 {
        let at = 5 * MIB + 1 + part * 300_001 + round * 70_000;
        client.write_at(&pseudo_random(40_000, round * 10 + part), at).unwrap();
    }
    client.write_zeroes(5 * MIB + round * 123_456, 50_000, true).unwrap();
    client.discard(6 * MIB + round * 8192, 100_000).unwrap();
    client.write_at(&[0; 9000], 5 * MIB + 600_000 + round * 5000).unwrap();
}

#[test]
fn what_was_written_zeroed_and_discarded_comes_over_sealed_or_not() {
    let silt = furnished();
    assert_eq!(judged(&silt, "vm", "vm@clean"), []);
    assert_eq!(fs::metadata(silt.path("changes.blocks")).unwrap().len(), 0);
    for round in 1..=3 {
        with_client(&silt, "vm", |client| churn(client, round));
        silt.json(&["snapshot", &format!("vm@s{round}")]);
    }
    let look = || {
        for (name, since) in
            [("vm", "vm@s3"), ("vm", "vm@s1"), ("vm@s2", "vm@s1"), ("vm@s3", "vm@clean")]
        {
            judged(&silt, name, since);
        }
        // And back, and to what it was built from.
        judged(&silt, "vm@s1", "vm@s3");
        judged(&silt, "image", "vm");
        judged(&silt, "vm", "image")
    };
    let list = look();
    assert!(list.iter().any(|line| line.2) || list.len() > 5, "{list:?}");
    silt.json(&["seal", "vm"]);
    assert_eq!(look(), list, "sealing changes nothing");
    with_client(&silt, "vm", |client| client.write_zeroes(5 * MIB, 2 * MIB, true).unwrap());
    let list = judged(&silt, "vm", "vm@s3");
    assert!(list.iter().all(|line| line.2) && !list.is_empty(), "{list:?}");
    assert_eq!(fs::metadata(silt.path("changes")).unwrap().blocks(), 0);
}

#[test]
fn disks_that_grew_or_became_shorter_end_where_the_newer_one_does() {
    let silt = furnished();
    silt.json(&["resize", "vm", &(20 * MIB + 1234).to_string()]);
    assert_eq!(judged(&silt, "vm", "vm@clean"), []);
    with_client(&silt, "vm", |client| {
        client.write_at(&pseudo_random(100_000, 1), 16 * MIB - 50_000).unwrap();
        client.write_at(b"the end", 20 * MIB + 1234 - 7).unwrap();
    });
    silt.json(&["snapshot", "vm@grown"]);
    let list = judged(&silt, "vm@grown", "vm@clean");
    assert_eq!(list.last().unwrap(), &(20 << 20, 1234, false));
    with_client(&silt, "vm", |client| {
        client.write_zeroes(15 * MIB, 5 * MIB + 1234, true).unwrap();
        client.write_at(b"x", 9 * MIB + 99).unwrap();
    });
    silt.json(&["resize", "vm", &(16 * MIB).to_string(), "--shrink"]);
    judged(&silt, "vm", "vm@grown");
    judged(&silt, "vm", "vm@clean");
    judged(&silt, "vm@grown", "vm");
}

#[test]
fn clones_of_one_image_and_strangers_can_be_told_from_each_other() {
    let silt = furnished();
    silt.json(&["clone", "image", "other"]);
    with_client(&silt, "vm", |client| churn(client, 1));
    with_client(&silt, "other", |client| churn(client, 2));
    judged(&silt, "vm", "other");
    let dir = silt.small_tree("tree");
    fs::write(dir.join("more"), pseudo_random(500_000, 5)).unwrap();
    silt.json(&["build", dir.to_str().unwrap(), "larger", "--size", "20M"]);
    judged(&silt, "larger", "vm");
    judged(&silt, "vm", "larger");
}

/// As the guide has it.
#[test]
fn a_shell_script_brings_an_older_copy_up_to_date() {
    let silt = furnished();
    fs::write(silt.path("copy.img"), silt.exported("vm@clean")).unwrap();
    with_client(&silt, "vm", |client| churn(client, 1));
    let text = silt.ok(&["export", "vm", "changes.img", "--since", "vm@clean"]);
    assert!(text.contains("changes.img.blocks") && text.contains("vm@clean"), "{text}");
    let script = "while read -r offset length kind; do
            dd if=changes.img of=copy.img conv=notrunc status=none bs=64K skip=$offset seek=$offset \
                count=$length iflag=skip_bytes,count_bytes oflag=seek_bytes
        done < changes.img.blocks
        truncate -s \"$(stat -c %s changes.img)\" copy.img";
    let mut shell = Command::new("sh");
    let ran = Ran::of(shell.args(["-euc", script]).current_dir(silt.path("")));
    assert!(ran.status.success(), "{ran:?}");
    assert!(fs::read(silt.path("copy.img")).unwrap() == silt.exported("vm"));
}

#[test]
fn existing_files_are_replaced_both_and_failures_leave_both() {
    let silt = furnished();
    with_client(&silt, "vm", |client| churn(client, 1));
    let expected = {
        silt.json(&["export", "vm", "fresh", "--since", "vm@clean"]);
        ["fresh", "fresh.blocks"].map(|name| fs::read(silt.path(name)).unwrap())
    };
    fs::write(silt.path("target"), "precious").unwrap();
    fs::write(silt.path("link.blocks"), "its list").unwrap();
    symlink("target", silt.path("link")).unwrap();
    silt.fails(3, &["export", "vm", "link", "--since", "vm@missing"]);
    silt.fails(3, &["export", "missing", "link", "--since", "vm@clean"]);
    silt.fails(10, &["export", "vm", "no/such/folder/file", "--since", "vm@clean"]);
    let server = silt.serve("vm", &[]);
    let pid = server.pid().to_string();
    assert!(silt.fails(5, &["export", "vm", "link", "--since", "vm@clean"]).contains(&pid));
    assert!(silt.fails(5, &["export", "image", "link", "--since", "vm"]).contains(&pid));
    // Snapshots of a served volume stand still.
    assert_eq!(judged(&silt, "vm@clean", "image"), []);
    server.stop();
    assert_eq!(fs::read(silt.path("target")).unwrap(), b"precious");
    assert_eq!(fs::read(silt.path("link.blocks")).unwrap(), b"its list");
    silt.json(&["export", "vm", "link", "--since", "vm@clean"]);
    assert!(fs::symlink_metadata(silt.path("link")).unwrap().is_symlink());
    assert!(fs::read(silt.path("target")).unwrap() == expected[0]);
    assert!(fs::read(silt.path("link.blocks")).unwrap() == expected[1]);
    let names = fs::read_dir(silt.path("")).unwrap().map(|e| e.unwrap().file_name());
    assert!(!names.into_iter().any(|name| name.to_string_lossy().ends_with(".tmp")));
}

#[test]
fn changes_go_to_regular_files_and_raw() {
    let silt = furnished();
    fs::create_dir(silt.path("file.blocks")).unwrap();
    let cases: [(&[&str], &str); 5] = [
        (&["file", "--format", "qcow2"], "--since"),
        (&["-"], "standard output"),
        (&["/dev/null"], "no regular file"),
        (&["small-tree"], "no regular file"),
        (&["file"], "file.blocks"),
    ];
    for (args, expected) in cases {
        let args = [&["export", "vm", "--since", "vm@clean"], args].concat();
        assert!(silt.fails(2, &args).contains(expected), "{args:?}");
    }
    assert!(!silt.path("file").exists());
    silt.fails(6, &["export", "vm", "file", "--since", "no/name"]);
}
