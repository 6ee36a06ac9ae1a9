//! Clones that are longer than what they begin from, and the file system on them.

use crate::{
    silt::{Silt, judge, pseudo_random, wait_for, wait_for_end},
    volumes::write,
};
use std::{ffi::OsStr, fs::File};

const GIB: u64 = 1 << 30;

/// The disk as a file that e2fsck has nothing to say about; answers the length of its file system in blocks.
fn checked(silt: &Silt, disk: &str) -> u64 {
    let file = silt.path(format!("{disk}.checked"));
    silt.ok(&[OsStr::new("export"), disk.as_ref(), file.as_ref()]);
    judge("e2fsck", &["-fn".as_ref(), file.as_ref()]);
    let told = judge("dumpe2fs", &["-h".as_ref(), file.as_ref()]);
    let count = told.lines().find_map(|line| line.strip_prefix("Block count:")).unwrap();
    std::fs::remove_file(file).unwrap();
    count.trim().parse().unwrap()
}

#[test]
fn a_longer_clone_has_a_longer_file_system_with_the_same_files() {
    let silt = Silt::new();
    silt.small_image("image");
    let before = silt.exported("image");
    let made = silt.json(&["clone", "image", "vm", "--size", "10G"]);
    assert_eq!(made["size"], 10 * GIB, "{made:#}");
    let file_system = &made["file_system"];
    assert_eq!((&file_system["grown"], &file_system["size"]), (&true.into(), &(10 * GIB).into()));
    assert_eq!(checked(&silt, "vm") * 4096, 10 * GIB);
    let files = silt.json(&["diff", "image", "vm", "--files"]);
    assert_eq!(files["changes"].as_array().map(Vec::len), Some(0), "{files:#}");
    assert!(silt.exported("image") == before, "the source has changed");

    // The same growth is the same disk, and a grown disk grows on.
    let again = silt.json(&["clone", "image", "worker", "-n", "3", "--size", "10G"]);
    assert_eq!(again["base"], made["base"]);
    silt.json(&["snapshot", "vm@a"]);
    for source in ["vm", "vm@a"] {
        let more = silt.json(&["clone", source, "more", "--size", "11G"]);
        assert_eq!(
            (&more["file_system"]["grown"], &more["source"]),
            (&true.into(), &source.into())
        );
        assert_eq!(checked(&silt, "more") * 4096, 11 * GIB);
        silt.ok(&["rm", "more"]);
    }
    silt.assert_verified();
}

#[test]
fn growing_costs_metadata_whatever_the_length() {
    let silt = Silt::new();
    silt.small_image("image");
    let largest = silt.fails(6, &["clone", "image", "vm", "--size", "17T"]);
    assert!(largest.contains("16 TiB"), "{largest}");
    let before = silt.json(&["info"])["bytes_stored"].as_u64().unwrap();
    let size = silt.json(&["info", "image"])["size"].as_u64().unwrap() * 1024;
    let made = silt.json(&["clone", "image", "vm", "--size", &size.to_string()]);
    assert_eq!(made["file_system"]["grown"], true, "{made:#}");
    let added = silt.json(&["info"])["bytes_stored"].as_u64().unwrap() - before;
    assert!(added < 256 << 10, "{added} bytes for a disk of {size}");
    silt.assert_verified();
}

#[test]
fn what_a_volume_has_written_is_in_its_longer_clone() {
    let silt = Silt::new();
    silt.small_image("image");
    silt.json(&["clone", "image", "vm"]);
    // Of a block that no file has, so that the file system stays as it is.
    let mut disk = silt.exported("vm");
    let at = disk.len() - 4096;
    assert!(disk[at..].iter().all(|byte| *byte == 0));
    let bytes = pseudo_random(4096, 7);
    write(&silt, "vm", at as u64, &bytes);
    disk[at..].copy_from_slice(&bytes);
    let made = silt.json(&["clone", "vm", "longer", "--size", "1G"]);
    assert_eq!(made["file_system"]["grown"], true, "{made:#}");
    assert!(silt.exported("longer")[at..at + 4096] == bytes, "the clone lost a write");
    assert!(silt.exported("vm") == disk, "the source has changed");
    assert_eq!(silt.names(), ["image", "longer", "vm"]);
    checked(&silt, "longer");
    silt.json(&["rm", "vm"]);
    assert!(silt.exported("longer")[at..at + 4096] == bytes, "the source took a write with it");
    silt.assert_verified();
}

