//! From an archive into a store: what is missing is stored, and the names are published together once everything is there.
//!
//! Nothing in an archive is believed. Frames carry checksums, and the end one for everything, against damage; against lies each
//! chunk is decoded and hashed before it is stored, and before a name is published the walk that copies go by asks of
//! everything that the name needs whether it is there.

use super::{
    Transferred,
    into_store::{IntoStore, must_be_in_domain},
    items::{Item, items_of_archive},
    walk::{At, Needed, Passed, Place, Target, Walk},
};
use crate::engine::Engine;
use silt_format::{
    ARCHIVE_MAGIC, ARCHIVE_NAMES_MAX, ARCHIVE_VERSION, ArchiveDigest, ArchiveEnd, ArchiveFrame,
    ArchiveFrameHead, ArchivedChunk, ArchivedName, FileHeader,
};
use silt_store::{ChunkReader, Ingest, Store, StoredChunk};
use silt_types::{ChunkId, Context as _, Error, ErrorKind, Progress, Result};
use std::{
    io::{self, Read},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, sync_channel},
    },
    thread,
};

/// Chunks on their way to the threads that verify them: 4 MiB of the longest.
const CHUNKS_WAITING_MAX: usize = 64;

/// An archive whose header was read.
pub struct ArchiveSource {
    frames: Frames<Box<dyn Read + Send>>,
    len: u64,
}

impl ArchiveSource {
    /// Reads the header of an archive that is `len` bytes long, or 0 where that is not known. `Corrupt` if it is none,
    /// `Unsupported` if it is one of a later version.
    pub fn open(archive: Box<dyn Read + Send>, len: u64) -> Result<ArchiveSource> {
        Ok(ArchiveSource { frames: Frames::begin(archive)?, len })
    }
}

impl Engine {
    /// Takes all names of an archive, with all that they need. Only what is missing is stored, verified on the way; the names
    /// are published at the end, all of them or none, by the rules of [`Engine::copy_to`].
    ///
    /// `Corrupt`, saying what, if the archive is damaged, ends early, or lacks what a name of it needs. After an error the store
    /// has the names that it had; chunks that were stored are found by the next import, or collected.
    pub fn import_archive(
        &self,
        archive: ArchiveSource,
        replace: bool,
        progress: &dyn Progress,
    ) -> Result<Transferred> {
        let ArchiveSource { frames, len } = archive;
        must_be_in_domain(frames.domain(), self.store.domain().id())
            .context(|| "the archive cannot be imported".into())?;
        let into = IntoStore::begin(self.clone(), replace)?;
        progress.begin("importing", len);
        let names = self.store_chunks(frames, &into.ingest, progress)?;
        let mut done = Transferred::default();
        let items = into.to_be_taken(items_of_archive(names)?, &mut done)?;
        into.ingest.flush()?;
        let items = self.whole_items(items, &into, progress)?;
        into.publish(&items, &mut done)?;
        into.count_chunks(&mut done);
        Ok(done)
    }

    /// Reads all frames, and stores the chunks that are missing with every core. Answers the names.
    fn store_chunks<R: Read + Send>(
        &self,
        mut frames: Frames<R>,
        ingest: &Ingest,
        progress: &dyn Progress,
    ) -> Result<Vec<ArchivedName>> {
        let failed = Mutex::new(None);
        let read = thread::scope(|scope| {
            let (chunks, taken) = sync_channel(CHUNKS_WAITING_MAX);
            let taken = Arc::new(Mutex::new(taken));
            for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
                let (taken, failed) = (taken.clone(), &failed);
                scope.spawn(move || self.store_some(&taken, ingest, progress, failed));
            }
            drop(taken);
            frames.read_all(|chunk| {
                // The threads end early only with an error, which is the one that is told.
                let ended = |_| Error::internal("the threads that store chunks ended");
                chunks.send(chunk).map_err(ended)
            })
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => read,
        }
    }

    fn store_some(
        &self,
        chunks: &Mutex<Receiver<(ArchivedChunk, Vec<u8>)>>,
        ingest: &Ingest,
        progress: &dyn Progress,
        failed: &Mutex<Option<Error>>,
    ) {
        loop {
            let next = chunks.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((about, bytes)) = next else { return };
            let len = bytes.len() as u64;
            let verify = || StoredChunk::verify(self.store.domain(), about, bytes);
            if let Err(error) = ingest.put_stored(&about.id, verify) {
                let error = error.context("the archive cannot be imported");
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                return;
            }
            progress.advance(len);
        }
    }

    /// The items, each found whole in the store.
    fn whole_items(
        &self,
        items: Vec<Item>,
        into: &IntoStore,
        progress: &dyn Progress,
    ) -> Result<Vec<Item>> {
        progress.begin("checking names", 0);
        let target = Check { store: &self.store, ingest: &into.ingest, passed: Passed::default() };
        let source = Arc::new(self.store.walking_reader());
        let walk = Walk { source, target: &target };
        let mut known = into.known()?;
        let whole = items.into_iter().map(|mut item| {
            let walked = walk.item(&item, &mut known).map_err(|error| not_whole(&item, error));
            if let (Ok(()), Item::Image(image)) = (&walked, &mut item) {
                image.bytes_nonzero = self.bytes_mapped(image.disk)?;
            }
            walked.map(|()| item)
        });
        whole.collect()
    }
}

