//! The store from outside: what it keeps, what it refuses, what it notices.

#![allow(clippy::unwrap_used, clippy::panic)]

mod collecting;

use silt_store::{
    ChunkKind, ChunkSink as _, ChunkSource as _, Compression, ImageRecord, KeyContext, Named,
    Sample, Store,
};
use silt_types::{ChunkId, DiskId, DiskName, ErrorKind, NoProgress, Result};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

const CACHE: u64 = 1 << 20;

fn record(name: &str, root: ChunkId) -> ImageRecord {
    ImageRecord {
        name: name.parse().unwrap(),
        disk: DiskId { root, size_bytes: 4096 },
        tree: None,
        config: None,
        created_ns: 1,
        bytes_nonzero: 4096,
    }
}

fn content(n: u32, len: usize) -> Vec<u8> {
    let seed = blake3_like(n);
    (0..len).map(|at| seed[at % 32] ^ (at / 7) as u8).collect()
}

fn blake3_like(n: u32) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.chunks_exact_mut(4).zip(1u32..).for_each(|(out, k)| {
        out.copy_from_slice(
            &n.wrapping_mul(0x9e37_79b9).wrapping_add(k.wrapping_mul(0x85eb_ca6b)).to_le_bytes(),
        );
    });
    bytes
}

fn publish(store: &Store, name: &str, chunks: std::ops::Range<u32>) -> Result<Vec<ChunkId>> {
    let ingest = store.ingest(Compression::default())?;
    let ids =
        chunks.map(|n| ingest.put(ChunkKind::FileData, &content(n, 1 + n as usize * 37 % 65536)));
    let ids = ids.collect::<Result<Vec<_>>>()?;
    ingest.publish_image(&record(name, ids[0]), false)?;
    Ok(ids)
}

fn files_of(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_of(&path)) } else { files.push(path) }
    }
    files
}

#[test]
fn chunks_come_back_and_equal_ones_are_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(&dir.path().join("a/b/store"), CACHE).unwrap();
    let ids = publish(&store, "one", 0..500).unwrap();
    assert_eq!(publish(&store, "two", 0..500).unwrap(), ids);
    assert_eq!(store.totals().unwrap().chunks.chunks, 500);
    drop(store);
    let store = Store::open(&dir.path().join("a/b/store"), CACHE).unwrap();
    for (n, id) in (0..500).zip(&ids) {
        assert_eq!(
            &*store.get(KeyContext::Content, id).unwrap(),
            content(n, 1 + n as usize * 37 % 65536)
        );
        assert_eq!(
            store.get(KeyContext::MapNode, id).unwrap_err().kind(),
            ErrorKind::Corrupt,
            "another context"
        );
    }
    let findings = store.verify(&Sample::ALL, &NoProgress).unwrap();
    assert!(findings.found.is_empty(), "{:?}", findings.found);
    assert_eq!((findings.packs, findings.chunks), (2, 500));
}

#[test]
fn threads_that_hand_in_the_same_chunks_store_each_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path(), CACHE).unwrap();
    let ingest = store.ingest(Compression::Lz4).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                (0..2000).for_each(|n| {
                    assert!(ingest.put(ChunkKind::FileData, &content(n, 3000)).is_ok())
                })
            });
        }
    });
    let counts = ingest.publish_image(&record("one", ChunkId::from_bytes([1; 32])), false).unwrap();
    assert_eq!((counts.chunks, counts.chunks_new), (8000, 2000));
    assert!(store.verify(&Sample::ALL, &NoProgress).unwrap().found.is_empty());
}

#[test]
fn an_ingest_that_is_not_published_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path(), CACHE).unwrap();
    let ingest = store.ingest(Compression::None).unwrap();
    ingest.put(ChunkKind::FileData, b"content").unwrap();
    drop(ingest);
    assert_eq!(store.totals().unwrap().packs, 0);
    for folder in ["packs", "leases"] {
        assert_eq!(fs::read_dir(dir.path().join(folder)).unwrap().count(), 0, "{folder}");
    }
}

#[test]
fn what_dead_work_left_is_removed_by_the_next_ingest() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path(), CACHE).unwrap();
    let (dead, pack) = ("1".repeat(32), "2".repeat(32));
    fs::write(dir.path().join("leases").join(&dead), "").unwrap();
    fs::write(dir.path().join("packs").join(format!("{pack}.{dead}.tmp")), "half").unwrap();
    fs::write(dir.path().join("packs").join(format!("{pack}.pack")), "never indexed").unwrap();
    fs::write(dir.path().join("packs").join("README"), "not ours").unwrap();
    let alive = store.ingest(Compression::None).unwrap();
    assert_eq!(fs::read_dir(dir.path().join("packs")).unwrap().count(), 1);
    alive.put(ChunkKind::FileData, b"content").unwrap();
    drop(store.ingest(Compression::None).unwrap());
    assert_eq!(
        fs::read_dir(dir.path().join("packs")).unwrap().count(),
        2,
        "a living ingest keeps its pack"
    );
}

