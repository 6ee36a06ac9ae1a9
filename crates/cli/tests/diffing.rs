//! `silt diff`: blocks against a comparison of exported bytes, files against what was done to a mounted copy.

use crate::silt::{Silt, is_root, judge, pseudo_random};
use serde_json::{Value, json};
use silt_testkit::nbd_client::NbdClient;
use silt_volume::BlockDevice as _;
use std::{ffi::OsStr, fs, path::Path, process::Command};

const BLOCK: usize = 4096;

/// Serves a volume and brings its bytes to those of a file, writing only what differs.
fn write_from(silt: &Silt, volume: &str, file: &Path) {
    let (old, new) = (silt.exported(volume), fs::read(file).unwrap());
    let server = silt.serve(volume, &[]);
    let client = NbdClient::connect(&server.socket).unwrap();
    for (n, (a, b)) in old.chunks(BLOCK).zip(new.chunks(BLOCK)).enumerate() {
        if a != b {
            client.write_at(b, (n * BLOCK) as u64).unwrap();
        }
    }
    client.flush().unwrap();
    drop(client);
    server.stop();
}

fn differing_blocks(a: &[u8], b: &[u8]) -> Vec<u64> {
    let len = a.len().max(b.len());
    let block = |bytes: &[u8], n: usize| {
        let mut block = bytes.iter().skip(n * BLOCK).take(BLOCK).copied().collect::<Vec<u8>>();
        block.resize(BLOCK, 0);
        block
    };
    let blocks = 0..len.div_ceil(BLOCK);
    blocks.filter(|n| block(a, *n) != block(b, *n)).map(|n| n as u64).collect()
}

fn told(diff: &Value) -> Vec<u64> {
    let number = |value: &Value| value.as_u64().unwrap();
    let ranges = diff["ranges"].as_array().unwrap().iter();
    let blocks: Vec<u64> = ranges
        .flat_map(|range| number(&range["start"])..number(&range["start"]) + number(&range["len"]))
        .collect();
    assert_eq!(number(&diff["blocks_differing"]), blocks.len() as u64);
    assert_eq!(number(&diff["bytes_differing"]), (blocks.len() * BLOCK) as u64);
    blocks
}

#[test]
fn blocks_that_differ_are_those_whose_exported_bytes_do() {
    let silt = Silt::new();
    silt.small_image("image");
    silt.json(&["clone", "image", "one"]);
    assert!(told(&silt.json(&["diff", "image", "one"])).is_empty());
    assert_eq!(silt.ok(&["diff", "one", "one"]), "0 blocks differ (0 B) in 0 ranges\n");
    let image = silt.exported("image");
    let file = silt.path("patched");
    let mut patched = image.clone();
    patched[5_000_000..5_020_000].copy_from_slice(&pseudo_random(20_000, 3));
    patched[9_000_001] ^= 1;
    fs::write(&file, &patched).unwrap();
    write_from(&silt, "one", &file);
    // A clone shares the frozen delta below, and goes on from there.
    silt.json(&["clone", "one", "two"]);
    patched[12_000_000] ^= 1;
    fs::write(&file, &patched).unwrap();
    write_from(&silt, "two", &file);
    for (a, b) in [("image", "one"), ("one", "two"), ("two", "image")] {
        let expected = differing_blocks(&silt.exported(a), &silt.exported(b));
        let diff = silt.json(&["diff", a, b]);
        assert_eq!(told(&diff), expected, "{a} {b}");
        assert_eq!((&diff["a"], &diff["b"]), (&json!(a), &json!(b)));
    }
    let text = silt.ok(&["diff", "one", "two"]);
    assert_eq!(text, "1 blocks differ (4.00 KiB) in 1 ranges\nblock  2929\n");
    // Another image, of another length.
    let dir = silt.small_tree("tree");
    fs::write(dir.join("more"), pseudo_random(100_000, 5)).unwrap();
    silt.json(&["build", dir.to_str().unwrap(), "larger", "--size", "20M"]);
    let expected = differing_blocks(&image, &silt.exported("larger"));
    let diff = silt.json(&["diff", "image", "larger"]);
    assert_eq!(told(&diff), expected);
    assert_eq!((&diff["a_size"], &diff["b_size"]), (&json!(16 << 20), &json!(20 << 20)));
}

