//! Files that come one after the other from a stream, put into chunks by all cores: one reader fills batches of whole
//! 64 KiB steps, workers hash, compress and store them.
//!
//! Memory is a few batches whatever comes. Not for folders, whose files every worker reads for itself.

use crate::contents::{Step, nonzero_blocks};
use silt_store::{ChunkKind, ChunkSink};
use silt_types::{CHUNK_SIZE_BYTES_MAX, Error, Result};
use std::{
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
};

const STEP: u64 = CHUNK_SIZE_BYTES_MAX as u64;
/// A batch goes to a worker once it holds this: much against the cost of handing it over, little against the caches.
const BATCH_SIZE_BYTES: usize = 1 << 20;

/// Steps of one file or of several.
struct Batch<K> {
    bytes: Vec<u8>,
    steps: Vec<BatchStep<K>>,
}

/// A step, and where in the batch it begins.
#[derive(Clone, Copy)]
struct BatchStep<K> {
    file: K,
    number: u32,
    start: usize,
    len: usize,
}

/// What workers do with the steps of a file that are not zero: some of it, in order. Several may be at it at once.
pub(crate) type TakeSteps<'a, K> = &'a (dyn Fn(K, &[Step]) -> Result<()> + Sync);

/// Takes the content of files that `K` stands for. See [`feed`].
pub(crate) struct Feeder<K> {
    full: SyncSender<Batch<K>>,
    empty: Receiver<Batch<K>>,
    batch: Batch<K>,
    /// The file whose content comes now, and its length.
    file: Option<(K, u64)>,
    failed: Arc<Failed>,
}

/// The first error of a worker.
type Failed = Mutex<Option<Error>>;

