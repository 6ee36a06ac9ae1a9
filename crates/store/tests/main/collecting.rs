//! Collection beside other work: what is needed stays, whoever needs it and since when; what is not goes.
//!
//! Roots here are names for lists of chunks, so that a test says itself what reaches what.

use super::{CACHE, content, publish, record};
use silt_format::RootRecord;
use silt_store::{
    ChunkKind, ChunkSink as _, ChunkSource as _, CollectRequest, Collected, Compression, Ingest,
    KeyContext, Listing, Marks, Named, Root, RootWalker, Sample, Store,
};
use silt_types::{ChunkId, Error, ErrorKind, NoProgress, Progress, Result};
use std::{
    collections::HashMap,
    fs,
    ops::Range,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tempfile::TempDir;

/// What roots reach.
#[derive(Default)]
struct Reach(Mutex<HashMap<ChunkId, Vec<ChunkId>>>);

impl Reach {
    fn set(&self, root: ChunkId, chunks: &[ChunkId]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(root, chunks.to_vec());
    }
}

impl RootWalker for Reach {
    fn walk(&self, root: &Root, marks: &Marks) -> Result<()> {
        let Root::Disk(disk) = root else { return Ok(()) };
        let reach = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let unreadable = || Error::corrupt(format!("chunk {} is missing", disk.root));
        let chunks = reach.get(&disk.root).ok_or_else(unreadable)?;
        chunks.iter().for_each(|chunk| marks.need_content(chunk));
        Ok(())
    }

    fn carry(&self, record: &RootRecord, listing: &Listing) -> Result<Option<RootRecord>> {
        let is_there = listing.images.iter().any(|image| image.root_record() == *record);
        Ok(is_there.then(|| record.clone()))
    }
}

struct Fixture {
    dir: TempDir,
    store: Store,
    reach: Reach,
}

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(&dir.path().join("store"), CACHE).unwrap();
        Fixture { dir, store, reach: Reach::default() }
    }

    /// Publishes an image of these chunks.
    fn publish(&self, name: &str, chunks: Range<u32>) -> Vec<ChunkId> {
        let ids = publish(&self.store, name, chunks).unwrap();
        self.reach.set(ids[0], &ids);
        ids
    }

    /// Publishes an image that reaches `chunks` by work that is under way.
    fn publish_by(&self, ingest: Ingest, name: &str, chunks: &[ChunkId]) {
        self.reach.set(chunks[0], chunks);
        ingest.publish_image(&record(name, chunks[0]), false).unwrap();
    }

    fn remove(&self, name: &str) {
        let Named::Image(image) = self.store.find(&name.parse().unwrap()).unwrap() else {
            panic!("{name} is no image")
        };
        self.store.change("cannot remove", |change| change.remove_image(&image)).unwrap();
    }

    fn collect(&self, wait: Duration, progress: &dyn Progress) -> Result<Collected> {
        let request = CollectRequest { wait, ..CollectRequest::default() };
        self.store.collect(&request, &self.reach, progress)
    }

    fn collect_now(&self) -> Collected {
        self.collect(Duration::ZERO, &NoProgress).unwrap()
    }

    fn assert_whole(&self) {
        let findings = self.store.verify(&Sample::ALL, &NoProgress).unwrap();
        assert!(findings.found.is_empty(), "{:?}", findings.found);
    }

    fn assert_there(&self, chunks: Range<u32>, ids: &[ChunkId]) {
        // Another process has no memory of where anything was.
        let fresh = Store::open(&self.dir.path().join("store"), CACHE).unwrap();
        for store in [&self.store, &fresh] {
            for (n, id) in chunks.clone().zip(ids) {
                let found = store.get(KeyContext::Content, id).unwrap();
                assert_eq!(&*found, content(n, 1 + n as usize * 37 % 65536), "{n}");
            }
        }
    }

    fn pack_files(&self) -> usize {
        fs::read_dir(self.dir.path().join("store/packs")).unwrap().count()
    }
}

/// Does something once when a task begins.
struct At<'a> {
    task: &'static str,
    act: Mutex<Option<Box<dyn FnOnce() + Send + 'a>>>,
}

impl<'a> At<'a> {
    fn new(task: &'static str, act: impl FnOnce() + Send + 'a) -> At<'a> {
        At { task, act: Mutex::new(Some(Box::new(act))) }
    }
}

