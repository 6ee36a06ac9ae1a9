//! Ingest: many threads hand chunks in, new ones are compressed and appended to packs, and one publication at the end
//! makes them, and the image they belong to, visible together.
//!
//! Order, by which nothing is acknowledged before it is durable: pack with footer, fsync; index rows in short
//! transactions, under the lease; the name; the number of the commit. A crash leaves chunks that no root reaches, or
//! files that the next ingest removes.
//!
//! Memory is bounded whatever the input: one buffer per thread and pack, and the ids of packs not yet in the index.

use crate::{
    catalog::{Change, ImageRecord, State},
    chunk::{ChunkKind, ChunkSink, check_content_length},
    codec::{self, Compression},
    index,
    lease::Lease,
    pack::PackWriter,
    space::Portions,
    store::{Shared, Store},
    stored::StoredChunk,
};
use silt_format::{ArchivedChunk, Codec, LimitsFile, PackEntry, PackFooter, RootRecord};
use silt_types::{ChunkId, Error, ErrorKind, LeaseId, Result};
use std::{
    cell::RefCell,
    collections::HashSet,
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{self, SyncSender},
    },
    thread::JoinHandle,
};

/// A pack is closed at this length: large enough that files and fsyncs do not count, small enough that syncing one
/// overlaps with filling the next, and that moving what is alive in a thin one is cheap.
pub(crate) const PACK_SIZE_BYTES_TARGET: u64 = 64 << 20;
/// Or at this many chunks, which bounds the memory that its ids and its footer take.
pub(crate) const PACK_CHUNKS_TARGET: usize = 1 << 14;

/// What a chunk takes beside its bytes: its entry in the pack, and its row in the database and in the log of that.
const CHUNK_BYTES_BESIDE: u64 = PackEntry::LEN as u64 + 2 * 150;

/// Work that adds to a store. Dropped before [`Ingest::publish_image`], it leaves nothing visible.
pub struct Ingest {
    shared: Arc<Shared>,
    compression: Compression,
    pending: Arc<Pending>,
    current: Mutex<Option<PackWriter>>,
    closer: Mutex<Option<Closer>>,
    counts: Counts,
    space: Portions,
    removals: u64,
    /// Packs whose chunks do not count as stored. Those that are condemned from here on wait for the lease.
    condemned: HashSet<i64>,
    // Last, so that it outlives everything above.
    lease: Lease,
}

/// What an ingest has done so far. A chunk counts once for each time it was handed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IngestCounts {
    /// Chunks handed in.
    pub chunks: u64,
    /// Of those, chunks that the store did not have.
    pub chunks_new: u64,
    /// Uncompressed bytes handed in.
    pub bytes: u64,
    /// Of those, bytes that the store did not have.
    pub bytes_new: u64,
    /// Bytes that they take in packs.
    pub bytes_stored: u64,
}

#[derive(Default)]
struct Counts {
    chunks: AtomicU64,
    chunks_new: AtomicU64,
    bytes: AtomicU64,
    bytes_new: AtomicU64,
    bytes_stored: AtomicU64,
}

/// The ids of chunks that are on their way into packs but not in the index yet.
struct Pending {
    shards: [Mutex<HashSet<ChunkId, BuildHasherDefault<IdHasher>>>; 16],
    /// False while the index is known to hold nothing, which spares a new store its look-ups.
    index_has_chunks: AtomicBool,
}

impl Pending {
    fn shard(
        &self,
        id: &ChunkId,
    ) -> MutexGuard<'_, HashSet<ChunkId, BuildHasherDefault<IdHasher>>> {
        lock(&self.shards[usize::from(id.as_bytes()[31] & 15)])
    }

    fn indexed(&self, footer: &PackFooter) {
        self.index_has_chunks.store(true, Relaxed);
        for entry in &footer.entries {
            self.shard(&entry.id).remove(&entry.id);
        }
    }
}

/// Ids are hashes already.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        let head = bytes.first_chunk().map_or(0, |head| u64::from_le_bytes(*head));
        self.0 ^= head;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Closes full packs beside the ingest: fsync and index.
struct Closer {
    packs: SyncSender<PackWriter>,
    thread: JoinHandle<Result<()>>,
}

impl Store {
    /// Begins an ingest: takes its lease, then removes what dead work left behind.
    pub fn ingest(&self, compression: Compression) -> Result<Ingest> {
        let shared = self.shared();
        let lease = Lease::take(&shared.paths)?;
        shared.remove_leftovers(lease.id())?;
        let index_has_chunks = AtomicBool::new(!index::is_empty(&shared.database)?);
        let doing = "cannot read the state of the catalog";
        let removals = shared.database.read(doing, |c| Ok(State::read(c)))??.removals as u64;
        Ok(Ingest {
            shared: shared.clone(),
            compression,
            pending: Arc::new(Pending { shards: Default::default(), index_has_chunks }),
            current: Mutex::default(),
            closer: Mutex::default(),
            counts: Counts::default(),
            space: Portions::new(shared.space.clone(), &LimitsFile::default()),
            removals,
            condemned: index::condemned(&shared.database)?,
            lease,
        })
    }
}

