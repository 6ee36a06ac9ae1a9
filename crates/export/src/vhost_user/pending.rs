//! A request that was taken and is owed an answer: it gets one, exactly once, whatever becomes of it.

use super::{
    chain::{Segment, total_len},
    dirty_log::DirtyLog,
    memory::GuestMemory,
    request::Status,
    ring::{Broken, Ring},
};
use silt_volume::BlockDevice;
use std::{
    fs::File,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use vm_memory::{Bytes as _, GuestAddress};

/// What a queue's thread and its workers share.
pub(super) struct Shared<'m> {
    pub(super) memory: &'m GuestMemory,
    pub(super) device: &'m dyn BlockDevice,
    pub(super) log: Option<&'m DirtyLog>,
    ring: Mutex<Ring<'m>>,
    /// Tells the guest of answers; without it the guest looks for itself.
    call: Option<&'m File>,
    is_broken: AtomicBool,
}

impl<'m> Shared<'m> {
    pub(super) fn new(
        memory: &'m GuestMemory,
        device: &'m dyn BlockDevice,
        ring: Ring<'m>,
        call: Option<&'m File>,
        log: Option<&'m DirtyLog>,
    ) -> Shared<'m> {
        let (ring, is_broken) = (Mutex::new(ring), AtomicBool::new(false));
        Shared { memory, device, log, ring, call, is_broken }
    }

    pub(super) fn ring(&self) -> MutexGuard<'_, Ring<'m>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an answer could not be given.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    /// Puts an answer in the ring; the guest is told later, by [`Shared::tell`].
    fn answer(&self, head: u16, len: u32) {
        let answered = self.ring().answer(head, len);
        self.note(answered);
    }

    /// Tells the guest of the answers so far, if it wants to know.
    pub(super) fn tell(&self) {
        let must_tell = self.ring().must_tell();
        if let (Ok(true), Some(call)) = (&must_tell, self.call) {
            // What the other side does with it is its own business.
            let _ = rustix::io::write(call, &1u64.to_ne_bytes());
        }
        self.note(must_tell);
    }

    fn note<T>(&self, result: Result<T, Broken>) {
        if result.is_err() {
            self.is_broken.store(true, Ordering::Relaxed);
        }
    }
}

/// A request that is owed an answer. Dropped without one, as by a panic of the device, it is answered as failed.
pub(super) struct Pending<'q, 'm> {
    shared: &'q Shared<'m>,
    head: u16,
    status: GuestAddress,
    len: u32,
    /// What is filled and has to be logged.
    filled: Vec<Segment>,
    is_answered: bool,
}

impl<'q, 'm> Pending<'q, 'm> {
    /// A request whose status goes to `status`, after it filled `writable`.
    pub(super) fn new(
        shared: &'q Shared<'m>,
        head: u16,
        status: GuestAddress,
        writable: &[Segment],
    ) -> Pending<'q, 'm> {
        // Longer ones are refused, and of those no guest believes the length.
        let len = u32::try_from(total_len(writable)).unwrap_or(0).saturating_add(1);
        let filled = shared.log.map(|_| writable.to_vec()).unwrap_or_default();
        Pending { shared, head, status, len, filled, is_answered: false }
    }

    /// Answers a request that has no place for its status.
    pub(super) fn refuse(shared: &Shared<'_>, head: u16) {
        shared.answer(head, 0);
    }

    /// Answers.
    pub(super) fn answer(mut self, status: Status) {
        self.answer_once(status);
    }

    fn answer_once(&mut self, status: Status) {
        self.is_answered = true;
        if let Some(log) = self.shared.log {
            self.filled.iter().for_each(|part| log.mark(part.address.0, part.len.into()));
        }
        let written = self.shared.memory.write_obj(status as u8, self.status);
        self.shared.answer(self.head, if written.is_ok() { self.len } else { 0 });
    }
}

impl Drop for Pending<'_, '_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.answer_once(Status::Failed);
            self.shared.tell();
        }
    }
}
