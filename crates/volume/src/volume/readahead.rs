//! Reading ahead of whoever reads in order: chunks of the base that come next are fetched, verified and decoded by threads of
//! their own, so that a reader that asks for one piece at a time still has every core at work.
//!
//! Not for deltas: their data is as good as in memory, and the system reads ahead in their files.
//!
//! A read that misses the cache starts a stream, or goes on with one whose end it is near. Each step of a stream is twice as
//! long as the one before, up to [`STEP_BYTES_MAX`]. In the midst of what was fetched stands a mark; the read that passes it,
//! which found everything at hand, lets the next step begin. So a hot read costs a look at a few marks, no lock.

use super::{Layer, Layers};
use silt_store::{ChunkSource, KeyContext};
use silt_types::{BLOCK_SIZE_BYTES, Result};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

/// Streams told apart, as many as a guest reads files in order at once; the one used longest ago makes room.
const STREAMS: usize = 8;
/// How far outside a stream a read may begin to belong to it: requests of one reader overtake one another.
const NEAR_BYTES: u64 = 256 << 10;
/// The first step, two chunks.
const STEP_BYTES_MIN: u64 = 128 << 10;
/// The longest step: at a gigabyte a second, some milliseconds of work. All streams together stay below 32 MiB of cache.
const STEP_BYTES_MAX: u64 = 2 << 20;
/// What a thread takes at a time, so that several share a step.
const PIECE_BYTES: u64 = 128 << 10;
/// Pieces that wait. More means that the threads cannot keep up; then reading ahead is no use.
const PIECES_MAX: usize = 64;
/// Threads at most: decoding scales with cores, and more than this outruns any one reader.
const THREADS_MAX: usize = 4;
/// No mark.
const NONE: u64 = u64::MAX;

/// The streams of one volume, and the threads that read ahead for them.
pub(super) struct Readahead {
    marks: [AtomicU64; STREAMS],
    streams: Mutex<Streams>,
    queue: Arc<Queue>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    source: Arc<dyn ChunkSource>,
}

struct Streams {
    all: [Stream; STREAMS],
    clock: u64,
}

#[derive(Clone, Copy)]
struct Stream {
    /// Where its reader was last seen, in bytes.
    read_end: u64,
    /// Up to where was fetched.
    fetched_end: u64,
    step: u64,
    used: u64,
}

impl Readahead {
    pub(super) fn new(source: Arc<dyn ChunkSource>) -> Readahead {
        let stream = Stream { read_end: 0, fetched_end: 0, step: 0, used: 0 };
        Readahead {
            marks: [const { AtomicU64::new(NONE) }; STREAMS],
            streams: Mutex::new(Streams { all: [stream; STREAMS], clock: 0 }),
            queue: Arc::default(),
            threads: Mutex::default(),
            source,
        }
    }

    /// A read found everything at hand.
    #[inline]
    pub(super) fn hit(&self, layers: &Arc<Layers>, offset: u64, len: u64) {
        let passed = |mark: &AtomicU64| {
            let mark = mark.load(Ordering::Relaxed);
            (offset..offset + len).contains(&mark)
        };
        if self.marks.iter().any(passed) {
            self.advance(layers, offset, len);
        }
    }

    /// A read had to wait for a chunk.
    pub(super) fn miss(&self, layers: &Arc<Layers>, offset: u64, len: u64) {
        self.advance(layers, offset, len);
    }

    fn advance(&self, layers: &Arc<Layers>, offset: u64, len: u64) {
        let mut streams = lock(&self.streams);
        let Some(at) = streams.near(offset) else {
            let at = streams.begin(offset + len);
            self.marks[at].store(NONE, Ordering::Relaxed);
            return;
        };
        let (from, to) = streams.all[at].next_step(offset + len);
        self.marks[at].store(streams.all[at].mark(), Ordering::Relaxed);
        drop(streams);
        let to = to.min(layers.base.disk_id().size_bytes);
        if from < to && self.queue.push(layers, from, to) {
            self.have_threads();
        }
    }

    /// Starts the threads, with the first work there is. Without them nothing is read ahead, that is all.
    fn have_threads(&self) {
        let mut threads = lock(&self.threads);
        if !threads.is_empty() {
            return;
        }
        let count = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        for _ in 0..count {
            let (queue, source) = (self.queue.clone(), self.source.clone());
            let started = thread::Builder::new()
                .name("readahead".into())
                .spawn(move || queue.work(source.as_ref()));
            threads.extend(started);
        }
    }
}

impl Drop for Readahead {
    fn drop(&mut self) {
        self.queue.close();
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            let _ = thread.join();
        }
    }
}

impl Streams {
    /// The stream whose reader is about there.
    fn near(&mut self, offset: u64) -> Option<usize> {
        self.clock += 1;
        let at = self.all.iter().position(|stream| stream.is_near(offset))?;
        self.all[at].used = self.clock;
        Some(at)
    }

    fn begin(&mut self, read_end: u64) -> usize {
        let oldest = (0..STREAMS).min_by_key(|at| self.all[*at].used).unwrap_or(0);
        self.all[oldest] = Stream { read_end, fetched_end: read_end, step: 0, used: self.clock };
        oldest
    }
}