#[test]
fn a_file_system_that_cannot_be_grown_is_left_as_it_is_and_the_reason_told() {
    let silt = Silt::new();
    silt.small_image("image");
    let size = silt.json(&["info", "image"])["size"].as_u64().unwrap();
    let left = |source: &str, length: u64, reason: &str| {
        let length = length.to_string();
        let ran = silt.run(&["clone", source, "longer", "--size", &length, "--json"]);
        assert_eq!(ran.status.code(), Some(0), "{}", ran.stderr);
        assert!(ran.stderr.contains(reason), "{}", ran.stderr);
        let made = ran.document();
        assert_eq!(made["file_system"]["grown"], false, "{made:#}");
        assert!(made["file_system"]["reason"].as_str().unwrap().contains(reason), "{made:#}");
        let (mut short, long) = (silt.exported(source), silt.exported("longer"));
        short.resize(long.len(), 0);
        assert!(short == long, "{source} is another disk with {length} bytes");
        silt.ok(&["rm", "longer"]);
    };
    silt.json(&["clone", "image", "blank"]);
    write(&silt, "blank", 1024, &vec![0; 1024]);
    left("blank", size + 4096, "ext4");
    let beyond = (size * 1024 + GIB).to_string();
    let made = silt.json(&["clone", "image", "beyond", "--size", &beyond]);
    let reason = made["file_system"]["reason"].as_str().unwrap();
    assert!(reason.contains("new layout"), "{reason}");
    silt.assert_verified();
}

#[test]
fn bad_lengths_of_clones_leave_nothing() {
    let silt = Silt::new();
    silt.small_image("image");
    silt.json(&["clone", "image", "vm"]);
    let size = silt.json(&["info", "image"])["size"].as_u64().unwrap();
    write(&silt, "vm", 8192, &[1; 512]);
    let before = silt.json(&["ls"]);
    for source in ["image", "vm"] {
        for bad in ["0", "4096", &(size - 1).to_string(), "17T", "16777217M", "-1", "many"] {
            silt.fails(6, &["clone", source, "other", &format!("--size={bad}")]);
        }
        silt.fails(4, &["clone", source, "vm", "--size", "1G"]);
        silt.fails(6, &["clone", source, "other", "-n", "0", "--size", "1G"]);
    }
    silt.fails(3, &["clone", "nothing", "other", "--size", "1G"]);
    assert_eq!(silt.json(&["ls"]), before);
    assert_eq!(silt.json(&["info", "vm"])["frozen_deltas"], 0);
    silt.assert_verified();
}

/// A clone that took long to seal had gone on from a snapshot that was removed meanwhile, and had no history at all.
#[test]
fn a_longer_clone_goes_on_from_what_is_left_of_its_history() {
    let silt = Silt::new();
    silt.small_image("image");
    silt.json(&["clone", "image", "vm"]);
    for (snapshot, round) in [("vm@a", 1), ("vm@b", 2)] {
        write(&silt, "vm", 5 << 20, &pseudo_random(50_000, round));
        silt.json(&["snapshot", snapshot]);
    }
    // Nobody can seal the deltas while this test has their locks.
    let maps = silt.files_called("map.log").into_iter();
    let locks: Vec<_> = maps.map(|path| File::open(path.parent().unwrap()).unwrap()).collect();
    locks.iter().for_each(|lock| lock.lock().unwrap());
    let mut clone = silt.command(&["clone", "vm", "longer", "--size", "1G"]).spawn().unwrap();
    // The state that it holds is a snapshot that verification counts, and nobody else sees.
    wait_for("the clone to hold a state", || silt.json(&["verify"])["snapshots"] == 3);
    silt.json(&["rm", "vm@b"]);
    drop(locks);
    assert!(wait_for_end(&mut clone).success());
    let history = silt.json(&["log", "longer"]);
    assert_eq!((&history[0]["name"], &history[0]["parent"]), (&"longer".into(), &"vm@a".into()));
    silt.assert_verified();
}