impl ChunkSink for Ingest {
    fn put(&self, kind: ChunkKind, content: &[u8]) -> Result<ChunkId> {
        check_content_length(content)?;
        let id = self.shared.domain.chunk_id(kind.context(), content);
        self.counts.chunks.fetch_add(1, Relaxed);
        self.counts.bytes.fetch_add(content.len() as u64, Relaxed);
        if self.is_to_be_stored(&id)? {
            self.store(kind, id, content)?;
        }
        Ok(id)
    }
}

impl Ingest {
    /// What was done so far.
    pub fn counts(&self) -> IngestCounts {
        IngestCounts {
            chunks: self.counts.chunks.load(Relaxed),
            chunks_new: self.counts.chunks_new.load(Relaxed),
            bytes: self.counts.bytes.load(Relaxed),
            bytes_new: self.counts.bytes_new.load(Relaxed),
            bytes_stored: self.counts.bytes_stored.load(Relaxed),
        }
    }

    /// How often packs of the store were condemned by the time that this ingest held its lease.
    ///
    /// If two ingests saw the same count, then every chunk that the first found or wrote is there for the second as if it
    /// had looked it up itself. The first saw its count before it looked anything up, and look-ups do not find what is
    /// condemned; so what it found was condemned, if at all, after that. Every condemnation counts, in its own
    /// transaction; the second sees the same count, so there was none up to then. Whatever is condemned later,
    /// the lease of the second is older, so its removal waits for that.
    pub fn removals(&self) -> u64 {
        self.removals
    }

    /// Whether a chunk is in the store, to stay as long as the lease. A few microseconds. `Corrupt` if its row is damaged.
    pub fn has(&self, chunk: &ChunkId) -> Result<bool> {
        let place = index::find(&self.shared.database, chunk)?;
        Ok(place.is_some_and(|place| !self.condemned.contains(&place.pack)))
    }

    /// Whether the caller is to store a chunk. Whoever asks first is; publication waits for all of them.
    fn is_to_be_stored(&self, id: &ChunkId) -> Result<bool> {
        if !self.pending.shard(id).insert(*id) {
            return Ok(false);
        }
        if !self.pending.index_has_chunks.load(Relaxed) {
            return Ok(true);
        }
        let has = self.has(id);
        if !matches!(has, Ok(false)) {
            // It is there, or that cannot be told: then nobody is to take it for stored.
            self.pending.shard(id).remove(id);
        }
        has.map(|has| !has)
    }

    /// Stores a chunk as it is stored elsewhere, unless it is here. `read` is asked for it only where it is not, and an error
    /// of it is answered. Bytes count as handed in only where they were read. As durable as by [`ChunkSink::put`].
    pub fn put_stored(
        &self,
        id: &ChunkId,
        read: impl FnOnce() -> Result<StoredChunk>,
    ) -> Result<()> {
        self.counts.chunks.fetch_add(1, Relaxed);
        if !self.is_to_be_stored(id)? {
            return Ok(());
        }
        let stored = read().and_then(|chunk| match chunk.id() == id {
            true => Ok(chunk),
            false => Err(Error::internal(format!("chunk {id} was asked for, not {}", chunk.id()))),
        });
        let chunk = stored.inspect_err(|_| {
            self.pending.shard(id).remove(id);
        })?;
        let ArchivedChunk { id, len, kind, codec } = *chunk.about();
        self.counts.bytes.fetch_add(len.into(), Relaxed);
        self.count_new(len as usize, chunk.bytes().len());
        self.append(kind, id, codec, chunk.bytes(), len as usize)
    }

    fn count_new(&self, len: usize, stored_len: usize) {
        self.counts.chunks_new.fetch_add(1, Relaxed);
        self.counts.bytes_new.fetch_add(len as u64, Relaxed);
        self.counts.bytes_stored.fetch_add(stored_len as u64, Relaxed);
    }

    /// Counts chunks as handed in that are known to be in the store, by [`Ingest::has`] or [`Ingest::removals`].
    pub fn count_known(&self, chunks: u64, bytes: u64) {
        self.counts.chunks.fetch_add(chunks, Relaxed);
        self.counts.bytes.fetch_add(bytes, Relaxed);
    }

    /// Makes every chunk handed in so far durable and readable, though nothing names them yet. Costs what closing a pack
    /// does.
    pub fn flush(&self) -> Result<()> {
        let current = lock(&self.current).take();
        let closed = current.map_or(Ok(()), |writer| {
            close(&self.shared, &self.pending, self.lease.id(), writer, Vec::new())
        });
        self.wait_for_closer()?;
        closed
    }

