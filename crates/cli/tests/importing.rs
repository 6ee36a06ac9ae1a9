//! Disks as sources, and the files on a disk of the store: made by mke2fs, sfdisk, qemu-img and the kernel, judged by what
//! comes out again.

use crate::{
    silt::{Ran, Silt, is_root, judge, pseudo_random},
    space::Small,
};
use serde_json::Value;
use silt_testkit::ext4_image::{LoopMount, run};
use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const MIB: u64 = 1 << 20;

/// A folder with something of everything, whose times are whole seconds: mke2fs keeps no others.
fn tree(silt: &Silt) -> PathBuf {
    let dir = silt.path("tree");
    fs::create_dir_all(dir.join("deep/er/empty")).unwrap();
    fs::write(dir.join("deep/large"), pseudo_random(700_001, 1)).unwrap();
    fs::write(dir.join("deep/er/same"), pseudo_random(65_536, 2)).unwrap();
    for n in 0..40 {
        fs::write(dir.join(format!("small-{n}")), pseudo_random(n * 311, n as u64)).unwrap();
    }
    let holes = File::create(dir.join("holes")).unwrap();
    holes.write_all_at(b"in the middle", 900_000).unwrap();
    holes.write_all_at(&[7; 5000], 3_000_000).unwrap();
    holes.set_len(5_000_000).unwrap();
    fs::hard_link(dir.join("deep/large"), dir.join("deep/er/linked")).unwrap();
    symlink("deep/large", dir.join("link")).unwrap();
    fs::set_permissions(dir.join("holes"), fs::Permissions::from_mode(0o4711)).unwrap();
    tool(silt, "mkfifo tree/fifo");
    tool(silt, "setfattr -n user.a -v b tree/holes");
    tool(silt, "find tree -exec touch -h -d @1700000000 {} +");
    dir
}