impl Progress for At<'_> {
    fn begin(&self, task: &'static str, _total_bytes: u64) {
        if task == self.task
            && let Some(act) = self.act.lock().unwrap().take()
        {
            act();
        }
    }

    fn advance(&self, _bytes: u64) {}
}

const WAITING: &str = "waiting for work under way";

#[test]
fn what_nobody_needs_goes_and_the_rest_stays() {
    let fixture = Fixture::new();
    let kept = fixture.publish("kept", 0..300);
    fixture.publish("gone", 300..600);
    // Half of it is the first one's.
    fixture.publish("mixed", 150..900);
    assert_eq!(fixture.collect_now().packs_removed, 0);
    fixture.remove("gone");
    fixture.remove("mixed");
    let dry = CollectRequest { dry_run: true, ..CollectRequest::default() };
    let would = fixture.store.collect(&dry, &fixture.reach, &NoProgress).unwrap();
    assert_eq!((would.packs_removed, would.chunks_removed), (2, 600));
    assert_eq!(fixture.pack_files(), 3);
    let done = fixture.collect_now();
    assert_eq!((done.chunks, done.chunks_needed, done.chunks_removed), (900, 300, 600));
    assert_eq!((done.packs, done.packs_removed, fixture.pack_files()), (3, 2, 1));
    assert_eq!((done.bytes_removed, done.bytes_written), (would.bytes_removed, 0));
    assert_eq!(fixture.store.totals().unwrap().chunks.chunks, 300);
    fixture.assert_there(0..300, &kept);
    fixture.assert_whole();
    assert_eq!(fixture.collect_now().packs_removed, 0);
    // A number that was once a pack's is never another one's, which readers rely on.
    let again = fixture.publish("again", 300..900);
    fixture.assert_there(300..900, &again);
    fixture.assert_whole();
}

#[test]
fn packs_of_which_little_is_needed_are_written_anew_and_readers_go_on() {
    let fixture = Fixture::new();
    let all = fixture.publish("all", 0..600);
    // It remembers where the chunks are, and has their pack open.
    fixture.assert_there(0..600, &all);
    let few: Vec<_> = all.iter().step_by(5).copied().collect();
    let ingest = fixture.store.ingest(Compression::default()).unwrap();
    assert!(few.iter().all(|id| ingest.has(id).unwrap()));
    fixture.publish_by(ingest, "few", &few[1..]);
    fixture.remove("all");
    let done = fixture.collect_now();
    assert_eq!((done.chunks_moved, done.chunks_removed), (119, 481));
    assert_eq!(fixture.store.totals().unwrap().chunks.chunks, 119);
    for (n, id) in (0..600).step_by(5).zip(&few).skip(1) {
        let found = fixture.store.get(KeyContext::Content, id).unwrap();
        assert_eq!(&*found, content(n, 1 + n as usize * 37 % 65536));
    }
    fixture.assert_whole();
    // What it says of its image went on with the chunks.
    let name: silt_types::Name = "few".parse().unwrap();
    let named = |path: fs::DirEntry| {
        fs::read(path.path()).unwrap().windows(3).any(|bytes| bytes == name.as_str().as_bytes())
    };
    let mut packs = fs::read_dir(fixture.dir.path().join("store/packs")).unwrap();
    assert!(packs.any(|pack| named(pack.unwrap())));
}

/// An ingest found a chunk that nobody needed any more, and the collection came before the image that needs it.
#[test]
fn what_work_under_way_has_found_is_left_to_it() {
    let fixture = Fixture::new();
    let ids = fixture.publish("old", 0..100);
    fixture.remove("old");
    let ingest = fixture.store.ingest(Compression::default()).unwrap();
    assert!(ids.iter().all(|id| ingest.has(id).unwrap()));
    let done = fixture.collect_now();
    assert_eq!((done.packs_removed, done.packs_waiting), (0, 1));
    assert!(done.waiting_for[0].contains(&std::process::id().to_string()), "{done:?}");
    // Work that begins now does not count on it.
    let later = fixture.store.ingest(Compression::default()).unwrap();
    assert!(!later.has(&ids[0]).unwrap() && later.removals() == ingest.removals() + 1);
    drop(later);
    fixture.publish_by(ingest, "new", &ids);
    fixture.assert_there(0..100, &ids);
    let done = fixture.collect_now();
    assert_eq!((done.chunks_moved, done.chunks_removed, done.packs_waiting), (100, 0, 0));
    fixture.assert_there(0..100, &ids);
    fixture.assert_whole();
}

