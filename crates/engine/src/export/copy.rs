//! Copying runs of a disk to a sink, with every core.
//!
//! Threads take pieces in their order, read them at the same time, and wait for their turn to write them: so a sink needs
//! no place for what comes early, and data lies in the file as it lies on the disk. Little is lost by it: ext4 and XFS let
//! one thread at a time write to a file anyway.

use super::pieces::{Piece, Pieces, WINDOW_SIZE_BYTES};
use crate::order::Order;
use silt_types::{BLOCK_SIZE_BYTES, Context as _, Error, Progress, Result, is_zero};
use silt_volume::{BlockDevice as _, Volume};
use std::{
    io,
    ops::Range,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

const BLOCK: usize = BLOCK_SIZE_BYTES as usize;

/// Where an export goes: a new file, which reads as zero. It is given the disk from the beginning to the end, by one thread
/// at a time.
pub(super) trait Sink: Sync {
    /// Writes bytes at their place on the disk. They begin with a block, and hold none that is zero.
    fn data(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Hears that these bytes, exported as well, are zero.
    fn zeros(&self, offset: u64, len_bytes: u64) -> io::Result<()>;
}

/// Copies the runs, ranges of bytes of the disk that ascend and begin with blocks. Answers how many bytes were written: those
/// of blocks that are not zero. `path` is where they go, for messages.
pub(super) fn copy<I, S>(
    volume: &Volume,
    runs: I,
    sink: &S,
    path: &Path,
    progress: &dyn Progress,
) -> Result<u64>
where
    I: Iterator<Item = Result<Range<u64>>> + Send,
    S: Sink,
{
    let copy = Copy {
        volume,
        pieces: Mutex::new(Pieces::new(runs)),
        sink,
        path,
        progress,
        order: Order::default(),
        written: AtomicU64::new(0),
        failed: Mutex::new(None),
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(|| copy.work())));
    });
    match copy.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(copy.written.into_inner()),
    }
}

/// What the threads of one copy share.
struct Copy<'a, I, S> {
    volume: &'a Volume,
    pieces: Mutex<Pieces<I>>,
    sink: &'a S,
    path: &'a Path,
    progress: &'a dyn Progress,
    order: Order,
    written: AtomicU64,
    failed: Mutex<Option<Error>>,
}

impl<I: Iterator<Item = Result<Range<u64>>>, S: Sink> Copy<'_, I, S> {
    fn work(&self) {
        let mut buffer = vec![0; WINDOW_SIZE_BYTES as usize];
        while self.failed.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            let piece = self.pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(piece) = piece else { return };
            if let Err(error) = piece.and_then(|piece| self.piece(&piece, &mut buffer)) {
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                return;
            }
        }
    }

    fn piece(&self, piece: &Piece, buffer: &mut [u8]) -> Result<()> {
        let turn = self.order.turn(piece.number);
        let place = |part: &Range<u64>| {
            (part.start - piece.window) as usize..(part.end - piece.window) as usize
        };
        for part in &piece.parts {
            self.volume.read_at(&mut buffer[place(part)], part.start)?;
        }
        turn.wait();
        for part in &piece.parts {
            let written = self.write(&buffer[place(part)], part.start);
            written.context(|| format!("cannot write {}", self.path.display()))?;
            self.progress.advance(part.end - part.start);
        }
        Ok(())
    }

    /// Hands bytes to the sink, blocks that are zero apart from the others, in as few calls as that takes.
    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut from = 0;
        while from < bytes.len() {
            let blocks = bytes[from..].chunks(BLOCK);
            let zero = is_zero(&bytes[from..bytes.len().min(from + BLOCK)]);
            let len: usize = blocks.take_while(|b| is_zero(b) == zero).map(<[u8]>::len).sum();
            let at = offset + from as u64;
            if zero {
                self.sink.zeros(at, len as u64)?;
            } else {
                self.sink.data(&bytes[from..from + len], at)?;
                self.written.fetch_add(len as u64, Relaxed);
            }
            from += len;
        }
        Ok(())
    }
}