/// Runs a program in the test's folder, which must succeed. Words are parted by spaces. Answers what it printed.
fn tool(silt: &Silt, line: &str) -> String {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    let output = run(command.args(words).current_dir(silt.path(""))).unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A disk that mke2fs makes of a folder.
fn mke2fs(dir: &Path, disk: &Path, options: &[&str], size: &str) {
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4"]).args(options).arg("-d").arg(dir);
    run(mke2fs.arg(disk).arg(size)).unwrap();
    // The one time that it does not take from the folder.
    let set = ["-w", "-R", "set_inode_field <2> mtime @1700000000"];
    run(Command::new("debugfs").args(set).arg(disk)).unwrap();
}

fn import(silt: &Silt, source: &Path, name: &str) -> Value {
    silt.json(&["build", source.to_str().unwrap(), name, "--replace"])
}

fn assert_exports(silt: &Silt, name: &str, file: &Path) {
    let expected = fs::read(file).unwrap();
    let found = silt.exported(name);
    assert_eq!(found.len(), expected.len());
    assert!(found == expected, "{name} reads otherwise");
}

fn bytes_unique(silt: &Silt) -> u64 {
    silt.json(&["info"])["bytes_unique"].as_u64().unwrap()
}

#[test]
fn an_image_that_was_exported_and_imported_is_the_same_disk_and_the_same_tree() {
    let silt = Silt::new();
    let built = import(&silt, &tree(&silt), "a");
    let before = bytes_unique(&silt);
    silt.ok(&["export", "a", "a.img"]);
    let imported = import(&silt, &silt.path("a.img"), "b");
    for id in ["disk_id", "tree_id", "size"] {
        assert_eq!(imported[id], built[id], "{id}");
    }
    assert_eq!(bytes_unique(&silt), before);
    assert_exports(&silt, "b", &silt.path("a.img"));
    silt.assert_verified();
}

#[test]
fn disks_of_mke2fs_have_the_tree_of_the_folder_whatever_their_blocks() {
    let silt = Silt::new();
    let dir = tree(&silt);
    let built = import(&silt, &dir, "built");
    let cases: [&[&str]; 6] = [
        &["-b", "4096"],
        &["-b", "1024"],
        &["-b", "2048"],
        &["-b", "4096", "-O", "inline_data"],
        &["-b", "4096", "-O", "^extents,^64bit,^metadata_csum"],
        &["-b", "4096", "-O", "^has_journal", "-I", "1024"],
    ];
    for options in cases {
        let disk = silt.path("disk.img");
        mke2fs(&dir, &disk, options, "64M");
        let before = bytes_unique(&silt);
        let imported = import(&silt, &disk, "imported");
        assert_eq!(imported["no_tree"], Value::Null, "{options:?}");
        // With inline data mke2fs cuts off what is a hole at the end of a file.
        if !options.contains(&"inline_data") {
            assert_eq!(imported["tree_id"], built["tree_id"], "{options:?}");
        }
        assert_exports(&silt, "imported", &disk);
        if options == cases[0] {
            // Only metadata is new: the journal's first block, tables, folders and nodes.
            let added = bytes_unique(&silt) - before;
            assert!(added < 300_000, "{added} bytes are new");
        }
        fs::remove_file(&disk).unwrap();
    }
    silt.assert_verified();
}

#[test]
fn root_a_disk_that_is_mounted_and_written_is_imported_with_its_journal_laid_over() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let dir = tree(&silt);
    let (disk, copy, at) = (silt.path("disk.img"), silt.path("copy.img"), silt.path("mounted"));
    mke2fs(&dir, &disk, &["-b", "4096"], "64M");
    fs::create_dir(&at).unwrap();
    let mounted = LoopMount::new(&disk, &at, "noatime").unwrap().unwrap();
    for n in 0..50 {
        fs::write(at.join(format!("new-{n}")), pseudo_random(n * 1000, 100 + n as u64)).unwrap();
    }
    fs::remove_file(at.join("deep/large")).unwrap();
    File::open(&at).and_then(|root| rustix::fs::syncfs(&root).map_err(Into::into)).unwrap();
    tool(&silt, "cp --sparse=always disk.img copy.img");
    import(&silt, &at, "live");
    drop(mounted);
    let features = tool(&silt, "dumpe2fs -h copy.img");
    assert!(features.contains("needs_recovery"), "{features}");
    let imported = import(&silt, &copy, "imported");
    assert_exports(&silt, "imported", &copy);
    // The mounted folder has the lost+found of mke2fs; the disks of both have one.
    let changed = silt.ok(&["diff", "imported", "live", "--files"]);
    assert!(changed.contains("no file differs"), "{changed}");
    assert_ne!(imported["tree_id"], Value::Null);
    silt.assert_verified();
}

#[test]
fn partitions_are_found_and_the_largest_ext4_gives_the_tree() {
    let silt = Silt::new();
    let dir = tree(&silt);
    let built = import(&silt, &dir, "built");
    let (small, large) = (silt.path("small.ext4"), silt.path("large.ext4"));
    mke2fs(&silt.small_tree("other"), &small, &["-b", "4096"], "8M");
    mke2fs(&dir, &large, &["-b", "4096"], "40M");
    for label in ["dos", "gpt"] {
        let disk = silt.path("disk.img");
        File::create(&disk).unwrap().set_len(64 * MIB).unwrap();
        let script = format!("label: {label}\nstart=1MiB, size=8MiB\nstart=10MiB, size=40MiB\n");
        let mut sfdisk = Command::new("sfdisk");
        let mut child = sfdisk.arg("-q").arg(&disk).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        let file = File::options().write(true).open(&disk).unwrap();
        file.write_all_at(&fs::read(&small).unwrap(), MIB).unwrap();
        file.write_all_at(&fs::read(&large).unwrap(), 10 * MIB).unwrap();
        let before = bytes_unique(&silt);
        let imported = import(&silt, &disk, label);
        assert_eq!(imported["tree_id"], built["tree_id"], "{label}");
        let notes = imported["notes"].as_array().unwrap();
        assert!(notes[0].as_str().unwrap().contains("at byte 10485760"), "{notes:?}");
        assert!(bytes_unique(&silt) - before < 900_000, "files of partitions are not followed");
        assert_exports(&silt, label, &disk);
    }
    silt.assert_verified();
}

