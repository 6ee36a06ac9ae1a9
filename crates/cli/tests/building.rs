//! `silt build`: sizes, what it counts, what it refuses to leave out.

use crate::silt::{NOBODY, Silt, is_root, pseudo_random, wait_for_end};
use serde_json::Value;
use silt_testkit::{ext4_image::e2fsck, fault::every_file_of};
use std::{
    fs::{self, File, Permissions},
    io::Write as _,
    os::unix::fs::{FileExt as _, PermissionsExt as _, symlink},
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

fn build_args<'a>(dir: &'a Path, name: &'a str) -> [&'a str; 3] {
    ["build", dir.to_str().unwrap(), name]
}

#[test]
fn a_disk_is_exactly_as_long_as_it_was_asked_to_be() {
    let silt = Silt::new();
    let dir = silt.path("tree");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("file"), "content").unwrap();
    let sizes = [
        ("1M", 1u64 << 20),
        ("1048577", (1 << 20) + 1),
        ("3000000", 3_000_000),
        ("8388607", (8 << 20) - 1),
        ("16777727", (16 << 20) + 511),
        ("129MiB", 129 << 20),
        ("1100M", 1100 << 20),
    ];
    for (size, bytes) in sizes {
        let built = silt.json(&[&build_args(&dir, size)[..], &["--size", size]].concat());
        assert_eq!(built["size"], bytes, "{size}");
        let file = silt.path("exported");
        silt.json(&["export", size, "exported"]);
        assert_eq!(fs::metadata(&file).unwrap().len(), bytes, "{size}");
        e2fsck(&file).unwrap();
        // A volume of it is as long, and its last byte can be written.
        let volume = format!("{size}-volume");
        silt.json(&["clone", size, &volume]);
        let server = silt.serve(&volume, &[]);
        let client = silt_testkit::nbd_client::NbdClient::connect(&server.socket).unwrap();
        silt_volume::BlockDevice::write_at(&client, &[7], bytes - 1).unwrap();
        assert!(silt_volume::BlockDevice::write_at(&client, &[7], bytes).is_err(), "{size}");
        drop(client);
        server.stop();
        assert_eq!(silt.exported(&volume).last(), Some(&7), "{size}");
    }
    silt.assert_verified();
}

#[test]
fn the_largest_disk_is_built_and_cloned_like_any_other() {
    let silt = Silt::new();
    let dir = silt.small_tree("tree");
    let built = silt.json(&[&build_args(&dir, "large")[..], &["--size", "16T"]].concat());
    assert_eq!(built["size"], 16u64 << 40);
    silt.json(&["clone", "large", "volume"]);
    silt.assert_verified();
}

#[test]
fn a_disk_that_is_too_small_is_refused_and_the_message_says_what_is_enough() {
    let silt = Silt::new();
    let dir = silt.small_tree("tree");
    fs::write(dir.join("more"), pseudo_random(5 << 20, 1)).unwrap();
    let message = silt.fails(8, &[&build_args(&dir, "image")[..], &["--size", "2M"]].concat());
    let enough = numbers(&message).into_iter().max().unwrap().to_string();
    silt.json(&[&build_args(&dir, "image")[..], &["--size", &enough]].concat());
    assert_eq!(silt.names(), ["image"]);
    silt.fails(8, &[&build_args(&dir, "other")[..], &["--size", "5M"]].concat());
    silt.assert_verified();
}

