//! Which requests were taken and not yet answered, in memory that outlives this process: the monitor keeps it and gives it
//! to the next server, which does again what a killed one left.
//!
//! The layout is that of a split virtqueue in "Inflight I/O tracking" of the vhost-user specification: for each queue 16
//! bytes about the queue, then 16 for each descriptor. Everything in it may have been written by anybody.

use super::{
    limits::{QUEUE_SIZE_MAX, QUEUES_MAX},
    memory::{Refused, map_shared},
};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use std::{
    fs::File,
    io,
    num::Wrapping,
    sync::{Arc, atomic::Ordering},
};
use vhost::vhost_user::message::VhostUserInflight;
use vm_memory::{AtomicAccess, Bytes as _, MmapRegion, VolatileMemory as _};

const VERSION: u16 = 1;

/// Each queue's part begins at a multiple of this, as in QEMU's own library.
const ALIGNMENT: usize = 64;

/// Offsets in a queue's part. At 0: features, none.
const VERSION_AT: usize = 8;
const SIZE_AT: usize = 10;
const LAST_ANSWERED_AT: usize = 12;
const USED_AT: usize = 14;
const DESCRIPTORS_AT: usize = 16;

/// Length of a descriptor's entry, and offsets in it.
const ENTRY_BYTES: usize = 16;
const IS_TAKEN_AT: usize = 0;
const COUNTER_AT: usize = 8;

const fn queue_bytes(queue_size: u16) -> usize {
    (DESCRIPTORS_AT + queue_size as usize * ENTRY_BYTES).next_multiple_of(ALIGNMENT)
}

/// The record of all queues.
#[derive(Clone, Debug)]
pub(super) struct Inflight {
    mapping: Arc<MmapRegion<()>>,
    queues: u16,
    queue_size: u16,
}

impl Inflight {
    /// A new record, and the file that the monitor is to keep.
    pub(super) fn create(wanted: &VhostUserInflight) -> io::Result<(VhostUserInflight, File)> {
        let (queues, size) = (wanted.num_queues, wanted.queue_size);
        if usize::from(queues) > QUEUES_MAX || size > QUEUE_SIZE_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let len = queue_bytes(size) as u64 * u64::from(queues);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("silt-inflight", flags)?;
        ftruncate(&file, len)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok((VhostUserInflight::new(len, 0, queues, size), file.into()))
    }

    /// The record that a monitor gives, new or left by another server.
    pub(super) fn map(given: &VhostUserInflight, file: File) -> Result<Inflight, Refused> {
        let (queues, queue_size) = (given.num_queues, given.queue_size);
        if usize::from(queues) > QUEUES_MAX || queue_size > QUEUE_SIZE_MAX {
            return Err(Refused("the inflight buffer is for more or longer queues"));
        }
        if given.mmap_size < queue_bytes(queue_size) as u64 * u64::from(queues) {
            return Err(Refused("the inflight buffer is too small"));
        }
        let mapping = map_shared(Arc::new(file), given.mmap_offset, given.mmap_size, ())?;
        Ok(Inflight { mapping: Arc::new(mapping), queues, queue_size })
    }

    /// The part of one queue. Refused if it has none, or one for another size.
    pub(super) fn queue(&self, index: usize, size: u16) -> Result<InflightQueue, Refused> {
        if index >= usize::from(self.queues) || size > self.queue_size {
            return Err(Refused("the inflight buffer has no part for this queue"));
        }
        let start = index * queue_bytes(self.queue_size);
        Ok(InflightQueue { mapping: self.mapping.clone(), start, size, counter: 0 })
    }
}

/// The record of one queue.
#[derive(Clone, Debug)]
pub(super) struct InflightQueue {
    mapping: Arc<MmapRegion<()>>,
    start: usize,
    size: u16,
    /// Of the request taken last: later ones have higher numbers.
    counter: u64,
}