#[test]
fn qcow2_files_of_every_kind_are_the_disk_they_hold() {
    let silt = Silt::new();
    let (raw, qcow2) = (silt.path("disk.img"), silt.path("disk.qcow2"));
    mke2fs(&tree(&silt), &raw, &["-b", "4096"], "64M");
    let expected = import(&silt, &raw, "raw");
    let convert = |options: &str| {
        tool(&silt, &format!("qemu-img convert -O qcow2 {options} disk.img disk.qcow2"))
    };
    let cases = ["", "-c", "-o cluster_size=2M", "-o cluster_size=512", "-o compat=0.10"];
    for options in cases {
        convert(options);
        let imported = import(&silt, &qcow2, "imported");
        assert_eq!(imported["disk_id"], expected["disk_id"], "{options:?}");
        assert_eq!(imported["tree_id"], expected["tree_id"], "{options:?}");
    }
    // A snapshot inside is passed over, and the name says nothing.
    tool(&silt, "qemu-img snapshot -c before disk.qcow2");
    fs::rename(&qcow2, silt.path("disk.iso")).unwrap();
    assert_eq!(import(&silt, &silt.path("disk.iso"), "inside")["disk_id"], expected["disk_id"]);
    convert("-c -o compression_type=zstd");
    let message = silt.fails(9, &["build", "disk.qcow2", "zstd"]);
    assert!(message.contains("disk.qcow2") && message.contains("compression"), "{message}");
    silt.assert_verified();
}

#[test]
fn a_qcow2_file_opens_what_it_names_only_where_that_is_allowed() {
    let silt = Silt::new();
    let raw = silt.path("disk.img");
    mke2fs(&silt.small_tree("small"), &raw, &["-b", "4096"], "16M");
    let expected = import(&silt, &raw, "raw");
    tool(&silt, "qemu-img create -q -f qcow2 -F raw -b disk.img over.qcow2");
    let message = silt.fails(6, &["build", "over.qcow2", "over"]);
    assert!(message.contains("disk.img") && message.contains("--allow-backing"), "{message}");
    let allowed = silt.json(&["build", "over.qcow2", "over", "--allow-backing"]);
    assert_eq!(allowed["disk_id"], expected["disk_id"]);
    // Whoever opened a pipe without a writer would wait for ever; and a file that names itself has an end.
    tool(&silt, "mkfifo fifo");
    tool(&silt, "qemu-img create -q -f qcow2 -u -F raw -b fifo pipe.qcow2 1M");
    silt.fails(6, &["build", "pipe.qcow2", "pipe"]);
    silt.fails(6, &["build", "pipe.qcow2", "pipe", "--allow-backing"]);
    tool(&silt, "qemu-img create -q -f qcow2 -u -F qcow2 -b self.qcow2 named.qcow2 1M");
    fs::rename(silt.path("named.qcow2"), silt.path("self.qcow2")).unwrap();
    silt.fails(6, &["build", "self.qcow2", "self", "--allow-backing"]);
    let traced = Ran::of(
        Command::new("strace")
            .args(["-f", "-e", "trace=openat,open", env!("CARGO_BIN_EXE_silt"), "build"])
            .args(["over.qcow2", "traced"])
            .current_dir(silt.path(""))
            .env("SILT_STORE", silt.store()),
    );
    assert_eq!(traced.status.code(), Some(6));
    assert!(traced.stderr.contains("over.qcow2") && !traced.stderr.contains("disk.img\", O_"));
    // A data file is one more name.
    tool(&silt, "qemu-img create -q -f qcow2 -o data_file=data.raw external.qcow2 1M");
    let message = silt.fails(6, &["build", "external.qcow2", "external"]);
    assert!(message.contains("data.raw") || message.contains("data file"), "{message}");
    assert_eq!(silt.names(), ["over", "raw"]);
}

