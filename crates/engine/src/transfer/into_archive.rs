//! Into an archive: a stream that is written from one end to the other, or a file that goes on where it was interrupted.
//!
//! A file is written under a passing name, FILE.part. What an interrupted export left of it is read again, and every chunk
//! verified, up to the first frame that is not whole: the export goes on behind that. Since a chunk comes behind everything that
//! it names, whatever is in such a file is there with all below it. Names come last, so they are of the export that ended.

use super::{
    Transferred,
    from_archive::{FrameRead, Frames},
    known::Known,
    walk::{At, Needed, Place, Target, Walk},
};
use crate::engine::Engine;
use silt_format::{
    ARCHIVE_MAGIC, ArchiveDigest, ArchiveEnd, ArchiveFrame, ArchivedName, archive_header,
};
use silt_store::{ChunkReader, Domain, StoredChunk};
use silt_sys::durability;
use silt_types::{ChunkId, Context as _, DiskName, Error, ErrorKind, Progress, Result};
use std::{
    collections::HashSet,
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io::{BufReader, Seek as _, SeekFrom, Write},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Bytes gathered before they are written.
const BUFFER_SIZE_BYTES: usize = 1 << 20;

/// Where an archive goes.
pub enum ArchiveTarget<'a> {
    /// A file, which is there once it is whole and durable. One that is there is replaced. A device or a pipe is written to.
    File(&'a Path),
    /// A stream.
    Stream(&'a mut (dyn Write + Send)),
}

impl Engine {
    /// Writes these names, or all that there are, with all that they need into one archive. Volumes bring their snapshots;
    /// what they hold now is sealed for it. Chunks go as they are stored, verified on the way.
    ///
    /// An export to a file that was interrupted goes on from what it had written. Memory is 20 bytes for each chunk.
    pub fn export_archive(
        &self,
        target: ArchiveTarget<'_>,
        names: &[DiskName],
        progress: &dyn Progress,
    ) -> Result<Transferred> {
        match target {
            ArchiveTarget::Stream(out) => self.export_to(Archive::new(out), names, progress),
            ArchiveTarget::File(path) if crate::export::is_special(path) => {
                let opened = OpenOptions::new().write(true).open(path);
                let mut file = opened.context(|| format!("cannot open {}", path.display()))?;
                self.export_to(Archive::new(&mut file), names, progress)
            }
            ArchiveTarget::File(path) => {
                let part = Part::open(path)?;
                let mut file = &part.file;
                let archive = Archive::resumed(&mut file, &part, self.store.domain(), progress)?;
                let done = self.export_to(archive, names, progress)?;
                part.put_in_place()?;
                Ok(done)
            }
        }
    }

    fn export_to(
        &self,
        archive: Archive<'_>,
        names: &[DiskName],
        progress: &dyn Progress,
    ) -> Result<Transferred> {
        // Before the catalog is looked at: what is found stays until it was written.
        let _lease = self.store.lease().context(|| "cannot begin to read this store".into())?;
        let items = self.items(names, progress)?;
        progress.begin("exporting", 0);
        archive.begin(self.store.domain().id())?;
        let (source, mut known) = (Arc::new(self.store.walking_reader()), Known::default());
        let walk = Walk { source, target: &archive };
        items.iter().try_for_each(|item| walk.item(item, &mut known))?;
        let mut done = Transferred { chunks_resumed: archive.resumed, ..Transferred::default() };
        for item in &items {
            done.count(item);
            item.archived().into_iter().try_for_each(|name| archive.name(name))?;
        }
        archive.finish(&mut done)?;
        Ok(done)
    }
}

/// An archive being written.
struct Archive<'a> {
    state: Mutex<Writing<'a>>,
    /// Chunks that are written or about to be, by half of their ids: as good as all of it.
    wanted: Mutex<HashSet<[u8; 16]>>,
    resumed: u64,
}

struct Writing<'a> {
    out: &'a mut (dyn Write + Send),
    buffer: Vec<u8>,
    digest: ArchiveDigest,
    len: u64,
    end: ArchiveEnd,
    bytes_stored: u64,
}

impl<'a> Archive<'a> {
    fn new(out: &'a mut (dyn Write + Send)) -> Archive<'a> {
        let state = Writing {
            out,
            buffer: Vec::with_capacity(2 * BUFFER_SIZE_BYTES),
            digest: ArchiveDigest::default(),
            len: 0,
            end: ArchiveEnd { chunks: 0, names: 0, digest: [0; 32] },
            bytes_stored: 0,
        };
        Archive { state: Mutex::new(state), wanted: Mutex::default(), resumed: 0 }
    }

    /// Goes on behind the whole chunks of a partial file.
    fn resumed(
        out: &'a mut (dyn Write + Send),
        part: &Part,
        domain: &Domain,
        progress: &dyn Progress,
    ) -> Result<Archive<'a>> {
        let mut archive = Archive::new(out);
        let len = part.file.metadata().context(|| part.failed("read"))?.len();
        progress.begin("reading what is there", len);
        let (writing, wanted) = (archive.state.get_mut(), archive.wanted.get_mut());
        let writing = writing.unwrap_or_else(PoisonError::into_inner);
        let wanted = wanted.unwrap_or_else(PoisonError::into_inner);
        // Whatever is not whole is written anew.
        if let Ok(mut frames) =
            Frames::begin(BufReader::with_capacity(BUFFER_SIZE_BYTES, &part.file))
            && frames.domain() == domain.id()
        {
            (writing.len, writing.digest) = (frames.len(), frames.digest());
            while let Ok(FrameRead::Chunk(about, bytes)) = frames.next() {
                let Ok(chunk) = StoredChunk::verify(domain, about, bytes) else { break };
                (writing.len, writing.digest) = (frames.len(), frames.digest());
                writing.end.chunks += 1;
                wanted.insert(half(chunk.id()));
                progress.advance(chunk.bytes().len() as u64);
            }
        }
        archive.resumed = writing.end.chunks;
        part.cut_off_at(writing.len)?;
        Ok(archive)
    }