#[test]
fn names_are_taken_once_unless_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path(), CACHE).unwrap();
    publish(&store, "one", 0..2).unwrap();
    assert_eq!(publish(&store, "one", 2..4).unwrap_err().kind(), ErrorKind::AlreadyExists);
    let ingest = store.ingest(Compression::None).unwrap();
    let id = ingest.put(ChunkKind::FileData, b"content").unwrap();
    ingest.publish_image(&record("one", id), true).unwrap();
    let name = "one".parse::<DiskName>().unwrap();
    let Named::Image(found) = store.find(&name).unwrap() else { panic!("an image") };
    assert_eq!(found.disk.root, id);
    store.change("cannot remove", |change| change.remove_image(&found)).unwrap();
    assert_eq!(store.find(&name).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(
        Store::open(&dir.path().join("none"), CACHE).err().unwrap().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        store.ingest(Compression::None).unwrap().put(ChunkKind::FileData, b"").unwrap_err().kind(),
        ErrorKind::Invalid
    );
}

#[test]
fn everything_is_private_whatever_the_umask() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open_or_create(&root, CACHE).unwrap();
    publish(&store, "one", 0..2).unwrap();
    let _alive = store.ingest(Compression::None).unwrap();
    for path in files_of(&root) {
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600,
            "{}",
            path.display()
        );
    }
    assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
}

/// A build that was killed while it made the store left the file that says so under its passing name for good.
#[test]
fn what_a_killed_process_left_of_a_new_store_is_gone_once_it_is_made() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("store.tmp"), "SILT").unwrap();
    drop(Store::open_or_create(dir.path(), CACHE).unwrap());
    let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = names.filter(|name| name.to_string_lossy().ends_with(".tmp")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_folder_with_other_things_in_it_is_not_made_a_store() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "").unwrap();
    assert_eq!(Store::open_or_create(dir.path(), CACHE).err().unwrap().kind(), ErrorKind::Invalid);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// Everything in a store that a reader could get wrong: every name, every chunk.
fn read_everything(root: &Path, ids: &[ChunkId]) -> Result<()> {
    let store = Store::open(root, CACHE)?;
    for name in ["one", "two"] {
        let Named::Image(found) = store.find(&name.parse().unwrap())? else { panic!("an image") };
        assert_eq!(found, record(name, found.disk.root));
        assert!(ids.contains(&found.disk.root));
    }
    for (n, id) in (0..).zip(ids) {
        assert_eq!(
            &*store.get(KeyContext::Content, id)?,
            content(n, 1 + n as usize * 37 % 65536),
            "wrong bytes"
        );
    }
    Ok(())
}

#[test]
fn a_flipped_bit_anywhere_is_an_error_and_what_makes_reading_fail_makes_verify_fail() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open_or_create(&root, CACHE).unwrap();
    let ids = publish(&store, "one", 0..40).unwrap();
    publish(&store, "two", 0..20).unwrap();
    drop(store);
    read_everything(&root, &ids).unwrap();
    let mut noticed = 0;
    for path in files_of(&root) {
        let whole = fs::read(&path).unwrap();
        let bits = whole.len() * 8;
        // A prime number of steps visits all bytes of a field in turn.
        for bit in (0..bits).step_by((bits / 61).max(1)) {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bytes).unwrap();
            let read = read_everything(&root, &ids);
            let verified =
                Store::open(&root, CACHE).and_then(|store| store.verify(&Sample::ALL, &NoProgress));
            let clean = verified.as_ref().is_ok_and(|findings| findings.found.is_empty());
            if let Err(error) = read {
                assert!(!clean, "{} bit {bit}: {error:?} but verify is clean", path.display());
                noticed += 1;
            }
            fs::write(&path, &whole).unwrap();
        }
    }
    assert!(noticed > 50, "only {noticed} flips were noticed");
}

#[test]
fn a_database_shorter_than_what_was_acknowledged_is_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open_or_create(&root, CACHE).unwrap();
    publish(&store, "one", 0..2).unwrap();
    drop(store);
    let before = fs::read(root.join("catalog.db")).unwrap();
    publish(&Store::open(&root, CACHE).unwrap(), "two", 2..4).unwrap();
    fs::write(root.join("catalog.db"), before).unwrap();
    let error = Store::open(&root, CACHE).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
}

#[test]
fn chunks_that_are_known_are_counted_without_being_handed_in() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path(), CACHE).unwrap();
    let ids = publish(&store, "one", 0..3).unwrap();
    let ingest = store.ingest(Compression::None).unwrap();
    assert_eq!(ingest.removals(), 0);
    assert!(ingest.has(&ids[0]).unwrap() && !ingest.has(&ChunkId::from_bytes([9; 32])).unwrap());
    ingest.count_known(2, 5000);
    assert_eq!((ingest.counts().chunks, ingest.counts().chunks_new), (2, 0));
    assert_eq!((ingest.counts().bytes, ingest.counts().bytes_new), (5000, 0));
    drop((ingest, store));
    let database = rusqlite::Connection::open(dir.path().join("catalog.db")).unwrap();
    database.execute("UPDATE state SET removals = 1", []).unwrap();
    let refused = Store::open(dir.path(), CACHE).map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
}