/// What an archive says wrongly of a disk, or does not have, is damage of the archive.
fn not_whole(item: &Item, error: Error) -> Error {
    let title = item.title();
    match error.kind() {
        ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Invalid => Error::with_source(
            ErrorKind::Corrupt,
            format!("{title} is not whole in the archive"),
            error,
        ),
        _ => error.context(format!("cannot check {title}")),
    }
}

/// Asks whether chunks are in the store, to stay.
struct Check<'a> {
    store: &'a Store,
    ingest: &'a Ingest,
    passed: Passed,
}

impl Target for Check<'_> {
    fn wants(&self, id: &ChunkId, place: &At) -> bool {
        self.passed.wants(id, place)
    }

    fn take(&self, batch: &[Needed], _source: &ChunkReader, _place: &Place<'_>) -> Result<()> {
        batch.iter().try_for_each(|(context, id)| {
            // What is there as something else is not what is needed: a node read as content has another id.
            match self.ingest.has(id)? && self.store.contains(*context, id)? {
                true => Ok(()),
                false => Err(Error::corrupt(format!("chunk {id} is missing"))),
            }
        })
    }
}

/// The frames of an archive, one after the other.
pub(super) struct Frames<R> {
    archive: R,
    header: FileHeader,
    digest: ArchiveDigest,
    len: u64,
}

/// A frame that was read.
pub(super) enum FrameRead {
    Chunk(ArchivedChunk, Vec<u8>),
    Name(ArchivedName),
    End(ArchiveEnd),
}

impl<R: Read> Frames<R> {
    /// Reads the header.
    pub(super) fn begin(mut archive: R) -> Result<Frames<R>> {
        let mut header = [0; FileHeader::LEN];
        fill(&mut archive, &mut header)?;
        let mut digest = ArchiveDigest::default();
        digest.update(&header);
        let header = FileHeader::decode(&header, ARCHIVE_MAGIC, ARCHIVE_VERSION)
            .context(|| "this is no archive of a store".into())?;
        Ok(Frames { archive, header, digest, len: FileHeader::LEN as u64 })
    }

    /// The dedup domain of what is in it.
    pub(super) fn domain(&self) -> [u8; 16] {
        self.header.id
    }

    /// Bytes of the header and of the frames that were read.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The digest of those bytes.
    pub(super) fn digest(&self) -> ArchiveDigest {
        self.digest.clone()
    }

    /// The next frame. `Corrupt`, saying where, if it is damaged or the archive ends before it does.
    pub(super) fn next(&mut self) -> Result<FrameRead> {
        let at = self.len;
        self.read_frame().context(|| format!("the archive is damaged at byte {at}"))
    }

    fn read_frame(&mut self) -> Result<FrameRead> {
        let mut head_bytes = [0; ArchiveFrameHead::LEN];
        fill(&mut self.archive, &mut head_bytes)?;
        let head = ArchiveFrameHead::decode(&head_bytes)?;
        let mut payload = vec![0; head.payload_len()];
        fill(&mut self.archive, &mut payload)?;
        let read = match ArchiveFrame::decode(&head, &payload)? {
            ArchiveFrame::Chunk(about, bytes) => FrameRead::Chunk(about, bytes.to_vec()),
            ArchiveFrame::Name(name) => FrameRead::Name(name),
            ArchiveFrame::End(end) if end.digest != self.digest.digest() => {
                return Err(Error::corrupt("it is not what the end of it speaks for"));
            }
            ArchiveFrame::End(end) => FrameRead::End(end),
        };
        self.digest.update(&head_bytes);
        self.digest.update(&payload);
        self.len += (head_bytes.len() + payload.len()) as u64;
        Ok(read)
    }

    /// Reads everything to the end, hands chunks on, and answers the names. `Corrupt` if anything is out of its place.
    fn read_all(
        &mut self,
        mut chunk: impl FnMut((ArchivedChunk, Vec<u8>)) -> Result<()>,
    ) -> Result<Vec<ArchivedName>> {
        let (mut chunks, mut names) = (0, Vec::new());
        loop {
            match self.next()? {
                FrameRead::Chunk(..) if !names.is_empty() => {
                    return Err(Error::corrupt("a chunk of the archive comes behind a name"));
                }
                FrameRead::Chunk(about, bytes) => {
                    chunks += 1;
                    chunk((about, bytes))?;
                }
                FrameRead::Name(_) if names.len() as u64 >= ARCHIVE_NAMES_MAX => {
                    return Err(Error::corrupt("the archive has too many names"));
                }
                FrameRead::Name(name) => names.push(name),
                FrameRead::End(end) if (end.chunks, end.names) != (chunks, names.len() as u64) => {
                    return Err(Error::corrupt("the archive has other counts than its end says"));
                }
                FrameRead::End(_) => break,
            }
        }
        match self.archive.read(&mut [0]) {
            Ok(0) => Ok(names),
            Ok(_) => Err(Error::corrupt("something comes behind the end of the archive")),
            Err(error) => Err(cannot_read(error)),
        }
    }
}

/// `Corrupt` if the archive ends before.
fn fill(archive: &mut impl Read, bytes: &mut [u8]) -> Result<()> {
    archive.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::corrupt("the archive ends early"),
        _ => cannot_read(error),
    })
}

fn cannot_read(error: io::Error) -> Error {
    Error::io("cannot read the archive", error)
}