    fn store(&self, kind: ChunkKind, id: ChunkId, content: &[u8]) -> Result<()> {
        thread_local!(static COMPRESSED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
        COMPRESSED.with_borrow_mut(|compressed| {
            let codec = codec::compress(content, self.compression, compressed)?;
            let stored = if codec == Codec::Raw { content } else { compressed };
            self.count_new(content.len(), stored.len());
            self.append(kind as u8, id, codec, stored, content.len())
        })
    }

    fn append(&self, kind: u8, id: ChunkId, codec: Codec, stored: &[u8], len: usize) -> Result<()> {
        let appended = self.append_to_pack(kind, id, codec, stored, len);
        // Nobody is to take it for stored.
        appended.inspect_err(|_| {
            self.pending.shard(&id).remove(&id);
        })
    }

    fn append_to_pack(
        &self,
        kind: u8,
        id: ChunkId,
        codec: Codec,
        stored: &[u8],
        len: usize,
    ) -> Result<()> {
        self.space.take(stored.len() as u64 + CHUNK_BYTES_BESIDE, || Ok(None))?;
        let mut current = lock(&self.current);
        let writer = match &mut *current {
            Some(writer) => writer,
            none => none.insert(PackWriter::create(&self.shared.paths, self.lease.id())?),
        };
        writer.append(id, kind, codec, stored, len)?;
        if writer.size() < PACK_SIZE_BYTES_TARGET && writer.chunks() < PACK_CHUNKS_TARGET {
            return Ok(());
        }
        let full = current.take();
        drop(current);
        full.map_or(Ok(()), |writer| self.close_beside(writer))
    }

    /// Hands a full pack to the closing thread; waits while that is two packs behind.
    fn close_beside(&self, writer: PackWriter) -> Result<()> {
        let packs = {
            let mut closer = lock(&self.closer);
            let closer = closer.get_or_insert_with(|| {
                let (packs, full) = mpsc::sync_channel::<PackWriter>(1);
                let (shared, pending) = (self.shared.clone(), self.pending.clone());
                let lease = self.lease.id();
                let close_all = move || {
                    full.iter().try_for_each(|w| close(&shared, &pending, lease, w, Vec::new()))
                };
                Closer { packs, thread: std::thread::spawn(close_all) }
            });
            closer.packs.clone()
        };
        // The thread ends early only with an error, which publication reports.
        packs.send(writer).map_err(|_| self.closing_error())
    }

    fn closing_error(&self) -> Error {
        match self.wait_for_closer() {
            Err(error) => error,
            Ok(()) => {
                Error::new(ErrorKind::Io, "an earlier pack of this ingest could not be closed")
            }
        }
    }

    fn wait_for_closer(&self) -> Result<()> {
        let Some(Closer { packs, thread }) = lock(&self.closer).take() else {
            return Ok(());
        };
        drop(packs);
        thread.join().unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Internal, "the thread that closes packs panicked"))
        })
    }

    /// Makes every chunk handed in durable and the image visible, in one step. `AlreadyExists` if the name is taken,
    /// unless it is an image's and `replace` is set. Costs what [`Ingest::publish`] does.
    pub fn publish_image(self, record: &ImageRecord, replace: bool) -> Result<IngestCounts> {
        let counts = self.counts();
        let put = |change: &mut Change<'_>| change.put_image(record, replace);
        self.publish("cannot publish the image", vec![record.root_record()], put)?;
        Ok(counts)
    }

    /// Makes every chunk handed in durable, then changes the catalog in one transaction that may name them. The last pack
    /// carries `roots`, which say again what the transaction says. Costs an fsync for each pack not closed yet, and
    /// three more.
    pub fn publish<T>(
        self,
        doing: &str,
        roots: Vec<RootRecord>,
        f: impl FnOnce(&mut Change<'_>) -> Result<T>,
    ) -> Result<T> {
        self.publish_so_far(doing, roots, f)
    }

    /// [`Ingest::publish`], after which the ingest goes on.
    pub fn publish_so_far<T>(
        &self,
        doing: &str,
        mut roots: Vec<RootRecord>,
        f: impl FnOnce(&mut Change<'_>) -> Result<T>,
    ) -> Result<T> {
        while roots.len() > PackFooter::ROOTS_MAX {
            let more = roots.split_off(roots.len() - PackFooter::ROOTS_MAX);
            self.close_with(more)?;
        }
        self.close_with(roots)?;
        self.wait_for_closer()?;
        self.shared.change(doing, f)
    }

    /// Closes the current pack, or an empty one, with these root records.
    fn close_with(&self, roots: Vec<RootRecord>) -> Result<()> {
        let last = match lock(&self.current).take() {
            Some(writer) => writer,
            None => PackWriter::create(&self.shared.paths, self.lease.id())?,
        };
        close(&self.shared, &self.pending, self.lease.id(), last, roots)
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // Whatever it says, nothing was published.
        let _ = self.wait_for_closer();
    }
}

fn close(
    shared: &Shared,
    pending: &Pending,
    lease: LeaseId,
    writer: PackWriter,
    roots: Vec<RootRecord>,
) -> Result<()> {
    let (pack, size, footer) = writer.finish(roots)?;
    index::add_pack(&shared.database, pack, lease, size, &footer)?;
    pending.indexed(&footer);
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