fn numbers(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

#[test]
fn the_default_size_holds_the_content_and_leaves_room() {
    let silt = Silt::new();
    let dir = silt.small_tree("tree");
    fs::write(dir.join("more"), pseudo_random(40 << 20, 1)).unwrap();
    let built = silt.json(&build_args(&dir, "image"));
    let (size, free) = (built["size"].as_u64().unwrap(), built["bytes_free"].as_u64().unwrap());
    assert!(size > 40 << 20 && size < 100 << 20, "{size}");
    assert!(free > 4 << 20 && free < size - (40 << 20), "{free} of {size}");
    let again = silt.ok(&[&build_args(&dir, "image")[..], &["--replace"]].concat());
    assert!(again.contains(" free,"), "{again}");
}

#[test]
fn a_folder_named_by_a_link_or_relatively_is_the_same_folder() {
    let silt = Silt::new();
    let dir = silt.small_tree("tree");
    symlink("tree", silt.path("link")).unwrap();
    let direct = silt.json(&build_args(&dir, "direct"));
    for (name, path) in [("link", "link"), ("relative", "./tree/../tree/"), ("slashes", "tree//")] {
        let built = silt.json(&["build", path, name]);
        assert_eq!(built["disk_id"], direct["disk_id"], "{name}");
    }
}

#[test]
fn counters_add_up_whatever_is_shared() {
    let silt = Silt::new();
    let dir = silt.small_tree("tree");
    let number = |built: &Value, key: &str| built[key].as_u64().unwrap();
    let mut known = 0;
    for n in 0..4 {
        fs::write(dir.join(format!("new-{n}")), pseudo_random(200_000 + n, n as u64)).unwrap();
        fs::copy(dir.join("data"), dir.join(format!("copy-{n}"))).unwrap();
        let built = silt.json(&build_args(&dir, &format!("image-{n}")));
        let new = number(&built, "bytes_new");
        assert_eq!(new + number(&built, "bytes_deduplicated"), number(&built, "bytes_nonzero"));
        assert!(new >= 200_000 + n as u64, "{built:#}");
        assert!(number(&built, "bytes_deduplicated") >= 300_000, "copies are stored once");
        assert!(number(&built, "chunks_new") < number(&built, "chunks"));
        known += new;
        let store = silt.json(&["info"]);
        assert_eq!(number(&store, "bytes_unique"), known);
        let files: u64 = 300_000 + 10 + (0..=n as u64).map(|n| 200_000 + n).sum::<u64>();
        assert_eq!(number(&store, "bytes_unique_file_data"), files);
    }
    silt.assert_verified();
}

#[test]
fn compression_is_obeyed_and_none_stores_raw() {
    let silt = Silt::new();
    let dir = silt.path("tree");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("text"), "all work and no play\n".repeat(100_000)).unwrap();
    let stored = |codec: &str| {
        let silt = Silt::new();
        let args = [&build_args(&dir, "image")[..], &["--compression", codec]].concat();
        let built = silt.json(&args);
        silt.assert_verified();
        assert_eq!(silt.exported("image").len() as u64, built["size"].as_u64().unwrap());
        (built["bytes_stored"].as_u64().unwrap(), built["bytes_new"].as_u64().unwrap())
    };
    let (none, new) = stored("none");
    assert_eq!(none, new);
    for codec in ["lz4", "zstd", "zstd:1", "zstd:19"] {
        assert!(stored(codec).0 < none / 5, "{codec}");
    }
}

#[test]
fn root_what_cannot_be_read_is_named_and_nothing_is_published() {
    if !is_root() {
        return;
    }
    let silt = Silt::as_user(NOBODY);
    let dir = silt.small_tree("tree");
    fs::create_dir_all(dir.join("closed folder/inside")).unwrap();
    let secrets = ["secret\nfile", "etc/other secret"];
    for secret in secrets {
        fs::write(dir.join(secret), "secret").unwrap();
        fs::set_permissions(dir.join(secret), Permissions::from_mode(0o600)).unwrap();
    }
    fs::set_permissions(dir.join("closed folder"), Permissions::from_mode(0o700)).unwrap();
    // The walk comes first: what it cannot enter ends the build before files are read.
    let message = silt.fails(10, &build_args(&dir, "image"));
    assert!(message.contains("closed folder"), "{message}");
    fs::set_permissions(dir.join("closed folder"), Permissions::from_mode(0o755)).unwrap();
    let message = silt.fails(10, &build_args(&dir, "image"));
    assert!(message.contains(r"secret\nfile") && message.contains("etc/other secret"), "{message}");
    assert!(message.contains("2 entries"), "{message}");
    assert!(silt.names().is_empty());
    silt.assert_verified();
    secrets.iter().for_each(|secret| fs::remove_file(dir.join(secret)).unwrap());
    silt.json(&build_args(&dir, "image"));
}

/// Builds from a folder in which `change` goes on all the while, until a build notices. One may end before the change.
fn refused_while(silt: &Silt, dir: &Path, change: impl Fn() + Sync) -> String {
    let stop = AtomicBool::new(false);
    let message = thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                change();
            }
        });
        let refused = (0..30).find_map(|_| {
            let ran = silt.run(&build_args(dir, "image"));
            if ran.status.success() {
                silt.json(&["rm", "image"]);
                return None;
            }
            assert_eq!(ran.status.code(), Some(10), "{ran:?}");
            Some(ran.stderr)
        });
        stop.store(true, Relaxed);
        refused.unwrap()
    });
    assert!(silt.names().is_empty());
    silt.json(&build_args(dir, "image"));
    silt.assert_verified();
    message
}