#[test]
fn damaged_qcow2_files_are_refused_by_name_and_nothing_is_published() {
    let silt = Silt::new();
    let (raw, qcow2, bad) =
        (silt.path("disk.img"), silt.path("disk.qcow2"), silt.path("bad.qcow2"));
    fs::write(&raw, pseudo_random(3 << 20, 9)).unwrap();
    tool(&silt, "qemu-img convert -O qcow2 disk.img disk.qcow2");
    let whole = fs::read(&qcow2).unwrap();
    for len in [4, 71, 100, 65_536, 200_000, 1 << 20] {
        fs::write(&bad, &whole[..len]).unwrap();
        let message = silt.fails(6, &["build", "bad.qcow2", "bad"]);
        assert!(message.contains("bad.qcow2"), "{len}: {message}");
    }
    let change = |at: usize, bytes: &[u8]| {
        let mut changed = whole.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(&bad, changed).unwrap();
    };
    for (at, bytes, code) in [
        (4, &[0, 0, 0, 9][..], 9),
        (32, &[0, 0, 0, 1], 9),
        (20, &[0, 0, 0, 63], 6),
        (24, &[0, 0, 16, 0, 0, 0, 2, 0], 6),
        (36, &[255; 4], 6),
        (40, &[0, 255, 0, 0, 0, 0, 0, 0], 6),
        (79, &[16], 9),
    ] {
        change(at, bytes);
        let message = silt.fails(code, &["build", "bad.qcow2", "bad"]);
        assert!(message.contains("bad.qcow2"), "{at}: {message}");
    }
    // Any byte of header and tables: an answer, whatever it is, and never a panic.
    for n in 0..60_usize {
        let random = pseudo_random(8, n as u64);
        let at = if n % 2 == 0 { n * 2 } else { 0x30000 + usize::from(random[0]) };
        change(at, &random[1..3]);
        silt.run(&["build", "bad.qcow2", "mutant", "--replace"]);
    }
    assert!(silt.names().iter().all(|name| name == "mutant"));
    silt.assert_verified();
}

#[test]
fn pipes_are_disks_where_they_are_said_to_be() {
    let silt = Silt::new();
    let (raw, qcow2) = (silt.path("disk.img"), silt.path("disk.qcow2"));
    mke2fs(&silt.small_tree("small"), &raw, &["-b", "4096"], "16M");
    let expected = import(&silt, &raw, "expected");
    tool(&silt, "qemu-img convert -O qcow2 disk.img disk.qcow2");
    for (file, format) in [(&raw, "raw"), (&qcow2, "qcow2")] {
        let mut build = silt.command(&["--json", "build", "-", format, "--from", format]);
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut bytes = Vec::new();
        File::open(file).unwrap().read_to_end(&mut bytes).unwrap();
        let feeder = std::thread::spawn(move || writer.write_all(&bytes));
        let built = Ran::of(build.stdin(reader));
        feeder.join().unwrap().unwrap();
        assert_eq!(built.document()["disk_id"], expected["disk_id"], "{built:?}");
        assert_eq!(built.document()["tree_id"], expected["tree_id"]);
    }
    tool(&silt, "mkfifo fifo");
    let feeder = std::thread::spawn({
        let (fifo, bytes) = (silt.path("fifo"), fs::read(&raw).unwrap());
        move || fs::write(fifo, bytes)
    });
    let built = silt.json(&["build", "fifo", "named", "--from", "raw"]);
    feeder.join().unwrap().unwrap();
    assert_eq!(built["disk_id"], expected["disk_id"]);
    let nothing = silt.fails(6, &["build", "-", "nothing", "--from", "raw"]);
    assert!(nothing.contains("standard input"), "{nothing}");
}

#[test]
fn a_file_of_holes_costs_what_its_data_does() {
    let silt = Silt::new();
    let (dense, sparse) = (silt.path("dense"), silt.path("sparse"));
    let content = pseudo_random(2 << 20, 5);
    fs::write(&dense, &content).unwrap();
    let file = File::create(&sparse).unwrap();
    file.write_all_at(&content[..1 << 20], 50 << 30).unwrap();
    file.write_all_at(&content[1 << 20..], (150 << 30) + 8192).unwrap();
    file.set_len((200 << 30) + 777).unwrap();
    import(&silt, &dense, "dense");
    let built = import(&silt, &sparse, "sparse");
    assert_eq!(built["size"], (200_u64 << 30) + 777);
    assert!(built["bytes_read"].as_u64().unwrap() <= (2 << 20) + (256 << 10), "{built:#}");
    silt.ok(&["export", "sparse", "again"]);
    let again = File::open(silt.path("again")).unwrap();
    assert_eq!(again.metadata().unwrap().len(), (200 << 30) + 777);
    assert!(again.metadata().unwrap().blocks() * 512 < 3 << 20);
    let mut found = vec![0; 1 << 20];
    again.read_exact_at(&mut found, (150 << 30) + 8192).unwrap();
    assert!(found == content[1 << 20..]);
    silt.assert_verified();
}