#[test]
fn a_collection_waits_for_work_under_way_and_keeps_what_came_of_it() {
    let fixture = Fixture::new();
    let ids = fixture.publish("old", 0..100);
    fixture.remove("old");
    let ingest = fixture.store.ingest(Compression::default()).unwrap();
    assert!(ids.iter().all(|id| ingest.has(id).unwrap()));
    let at = At::new(WAITING, || fixture.publish_by(ingest, "new", &ids[..50]));
    let done = fixture.collect(Duration::from_secs(60), &at).unwrap();
    assert_eq!((done.chunks_moved, done.chunks_removed, done.packs_waiting), (50, 50, 0));
    fixture.assert_there(0..50, &ids[..50]);
    fixture.assert_whole();
}

/// Work that reads says what, and nobody waits for it.
#[test]
fn what_is_being_read_stays_without_being_waited_for() {
    let fixture = Fixture::new();
    let ids = fixture.publish("old", 0..100);
    fixture.publish("other", 100..200);
    let reading = fixture.store.lease().unwrap();
    reading.reads(&[record("old", ids[0]).disk]).unwrap();
    fixture.remove("old");
    fixture.remove("other");
    let done = fixture.collect_now();
    assert_eq!((done.chunks_removed, done.packs_waiting), (100, 0));
    fixture.assert_there(0..100, &ids);
    drop(reading);
    assert_eq!(fixture.collect_now().chunks_removed, 100);
    fixture.assert_whole();
}

/// While packs were condemned, an image that needs them came, other work built on that image, and it went.
#[test]
fn what_was_built_on_an_image_that_came_and_went_meanwhile_stays() {
    let fixture = Fixture::new();
    let ids = fixture.publish("old", 0..100);
    fixture.remove("old");
    let first = fixture.store.ingest(Compression::default()).unwrap();
    assert!(ids.iter().all(|id| first.has(id).unwrap()));
    let mut second = None;
    let at = At::new(WAITING, || {
        fixture.publish_by(first, "passing", &ids);
        // Begun after the collection condemned: it looks nothing up, but takes what the image has.
        second = Some(fixture.store.ingest(Compression::default()).unwrap());
        fixture.remove("passing");
    });
    let done = fixture.collect(Duration::from_secs(60), &at).unwrap();
    assert_eq!((done.chunks_removed, done.packs_waiting), (0, 0), "{done:?}");
    drop(at);
    fixture.publish_by(second.unwrap(), "derived", &ids[1..]);
    fixture.assert_there(0..100, &ids);
    // The next collection owes nothing to the one that went.
    let done = fixture.collect_now();
    assert_eq!((done.chunks_needed, done.chunks), (99, 100));
    fixture.assert_there(1..100, &ids[1..]);
    fixture.assert_whole();
}

#[test]
fn what_is_stored_again_while_it_is_condemned_is_where_it_was_stored() {
    let fixture = Fixture::new();
    let ids = fixture.publish("old", 0..100);
    fixture.remove("old");
    let holding = fixture.store.ingest(Compression::default()).unwrap();
    assert_eq!(fixture.collect_now().packs_waiting, 1);
    assert_eq!(fixture.publish("new", 0..60), ids[..60]);
    assert_eq!(fixture.store.totals().unwrap().chunks.chunks, 100, "each counts once");
    fixture.assert_whole();
    drop(holding);
    let done = fixture.collect_now();
    assert_eq!((done.chunks_moved, done.chunks_removed), (0, 40));
    fixture.assert_there(0..60, &ids[..60]);
    fixture.assert_whole();
}

#[test]
fn packs_of_work_under_way_are_not_looked_at() {
    let fixture = Fixture::new();
    let ingest = fixture.store.ingest(Compression::None).unwrap();
    let ids: Vec<_> = (0..50)
        .map(|n| ingest.put(ChunkKind::FileData, &content(n, 1 + n as usize * 37)).unwrap())
        .collect();
    ingest.flush().unwrap();
    let done = fixture.collect_now();
    assert_eq!((done.packs_removed, done.packs_waiting, done.chunks), (0, 0, 50));
    fixture.publish_by(ingest, "image", &ids);
    assert_eq!(fixture.collect_now().chunks_removed, 0);
    fixture.assert_there(0..50, &ids);
}