#[test]
fn root_loop_mount_files_are_told_as_they_were_changed() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let dir = silt.small_tree("tree");
    for name in ["etc/old", "etc/mode", "etc/owner", "etc/times", "etc/moved"] {
        fs::write(dir.join(name), name).unwrap();
    }
    silt.json(&["build", dir.to_str().unwrap(), "image", "--size", "16M"]);
    silt.json(&["clone", "image", "volume"]);
    assert_eq!(silt.ok(&["diff", "image", "volume", "--files"]), "no file differs\n");
    let (file, mount) = (silt.path("disk"), silt.path("mount"));
    fs::write(&file, silt.exported("volume")).unwrap();
    fs::create_dir(&mount).unwrap();
    let script = "mount -o loop disk mount && cd mount && {
        echo new > etc/new; rm etc/old; chmod 600 etc/mode; chown 5:6 etc/owner; touch -d 2001-01-01 etc/times
        mv etc/moved moved; echo more >> etc/hostname; ln -sfn elsewhere link; printf x > $'odd\\n\\xff'
        mkdir -p 'a b'; cat data > 'a b/größe'; rm link; echo now > link
        } ; cd ..; umount mount";
    let mut shell = Command::new("bash");
    shell.args(["-euc", script]).current_dir(silt.path(""));
    assert!(shell.status().unwrap().success());
    judge("e2fsck", &[OsStr::new("-fn"), file.as_os_str()]);
    write_from(&silt, "volume", &file);
    let expected = "\
A  a b
A  a b/größe
M  etc/hostname
p  etc/mode
A  etc/new
D  etc/old
o  etc/owner
t  etc/times
T  link
R  etc/moved -> moved
A  odd\\n\\xff
4 added, 1 removed, 1 renamed, 5 changed
";
    assert_eq!(silt.ok(&["diff", "image", "volume", "--files"]), expected);
    let document = silt.json(&["diff", "image", "volume", "--files"]);
    assert_eq!((&document["a"], &document["b"]), (&json!("image"), &json!("volume")));
    let changes = document["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 11);
    let change = |path: &str| changes.iter().find(|change| change["path"] == path).unwrap();
    let hostname = json!({ "path": "etc/hostname", "kind": "file", "what": ["content", "times"] });
    assert_eq!(*change("etc/hostname"), hostname);
    let moved =
        json!({ "path": "moved", "kind": "file", "what": ["renamed"], "from": "etc/moved" });
    assert_eq!(*change("moved"), moved);
    let odd = change("odd\n\u{fffd}");
    assert_eq!(odd["path_bytes"], "b2RkCv8=");
    assert_eq!(change("a b")["kind"], "directory");
}

#[test]
fn what_cannot_be_compared_says_why() {
    let silt = Silt::new();
    silt.small_image("image");
    silt.json(&["clone", "image", "volume"]);
    silt.fails(3, &["diff", "image", "missing"]);
    silt.fails(3, &["diff", "image@before", "volume"]);
    silt.fails(6, &["diff", "image", "no/name"]);
    let server = silt.serve("volume", &[]);
    for args in [&["diff", "image", "volume"][..], &["diff", "volume", "image", "--files"]] {
        assert!(silt.fails(5, args).contains(&server.pid().to_string()));
    }
    // No file system, and then half a one.
    let client = NbdClient::connect(&server.socket).unwrap();
    client.write_at(&[0; 1024], 1024).unwrap();
    client.flush().unwrap();
    drop(client);
    server.stop();
    let message = silt.fails(6, &["diff", "image", "volume", "--files"]);
    assert!(message.contains("volume") && message.contains("not an ext4"), "{message}");
    assert_eq!(told(&silt.json(&["diff", "image", "volume"])), [0]);
    let file = silt.path("disk");
    let mut disk = silt.exported("image");
    disk[1024 + 0x20] ^= 1;
    fs::write(&file, &disk).unwrap();
    write_from(&silt, "volume", &file);
    silt.fails(7, &["diff", "volume", "image", "--files"]);
}
