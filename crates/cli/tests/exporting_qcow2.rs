//! `silt export --format qcow2`, judged by qemu-img.

use crate::silt::{Ran, Silt, judge, pseudo_random};
use serde_json::Value;
use silt_testkit::nbd_client::NbdClient;
use silt_volume::BlockDevice as _;
use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
    path::Path,
    process::Command,
};

const CLUSTER: usize = 64 << 10;

fn qemu_img(args: &[&str], files: &[&Path]) -> String {
    let args = args.iter().map(OsStr::new).chain(files.iter().map(|file| file.as_os_str()));
    judge("qemu-img", &args.collect::<Vec<_>>())
}

fn qemu_img_json(command: &str, file: &Path) -> Value {
    serde_json::from_str(&qemu_img(&[command, "-f", "qcow2", "--output=json"], &[file])).unwrap()
}

/// Parts of the disk that have clusters in a qcow2 file, as offset and length; all others must be told as zero. Within a
/// cluster there may be holes in the file.
fn allocated_in(file: &Path) -> Vec<(u64, u64)> {
    let map = qemu_img_json("map", file);
    let (mut at, mut allocated) = (0, Vec::new());
    for run in map.as_array().unwrap() {
        let (start, len) = (run["start"].as_u64().unwrap(), run["length"].as_u64().unwrap());
        assert_eq!(start, at, "{map:#}");
        if run["present"] == true {
            allocated.push((start, len));
        } else {
            assert!(run["zero"] == true && run["data"] == false, "{run:#}");
        }
        at += len;
    }
    allocated
}

/// Exports a disk both ways, lets qemu-img judge, and answers the qcow2 file's space on the disk in bytes.
fn judged(silt: &Silt, name: &str) -> u64 {
    let (raw, qcow2) = (silt.path("judged.img"), silt.path("judged.qcow2"));
    let as_raw = silt.json(&["export", name, "judged.img"]);
    let as_qcow2 = silt.json(&["export", name, "judged.qcow2", "--format", "qcow2"]);
    assert_eq!(as_qcow2["format"], "qcow2");
    for key in ["name", "size", "bytes_written"] {
        assert_eq!(as_raw[key], as_qcow2[key]);
    }
    // Errors and leaks both end it with another code than 0.
    let check = qemu_img_json("check", &qcow2);
    assert!(check["leaks"].is_null() && check["corruptions"].is_null(), "{check:#}");
    qemu_img(&["compare", "-f", "raw", "-F", "qcow2"], &[&raw, &qcow2]);
    let info = qemu_img_json("info", &qcow2);
    let size = as_raw["size"].as_u64().unwrap();
    assert_eq!(info["virtual-size"], size.next_multiple_of(512), "{info:#}");
    assert_eq!(info["format-specific"]["data"]["compat"], "1.1");
    assert!(info["backing-filename"].is_null(), "{info:#}");
    fs::metadata(&qcow2).unwrap().blocks() * 512
}

/// A volume `vm` of this length that is all zero.
fn blank(size_bytes: u64) -> Silt {
    let silt = Silt::new();
    silt.small_image("image");
    silt.json(&["clone", "image", "vm"]);
    with_client(&silt, |client| client.write_zeroes(0, 16 << 20, true).unwrap());
    silt.json(&["resize", "vm", &size_bytes.to_string(), "--shrink"]);
    silt
}

fn with_client(silt: &Silt, work: impl FnOnce(&NbdClient)) {
    let server = silt.serve("vm", &[]);
    let client = NbdClient::connect(&server.socket).unwrap();
    work(&client);
    client.flush().unwrap();
    drop(client);
    server.stop();
}

#[test]
fn a_qcow2_file_is_sound_holds_the_disk_and_allocates_only_clusters_with_data() {
    let silt = Silt::new();
    silt.small_image("image");
    let space = judged(&silt, "image");
    let disk = fs::read(silt.path("judged.img")).unwrap();
    let clusters: BTreeSet<u64> = (0..)
        .zip(disk.chunks(CLUSTER))
        .filter(|(_, cluster)| cluster.iter().any(|byte| *byte != 0))
        .map(|(n, _)| n * CLUSTER as u64)
        .collect();
    let told = allocated_in(&silt.path("judged.qcow2"));
    let told = told.iter().flat_map(|(at, len)| (at / 65_536)..(at + len).div_ceil(65_536));
    let told: BTreeSet<u64> = told.map(|cluster| cluster * CLUSTER as u64).collect();
    assert_eq!(told, clusters);
    let raw = fs::metadata(silt.path("judged.img")).unwrap().blocks() * 512;
    assert!(space < raw + 8 * CLUSTER as u64, "{space} bytes, and {raw} of the raw file");
    // The same disk is the same file, but for the names of features in the header, which the library puts in any order.
    silt.json(&["export", "image", "again", "--format", "qcow2"]);
    let files = ["judged.qcow2", "again"].map(|name| fs::read(silt.path(name)).unwrap());
    assert!(files[0][CLUSTER..] == files[1][CLUSTER..]);
}

