//! Volumes: cloned from anything, written through a server, removed; nobody else notices.

use crate::silt::{Silt, disk_usage, pseudo_random};
use serde_json::Value;
use silt_testkit::nbd_client::NbdClient;
use silt_volume::BlockDevice as _;
use std::fs;

/// Serves a volume, writes `bytes` at `offset`, and ends the server.
pub(crate) fn write(silt: &Silt, volume: &str, offset: u64, bytes: &[u8]) {
    let server = silt.serve(volume, &[]);
    let client = NbdClient::connect(&server.socket).unwrap();
    client.write_at(bytes, offset).unwrap();
    client.flush().unwrap();
    drop(client);
    server.stop();
}

fn patched(disk: &[u8], offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut disk = disk.to_vec();
    disk[offset..offset + bytes.len()].copy_from_slice(bytes);
    disk
}

#[test]
fn clones_begin_as_their_source_is_and_go_their_own_ways() {
    let silt = Silt::new();
    silt.small_image("image");
    let image = silt.exported("image");
    silt.json(&["clone", "image", "one"]);
    assert!(silt.exported("one") == image);
    let (first, second, third) =
        (pseudo_random(10_000, 1), pseudo_random(5_000, 2), pseudo_random(7_000, 3));
    write(&silt, "one", 1_000_001, &first);
    let one = patched(&image, 1_000_001, &first);
    // Of a written volume; of one that was not written since; of a clone.
    silt.json(&["clone", "one", "two"]);
    silt.json(&["clone", "one", "three"]);
    silt.json(&["clone", "two", "four"]);
    for name in ["one", "two", "three", "four"] {
        assert!(silt.exported(name) == one, "{name}");
    }
    write(&silt, "one", 1_004_000, &second);
    write(&silt, "two", 999_000, &third);
    let (one_now, two_now) = (patched(&one, 1_004_000, &second), patched(&one, 999_000, &third));
    for (name, expected) in
        [("image", &image), ("one", &one_now), ("two", &two_now), ("three", &one), ("four", &one)]
    {
        assert!(&silt.exported(name) == expected, "{name}");
    }
    silt.assert_verified();
    // Whoever goes first, the others stay as they are.
    for gone in ["one", "image"] {
        silt.json(&["rm", gone]);
    }
    for (name, expected) in [("two", &two_now), ("three", &one), ("four", &one)] {
        assert!(&silt.exported(name) == expected, "{name}");
    }
    silt.assert_verified();
    silt.json(&["rm", "two", "three"]);
    assert!(silt.exported("four") == one);
    silt.json(&["rm", "four"]);
    assert!(silt.names().is_empty());
    assert_eq!(fs::read_dir(silt.store().join("volumes")).unwrap().count(), 0, "nothing is left");
    silt.assert_verified();
}

#[test]
fn a_replaced_image_leaves_volumes_on_their_old_base() {
    let silt = Silt::new();
    let old = silt.small_image("image");
    silt.json(&["clone", "image", "volume"]);
    let before = silt.exported("volume");
    let dir = silt.small_tree("tree");
    fs::write(dir.join("data"), pseudo_random(500_000, 99)).unwrap();
    let args = ["build", dir.to_str().unwrap(), "image", "--replace", "--size", "24M"];
    let new = silt.json(&args);
    assert_ne!(new["disk_id"], old["disk_id"]);
    assert_eq!(silt.json(&["info", "image"])["disk_id"], new["disk_id"]);
    let volume = silt.json(&["info", "volume"]);
    assert_eq!((&volume["base"], &volume["size"]), (&old["disk_id"], &(16 << 20).into()));
    assert!(silt.exported("volume") == before);
    silt.json(&["clone", "image", "newer"]);
    assert_eq!(silt.exported("newer").len(), 24 << 20);
    // A name that is free is no obstacle to replacing.
    silt.json(&["build", dir.to_str().unwrap(), "fresh", "--replace"]);
    silt.assert_verified();
}

