//! Space through time, by counts of allocated blocks: writing again, deleting, sealing into a store that is full, and small
//! changes of a large disk.

use crate::silt::{Silt, disk_usage, is_root, judge, pseudo_random, wait_for};
use crate::space::Small;
use silt_store::{ChunkKind, ChunkSink as _, Compression, ImageRecord, Store};
use silt_testkit::nbd_client::NbdClient;
use silt_volume::{BlockDevice as _, MapBuilder};
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

const MIB: u64 = 1 << 20;

/// Bytes that the deltas of a store's volumes take on the disk.
fn allocated_by_deltas(silt: &Silt) -> u64 {
    disk_usage(&silt.store().join("volumes"))
}

#[test]
fn a_region_written_ten_times_takes_the_space_of_one() {
    let silt = Silt::new();
    let tree = silt.small_tree("tree");
    silt.json(&["build", tree.to_str().unwrap(), "image", "--size", "128M"]);
    silt.json(&["clone", "image", "vm"]);
    let server = silt.serve("vm", &[]);
    let client = NbdClient::connect(&server.socket).unwrap();
    let mut bytes = pseudo_random(MIB as usize, 1);
    for round in 0..10 {
        for at in 32..96 {
            bytes[0] = round;
            client.write_at(&bytes, at * MIB).unwrap();
        }
        client.flush().unwrap();
    }
    let taken = allocated_by_deltas(&silt);
    assert!((64 * MIB..66 * MIB).contains(&taken), "{taken} bytes for 64 MiB");
    let said = silt.json(&["info", "vm"])["delta_bytes_allocated"].as_u64().unwrap();
    assert!((64 * MIB..66 * MIB).contains(&said), "{said} bytes for 64 MiB");
    drop(client);
    server.stop();
    assert!(allocated_by_deltas(&silt) < 66 * MIB);
}

/// A served volume as the kernel mounts it: a FUSE file over NBD, and a loop device. Unmounted when dropped.
struct Mounted {
    folder: PathBuf,
    fuse: Child,
    files: PathBuf,
}

impl Mounted {
    fn new(silt: &Silt, uri: &str, options: &str) -> Mounted {
        let (folder, files) = (silt.path("fuse"), silt.path("files"));
        fs::create_dir_all(&folder).unwrap();
        fs::create_dir_all(&files).unwrap();
        let disk = folder.join("disk");
        let fuse = Command::new("nbdfuse").arg(&disk).arg(uri).stdin(Stdio::null()).spawn();
        let mounted = Mounted { folder, fuse: fuse.unwrap(), files };
        wait_for("the FUSE file", || fs::metadata(&disk).is_ok_and(|disk| disk.len() > 0));
        let [at, options] = [mounted.files.as_os_str(), OsStr::new(options)];
        judge("mount", &[OsStr::new("-o"), options, disk.as_os_str(), at]);
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmount = |at: &Path| {
            let umount = Command::new("umount").arg(at).stderr(Stdio::null()).status();
            umount.is_ok_and(|status| status.success())
        };
        unmount(&self.files);
        // The loop device lets go of its file a moment later. No test is to hang where it does not.
        let unmounted = (0..500).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            unmount(&self.folder)
        });
        if !unmounted {
            let _ = self.fuse.kill();
        }
        let _ = self.fuse.wait();
    }
}

#[test]
fn root_fuse_loop_mount_what_a_guest_deletes_gives_its_space_back() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let tree = silt.small_tree("tree");
    silt.json(&["build", tree.to_str().unwrap(), "image", "--size", "256M"]);
    silt.json(&["clone", "image", "vm"]);
    let server = silt.serve("vm", &[]);
    for options in ["loop,discard", "loop"] {
        let mounted = Mounted::new(&silt, &server.uri(), options);
        judge("sync", &[]);
        let before = allocated_by_deltas(&silt);
        let file = mounted.files.join("file");
        fs::write(&file, pseudo_random(64 << 20, 3)).unwrap();
        judge("sync", &[]);
        let with_file = allocated_by_deltas(&silt);
        assert!(with_file >= before + 64 * MIB, "{before} {with_file}");
        fs::remove_file(&file).unwrap();
        judge("sync", &[]);
        if options == "loop" {
            judge("fstrim", &[mounted.files.as_os_str()]);
        }
        // Discards follow the commit that frees the blocks.
        wait_for("the space", || allocated_by_deltas(&silt) < before + 2 * MIB);
    }
    server.stop();
    silt.assert_verified();
}