    /// Writes the header, unless it is there.
    fn begin(&self, domain: [u8; 16]) -> Result<()> {
        let mut state = self.state();
        if state.len == 0 {
            state.buffer.extend_from_slice(&archive_header(domain).encode());
        }
        Ok(())
    }

    fn name(&self, name: ArchivedName) -> Result<()> {
        let mut state = self.state();
        state.end.names += 1;
        state.append(&ArchiveFrame::Name(name))
    }

    /// Writes the end.
    fn finish(self, done: &mut Transferred) -> Result<()> {
        let mut state = self.state();
        state.write()?;
        let end = ArchiveEnd { digest: state.digest.digest(), ..state.end };
        state.append(&ArchiveFrame::End(end))?;
        state.write()?;
        state.out.flush().context(cannot_write)?;
        done.chunks = end.chunks;
        done.chunks_copied = end.chunks - self.resumed;
        done.bytes_copied = state.bytes_stored;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, Writing<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writing<'_> {
    fn append(&mut self, frame: &ArchiveFrame<'_>) -> Result<()> {
        frame.encode_into(&mut self.buffer);
        if self.buffer.len() >= BUFFER_SIZE_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        self.out.write_all(&self.buffer).context(cannot_write)?;
        self.digest.update(&self.buffer);
        self.len += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl Target for Archive<'_> {
    fn wants(&self, id: &ChunkId, _place: &At) -> bool {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).insert(half(id))
    }

    fn take(&self, batch: &[Needed], source: &ChunkReader, place: &Place<'_>) -> Result<()> {
        let read = batch.iter().map(|(context, id)| source.get_stored(*context, id));
        let chunks = read.collect::<Result<Vec<_>>>()?;
        place.wait()?;
        let mut state = self.state();
        for chunk in &chunks {
            state.end.chunks += 1;
            state.bytes_stored += chunk.bytes().len() as u64;
            state.append(&ArchiveFrame::Chunk(*chunk.about(), chunk.bytes()))?;
        }
        Ok(())
    }
}

fn half(id: &ChunkId) -> [u8; 16] {
    let (half, _) = id.as_bytes().split_first_chunk().expect("an id of 32 bytes has 16");
    *half
}

fn cannot_write() -> String {
    "cannot write the archive".into()
}

/// The file of an archive that is not whole yet.
struct Part {
    file: File,
    path: PathBuf,
    target: PathBuf,
}

impl Part {
    /// Opens what is there of it, or makes it. `Busy` if somebody else is at it.
    fn open(path: &Path) -> Result<Part> {
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let mut name = OsString::from(&target);
        name.push(".part");
        let path = PathBuf::from(name);
        let file = match durability::create_file(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let opened = OpenOptions::new().read(true).write(true).open(&path);
                opened.context(|| format!("cannot open {}", path.display()))?
            }
            made => made?,
        };
        must_be_ours(&file, &path)?;
        match file.try_lock() {
            Ok(()) => Ok(Part { file, path, target }),
            Err(TryLockError::WouldBlock) => {
                let message = format!("another export is writing {}", path.display());
                Err(Error::new(ErrorKind::Busy, message))
            }
            Err(TryLockError::Error(error)) => {
                Err(Error::io(format!("cannot lock {}", path.display()), error))
            }
        }
    }

    fn failed(&self, what: &str) -> String {
        format!("cannot {what} {}", self.path.display())
    }

    fn cut_off_at(&self, len: u64) -> Result<()> {
        let cut = self.file.set_len(len).and_then(|()| (&self.file).seek(SeekFrom::Start(len)));
        cut.map(drop).context(|| self.failed("go on with"))
    }

    /// Makes it durable, under its name.
    fn put_in_place(self) -> Result<()> {
        self.file.sync_all().context(|| self.failed("sync"))?;
        fs::rename(&self.path, &self.target).context(|| self.failed("rename"))?;
        let folder = self.target.parent().filter(|folder| !folder.as_os_str().is_empty());
        durability::sync_dir(folder.unwrap_or(Path::new(".")))
    }
}

/// `AlreadyExists` if the file is something else. One of nothing but zeros, as a power cut may leave it, is none that anybody misses.
fn must_be_ours(file: &File, path: &Path) -> Result<()> {
    let failed = || format!("cannot read {}", path.display());
    let mut block = vec![0; 64 << 10];
    let read = file.read_at(&mut block, 0).context(failed)?;
    let begins = read.min(ARCHIVE_MAGIC.len());
    if block[..begins] == ARCHIVE_MAGIC[..begins] {
        return Ok(());
    }
    let (mut at, mut read) = (0, read);
    while read > 0 && silt_types::is_zero(&block[..read]) {
        at += read as u64;
        read = file.read_at(&mut block, at).context(failed)?;
    }
    if read == 0 {
        return Ok(());
    }
    let message = format!("{} is there and is no part of an archive", path.display());
    Err(Error::new(ErrorKind::AlreadyExists, message))
}
