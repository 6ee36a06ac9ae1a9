//! Reading the files that the walk saw, by all cores at once, into chunks.

use super::{
    beneath::Root,
    cache::Known,
    problems::Problems,
    walk::{FileSeen, Stamp, Walked},
};
use crate::{
    build::FilesRead,
    contents::{ContentsWriter, Step, nonzero_blocks},
};
use rustix::{
    fd::OwnedFd,
    fs::{SeekFrom, fstat, seek},
    io::Errno,
};
use silt_ext4::{EntryId, Hierarchy};
use silt_store::{ChunkKind, ChunkSink};
use silt_types::{CHUNK_SIZE_BYTES_MAX, Error, Progress, Result};
use std::{
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

const STEP: u64 = CHUNK_SIZE_BYTES_MAX as u64;
/// Longer files are read in pieces of this size, so that one of them keeps every core busy.
const PIECE_SIZE_BYTES: u64 = 16 << 20;
/// Bytes asked for at a time: a multiple of a step.
const READ_SIZE_BYTES: usize = 1 << 20;

/// A part of a file for one worker, at most [`PIECE_SIZE_BYTES`] long and beginning at a step.
struct Piece {
    entry: EntryId,
    stamp: Stamp,
    /// The open file where it has several pieces.
    file: Option<Arc<OwnedFd>>,
    bytes: Range<u64>,
}

struct Reader<'a> {
    root: &'a Root,
    hierarchy: &'a Hierarchy,
    sink: &'a dyn ChunkSink,
    contents: &'a ContentsWriter,
    problems: &'a Problems,
    progress: &'a dyn Progress,
    queue: Mutex<Queue<'a>>,
    bytes_read: AtomicU64,
    failed: Mutex<Option<Error>>,
}

/// Hands out pieces, of one file after the other.
struct Queue<'a> {
    files: std::slice::Iter<'a, FileSeen>,
    known: &'a Known,
    /// The rest of a long file.
    rest: Option<Piece>,
}

/// Reads every file that `walked` has and that is not known, and lays down in `contents` which chunks each consists of.
pub(crate) fn read_files(
    root: &Root,
    walked: Walked,
    known: &Known,
    contents: &ContentsWriter,
    sink: &dyn ChunkSink,
    problems: &Problems,
    progress: &dyn Progress,
) -> Result<FilesRead> {
    // By entry: neighbours on disk and in the hierarchy become neighbours in packs.
    let Walked { hierarchy, files, .. } = walked;
    let reader = Reader {
        root,
        hierarchy: &hierarchy,
        sink,
        contents,
        problems,
        progress,
        queue: Mutex::new(Queue { files: files.iter(), known, rest: None }),
        bytes_read: AtomicU64::new(0),
        failed: Mutex::default(),
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(|| reader.work())));
    });
    let bytes_read = reader.bytes_read.load(Relaxed);
    if let Some(error) = reader.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    Ok(FilesRead { hierarchy, bytes_read, config: None })
}