#[test]
fn a_file_that_grows_while_it_is_read_is_named() {
    let silt = Silt::new();
    let dir = silt.small_tree("tree");
    let log = dir.join("growing log");
    fs::write(&log, pseudo_random(48 << 20, 1)).unwrap();
    let file = File::options().append(true).open(&log).unwrap();
    let message = refused_while(&silt, &dir, || (&file).write_all(b"one more line\n").unwrap());
    assert!(message.contains("growing log") && message.contains("changed"), "{message}");
}

/// Holes of a long file are skipped, so nothing is read of a file that is one hole; that it changes must be seen all the
/// same.
#[test]
fn a_long_hole_whose_length_changes_while_it_is_skipped_is_named() {
    let silt = Silt::new();
    let dir = silt.small_tree("tree");
    let hole = File::create(dir.join("all hole")).unwrap();
    hole.set_len(20 << 20).unwrap();
    let message = refused_while(&silt, &dir, || {
        hole.set_len(40 << 20).unwrap();
        hole.set_len(20 << 20).unwrap();
    });
    assert!(message.contains("all hole") && message.contains("changed"), "{message}");
}

#[test]
fn folders_that_come_and_go_are_named_or_not_there_at_all() {
    let silt = Silt::new();
    let dir = silt.small_tree("tree");
    for n in 0..300 {
        fs::create_dir(dir.join(format!("stays-{n}"))).unwrap();
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let vanishing = dir.join("vanishing");
            while !stop.load(Relaxed) {
                fs::create_dir_all(vanishing.join("inner")).unwrap();
                fs::write(vanishing.join("inner/file"), "content").unwrap();
                fs::remove_dir_all(&vanishing).unwrap();
            }
        });
        for n in 0..12 {
            let name = format!("image-{n}");
            let ran = silt.run(&build_args(&dir, &name));
            match ran.status.code() {
                Some(0) => assert!(silt.names().contains(&name)),
                Some(10) => {
                    assert!(ran.stderr.contains("vanishing"), "{ran:?}");
                    assert!(!silt.names().contains(&name));
                }
                _ => panic!("{ran:?}"),
            }
        }
        stop.store(true, Relaxed);
    });
    silt.assert_verified();
}

#[test]
fn memory_stays_bounded_whatever_comes_in() {
    const LIMIT_KIB: u64 = 256 << 10;
    let silt = Silt::new();
    let dir = silt.path("tree");
    fs::create_dir(&dir).unwrap();
    let large = File::create(dir.join("large")).unwrap();
    for n in 0..40u64 {
        // Random, zeros and hole in turn.
        large.write_all_at(&pseudo_random(12 << 20, n), n * (52 << 20)).unwrap();
        large.write_all_at(&vec![0; 8 << 20], n * (52 << 20) + (12 << 20)).unwrap();
    }
    large.set_len(2 << 30).unwrap();
    for n in 0..5000 {
        fs::write(dir.join(format!("small file number {n}")), pseudo_random(n, n as u64)).unwrap();
    }
    let mut command = silt.command(&["build", "tree", "image"]);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let mut peak_kib = 0;
    while child.try_wait().unwrap().is_none() {
        // The kernel keeps the highest value; only the last moments may be missed.
        let status = fs::read_to_string(format!("/proc/{}/status", child.id()));
        let line = status.unwrap_or_default();
        let line = line.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or("");
        peak_kib = numbers(line).first().copied().unwrap_or(0).max(peak_kib);
        thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(wait_for_end(&mut child).success());
    assert!((1..=LIMIT_KIB).contains(&peak_kib), "{peak_kib} KiB");
    println!("peak memory: {peak_kib} KiB");
}

#[test]
fn a_refused_build_leaves_no_file_behind() {
    let silt = Silt::new();
    silt.small_image("image");
    let before = every_file_of(&silt.store()).unwrap();
    fs::write(silt.path("small-tree/more"), pseudo_random(3 << 20, 1)).unwrap();
    silt.fails(8, &["build", "small-tree", "other", "--size", "1M"]);
    let after = every_file_of(&silt.store()).unwrap();
    assert_eq!(after, before);
}
