//! Regions side by side: workers seal them in any order, the map is changed in the order of the disk.
//!
//! Whoever asks for the next change hands out regions ahead of it, a bounded number of them, and waits for the oldest.

use super::{
    SealCounts,
    region::{Region, Regions},
    worker::{SealedRegion, Work, Worker},
};
use crate::map::{MapChange, update_map};
use silt_types::{BLOCK_SIZE_BYTES, DiskId, Error, ErrorKind, Progress, Result};
use std::{
    collections::VecDeque,
    num::NonZeroUsize,
    sync::{
        Mutex, PoisonError,
        mpsc::{self, Receiver, Sender, SyncSender},
    },
    thread, vec,
};

/// A region, and where the answer is waited for.
struct Task {
    region: Region,
    answer: SyncSender<Result<SealedRegion>>,
}

/// Seals the whole disk with so many workers.
pub(super) fn seal_all(work: Work<'_>, workers: NonZeroUsize) -> Result<(DiskId, SealCounts)> {
    let (tasks, queue) = mpsc::channel();
    let queue = Mutex::new(queue);
    let mut counts = SealCounts::default();
    let disk = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..workers.get()).map(|_| scope.spawn(|| work_off(work, &queue))).collect();
        let changes = Changes {
            regions: Regions::new(work.frozen),
            tasks,
            answers: VecDeque::new(),
            ahead: 2 * workers.get(),
            current: Vec::new().into_iter(),
            counts: &mut counts,
            progress: work.progress,
        };
        let (base, size_bytes) = (work.frozen.base.disk_id(), work.frozen.delta.size_bytes());
        let disk = update_map(&*work.frozen.source, work.sink, base, size_bytes, changes);
        // The tasks have ended with the changes, so the workers end too.
        let panics = threads.into_iter().filter_map(|thread| thread.join().err()).count();
        if panics == 0 { disk } else { Err(panicked()) }
    });
    Ok((disk?, counts))
}

fn work_off(work: Work<'_>, queue: &Mutex<Receiver<Task>>) {
    let mut worker = Worker::new(work);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
    while let Ok(Task { region, answer }) = next() {
        // Nobody waits any more after an error elsewhere.
        let _ = answer.send(worker.seal(&region));
    }
}

fn panicked() -> Error {
    Error::new(ErrorKind::Internal, "a thread that seals panicked")
}

/// The changes of all regions in the order of the disk.
struct Changes<'a> {
    regions: Regions<'a>,
    tasks: Sender<Task>,
    answers: VecDeque<Receiver<Result<SealedRegion>>>,
    /// Regions that may be handed out before the oldest is answered.
    ahead: usize,
    current: vec::IntoIter<MapChange>,
    counts: &'a mut SealCounts,
    progress: &'a dyn Progress,
}

impl Changes<'_> {
    /// Hands out regions, then waits for the oldest; false if there is none left.
    fn next_region(&mut self) -> Result<bool> {
        while self.answers.len() < self.ahead {
            let Some(region) = self.regions.next().transpose()? else { break };
            let (answer, answered) = mpsc::sync_channel(1);
            self.tasks.send(Task { region, answer }).map_err(|_| panicked())?;
            self.answers.push_back(answered);
        }
        let Some(answer) = self.answers.pop_front() else { return Ok(false) };
        let SealedRegion { changes, counts } = answer.recv().map_err(|_| panicked())??;
        *self.counts += counts;
        self.progress.advance(counts.blocks_dirty * BLOCK_SIZE_BYTES);
        self.current = changes.into_iter();
        Ok(true)
    }
}

impl Iterator for Changes<'_> {
    type Item = Result<MapChange>;

    fn next(&mut self) -> Option<Result<MapChange>> {
        loop {
            if let Some(change) = self.current.next() {
                return Some(Ok(change));
            }
            match self.next_region() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
