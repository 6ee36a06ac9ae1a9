//! `silt store copy`, `export` and `import`: a store goes elsewhere, and is the same there.

use crate::{
    containers::layout,
    silt::{Ran, Silt, is_root, pseudo_random, wait_for},
    space::Small,
};
use serde_json::Value;
use silt_format::{
    ArchiveDigest, ArchiveEnd, ArchiveFrame, ArchivedChunk, ArchivedName, Codec, MapChildren,
    MapNode, MapRun,
};
use silt_store::{ChunkKind, Domain};
use silt_testkit::{fault::every_file_of, nbd_client::NbdClient};
use silt_types::{ChunkId, DiskId, StateId, VolumeId};
use silt_volume::BlockDevice as _;
use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::Duration,
};

const MIB: u64 = 1 << 20;

/// A store beside the test's own.
struct Other<'a> {
    silt: &'a Silt,
    path: PathBuf,
}

impl<'a> Other<'a> {
    fn new(silt: &'a Silt, name: &str) -> Other<'a> {
        Other { silt, path: silt.path(name) }
    }

    fn text(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn args<'b>(&'b self, args: &[&'b str]) -> Vec<&'b str> {
        [&["--store", self.text()], args].concat()
    }

    fn json(&self, args: &[&str]) -> Value {
        self.silt.json(&self.args(args))
    }

    fn fails(&self, code: i32, args: &[&str]) -> String {
        self.silt.fails(code, &self.args(args))
    }

    fn exported(&self, name: &str) -> Vec<u8> {
        let file = self.silt.path(format!("exported-there-{name}"));
        self.json(&["export", name, file.to_str().unwrap()]);
        let bytes = fs::read(&file).unwrap();
        fs::remove_file(file).unwrap();
        bytes
    }

    fn assert_verified(&self) {
        let report = self.json(&["verify"]);
        assert_eq!(report["ok"], true, "{report:#}");
    }

    /// Copies from the test's store to here.
    fn copy(&self, rest: &[&str]) -> Value {
        self.silt.json(&self.copy_args(rest))
    }

    fn copy_args<'b>(&'b self, rest: &[&'b str]) -> Vec<&'b str> {
        [&["store", "copy", self.text()], rest].concat()
    }

    /// Every name is here as it is in the test's store, byte for byte.
    fn assert_same(&self, names: &[&str]) {
        for name in names {
            assert!(self.exported(name) == self.silt.exported(name), "{name} differs");
            let about = |info: Value| {
                let fields =
                    ["kind", "size_bytes", "tree_id", "config", "created", "source", "state"];
                fields.map(|field| info[field].clone())
            };
            assert_eq!(about(self.json(&["info", name])), about(self.silt.json(&["info", name])));
        }
        self.assert_verified();
    }
}

fn number(document: &Value, field: &str) -> u64 {
    document[field].as_u64().unwrap_or_else(|| panic!("{field} of {document}"))
}

/// The counts of names: images, volumes, snapshots, unchanged.
fn names(done: &Value) -> [u64; 4] {
    ["images", "volumes", "snapshots", "unchanged"].map(|field| number(done, field))
}

fn write(silt: &Silt, volume: &str, seed: u64, at: u64) {
    let server = silt.serve(volume, &[]);
    write_to(&NbdClient::connect(&server.socket).unwrap(), seed, at);
    server.stop();
}

fn write_to(client: &NbdClient, seed: u64, at: u64) {
    client.write_at(&pseudo_random(60_000, seed), at).unwrap();
    client.flush().unwrap();
}

const NAMES: [&str; 6] = ["image", "raw", "vm", "vm@a", "vm@b", "branch"];

/// A store with an image that has a tree, one that has none, a volume with a sealed snapshot, one that is not sealed, and
/// something written since, a clone of a snapshot, written too, and a clone that was never written.
fn furnished() -> Silt {
    let silt = Silt::new();
    silt.small_image("image");
    let raw = silt.path("raw.img");
    fs::write(&raw, pseudo_random(3 << 20, 3)).unwrap();
    silt.ok(&["build", raw.to_str().unwrap(), "raw", "--from", "raw"]);
    silt.ok(&["clone", "image", "vm"]);
    write(&silt, "vm", 1, 1 << 20);
    silt.ok(&["snapshot", "vm@a", "--wait"]);
    write(&silt, "vm", 2, 2 << 20);
    silt.ok(&["snapshot", "vm@b"]);
    silt.ok(&["clone", "vm@a", "branch"]);
    silt.ok(&["clone", "image", "idle"]);
    write(&silt, "vm", 3, 3 << 20);
    write(&silt, "branch", 4, 1 << 20);
    silt
}

#[test]
fn a_copied_store_holds_the_same_and_the_next_copy_has_nothing_to_do() {
    let silt = furnished();
    let layout = layout(&silt);
    silt.ok(&["build", &format!("oci:{}", layout.display()), "app"]);
    let before: Vec<_> = NAMES.iter().map(|name| silt.exported(name)).collect();
    let there = Other::new(&silt, "made/for/it");
    let done = there.copy(&[]);
    assert_eq!(names(&done), [3, 3, 2, 0], "{done}");
    assert_eq!(number(&done, "chunks_copied"), number(&there.json(&["info"]), "chunks"));
    there.assert_same(&NAMES);
    there.assert_same(&["idle", "app"]);
    assert!(there.json(&["info", "app"])["config"].is_object());
    let by_archive = Other::new(&silt, "by-archive");
    by_archive.json(&["store", "import", export(&silt, &["app", "image"]).to_str().unwrap()]);
    by_archive.assert_same(&["app", "image"]);
    for (name, before) in NAMES.iter().zip(before) {
        assert!(silt.exported(name) == before, "{name} changed by being copied");
    }
    silt.assert_verified();
    assert_eq!(there.json(&["log", "branch"]), silt.json(&["log", "branch"]));
    let again = there.copy(&[]);
    assert_eq!(names(&again), [0, 0, 0, 8], "{again}");
    assert_eq!((number(&again, "chunks"), number(&again, "chunks_copied")), (0, 0));
    // Copies are volumes like any other.
    let socket = silt.path("there.sock");
    let args = there.args(&["serve", "vm", "--nbd", socket.to_str().unwrap()]);
    let server = silt.start(silt.command(&args), socket);
    write_to(&NbdClient::connect(&server.socket).unwrap(), 9, 5 << 20);
    server.stop();
    there.assert_verified();
    assert_eq!(&there.exported("vm")[5 << 20..][..60_000], pseudo_random(60_000, 9));
}

#[test]
fn a_volume_that_is_written_meanwhile_is_copied_as_it_was_at_a_moment() {
    let silt = furnished();
    let server = silt.serve("vm", &[]);
    let client = NbdClient::connect(&server.socket).unwrap();
    write_to(&client, 10, 4 << 20);
    let there = Other::new(&silt, "there");
    thread::scope(|scope| {
        let copying = scope.spawn(|| there.copy(&["vm"]));
        for round in 0..40 {
            write_to(&client, 20 + round, 6 << 20);
        }
        copying.join().unwrap();
    });
    let copied = there.exported("vm");
    assert_eq!(&copied[4 << 20..][..60_000], pseudo_random(60_000, 10));
    there.assert_same(&["vm@a", "vm@b"]);
    // One write or the next one, as a guest that is cut off leaves it, is what is asked of a copy.
    there.copy(&["vm", "--replace"]);
    server.stop();
    there.assert_same(&["vm", "vm@a", "vm@b"]);
    silt.assert_verified();
}

#[test]
fn after_a_small_change_little_is_read_and_written() {
    let silt = furnished();
    let big = silt.path("big");
    fs::create_dir(&big).unwrap();
    for file in 0..400 {
        fs::write(big.join(file.to_string()), pseudo_random(40_000, 1000 + file)).unwrap();
    }
    let build = ["build", big.to_str().unwrap(), "big", "--replace", "--size", "32M"];
    silt.ok(&build);
    let there = Other::new(&silt, "there");
    let all = number(&there.copy(&[]), "chunks_copied");
    write(&silt, "vm", 50, 9 << 20);
    let refused = silt.fails(4, &there.copy_args(&[]));
    assert!(refused.contains("volume vm"), "{refused}");
    let done = there.copy(&["--replace"]);
    assert_eq!(names(&done), [0, 1, 0, 7], "{done}");
    assert!(number(&done, "chunks_copied") < 20 && number(&done, "chunks") < 300, "{done}");
    fs::write(big.join("7"), pseudo_random(40_000, 1)).unwrap();
    silt.ok(&build);
    let done = there.copy(&["--replace"]);
    assert_eq!(names(&done), [1, 0, 0, 7], "{done}");
    assert!(number(&done, "chunks_copied") < 20, "{done}");
    assert!(number(&done, "chunks") < all / 2, "{done} of {all}");
    write(&silt, "vm", 51, 10 << 20);
    silt.ok(&["snapshot", "vm@c"]);
    let done = there.copy(&["vm", "--replace"]);
    assert_eq!(names(&done), [0, 1, 1, 2], "{done}");
    there.assert_same(&NAMES);
    there.assert_same(&["big", "vm@c"]);
}

#[test]
fn what_another_name_stands_for_is_not_replaced_unless_it_may_be() {
    let silt = furnished();
    let there = Other::new(&silt, "there");
    there.copy(&["image", "vm"]);
    // Another image of the name.
    let other = silt.path("other.img");
    fs::write(&other, pseudo_random(1 << 20, 77)).unwrap();
    silt.ok(&["build", other.to_str().unwrap(), "image", "--replace", "--from", "raw"]);
    assert!(silt.fails(4, &there.copy_args(&["image"])).contains("image image"));
    assert_eq!(names(&there.copy(&["image", "--replace"])), [1, 0, 0, 0]);
    there.assert_same(&["image"]);
    // A copy that was written, and is served.
    let socket = silt.path("there.sock");
    let args = there.args(&["serve", "vm", "--nbd", socket.to_str().unwrap()]);
    let server = silt.start(silt.command(&args), socket);
    write_to(&NbdClient::connect(&server.socket).unwrap(), 9, 5 << 20);
    silt.fails(4, &there.copy_args(&["vm"]));
    silt.fails(5, &there.copy_args(&["vm", "--replace"]));
    server.stop();
    silt.fails(4, &there.copy_args(&["vm"]));
    assert_eq!(names(&there.copy(&["vm", "--replace"])), [0, 1, 0, 2]);
    there.assert_same(&["vm", "vm@a"]);
    // A snapshot whose name another one has now, and one that has another name.
    silt.ok(&["rm", "vm@a"]);
    silt.ok(&["rename", "vm@b", "vm@older"]);
    silt.ok(&["snapshot", "vm@a"]);
    silt.fails(4, &there.copy_args(&["vm"]));
    there.copy(&["vm", "--replace"]);
    there.assert_same(&["vm", "vm@a", "vm@older"]);
    // A volume that is called something else now.
    silt.ok(&["rename", "vm", "web"]);
    silt.fails(4, &there.copy_args(&["web"]));
    there.copy(&["web", "--replace"]);
    there.assert_same(&["web", "web@a"]);
    assert!(there.fails(3, &["info", "vm"]).contains("vm"));
    // Another volume, or an image, of the name.
    there.json(&["clone", "image", "branch"]);
    silt.fails(4, &there.copy_args(&["branch", "--replace"]));
    there.json(&["clone", "image", "raw"]);
    silt.fails(4, &there.copy_args(&["raw", "--replace"]));
    there.assert_verified();
}

#[test]
fn wrong_names_and_wrong_stores_are_refused() {
    let silt = furnished();
    let there = Other::new(&silt, "there");
    silt.fails(3, &there.copy_args(&["nobody"]));
    assert!(silt.fails(6, &there.copy_args(&["vm@a"])).contains("name vm"));
    silt.fails(2, &there.copy_args(&["b:d"]));
    silt.fails(6, &["store", "copy", silt.store().to_str().unwrap()]);
    silt.fails(6, &["store", "copy", silt.small_tree("a-tree").to_str().unwrap()]);
    let archive = silt.path("archive");
    silt.fails(6, &["store", "export", archive.to_str().unwrap(), "vm@a"]);
    let image = silt.path("raw.img");
    let message = silt.fails(7, &["store", "import", image.to_str().unwrap()]);
    assert!(message.contains("no archive"), "{message}");
    // A store of another domain: its secret is in the store file, behind a header.
    let foreign = Other::new(&silt, "foreign");
    foreign.json(&["store", "import", export(&silt, &["raw"]).to_str().unwrap()]);
    foreign.json(&["rm", "raw"]);
    give_secret(&foreign.path);
    assert!(silt.fails(6, &foreign.copy_args(&[])).contains("domain"));
    let archive = export(&silt, &["raw"]);
    assert!(foreign.fails(6, &["store", "import", archive.to_str().unwrap()]).contains("domain"));
}

/// Gives a store a dedup domain of its own.
fn give_secret(store: &Path) {
    let path = store.join("store");
    let bytes = fs::read(&path).unwrap();
    let mut about = silt_format::StoreFile::decode(&bytes).unwrap();
    about.domain_secret = [7; 32];
    fs::write(path, about.encode()).unwrap();
}

fn export(silt: &Silt, names: &[&str]) -> PathBuf {
    let archive = silt.path("archive.silt");
    silt.json(&[&["store", "export", archive.to_str().unwrap()], names].concat());
    archive
}

#[test]
fn a_copy_that_was_killed_goes_on_where_it_was() {
    let silt = Silt::new();
    for n in 0..4 {
        let file = silt.path(format!("disk-{n}"));
        fs::write(&file, pseudo_random(24 << 20, n)).unwrap();
        silt.ok(&["build", file.to_str().unwrap(), &format!("image-{n}"), "--from", "raw"]);
    }
    let there = Other::new(&silt, "there");
    for delay_ms in [30, 60, 90, 140, 200, 250] {
        let mut child = silt.command(&there.copy_args(&[])).stdout(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(delay_ms));
        child.kill().unwrap();
        child.wait().unwrap();
        if there.path.join("store").exists() {
            let listed = there.json(&["ls"]);
            for row in listed.as_array().unwrap() {
                let name = row["name"].as_str().unwrap();
                assert!(there.exported(name) == silt.exported(name), "{name}");
            }
        }
    }
    let packed = |store: &Path| -> u64 {
        let packs = every_file_of(&store.join("packs")).unwrap_or_default();
        let whole = packs.iter().filter(|path| path.extension().is_some_and(|e| e == "pack"));
        whole.map(|path| fs::metadata(path).unwrap().len()).sum()
    };
    let before = packed(&there.path);
    let done = there.copy(&[]);
    let after = packed(&there.path);
    assert!(after - before <= number(&done, "bytes_copied") + (1 << 20), "{before} {after} {done}");
    assert!(after < packed(&silt.store()) + (8 << 20), "nothing is there twice");
    there.assert_same(&["image-0", "image-1", "image-2", "image-3"]);
}

#[test]
fn collections_here_and_there_take_nothing_from_a_copy() {
    let silt = furnished();
    let there = Other::new(&silt, "there");
    for round in 0..4 {
        let file = silt.path("disk");
        fs::write(&file, pseudo_random(12 << 20, 300 + round)).unwrap();
        let text = file.to_str().unwrap();
        silt.ok(&["build", text, "changing", "--from", "raw", "--replace"]);
        silt.ok(&["build", text, "passing", "--from", "raw", "--replace"]);
        silt.ok(&["rm", "passing"]);
        write(&silt, "vm", 400 + round, 7 << 20);
        thread::scope(|scope| {
            let copying = scope.spawn(|| there.copy(&["--replace"]));
            wait_for("the other store", || there.path.join("store").exists());
            while !copying.is_finished() {
                silt.json(&["gc", "--wait", "0"]);
                there.json(&["gc", "--wait", "0"]);
            }
            copying.join().unwrap();
        });
        there.assert_same(&["changing", "vm", "vm@a", "branch", "image"]);
        silt.assert_verified();
    }
}

#[test]
fn an_archive_brings_everything_by_file_and_by_pipe() {
    let silt = furnished();
    let archive = export(&silt, &[]);
    let there = Other::new(&silt, "by-file");
    let done = there.json(&["store", "import", archive.to_str().unwrap()]);
    assert_eq!(names(&done), [2, 3, 2, 0], "{done}");
    there.assert_same(&NAMES);
    assert_eq!(there.json(&["log", "branch"]), silt.json(&["log", "branch"]));
    let again = there.json(&["store", "import", archive.to_str().unwrap()]);
    assert_eq!(names(&again), [0, 0, 0, 7], "{again}");
    assert_eq!(number(&again, "chunks_copied"), 0);

    let piped = Other::new(&silt, "by-pipe");
    let mut out = silt.command(&["store", "export", "-"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut import = silt.command(&piped.args(&["store", "import", "-"]));
    let ran = Ran::of(import.stdin(out.stdout.take().unwrap()));
    assert!(ran.status.success() && out.wait().unwrap().success(), "{ran:?}");
    piped.assert_same(&NAMES);

    // Some names, and an archive of a later state, which has to be allowed.
    write(&silt, "vm", 60, 8 << 20);
    let archive = export(&silt, &["vm"]);
    there.fails(4, &["store", "import", archive.to_str().unwrap()]);
    let done = there.json(&["store", "import", archive.to_str().unwrap(), "--replace"]);
    assert_eq!(names(&done), [0, 1, 0, 2], "{done}");
    there.assert_same(&["vm", "vm@a", "vm@b"]);
    let alone = Other::new(&silt, "alone");
    alone.json(&["store", "import", archive.to_str().unwrap()]);
    alone.assert_same(&["vm", "vm@a", "vm@b"]);
}

/// Where each frame of an archive begins, and the end of the last one.
fn borders(archive: &[u8]) -> Vec<usize> {
    let mut borders = vec![64];
    while *borders.last().unwrap() < archive.len() {
        let at = *borders.last().unwrap();
        let len = u32::from_le_bytes(archive[at + 4..at + 8].try_into().unwrap());
        borders.push(at + 16 + len as usize);
    }
    assert_eq!(*borders.last().unwrap(), archive.len());
    borders
}

/// A store with little in it, so that an archive of it has few frames.
fn small() -> Silt {
    let silt = Silt::new();
    let raw = silt.path("raw.img");
    fs::write(&raw, pseudo_random(200_000, 3)).unwrap();
    silt.ok(&["build", raw.to_str().unwrap(), "raw", "--from", "raw"]);
    silt.ok(&["clone", "raw", "vm"]);
    silt.ok(&["snapshot", "vm@a"]);
    silt
}

#[test]
fn an_archive_that_ends_early_or_has_a_wrong_bit_publishes_nothing() {
    let silt = small();
    let whole = fs::read(export(&silt, &[])).unwrap();
    let (borders, bad) = (borders(&whole), silt.path("bad"));
    let there = Other::new(&silt, "there");
    let refused = |bytes: &[u8]| {
        fs::write(&bad, bytes).unwrap();
        let message = there.fails(7, &["store", "import", bad.to_str().unwrap()]);
        if there.path.exists() {
            assert_eq!(there.json(&["ls"]).as_array().unwrap().len(), 0, "{message}");
        }
    };
    for at in &borders[..borders.len() - 1] {
        for len in [*at, at + 1, at + 9, at + 16, at + 17] {
            refused(&whole[..len]);
        }
        // In the head, in what is said of a chunk or a name, in its bytes.
        for byte in [at + 1, at + 5, at + 16, at + 20] {
            let mut bytes = whole.clone();
            bytes[byte] ^= 4;
            refused(&bytes);
        }
    }
    for byte in [0, 9, 40, 62] {
        let mut bytes = whole.clone();
        bytes[byte] ^= 4;
        fs::write(&bad, bytes).unwrap();
        there.fails(7, &["store", "import", bad.to_str().unwrap()]);
    }
    refused(&[&whole[..], b"more"].concat());
    // A frame that is missing, one that is there twice, and two in the wrong order: every frame is whole.
    let frame = |n: usize| &whole[borders[n]..borders[n + 1]];
    let (head, last) = (&whole[..64], borders.len() - 2);
    let order = |numbers: &[usize]| {
        let frames: Vec<_> = numbers.iter().map(|n| frame(*n)).collect();
        [head, &frames.concat()].concat()
    };
    let all: Vec<usize> = (0..=last).collect();
    refused(&order(&all[1..]));
    refused(&order(&[&[0], &all[..]].concat()));
    let mut swapped = all.clone();
    swapped.swap(last - 1, 0);
    refused(&order(&swapped));
    fs::write(&bad, &whole).unwrap();
    there.json(&["store", "import", bad.to_str().unwrap()]);
    there.assert_same(&["raw", "vm", "vm@a"]);
}

/// An archive, whole by all its checksums, that lies: a name needs a chunk that nobody has, or a chunk is something else.
#[test]
fn an_archive_that_lies_publishes_nothing() {
    use silt_format::ArchiveFrameHead;
    let silt = small();
    let whole = fs::read(export(&silt, &[])).unwrap();
    let (borders, bad) = (borders(&whole), silt.path("bad"));
    let there = Other::new(&silt, "there");
    let frames: Vec<&[u8]> = borders.windows(2).map(|pair| &whole[pair[0]..pair[1]]).collect();
    let decode = |frame: &'static [u8]| {
        let head = ArchiveFrameHead::decode(frame[..16].try_into().unwrap()).unwrap();
        ArchiveFrame::decode(&head, &frame[16..]).unwrap()
    };
    let frames: Vec<_> = frames.iter().map(|frame| decode(frame.to_vec().leak())).collect();
    let sealed = |frames: &[ArchiveFrame<'_>]| {
        let mut bytes = whole[..64].to_vec();
        let (mut chunks, mut names) = (0, 0);
        for frame in frames {
            match frame {
                ArchiveFrame::Chunk(..) => chunks += 1,
                ArchiveFrame::Name(_) => names += 1,
                ArchiveFrame::End(_) => continue,
            }
            frame.encode_into(&mut bytes);
        }
        let mut digest = ArchiveDigest::default();
        digest.update(&bytes);
        ArchiveFrame::End(ArchiveEnd { chunks, names, digest: digest.digest() })
            .encode_into(&mut bytes);
        bytes
    };
    let refused = |frames: &[ArchiveFrame<'_>]| {
        fs::write(&bad, sealed(frames)).unwrap();
        let message = there.fails(7, &["store", "import", bad.to_str().unwrap()]);
        assert_eq!(there.json(&["ls"]).as_array().unwrap().len(), 0, "{message}");
        assert_eq!(there.json(&["verify"])["ok"], true);
        message
    };
    let chunks = frames.iter().take_while(|frame| matches!(frame, ArchiveFrame::Chunk(..))).count();
    for number in 0..chunks {
        // The store is to have none of them by an earlier round.
        let _ = fs::remove_dir_all(&there.path);
        let mut lying = frames.clone();
        let ArchiveFrame::Chunk(mut about, stored) = lying[number].clone() else { unreachable!() };
        about.id = silt_types::ChunkId::from_bytes([9; 32]);
        lying[number] = ArchiveFrame::Chunk(about, stored);
        assert!(refused(&lying).contains("chunk 0909"));
        let _ = fs::remove_dir_all(&there.path);
        let mut lacking = frames.clone();
        lacking.remove(number);
        let message = refused(&lacking);
        assert!(message.contains("is not whole"), "{message}");
    }
    // The disk of one name under another length.
    let mut shorter = frames.clone();
    for frame in &mut shorter {
        if let ArchiveFrame::Name(ArchivedName::Volume { disk, .. }) = frame {
            disk.size_bytes = 4096;
        }
    }
    assert!(refused(&shorter).contains("volume vm is not whole"));
    let mut volume_missing = frames.clone();
    volume_missing
        .retain(|frame| !matches!(frame, ArchiveFrame::Name(ArchivedName::Volume { .. })));
    assert!(refused(&volume_missing).contains("of no volume"));
    fs::write(&bad, sealed(&frames)).unwrap();
    there.json(&["store", "import", bad.to_str().unwrap()]);
    there.assert_same(&["raw", "vm", "vm@a"]);
}

/// Chunks and the name of a volume, as one who lies may put them together: every checksum is right.
fn lying_archive(header: &[u8], chunks: &[(ChunkKind, Vec<u8>)], disk: DiskId) -> Vec<u8> {
    let domain = Domain::published();
    let mut bytes = header.to_vec();
    for (kind, content) in chunks {
        let about = ArchivedChunk {
            id: domain.chunk_id(kind.context(), content),
            len: content.len() as u32,
            kind: *kind as u8,
            codec: Codec::Raw,
        };
        ArchiveFrame::Chunk(about, content).encode_into(&mut bytes);
    }
    let volume = ArchivedName::Volume {
        id: VolumeId::from_bytes([1; 16]),
        name: "lie".parse().unwrap(),
        disk,
        state: StateId::from_bytes([2; 32]),
        head: None,
        source: "lie".parse().unwrap(),
        source_volume: None,
        created_ns: 0,
    };
    ArchiveFrame::Name(volume).encode_into(&mut bytes);
    let mut digest = ArchiveDigest::default();
    digest.update(&bytes);
    let end = ArchiveEnd { chunks: chunks.len() as u64, names: 1, digest: digest.digest() };
    ArchiveFrame::End(end).encode_into(&mut bytes);
    bytes
}

/// A node that is sound at one place is not so at every other one, and a node is no content.
#[test]
fn an_archive_with_sound_chunks_in_wrong_places_publishes_nothing() {
    let silt = small();
    let header = fs::read(export(&silt, &[])).unwrap()[..64].to_vec();
    let (there, bad) = (Other::new(&silt, "there"), silt.path("bad"));
    let node = |node: &MapNode| (ChunkKind::MapNode, node.encode());
    let id = |(kind, content): &(ChunkKind, Vec<u8>)| {
        Domain::published().chunk_id(kind.context(), content)
    };
    let inner = |level, ids: &[ChunkId]| {
        let mut children = MapChildren::default();
        ids.iter().enumerate().for_each(|(at, id)| children.push(at as u8, *id));
        node(&MapNode::Inner { level, children })
    };
    let leaf =
        |first, chunk| node(&MapNode::Leaf(vec![MapRun { first, len: 1, chunk_offset: 0, chunk }]));
    let content = (ChunkKind::FileData, vec![7; 4096]);
    let right = leaf(0, id(&content));
    let last = leaf(255, id(&content));
    let lower = inner(1, &[id(&right)]);
    let upper = inner(2, &[id(&lower), id(&right)]);
    let short = inner(1, &[id(&last), id(&last)]);
    let of_node = leaf(0, id(&right));
    let cases = [
        // A leaf where a node of the level above belongs, after it was met where it is right.
        (vec![content.clone(), right.clone(), lower, upper.clone()], id(&upper), 128 * MIB),
        // One that reaches beyond the end of the disk, after it was met before that.
        (vec![content.clone(), last, short.clone()], id(&short), MIB + 4096),
        // A node as content.
        (vec![content.clone(), right.clone(), of_node.clone()], id(&of_node), MIB),
    ];
    for (chunks, root, size_bytes) in cases {
        fs::write(&bad, lying_archive(&header, &chunks, DiskId { root, size_bytes })).unwrap();
        let message = there.fails(7, &["store", "import", bad.to_str().unwrap()]);
        assert!(message.contains("volume lie is not whole"), "{message}");
        assert_eq!(there.json(&["ls"]).as_array().unwrap().len(), 0);
    }
    // What is told truly is taken.
    let disk = DiskId { root: id(&right), size_bytes: MIB };
    fs::write(&bad, lying_archive(&header, &[content, right], disk)).unwrap();
    there.json(&["store", "import", bad.to_str().unwrap()]);
    assert_eq!(there.exported("lie")[..4097], [&[7; 4096][..], &[0]].concat());
}

#[test]
fn an_interrupted_export_goes_on_and_says_so() {
    let silt = furnished();
    let archive = export(&silt, &[]);
    let whole = fs::read(&archive).unwrap();
    let borders = borders(&whole);
    let part = silt.path("archive.silt.part");
    assert!(!part.exists());
    let (half, third) = (borders[borders.len() / 2], borders[borders.len() / 3]);
    let mut flipped = whole.clone();
    flipped[third + 100] ^= 1;
    let names_too = borders[borders.len() - 3];
    let cases =
        [&whole[..half], &whole[..half + 30], &flipped, &whole[..names_too], &[0; 5000], b""];
    for (case, left) in cases.into_iter().enumerate() {
        fs::remove_file(&archive).unwrap();
        fs::write(&part, left).unwrap();
        let done = silt.json(&["store", "export", archive.to_str().unwrap()]);
        let resumed = number_of_chunks(&borders, &whole, left);
        assert_eq!(number(&done, "chunks_resumed"), resumed, "case {case}: {done}");
        assert!(fs::read(&archive).unwrap() == whole || case == 2, "case {case}");
        assert!(!part.exists());
        let there = Other::new(&silt, &format!("there-{case}"));
        there.json(&["store", "import", archive.to_str().unwrap()]);
        there.assert_same(&["vm", "branch", "image"]);
    }
    // Somebody's own file is nobody's to write over.
    fs::write(&part, "my notes").unwrap();
    silt.fails(4, &["store", "export", archive.to_str().unwrap()]);
    assert_eq!(fs::read(&part).unwrap(), b"my notes");
    fs::remove_file(&part).unwrap();
    // Two at a time.
    let locked = File::create(&part).unwrap();
    locked.lock().unwrap();
    silt.fails(5, &["store", "export", archive.to_str().unwrap()]);
}

/// How many chunks at the beginning of an archive are whole in what is left of it.
fn number_of_chunks(borders: &[usize], whole: &[u8], left: &[u8]) -> u64 {
    let same = whole.iter().zip(left).take_while(|(a, b)| a == b).count();
    let frames = borders.windows(2).filter(|pair| pair[1] <= same && whole[pair[0]] == 1);
    frames.count() as u64
}

#[test]
fn root_a_full_disk_leaves_no_half_copied_name() {
    if !is_root() {
        return;
    }
    let silt = furnished();
    let archive = export(&silt, &[]);
    let there = Other::new(&silt, "there");
    let small = Small::mount_at(there.path.clone(), 2600);
    let ran = silt.run(&there.copy_args(&[]));
    assert_eq!(ran.status.code(), Some(8), "{ran:?}");
    let ran = silt.run(&there.args(&["store", "import", archive.to_str().unwrap()]));
    assert_eq!(ran.status.code(), Some(8), "{ran:?}");
    assert_eq!(there.json(&["ls"]).as_array().unwrap().len(), 0);
    small.resize(64 << 10);
    there.copy(&[]);
    there.assert_same(&NAMES);
    let export_full = Small::mount_at(silt.path("full"), 1000);
    let file = silt.path("full/archive");
    let ran = silt.run(&["store", "export", file.to_str().unwrap()]);
    assert_eq!(ran.status.code(), Some(8), "{ran:?}");
    assert!(!file.exists());
    export_full.resize(64 << 10);
    let done = silt.json(&["store", "export", file.to_str().unwrap()]);
    assert!(number(&done, "chunks_resumed") > 0, "{done}");
}

#[test]
fn root_what_is_sealed_is_copied_from_a_read_only_file_system() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let at = Small::mount(&silt, 64 << 10);
    silt.small_image("image");
    silt.json(&["clone", "image", "vm"]);
    write(&silt, "vm", 1, 1 << 20);
    at.make_read_only();
    let there = Other::new(&silt, "there");
    let archive = silt.path("archive");
    let export = |name| ["store", "export", archive.to_str().unwrap(), name].map(str::to_owned);
    let copy = |name| ["store", "copy", there.text(), name].map(str::to_owned);
    // What the volume wrote would have to be sealed.
    for args in [copy("vm"), export("vm")] {
        let message = silt.fails(10, &args);
        assert!(message.contains("read-only") || message.contains("Read-only"), "{message}");
    }
    assert!(!archive.exists());
    silt.json(&copy("image"));
    silt.json(&export("image"));
    assert!(archive.exists());
    there.assert_same(&["image"]);
}

#[test]
fn a_damaged_chunk_is_not_copied_and_keeps_the_rest_from_nothing() {
    let silt = small();
    let dir = silt.path("sound");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("file"), "sound").unwrap();
    silt.json(&["build", "sound", "sound", "--size", "1M"]);
    let packs = every_file_of(&silt.store().join("packs")).unwrap();
    let pack = packs.iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    let file = File::options().read(true).write(true).open(pack).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 5000).unwrap();
    let there = Other::new(&silt, "there");
    assert!(silt.fails(7, &there.copy_args(&[])).contains("chunk"));
    there.assert_verified();
    let listed = there.json(&["ls"]);
    let listed: Vec<_> = listed.as_array().unwrap().iter().map(|row| &row["name"]).collect();
    assert_eq!(listed, ["sound"]);
    there.assert_same(&["sound"]);
    let archive = silt.path("archive");
    silt.fails(7, &["store", "export", archive.to_str().unwrap()]);
    assert!(!archive.exists());
    let mut import = silt.command(&there.args(&["store", "import", "-"]));
    let mut child = import.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(b"SILTARCH");
    assert_eq!(child.wait().unwrap().code(), Some(7));
}