#[test]
fn info_tells_what_a_volume_has_written() {
    let silt = Silt::new();
    let built = silt.small_image("image");
    silt.json(&["clone", "image", "volume"]);
    write(&silt, "volume", 4096 * 100 + 1, &[5; 4096]);
    let info = silt.json(&["info", "volume"]);
    assert_eq!(info["blocks_modified"], 2);
    assert_eq!(info["disk_id"], Value::Null);
    assert_eq!(info["base"], built["disk_id"]);
    let allocated = info["delta_bytes_allocated"].as_u64().unwrap();
    assert!((8192..=65_536).contains(&allocated), "{allocated}");
    assert!(info["efficiency"].as_f64().unwrap() > 0.0);
    // Trimmed blocks stay modified and give their space back.
    let server = silt.serve("volume", &[]);
    let client = NbdClient::connect(&server.socket).unwrap();
    client.write_at(&pseudo_random(1 << 20, 1), 8 << 20).unwrap();
    client.flush().unwrap();
    let full = silt.json(&["info", "volume"]);
    client.discard(8 << 20, 1 << 20).unwrap();
    client.flush().unwrap();
    let trimmed = silt.json(&["info", "volume"]);
    let number = |info: &Value, key: &str| info[key].as_u64().unwrap();
    assert_eq!(number(&full, "blocks_modified"), number(&trimmed, "blocks_modified"));
    assert!(
        number(&full, "delta_bytes_allocated")
            >= number(&trimmed, "delta_bytes_allocated") + (1 << 20)
    );
    assert_eq!(trimmed["served_by"]["pid"], server.pid());
    assert_eq!(trimmed["served_by"]["address"], server.socket.to_str().unwrap());
    server.stop();
    assert_eq!(silt.json(&["info", "volume"])["served_by"], Value::Null);
}

#[test]
fn what_is_served_is_busy_for_whoever_would_change_it_or_read_it_as_a_whole() {
    let silt = Silt::new();
    silt.small_image("image");
    silt.json(&["clone", "image", "volume"]);
    silt.json(&["clone", "image", "other"]);
    let server = silt.serve("volume", &[]);
    let pid = server.pid().to_string();
    let cases: [&[&str]; 4] = [
        &["rm", "volume"],
        &["export", "volume", "file"],
        &["serve", "volume", "--nbd", "another.sock"],
        &["serve", "volume", "--nbd", "another.sock", "--read-only"],
    ];
    for case in cases {
        let message = silt.fails(5, case);
        assert!(message.contains(&pid) && message.contains("volume.sock"), "{message}");
    }
    assert_eq!(silt.names(), ["image", "other", "volume"]);
    // The image below goes its own way.
    silt.json(&["rm", "image"]);
    silt.json(&["export", "other", "file"]);
    server.stop();
    silt.json(&["rm", "volume"]);
    silt.assert_verified();
}

#[test]
fn a_clone_of_a_huge_disk_takes_next_to_no_space() {
    let silt = Silt::new();
    let dir = silt.small_tree("tree");
    silt.json(&["build", dir.to_str().unwrap(), "huge", "--size", "1T"]);
    let before = disk_usage(&silt.store());
    silt.json(&["clone", "huge", "one"]);
    let one = disk_usage(&silt.store());
    assert!(one <= before + (64 << 10), "{before} {one}");
    for n in 0..9 {
        silt.json(&["clone", "huge", &format!("more-{n}")]);
    }
    let ten = disk_usage(&silt.store());
    assert!(ten <= one + 9 * (64 << 10), "{one} {ten}");
    // Written at its very end, and shared by a clone of its own.
    write(&silt, "one", (1 << 40) - 4096, &[9; 4096]);
    silt.json(&["clone", "one", "two"]);
    let server = silt.serve("two", &["--read-only"]);
    let mut last = [0; 8192];
    NbdClient::connect(&server.socket).unwrap().read_at(&mut last, (1 << 40) - 8192).unwrap();
    assert!(last[..4096] == [0; 4096] && last[4096..] == [9; 4096]);
    server.stop();
}

#[test]
fn a_ninth_frozen_delta_waits_until_the_oldest_is_sealed() {
    let silt = Silt::new();
    silt.small_image("image");
    let mut expected = silt.exported("image");
    silt.json(&["clone", "image", "v0"]);
    for n in 0..9 {
        let (name, next) = (format!("v{n}"), format!("v{}", n + 1));
        let offset = 2_000_000 + n * 4096;
        write(&silt, &name, offset as u64, &[n as u8 + 1; 4096]);
        expected = patched(&expected, offset, &[n as u8 + 1; 4096]);
        silt.json(&["clone", &name, &next]);
        assert_eq!(silt.json(&["info", &next])["frozen_deltas"], 8.min(n + 1));
        assert!(silt.exported(&name) == expected, "{name}");
    }
    silt.assert_verified();
}
