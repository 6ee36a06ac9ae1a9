//! The driver's side of a split virtqueue in shared memory, as a guest's kernel has it: for tests of devices.
//!
//! Written from "2.7 Split Virtqueues" of virtio 1.3 apart from the devices that it tests. The lower half says anything to
//! a device ([`VirtQueue::put_descriptor`], [`VirtQueue::put_available`]), the upper half does it right.

use silt_types::{Context as _, Error, Result};
use std::{
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::{
    epoll::{ControlOperation, Epoll, EpollEvent, EventSet},
    eventfd::{EFD_NONBLOCK, EventFd},
};

/// Descriptor flag: another one follows.
pub const NEXT: u16 = 1;
/// Descriptor flag: the device writes there.
pub const WRITE: u16 = 2;
/// Descriptor flag: a table of descriptors is there.
pub const INDIRECT: u16 = 4;

/// Room that a queue takes in memory, with its indirect tables.
pub const QUEUE_BYTES: u64 = 1 << 20;

/// Indirect tables: behind the rings of the longest queue, one page for each descriptor.
const INDIRECT_AT: u64 = 64 << 10;
const INDIRECT_BYTES: u64 = 4096;

/// How long a device may take before a test is taken to hang.
const PATIENCE_MS: i32 = 60_000;

/// One run of memory in a request.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Guest address.
    pub address: u64,
    /// Length in bytes.
    pub len: u32,
    /// Whether the device fills it.
    pub is_writable: bool,
}

/// A queue, at most 128 descriptors long where it uses indirect tables.
pub struct VirtQueue {
    memory: Arc<GuestMemoryMmap>,
    start: u64,
    size: u16,
    event_idx: bool,
    next_available: u16,
    next_used: u16,
    /// Tells the device of requests.
    pub kick: EventFd,
    /// Tells of answers.
    pub call: EventFd,
    /// Tells that the device gave the queue up.
    pub error: EventFd,
    /// How often the device was told.
    pub kicks: u64,
    /// How often it told.
    pub calls: u64,
}

impl VirtQueue {
    /// An empty queue at a guest address.
    pub fn new(
        memory: Arc<GuestMemoryMmap>,
        start: u64,
        size: u16,
        event_idx: bool,
    ) -> Result<VirtQueue> {
        let event = || EventFd::new(EFD_NONBLOCK).context(|| "no eventfd".into());
        let (kick, call, error) = (event()?, event()?, event()?);
        let (next_available, next_used, kicks, calls) = (0, 0, 0, 0);
        Ok(VirtQueue {
            memory,
            start,
            size,
            event_idx,
            next_available,
            next_used,
            kick,
            call,
            error,
            kicks,
            calls,
        })
    }

    /// Descriptors.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Where descriptor table, available ring and used ring are.
    pub fn places(&self) -> [u64; 3] {
        [self.start, self.start + (32 << 10), self.start + (48 << 10)]
    }

    /// Where the indirect table of a descriptor is.
    pub fn indirect_place(&self, descriptor: u16) -> u64 {
        self.start + INDIRECT_AT + u64::from(descriptor) * INDIRECT_BYTES
    }

    /// Writes any descriptor into any table.
    pub fn put_descriptor(&self, table: u64, at: u16, part: (u64, u32), flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&part.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&part.1.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        self.put(table + u64::from(at) * 16, &bytes);
    }

    /// Puts any number into the available ring, and moves its index on by `steps`.
    pub fn put_available(&mut self, head: u16, steps: u16) {
        let [_, ring, _] = self.places();
        let at = u64::from(self.next_available % self.size);
        self.put(ring + 4 + at * 2, &head.to_le_bytes());
        self.next_available = self.next_available.wrapping_add(steps);
        let stored = self.memory.store(
            self.next_available.to_le(),
            GuestAddress(ring + 2),
            Ordering::Release,
        );
        stored.expect("queues lie in memory");
    }