#[test]
fn a_root_that_cannot_be_read_stops_everything_and_says_how_to_go_on() {
    let fixture = Fixture::new();
    fixture.publish("kept", 0..100);
    fixture.publish("gone", 100..200);
    fixture.remove("gone");
    let root = ChunkId::from_bytes([7; 32]);
    fixture
        .store
        .change("test", |change| change.put_image(&record("broken", root), false))
        .unwrap();
    let error = fixture.collect(Duration::ZERO, &NoProgress).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(
        error.chain().contains("image broken") && error.chain().contains("silt rm"),
        "{error:?}"
    );
    assert_eq!(fixture.store.totals().unwrap().chunks.chunks, 200);
    fixture.remove("broken");
    assert_eq!(fixture.collect_now().chunks_removed, 100);
}

/// The test above holds only if a collector that skips a root is found out.
#[test]
fn planted_a_skipped_root_loses_chunks_and_verification_would_tell() {
    let fixture = Fixture::new();
    let ids = fixture.publish("kept", 0..100);
    fixture.reach.set(ids[0], &ids[..90]);
    assert_eq!(fixture.collect_now().chunks_removed, 10);
    let lost = fixture.store.get(KeyContext::Content, &ids[95]).unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Corrupt);
}

/// The same for one that does not wait for leases.
#[test]
fn planted_an_ignored_lease_loses_chunks() {
    let fixture = Fixture::new();
    let ids = fixture.publish("old", 0..100);
    fixture.remove("old");
    let ingest = fixture.store.ingest(Compression::default()).unwrap();
    assert!(ids.iter().all(|id| ingest.has(id).unwrap()));
    for lease in fs::read_dir(fixture.dir.path().join("store/leases")).unwrap() {
        fs::remove_file(lease.unwrap().path()).unwrap();
    }
    assert_eq!(fixture.collect_now().chunks_removed, 100);
    fixture.publish_by(ingest, "new", &ids);
    assert!(fixture.store.get(KeyContext::Content, &ids[5]).is_err());
}

#[test]
fn collections_take_turns_and_name_who_is_at_it() {
    let fixture = Fixture::new();
    fixture.publish("kept", 0..10);
    let at = At::new("reading the index", || {
        let error = fixture.collect(Duration::ZERO, &NoProgress).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.chain().contains(&std::process::id().to_string()), "{error:?}");
        let held = fixture.store.hold_collection(Duration::ZERO).err().unwrap();
        assert_eq!(held.kind(), ErrorKind::Busy);
    });
    fixture.collect(Duration::ZERO, &at).unwrap();
    assert!(at.act.lock().unwrap().is_none(), "it was tried");
    let held = fixture.store.hold_collection(Duration::ZERO).unwrap();
    assert_eq!(fixture.collect(Duration::ZERO, &NoProgress).unwrap_err().kind(), ErrorKind::Busy);
    drop(held);
    fixture.collect(Duration::ZERO, &NoProgress).unwrap();
}

#[test]
fn a_damaged_pack_is_left_as_it_is_and_told() {
    let fixture = Fixture::new();
    let ids = fixture.publish("all", 0..200);
    let ingest = fixture.store.ingest(Compression::default()).unwrap();
    assert!(ingest.has(&ids[0]).unwrap());
    fixture.publish_by(ingest, "few", &ids[1..20]);
    fixture.remove("all");
    let pack = fs::read_dir(fixture.dir.path().join("store/packs"))
        .unwrap()
        .map(|pack| pack.unwrap().path())
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    // Chunks are in the middle.
    let mut bytes = fs::read(&pack).unwrap();
    let whole = bytes.clone();
    bytes[64..5000].fill(0xee);
    fs::write(&pack, &bytes).unwrap();
    let done = fixture.collect_now();
    assert_eq!((done.damaged.len(), done.chunks_removed), (1, 0), "{done:?}");
    assert!(done.damaged[0].contains("pack"), "{done:?}");
    fs::write(&pack, &whole).unwrap();
    assert_eq!(fixture.collect_now().chunks_removed, 181);
    fixture.assert_there(1..20, &ids[1..20]);
    fixture.assert_whole();
}