impl Stream {
    /// Between what was read last and what was fetched, or about there.
    fn is_near(&self, offset: u64) -> bool {
        let known = self.read_end.saturating_sub(NEAR_BYTES)..=self.fetched_end + NEAR_BYTES;
        self.used > 0 && known.contains(&offset)
    }

    /// Goes on to where its reader is now; answers what to fetch next, which may be nothing.
    fn next_step(&mut self, read_end: u64) -> (u64, u64) {
        self.read_end = self.read_end.max(read_end);
        self.step = (self.step * 2).clamp(STEP_BYTES_MIN, STEP_BYTES_MAX);
        let from = self.fetched_end.max(self.read_end);
        let to = from.max(self.read_end + self.step);
        self.fetched_end = to;
        (from, to)
    }

    /// Where the next step begins.
    fn mark(&self) -> u64 {
        self.fetched_end - self.step / 2
    }
}

/// Ranges to fetch.
#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    more: Condvar,
}

#[derive(Default)]
struct QueueState {
    pieces: VecDeque<Piece>,
    is_closed: bool,
}

struct Piece {
    layers: Arc<Layers>,
    from: u64,
    to: u64,
}

impl Queue {
    /// False if there is too much already; then none of it is done.
    fn push(&self, layers: &Arc<Layers>, from: u64, to: u64) -> bool {
        let mut state = lock(&self.state);
        let count = (to - from).div_ceil(PIECE_BYTES) as usize;
        if state.pieces.len() + count > PIECES_MAX {
            return false;
        }
        let starts = (from..to).step_by(PIECE_BYTES as usize);
        state.pieces.extend(starts.map(|from| Piece {
            layers: layers.clone(),
            from,
            to: to.min(from + PIECE_BYTES),
        }));
        drop(state);
        self.more.notify_all();
        true
    }

    fn close(&self) {
        let mut state = lock(&self.state);
        state.is_closed = true;
        state.pieces.clear();
        drop(state);
        self.more.notify_all();
    }

    fn work(&self, source: &dyn ChunkSource) {
        while let Some(piece) = self.take() {
            // What is wrong is told to whoever reads it.
            let _ = fetch(&piece.layers, source, piece.from, piece.to);
        }
    }

    fn take(&self) -> Option<Piece> {
        let mut state = lock(&self.state);
        while state.pieces.is_empty() && !state.is_closed {
            state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.pieces.pop_front()
    }
}

/// Brings the chunks of the base that a range reads from into the cache of `source`, as far as the base is what it reads from.
pub(super) fn fetch(layers: &Layers, source: &dyn ChunkSource, from: u64, to: u64) -> Result<()> {
    let end = to.min(layers.base.disk_id().size_bytes).div_ceil(BLOCK_SIZE_BYTES);
    let mut block = from / BLOCK_SIZE_BYTES;
    let mut last = None;
    while block < end {
        let (layer, blocks) = layers.locate(block, end);
        let run_end = block + blocks;
        if !matches!(layer, Layer::Base) {
            block = run_end;
            continue;
        }
        while block < run_end {
            let extent = layers.base.lookup(block)?;
            if let Some(place) = extent.place
                && last != Some(place.chunk)
            {
                source.get(KeyContext::Content, &place.chunk)?;
                last = Some(place.chunk);
            }
            block += extent.len_blocks;
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    #[test]
    fn a_stream_fetches_each_byte_once_in_longer_and_longer_steps() {
        let mut streams = Readahead::new(Arc::new(silt_store::MemoryChunks::new()));
        let streams = streams.streams.get_mut().unwrap();
        assert_eq!(streams.near(0), None);
        let at = streams.begin(64 * KIB);
        let (mut fetched_end, mut read_end, mut longest) = (64 * KIB, 64 * KIB, 0);
        for _ in 0..200 {
            assert_eq!(streams.near(read_end), Some(at));
            read_end += 64 * KIB;
            if read_end < streams.all[at].mark() && read_end > 128 * KIB {
                continue; // Nothing is said of a hit before the mark.
            }
            let (from, to) = streams.all[at].next_step(read_end);
            assert!(from >= fetched_end && to >= from, "{from} {to} {fetched_end}");
            assert!(to <= read_end + STEP_BYTES_MAX);
            (fetched_end, longest) = (to, longest.max(to - from));
        }
        assert!(longest >= STEP_BYTES_MAX / 2, "{longest}");
    }

    #[test]
    fn streams_side_by_side_are_told_apart_and_the_oldest_makes_room() {
        let mut readahead = Readahead::new(Arc::new(silt_store::MemoryChunks::new()));
        let streams = readahead.streams.get_mut().unwrap();
        for number in 0..STREAMS as u64 {
            assert_eq!(streams.near(number << 30), None);
            streams.begin(number << 30);
        }
        assert!(streams.near(0).is_some());
        assert_eq!(streams.near(100 << 30), None);
        streams.begin(100 << 30);
        assert!(streams.near(0).is_some(), "used since");
        assert_eq!(streams.near(1 << 30), None, "used longest ago");
    }

    #[test]
    fn reads_here_and_there_fetch_nothing() {
        let readahead = Readahead::new(Arc::new(silt_store::MemoryChunks::new()));
        let mut streams = lock(&readahead.streams);
        for number in 0..1000u64 {
            let offset = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
            assert_eq!(streams.near(offset), None);
            streams.begin(offset + 4096);
        }
        assert!(lock(&readahead.queue.state).pieces.is_empty());
    }
}