impl Reader<'_> {
    fn work(&self) {
        let mut buffer = vec![0; READ_SIZE_BYTES];
        let mut steps = Vec::new();
        while let Some(piece) = self.next() {
            if let Err(error) = self.read_piece(&piece, &mut buffer, &mut steps) {
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                return;
            }
        }
    }

    fn next(&self) -> Option<Piece> {
        if self.failed.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return None;
        }
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut whole = match queue.rest.take() {
                Some(rest) => rest,
                None => {
                    let Queue { files, known, .. } = &mut *queue;
                    let unknown = files.find(|file| !known.is_taken(file.entry));
                    let FileSeen { entry, stamp } = unknown?;
                    let bytes = 0..stamp.size_bytes;
                    Piece { entry: *entry, stamp: *stamp, file: None, bytes }
                }
            };
            if whole.file.is_none() && whole.bytes.end <= PIECE_SIZE_BYTES {
                return Some(whole);
            }
            match self.split(&mut whole) {
                Ok(Some(piece)) => {
                    queue.rest = Some(whole);
                    return Some(piece);
                }
                Ok(None) => self.check_unchanged(&whole),
                Err(error) => self.problems.unreadable(&self.path(whole.entry), "content", error),
            }
        }
    }

    /// Takes the next piece with data from the rest of a long file; `None` at its end. Holes cost nothing.
    fn split(&self, rest: &mut Piece) -> Result<Option<Piece>, Errno> {
        let file = match &rest.file {
            Some(file) => file.clone(),
            None => {
                let file = Arc::new(self.root.open_file(&self.path(rest.entry))?);
                rest.file.insert(file).clone()
            }
        };
        let data = match seek(&*file, SeekFrom::Data(rest.bytes.start)) {
            Ok(at) => at,
            Err(Errno::NXIO) => return Ok(None),
            Err(error) => return Err(error),
        };
        let start = (data / STEP * STEP).max(rest.bytes.start);
        if start >= rest.bytes.end {
            return Ok(None);
        }
        let end = rest.bytes.end.min(start + PIECE_SIZE_BYTES);
        rest.bytes.start = end;
        Ok(Some(Piece {
            entry: rest.entry,
            stamp: rest.stamp,
            file: Some(file),
            bytes: start..end,
        }))
    }

    /// Once the last piece of a long file is handed out: what was taken for a hole was one, if nothing changed so far.
    /// Each piece looks once more when it is read.
    fn check_unchanged(&self, rest: &Piece) {
        let stat = rest.file.as_ref().map(fstat).transpose();
        match stat.map(|stat| stat.is_none_or(|stat| Stamp::of(&stat) == rest.stamp)) {
            Ok(true) => {}
            Ok(false) => self.problems.changed(&self.path(rest.entry)),
            Err(error) => self.problems.unreadable(&self.path(rest.entry), "content", error),
        }
    }

    fn path(&self, entry: EntryId) -> Vec<u8> {
        self.hierarchy.path(entry).split_off(1) // Without the leading slash: beneath the root.
    }

    fn read_piece(&self, piece: &Piece, buffer: &mut [u8], steps: &mut Vec<Step>) -> Result<()> {
        steps.clear();
        let unreadable =
            |error| self.problems.unreadable(&self.path(piece.entry), "content", error);
        let file = match &piece.file {
            Some(file) => file.clone(),
            None => match self.root.open_file(&self.path(piece.entry)) {
                Ok(file) => Arc::new(file),
                Err(error) => {
                    unreadable(error);
                    return Ok(());
                }
            },
        };
        let unchanged = || fstat(&*file).map(|stat| Stamp::of(&stat) == piece.stamp);
        let mut at = piece.bytes.start;
        let mut whole = true;
        while at < piece.bytes.end && whole {
            let want = (piece.bytes.end - at).min(buffer.len() as u64) as usize;
            match read_full(&file, &mut buffer[..want], at) {
                Ok(got) => whole = got == want,
                Err(error) => {
                    unreadable(error);
                    return Ok(());
                }
            }
            if whole {
                self.put_steps(at, &buffer[..want], steps)?;
                self.progress.advance(want as u64);
                at += want as u64;
            }
        }
        self.bytes_read.fetch_add(at - piece.bytes.start, Relaxed);
        // The stamp is compared after the last byte, so a change at any time since the walk shows.
        match unchanged() {
            Ok(true) if whole => self.contents.add(piece.entry, steps),
            Ok(_) => {
                self.problems.changed(&self.path(piece.entry));
                Ok(())
            }
            Err(error) => {
                unreadable(error);
                Ok(())
            }
        }
    }

    fn put_steps(&self, at: u64, bytes: &[u8], steps: &mut Vec<Step>) -> Result<()> {
        for (number, step) in (at / STEP..).zip(bytes.chunks(CHUNK_SIZE_BYTES_MAX)) {
            let blocks = nonzero_blocks(step);
            if blocks != 0 {
                let chunk = self.sink.put(ChunkKind::FileData, step)?;
                steps.push(Step { number: number as u32, blocks, chunk });
            }
        }
        Ok(())
    }
}

/// Reads until the buffer is full or the file ends. Answers the bytes read.
fn read_full(file: &OwnedFd, buffer: &mut [u8], at: u64) -> Result<usize, Errno> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::pread(file, &mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