#[test]
fn disks_without_ext4_are_cut_on_the_grid_and_say_why_they_have_no_tree() {
    let silt = Silt::new();
    let vfat = silt.path("vfat.img");
    File::create(&vfat).unwrap().set_len(16 * MIB).unwrap();
    tool(&silt, "mkfs.vfat vfat.img");
    for (name, bytes) in [("odd", pseudo_random(1_234_567, 3)), ("zero", vec![0; 70_000])] {
        fs::write(silt.path(name), bytes).unwrap();
    }
    for name in ["vfat.img", "odd", "zero"] {
        let built = import(&silt, &silt.path(name), "image");
        assert_eq!(built["tree_id"], Value::Null);
        assert!(built["no_tree"].as_str().unwrap().contains("no ext4"), "{built:#}");
        assert_exports(&silt, "image", &silt.path(name));
    }
    // ext4 that is damaged: the disk is taken as it is all the same.
    let disk = silt.path("disk.img");
    mke2fs(&tree(&silt), &disk, &["-b", "4096"], "64M");
    let whole = fs::read(&disk).unwrap();
    for n in 0..20_u64 {
        let mut damaged = whole.clone();
        for k in 0..40 {
            let random = pseudo_random(8, n * 100 + k);
            let at = usize::from(u16::from_le_bytes([random[0], random[1]])) * 32 % (4 << 20);
            damaged[at.max(1024)] = random[2];
        }
        fs::write(&disk, &damaged).unwrap();
        import(&silt, &disk, "damaged");
        assert_exports(&silt, "damaged", &disk);
    }
    silt.assert_verified();
}

#[test]
fn root_a_block_device_is_read_whole() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let disk = silt.path("disk.img");
    mke2fs(&silt.small_tree("small"), &disk, &["-b", "4096"], "16M");
    let expected = import(&silt, &disk, "file");
    let shown = tool(&silt, "losetup --find --show disk.img");
    let device = PathBuf::from(shown.trim());
    let built = silt.run(&["--json", "build", device.to_str().unwrap(), "device"]);
    tool(&silt, &format!("losetup --detach {}", shown.trim()));
    let built = built.document();
    assert_eq!(
        (&built["disk_id"], &built["tree_id"]),
        (&expected["disk_id"], &expected["tree_id"])
    );
}

#[test]
fn files_below_a_folder_of_an_image_a_snapshot_or_a_volume_are_a_source() {
    let silt = Silt::new();
    let dir = tree(&silt);
    let built = import(&silt, &dir, "image");
    let below = import(&silt, &dir.join("deep"), "below");
    silt.ok(&["clone", "image", "vm"]);
    silt.ok(&["snapshot", "vm@now"]);
    let unique = bytes_unique(&silt);
    for source in ["image", "vm", "vm@now"] {
        let whole = silt.json(&["build", &format!("{source}:/"), "whole", "--replace"]);
        assert_eq!(whole["tree_id"], built["tree_id"], "{source}");
        assert_eq!(whole["disk_id"], built["disk_id"], "{source}");
        assert_eq!(whole["bytes_read"], 0, "{source}");
        let part = silt.json(&["build", &format!("{source}:/deep/"), "part", "--replace"]);
        for id in ["tree_id", "disk_id", "bytes_nonzero"] {
            assert_eq!(part[id], below[id], "{source}");
        }
    }
    assert_eq!(bytes_unique(&silt), unique);
    let owned = silt.json(&["build", "image:/deep", "owned", "--owner", "12:34"]);
    let expected = ["build", dir.join("deep").to_str().unwrap(), "expected", "--owner", "12:34"]
        .map(str::to_owned);
    assert_eq!(owned["tree_id"], silt.json(&expected)["tree_id"]);
    for (path, code, says) in [
        ("image:/nowhere/deep", 3, "/nowhere"),
        ("image:/link", 6, "deep/large"),
        ("image:/holes", 6, "not a folder"),
        ("image:/deep/../deep", 6, ".."),
        ("nobody:/deep", 3, "nobody"),
    ] {
        let message = silt.fails(code, &["build", path, "bad"]);
        assert!(message.contains(says), "{path}: {message}");
    }
    silt.assert_verified();
}