/// A store that fills up in the middle of a seal: the seal says so, the guest goes on with what it has and with what fits, and
/// nothing is lost; once there is space the seal does what is left of it.
#[test]
fn root_tmpfs_a_seal_that_finds_no_space_resumes_when_there_is_some() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let tree = silt.small_tree("tree");
    let small = Small::mount(&silt, 256 << 10);
    // This is about the kernel saying no.
    silt.ok(&["store", "limits", "--reserve", "0"]);
    silt.json(&["build", tree.to_str().unwrap(), "image", "--size", "64M"]);
    silt.json(&["clone", "image", "vm"]);
    let mut disk = silt.exported("vm");
    let server = silt.serve("vm", &[]);
    let client = NbdClient::connect(&server.socket).unwrap();
    let mut kept = Vec::new();
    for round in 0..2 {
        let at = (16 + 12 * round) << 20;
        let bytes = pseudo_random(12 << 20, round as u64);
        for (piece, bytes) in (0..).zip(bytes.chunks(1 << 20)) {
            client.write_at(bytes, at as u64 + piece * MIB).unwrap();
        }
        disk[at..at + bytes.len()].copy_from_slice(&bytes);
        silt.json(&["snapshot", &format!("vm@s{round}")]);
        kept.push(disk.clone());
    }
    // What is in the guest's own delta already has its space.
    client.write_at(&[1; 4096], 0x20_0000).unwrap();
    client.flush().unwrap();
    let mut refused = 0;
    for spare in [0, 16, 64, 256, 1024, 3 << 10, 6 << 10, 10 << 10] {
        let before = disk_usage(&silt.store());
        small.resize(before / 1024 + spare);
        let message = silt.fails(8, &["seal"]);
        assert!(message.contains("cannot seal delta"), "{message}");
        refused += 1;
        let after = disk_usage(&silt.store());
        assert!(after <= before + (64 << 10), "{spare} KiB: {before} {after}");
        let block = [spare as u8 + 2; 4096];
        client.write_at(&block, 0x20_0000).unwrap();
        disk[0x20_0000..0x20_1000].copy_from_slice(&block);
        if spare >= 64 {
            let at = spare as usize * 1024;
            client.write_at(&block, at as u64).unwrap();
            disk[at..at + block.len()].copy_from_slice(&block);
        }
        client.flush().unwrap();
        let mut now = vec![0; disk.len()];
        client.read_at(&mut now, 0).unwrap();
        assert!(now == disk, "{spare} KiB");
        assert_eq!(silt.json(&["info", "vm"])["frozen_deltas"], 2, "{spare} KiB");
        for (round, kept) in kept.iter().enumerate() {
            assert!(&silt.exported(&format!("vm@s{round}")) == kept, "{spare} KiB, s{round}");
        }
    }
    assert_eq!(refused, 8);
    small.resize(256 << 10);
    let sealed = silt.json(&["seal"]);
    assert_eq!(sealed["deltas"], 2);
    assert_eq!(silt.json(&["info", "vm"])["frozen_deltas"], 0);
    let mut now = vec![0; disk.len()];
    client.read_at(&mut now, 0).unwrap();
    assert!(now == disk);
    for (round, kept) in kept.iter().enumerate() {
        assert!(silt.json(&["info", &format!("vm@s{round}")])["disk_id"].is_string());
        assert!(&silt.exported(&format!("vm@s{round}")) == kept, "s{round}");
    }
    drop(client);
    server.stop();
    silt.assert_verified();
    drop(small);
}

/// An image of 1 TiB whose map has a million extents, in full leaves far apart: where a changed block costs most.
fn image_of_a_million_extents(silt: &Silt, name: &str) {
    let store = Store::open_or_create(&silt.store(), 1 << 20).unwrap();
    let ingest = store.ingest(Compression::default()).unwrap();
    // So many that the nodes, full of their names, do not compress; neighbours are never consecutive in a chunk.
    let content = |n: u32| [n.to_le_bytes(), [1; 4]].concat();
    let chunks = (0..4096).map(|n| ingest.put(ChunkKind::DiskData, &content(n)));
    let chunks: Vec<_> = chunks.collect::<Result<_, _>>().unwrap();
    let mut map = MapBuilder::new(&ingest, 1 << 40).unwrap();
    for n in 0..1 << 20 {
        let chunk = chunks[((n * 2_654_435_761) >> 16) as usize % chunks.len()];
        map.map((n >> 8) * 65_536 + n % 256, 1, chunk, 0).unwrap();
    }
    let disk = map.finish().unwrap();
    let name = name.parse().unwrap();
    let record =
        ImageRecord { name, disk, tree: None, config: None, created_ns: 0, bytes_nonzero: 1 << 32 };
    ingest.publish_image(&record, false).unwrap();
}

/// Length of the packs and of the database, which no process has open.
fn packs_and_rows(silt: &Silt) -> u64 {
    let packs = fs::read_dir(silt.store().join("packs")).unwrap();
    let rows = fs::read_dir(silt.store()).unwrap();
    let files = packs.chain(rows).map(|entry| fs::metadata(entry.unwrap().path()).unwrap());
    files.filter(|file| file.is_file()).map(|file| file.len()).sum()
}

#[test]
fn what_a_snapshot_of_a_million_extents_adds_follows_what_changed() {
    let silt = Silt::new();
    image_of_a_million_extents(&silt, "image");
    silt.json(&["clone", "image", "vm"]);
    // 1 MiB each, in one run from the midst of a full leaf on, and in 256 blocks all over the disk, each in a full leaf.
    let run: Vec<u64> = (128..384).map(|n| (1 << 32) + n * 4096).collect();
    let scattered: Vec<u64> = (0..256).map(|n| (n << 32) + 17 * 4096).collect();
    for (name, places, bound) in [("run", run, 256 << 10), ("scattered", scattered, 4 << 20)] {
        let before = packs_and_rows(&silt);
        let server = silt.serve("vm", &[]);
        let client = NbdClient::connect(&server.socket).unwrap();
        for (place, block) in places.iter().zip(pseudo_random(1 << 20, places[0]).chunks(4096)) {
            client.write_at(block, *place).unwrap();
        }
        drop(client);
        server.stop();
        let taken = silt.json(&["snapshot", &format!("vm@{name}"), "--wait"]);
        assert!(taken["disk_id"].is_string());
        let grown = packs_and_rows(&silt) - before;
        println!("{name}: {} bytes of nodes and rows beside 1 MiB of content", grown - MIB);
        assert!((MIB..MIB + bound).contains(&grown), "{name}: {grown}");
    }
}