#[test]
fn scattered_blocks_zeros_and_a_frozen_delta_are_kept_apart_in_qcow2_too() {
    let silt = Silt::new();
    silt.small_image("image");
    silt.json(&["clone", "image", "vm"]);
    with_client(&silt, |client| {
        let bytes = pseudo_random(4096, 1);
        for block in (0..600).step_by(3) {
            client.write_at(&bytes, (6 << 20) + block * 4096).unwrap();
        }
        client.write_at(&pseudo_random(5 << 20, 2), (9 << 20) + 17).unwrap();
        client.write_zeroes(10 << 20, 1 << 20, true).unwrap();
        client.write_at(&[0; 200_000], 15 << 20).unwrap();
    });
    silt.json(&["snapshot", "vm@before"]);
    judged(&silt, "vm");
    judged(&silt, "vm@before");
    let allocated = allocated_in(&silt.path("judged.qcow2"));
    let has = |at: u64| allocated.iter().any(|(start, len)| (*start..start + len).contains(&at));
    assert!(has(6 << 20) && has(9 << 20));
    assert!(!has((10 << 20) + 4096) && !has((15 << 20) + 4096), "{allocated:?}");
}

/// QEMU counts whole sectors: behind the last one it would leave bytes out.
#[test]
fn disks_of_any_length_are_whole_in_qcow2() {
    for size in [1, 511, 512, 4096, 4097, 65_536, 65_537, (2 << 20) + 12_345] {
        let silt = blank(size);
        judged(&silt, "vm");
        assert_eq!(allocated_in(&silt.path("judged.qcow2")), [], "{size} zeros");
        with_client(&silt, |client| {
            let bytes = pseudo_random(size.min(5000) as usize, size);
            client.write_at(&bytes, size - bytes.len() as u64).unwrap();
        });
        judged(&silt, "vm");
        assert!(!allocated_in(&silt.path("judged.qcow2")).is_empty());
    }
}

#[test]
fn a_sparse_terabyte_is_a_small_qcow2_file() {
    let silt = Silt::new();
    silt.small_image("image");
    silt.json(&["clone", "image", "vm"]);
    silt.json(&["resize", "vm", "1T"]);
    with_client(&silt, |client| {
        for part in 0..256 {
            client.write_at(&pseudo_random(4096, part), part << 32).unwrap();
        }
    });
    // A table of second level takes a cluster, and so does each block that lies alone.
    let space = judged(&silt, "vm");
    assert!(space < 256 * 3 * CLUSTER as u64, "{space}");
    let length = fs::metadata(silt.path("judged.qcow2")).unwrap().len();
    assert!(length < 256 * 3 * CLUSTER as u64, "{length}");
}

#[test]
fn what_is_no_regular_file_takes_no_qcow2() {
    let silt = Silt::new();
    silt.small_image("image");
    assert!(Command::new("mkfifo").arg(silt.path("pipe")).status().unwrap().success());
    for target in ["/dev/null", "pipe", "small-tree"] {
        let message = silt.fails(2, &["export", "image", target, "--format", "qcow2"]);
        assert!(message.contains("no regular file") && message.contains("raw"), "{message}");
    }
    let message = silt.fails(2, &["export", "image", "-", "--format", "qcow2"]);
    assert!(message.contains("standard output"), "{message}");
    silt.fails(2, &["export", "image", "file", "--format", "vmdk"]);
    assert!(!silt.path("file").exists());
}

#[test]
fn an_existing_file_is_kept_when_a_qcow2_export_fails() {
    let silt = Silt::new();
    silt.small_image("image");
    fs::write(silt.path("target"), "precious").unwrap();
    symlink("target", silt.path("link")).unwrap();
    silt.fails(3, &["export", "missing", "link", "--format", "qcow2"]);
    silt.fails(10, &["export", "image", "no/such/folder/file", "--format", "qcow2"]);
    // Damage in the middle: other threads do not wait for a part that will never come.
    let packs = fs::read_dir(silt.store().join("packs")).unwrap().map(|e| e.unwrap().path());
    let pack = packs.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let whole = fs::read(&pack).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(&pack, damaged).unwrap();
    silt.fails(7, &["export", "image", "link", "--format", "qcow2"]);
    assert_eq!(fs::read(silt.path("target")).unwrap(), b"precious");
    let names = fs::read_dir(silt.path("")).unwrap().map(|e| e.unwrap().file_name());
    assert!(!names.into_iter().any(|name| name.to_string_lossy().ends_with(".tmp")));
    fs::write(&pack, whole).unwrap();
    silt.json(&["export", "image", "link", "--format", "qcow2"]);
    assert!(fs::symlink_metadata(silt.path("link")).unwrap().is_symlink());
    let check = Ran::of(Command::new("qemu-img").arg("check").arg(silt.path("target")));
    assert!(check.status.success(), "{check:?}");
}