#[test]
fn root_what_a_guest_wrote_is_in_the_files_of_its_volume() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let dir = tree(&silt);
    let disk = silt.path("disk.img");
    mke2fs(&dir, &disk, &["-b", "4096"], "64M");
    import(&silt, &disk, "image");
    silt.ok(&["clone", "image", "vm"]);
    // The guest's blocks, by the protocol that guests use.
    let at = silt.path("mounted");
    fs::create_dir(&at).unwrap();
    let mounted = LoopMount::new(&disk, &at, "noatime").unwrap().unwrap();
    fs::write(at.join("new"), pseudo_random(300_000, 77)).unwrap();
    fs::write(at.join("deep/large"), pseudo_random(10, 78)).unwrap();
    drop(mounted);
    let server = silt.serve("vm", &[]);
    tool(&silt, &format!("qemu-img convert -n -f raw -O raw disk.img {}", server.uri()));
    server.stop();
    let direct = import(&silt, &disk, "direct");
    let through = silt.json(&["build", "vm:/", "through"]);
    assert_eq!(through["tree_id"], direct["tree_id"]);
    silt.assert_verified();
}

#[test]
fn what_is_no_disk_is_refused_by_name() {
    let silt = Silt::new();
    let dir = tree(&silt);
    fs::write(silt.path("empty"), []).unwrap();
    fs::write(silt.path("disk"), pseudo_random(100_000, 1)).unwrap();
    let dir = dir.to_str().unwrap();
    for (args, code, says) in [
        (&["build", dir, "x", "--from", "raw"][..], 6, "folder"),
        (&["build", "/dev/null", "x"], 6, "/dev/null"),
        (&["build", "empty", "x"], 6, "empty"),
        (&["build", "nowhere", "x"], 10, "nowhere"),
        (&["build", "disk", "x", "--from", "qcow2"], 6, "disk"),
        (&["build", "disk", "x", "--owner", "0:0"], 6, "edited"),
        (&["build", "disk", "x", "--size", "1G"], 6, "length"),
    ] {
        let message = silt.fails(code, args);
        assert!(message.contains(says), "{args:?}: {message}");
    }
}

#[test]
fn root_tmpfs_an_import_without_space_is_said_and_leaves_a_store_that_works() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let dir = tree(&silt);
    mke2fs(&dir, &silt.path("disk.img"), &["-b", "4096"], "16M");
    let tar = silt.path("files.tar");
    judge("tar", &["-C".as_ref(), dir.as_os_str(), "-cf".as_ref(), tar.as_os_str(), ".".as_ref()]);
    for kib in [60, 120, 300, 500, 800, 1000] {
        let small = Small::mount(&silt, kib);
        silt.fails(8, &["build", "disk.img", "image"]);
        silt.fails(8, &["build", "files.tar", "image"]);
        let mut streamed = silt.command(&["build", "-", "image", "--from", "raw"]);
        let ran = Ran::of(streamed.stdin(File::open(silt.path("disk.img")).unwrap()));
        assert_eq!(ran.status.code(), Some(8), "{kib} KiB: {ran:?}");
        small.resize(64 << 10);
        if silt.store().join("store").exists() {
            assert!(silt.names().is_empty(), "{kib} KiB");
            silt.assert_verified();
        }
        import(&silt, &silt.path("disk.img"), "image");
        silt.assert_verified();
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_an_error() {
    let silt = Silt::new();
    let disk = silt.path("disk");
    fs::write(&disk, pseudo_random(64 << 20, 1)).unwrap();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::options().write(true).open(&disk).unwrap();
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                file.write_all_at(b"x", 5).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        });
        let message = silt.fails(10, &["build", "disk", "image"]);
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(message.contains("disk changed while it was read"), "{message}");
    });
    assert_eq!(silt.names(), Vec::<String>::new());
}