/// Runs `f`, which hands files in; puts their steps into `sink` and gives what came of them to `take`. All is done when this
/// returns. The error of a worker comes before that of `f`, which then only noticed it.
pub(crate) fn feed<K: Copy + PartialEq + Send, T>(
    sink: &dyn ChunkSink,
    take: TakeSteps<'_, K>,
    f: impl FnOnce(&mut Feeder<K>) -> Result<T>,
) -> Result<T> {
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let (full, queue) = mpsc::sync_channel(workers);
    let (emptied, empty) = mpsc::channel();
    let queue = Mutex::new(queue);
    let failed = Arc::new(Failed::default());
    let fed = thread::scope(|scope| {
        let work = || {
            let emptied = emptied.clone();
            let next = || lock(&queue).recv();
            let mut steps = Vec::new();
            while let Ok(mut batch) = next() {
                // After an error the rest is only taken away, so that nobody waits.
                if lock(&failed).is_none()
                    && let Err(error) = put(sink, take, &batch, &mut steps)
                {
                    lock(&failed).get_or_insert(error);
                }
                batch.bytes.clear();
                batch.steps.clear();
                // Nobody wants it any more at the end.
                let _ = emptied.send(batch);
            }
        };
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let batch = Batch { bytes: Vec::new(), steps: Vec::new() };
        let mut feeder = Feeder { full, empty, batch, file: None, failed: failed.clone() };
        let fed = f(&mut feeder).and_then(|value| feeder.finish().map(|()| value));
        drop(feeder);
        let panics = threads.into_iter().filter_map(|thread| thread.join().err()).count();
        if panics == 0 {
            fed
        } else {
            Err(Error::internal("a thread that stores content panicked"))
        }
    });
    let failed = lock(&failed).take();
    failed.map_or(fed, Err)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn put<K: Copy + PartialEq>(
    sink: &dyn ChunkSink,
    take: TakeSteps<'_, K>,
    batch: &Batch<K>,
    steps: &mut Vec<Step>,
) -> Result<()> {
    for of_file in batch.steps.chunk_by(|one, next| one.file == next.file) {
        steps.clear();
        for step in of_file {
            let content = &batch.bytes[step.start..step.start + step.len];
            let blocks = nonzero_blocks(content);
            if blocks != 0 {
                let chunk = sink.put(ChunkKind::FileData, content)?;
                steps.push(Step { number: step.number, blocks, chunk });
            }
        }
        take(of_file[0].file, steps)?;
    }
    Ok(())
}

impl<K: Copy + PartialEq> Feeder<K> {
    /// Begins a file of this length in bytes. What is not handed in of it is a hole.
    pub(crate) fn begin(&mut self, file: K, size_bytes: u64) {
        self.file = Some((file, size_bytes));
    }

    /// Takes a run of bytes of the file, within its length and behind the runs before: `read` fills one buffer after the
    /// other with them.
    pub(crate) fn run(
        &mut self,
        bytes: Range<u64>,
        mut read: impl FnMut(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let Some((file, size_bytes)) = self.file.filter(|(_, size)| bytes.end <= *size) else {
            return Err(Error::internal("content behind the end of its file"));
        };
        let mut at = bytes.start;
        while at < bytes.end {
            let step_start = at / STEP * STEP;
            let step_end = size_bytes.min(step_start + STEP);
            let start = self.step(file, step_start / STEP, (step_end - step_start) as usize)?;
            let end = bytes.end.min(step_end);
            let place = start + (at - step_start) as usize;
            read(&mut self.batch.bytes[place..place + (end - at) as usize])?;
            at = end;
        }
        Ok(())
    }

    /// Where in the batch a step of the file begins; zero where nothing came yet.
    fn step(&mut self, file: K, number: u64, len: usize) -> Result<usize> {
        let number = number as u32; // A file has at most 2^32 blocks.
        if let Some(last) = self.batch.steps.last()
            && (last.file, last.number) == (file, number)
        {
            return Ok(last.start);
        }
        if self.batch.bytes.len() >= BATCH_SIZE_BYTES {
            self.hand_over()?;
        }
        let start = self.batch.bytes.len();
        self.batch.bytes.resize(start + len, 0);
        self.batch.steps.push(BatchStep { file, number, start, len });
        Ok(start)
    }

    fn hand_over(&mut self) -> Result<()> {
        let next = self.empty.try_recv();
        let next = next.unwrap_or_else(|_| Batch { bytes: Vec::new(), steps: Vec::new() });
        let full = std::mem::replace(&mut self.batch, next);
        let ended = || Error::internal("the threads that store content ended");
        if lock(&self.failed).is_some() {
            return Err(ended()); // What is told is why.
        }
        self.full.send(full).map_err(|_| ended())
    }

    fn finish(&mut self) -> Result<()> {
        if self.batch.steps.is_empty() { Ok(()) } else { self.hand_over() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use silt_store::MemoryChunks;
    use silt_types::ErrorKind;

    /// The steps of two files, one dense and one with a hole in a step and over many.
    #[test]
    fn steps_are_those_of_the_file_whatever_runs_it_comes_in() {
        let chunks = MemoryChunks::new();
        let taken = Mutex::new(Vec::new());
        let take = |file: u32, steps: &[Step]| {
            taken.lock().unwrap().extend(steps.iter().map(|step| (file, *step)));
            Ok(())
        };
        let fill = |byte: u8| {
            move |buffer: &mut [u8]| {
                buffer.fill(byte);
                Ok(())
            }
        };
        feed(&chunks, &take, |feeder| {
            feeder.begin(1, 3 << 20);
            feeder.run(0..3 << 20, fill(1))?;
            feeder.begin(2, 100 * STEP + 10);
            feeder.run(4096..8192, fill(2))?;
            feeder.run(12_288..12_300, fill(3))?;
            feeder.run(100 * STEP..100 * STEP + 10, fill(4))?;
            assert!(feeder.run(100 * STEP..100 * STEP + 11, fill(4)).is_err());
            Ok(())
        })
        .unwrap();
        let mut taken = taken.into_inner().unwrap();
        taken.sort_by_key(|(file, step)| (*file, step.number));
        assert_eq!(taken.len(), 48 + 2);
        assert!(taken[..48].iter().all(|(_, step)| step.blocks == u16::MAX));
        let mut first = vec![0; CHUNK_SIZE_BYTES_MAX];
        first[4096..8192].fill(2);
        first[12_288..12_300].fill(3);
        let first = chunks.put(ChunkKind::FileData, &first).unwrap();
        assert_eq!(taken[48], (2, Step { number: 0, blocks: 0b1010, chunk: first }));
        let last = chunks.put(ChunkKind::FileData, &[4; 10]).unwrap();
        assert_eq!(taken[49], (2, Step { number: 100, blocks: 1, chunk: last }));
    }

    #[test]
    fn the_error_of_a_worker_ends_the_reading_and_is_the_one_that_is_told() {
        let full = |_: u32, _: &[Step]| Err(Error::new(ErrorKind::NoSpace, "full"));
        let fed = feed(&MemoryChunks::new(), &full, |feeder| {
            feeder.begin(0, u64::MAX >> 20);
            feeder.run(0..u64::MAX >> 20, |_| Ok(()))
        });
        // All zero: nothing to take, so the run above would never end but for the take of an empty list.
        assert_eq!(fed.unwrap_err().kind(), ErrorKind::NoSpace);
    }
}