    /// Makes a request available whose chain begins at `first` and takes the descriptors that follow it, or one indirect
    /// table.
    pub fn submit(&mut self, first: u16, parts: &[Part], is_indirect: bool) {
        let [table, ..] = self.places();
        let (into, offset) = match is_indirect {
            true => (self.indirect_place(first), 0),
            false => (table, first),
        };
        for (at, part) in parts.iter().enumerate() {
            let mut flags = if part.is_writable { WRITE } else { 0 };
            flags |= if at + 1 < parts.len() { NEXT } else { 0 };
            let at = offset + at as u16;
            self.put_descriptor(into, at, (part.address, part.len), flags, at + 1);
        }
        if is_indirect {
            let len = parts.len() as u32 * 16;
            self.put_descriptor(table, first, (into, len), INDIRECT, 0);
        }
        self.put_available(first, 1);
    }

    /// Tells the device of requests, unless it does not want to be told; `added` were made available since the last time.
    pub fn tell(&mut self, added: u16) {
        fence(Ordering::SeqCst);
        let [_, _, used] = self.places();
        let must_tell = if self.event_idx {
            let event = self.number(used + 4 + u64::from(self.size) * 8);
            let (new, old) = (self.next_available, self.next_available.wrapping_sub(added));
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.number(used) & 1 == 0
        };
        if must_tell {
            self.kicks += 1;
            self.kick.write(1).expect("nobody fills it");
        }
    }

    /// The next answer that is there: its head, and how much the device filled.
    pub fn take_used(&mut self) -> Option<(u32, u32)> {
        let [_, available, used] = self.places();
        let end: u16 = self
            .memory
            .load(GuestAddress(used + 2), Ordering::Acquire)
            .expect("queues lie in memory");
        if u16::from_le(end) == self.next_used {
            return None;
        }
        let at = used + 4 + u64::from(self.next_used % self.size) * 8;
        let mut element = [0; 8];
        self.memory.read_slice(&mut element, GuestAddress(at)).expect("queues lie in memory");
        self.next_used = self.next_used.wrapping_add(1);
        if self.event_idx {
            let place = available + 4 + u64::from(self.size) * 2;
            self.put(place, &self.next_used.to_le_bytes());
            fence(Ordering::SeqCst);
        }
        let number = |at: usize| element[at..at + 4].iter().rev();
        let [head, len] =
            [0, 4].map(|at| number(at).fold(0, |sum, byte| sum << 8 | u32::from(*byte)));
        Some((head, len))
    }

    /// The next answer, slept for.
    pub fn wait_used(&mut self) -> Result<(u32, u32)> {
        loop {
            if let Some(used) = self.take_used() {
                return Ok(used);
            }
            if !wait(&self.call) {
                return Err(Error::internal("the device does not answer"));
            }
            if self.call.read().is_ok() {
                self.calls += 1;
            }
        }
    }

    /// Whether the device has given the queue up, waited for.
    pub fn wait_error(&self) -> bool {
        wait(&self.error)
    }

    /// Where the device goes on, as after a stop of the queue: what it has not taken is taken back.
    pub fn resume_at(&mut self, base: u16) {
        self.next_available = base;
        let [_, ring, _] = self.places();
        self.put(ring + 2, &base.to_le_bytes());
    }

    /// The next free place in the available ring.
    pub fn next_available(&self) -> u16 {
        self.next_available
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).expect("queues lie in memory");
    }

    fn number(&self, address: u64) -> u16 {
        let number: u16 = self
            .memory
            .load(GuestAddress(address), Ordering::Acquire)
            .expect("queues lie in memory");
        u16::from_le(number)
    }
}

fn wait(event: &EventFd) -> bool {
    let epoll = Epoll::new().expect("no epoll");
    let wanted = EpollEvent::new(EventSet::IN, 0);
    epoll.ctl(ControlOperation::Add, event.as_raw_fd(), wanted).expect("an eventfd can be polled");
    matches!(epoll.wait(PATIENCE_MS, &mut [EpollEvent::default()]), Ok(1))
}