impl InflightQueue {
    /// What was taken and not answered when the used ring ended at `used`, in the order in which it was taken.
    pub(super) fn recover(&mut self, used: Wrapping<u16>) -> Result<Vec<u16>, Refused> {
        let version: u16 = self.get(VERSION_AT);
        if version == 0 {
            self.put(SIZE_AT, self.size);
            self.put(USED_AT, used.0);
            self.put(VERSION_AT, VERSION);
            return Ok(Vec::new());
        }
        if version != VERSION || self.get::<u16>(SIZE_AT) != self.size {
            return Err(Refused("the inflight buffer is that of another queue"));
        }
        if self.get::<u16>(USED_AT) != used.0 {
            // The last answer went out, and was not yet noted.
            let last = self.get::<u16>(LAST_ANSWERED_AT) % self.size;
            self.put(entry(last) + IS_TAKEN_AT, 0u8);
            self.put(USED_AT, used.0);
        }
        let taken = (0..self.size).filter(|head| self.get::<u8>(entry(*head) + IS_TAKEN_AT) == 1);
        let mut taken: Vec<_> =
            taken.map(|head| (self.get::<u64>(entry(head) + COUNTER_AT), head)).collect();
        taken.sort_unstable();
        self.counter = taken.last().map_or(0, |(counter, _)| *counter);
        Ok(taken.into_iter().map(|(_, head)| head).collect())
    }

    /// A request is taken; before anything is done about it.
    pub(super) fn take(&mut self, head: u16) {
        self.counter = self.counter.wrapping_add(1);
        self.put(entry(head) + COUNTER_AT, self.counter);
        self.put(entry(head) + IS_TAKEN_AT, 1u8);
    }

    /// A request is about to enter the used ring.
    pub(super) fn about_to_answer(&self, head: u16) {
        self.put(LAST_ANSWERED_AT, head);
    }

    /// It has entered the used ring, which ends at `used` now.
    pub(super) fn answered(&self, head: u16, used: u16) {
        self.put(entry(head) + IS_TAKEN_AT, 0u8);
        self.put(USED_AT, used);
    }

    fn get<T: AtomicAccess>(&self, at: usize) -> T {
        let value = self.mapping.as_volatile_slice().load(self.start + at, Ordering::Acquire);
        value.expect("the part lies in the mapping, its fields aligned")
    }

    fn put<T: AtomicAccess>(&self, at: usize, value: T) {
        let slice = self.mapping.as_volatile_slice();
        let stored = slice.store(value, self.start + at, Ordering::Release);
        stored.expect("the part lies in the mapping, its fields aligned");
    }
}

const fn entry(head: u16) -> usize {
    DESCRIPTORS_AT + head as usize * ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(file: &File, given: &VhostUserInflight) -> InflightQueue {
        Inflight::map(given, file.try_clone().unwrap()).unwrap().queue(1, 8).unwrap()
    }

    #[test]
    fn what_a_killed_server_left_is_found_in_its_order() {
        let (given, file) = Inflight::create(&VhostUserInflight::new(0, 0, 2, 8)).unwrap();
        let mut first = queue(&file, &given);
        assert!(first.recover(Wrapping(65_535)).unwrap().is_empty());
        for head in [3, 1, 7, 0] {
            first.take(head);
        }
        first.about_to_answer(1);
        first.answered(1, 0);
        // Killed between the used ring and the note of it.
        first.about_to_answer(7);
        drop(first);
        let mut second = queue(&file, &given);
        assert_eq!(second.recover(Wrapping(1)).unwrap(), [3, 0]);
        second.take(2);
        assert_eq!(queue(&file, &given).recover(Wrapping(1)).unwrap(), [3, 0, 2]);
        assert!(queue(&file, &given).recover(Wrapping(1)).is_ok());
    }

    #[test]
    fn buffers_of_wrong_sizes_are_refused() {
        assert!(Inflight::create(&VhostUserInflight::new(0, 0, 17, 8)).is_err());
        assert!(Inflight::create(&VhostUserInflight::new(0, 0, 1, 1025)).is_err());
        let (given, file) = Inflight::create(&VhostUserInflight::new(0, 0, 2, 8)).unwrap();
        for wrong in [
            VhostUserInflight { mmap_size: given.mmap_size - 1, ..given },
            VhostUserInflight { mmap_size: given.mmap_size + 4096, ..given },
            VhostUserInflight { mmap_offset: 4096, ..given },
            VhostUserInflight { num_queues: 3, ..given },
            VhostUserInflight { queue_size: 1025, ..given },
        ] {
            assert!(Inflight::map(&wrong, file.try_clone().unwrap()).is_err());
        }
        let inflight = Inflight::map(&given, file).unwrap();
        assert!(inflight.queue(2, 8).is_err() && inflight.queue(0, 16).is_err());
        inflight.queue(0, 8).unwrap().recover(Wrapping(0)).unwrap();
        assert!(inflight.queue(0, 4).unwrap().recover(Wrapping(0)).is_err());
    }
}
