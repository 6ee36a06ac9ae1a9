//! One virtqueue: which requests the guest has made available, and the answers it is told of.
//!
//! Every request taken is answered once; a guest that hands out a descriptor that is not back yet, or whose indexes jump,
//! has broken its queue. So no more requests are ever open than the queue has descriptors.

use super::{
    inflight::InflightQueue,
    limits::QUEUE_SIZE_MAX,
    memory::{GuestMemory, Refused},
};
use std::{
    collections::VecDeque,
    sync::atomic::{Ordering, fence},
};
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT as _, QueueT as _};
use vm_memory::{Bytes as _, GuestAddress};

/// Where a queue is, in guest addresses, and where it goes on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RingPlace {
    pub(super) size: u16,
    pub(super) table: u64,
    pub(super) available: u64,
    pub(super) used: u64,
    /// The next entry of the available ring, where no inflight record knows better.
    pub(super) base: u16,
    /// The guest says at which index it wants to be told, and is told at which to tell.
    pub(super) event_idx: bool,
}

/// The guest has broken its queue: nothing more can be taken from it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken;

impl From<virtio_queue::Error> for Broken {
    fn from(_: virtio_queue::Error) -> Broken {
        Broken
    }
}

/// A queue that is running.
pub(super) struct Ring<'m> {
    memory: &'m GuestMemory,
    queue: Queue,
    inflight: Option<InflightQueue>,
    /// Taken by a server that was killed: first of all.
    left_over: VecDeque<u16>,
    is_taken: Box<[bool]>,
    /// Answers that the guest was not told of.
    untold: usize,
}

impl<'m> Ring<'m> {
    /// Goes on where the queue stopped. Refused where it is not in the guest's memory.
    pub(super) fn open(
        memory: &'m GuestMemory,
        place: &RingPlace,
        mut inflight: Option<InflightQueue>,
    ) -> Result<Ring<'m>, Refused> {
        let mut queue = Queue::new(QUEUE_SIZE_MAX).expect("the size is a power of two");
        queue
            .try_set_size(place.size)
            .and_then(|()| queue.try_set_desc_table_address(GuestAddress(place.table)))
            .and_then(|()| queue.try_set_avail_ring_address(GuestAddress(place.available)))
            .and_then(|()| queue.try_set_used_ring_address(GuestAddress(place.used)))
            .map_err(|_| Refused("a ring of this size, or at this place, cannot be"))?;
        queue.set_event_idx(place.event_idx);
        queue.set_ready(true);
        let outside = Refused("a ring lies outside the guest's memory");
        if !queue.is_valid(memory) {
            return Err(outside);
        }
        let used = queue.used_idx(memory, Ordering::Acquire).map_err(|_| outside)?;
        let left_over = inflight.as_mut().map(|inflight| inflight.recover(used)).transpose()?;
        let next = match &left_over {
            Some(left_over) => used.0.wrapping_add(left_over.len() as u16),
            None => place.base,
        };
        queue.set_next_used(used.0);
        queue.set_next_avail(next);
        let mut is_taken = vec![false; usize::from(place.size)].into_boxed_slice();
        let left_over = VecDeque::from(left_over.unwrap_or_default());
        left_over.iter().for_each(|head| is_taken[usize::from(*head)] = true);
        Ok(Ring { memory, queue, inflight, left_over, is_taken, untold: 0 })
    }

    /// Where the descriptors are, and how many.
    pub(super) fn table(&self) -> (GuestAddress, u16) {
        (GuestAddress(self.queue.desc_table()), self.queue.size())
    }

    /// The next entry of the available ring: where another server goes on.
    pub(super) fn base(&self) -> u16 {
        self.queue.next_avail()
    }

    /// Takes the next request: the first descriptor of its chain. `None` where there is none now.
    pub(super) fn take(&mut self) -> Result<Option<u16>, Broken> {
        if let Some(head) = self.left_over.pop_front() {
            return Ok(Some(head));
        }
        let end = self.queue.avail_idx(self.memory, Ordering::Acquire)?;
        if end.0 == self.queue.next_avail() {
            return Ok(None);
        }
        let chain = self.queue.iter(self.memory)?.next().ok_or(Broken)?;
        let head = chain.head_index();
        match self.is_taken.get_mut(usize::from(head)) {
            Some(is_taken) if !*is_taken => *is_taken = true,
            _ => return Err(Broken),
        }
        if let Some(inflight) = &mut self.inflight {
            inflight.take(head);
        }
        Ok(Some(head))
    }

    /// Whether [`Ring::take`] has one now.
    pub(super) fn has_more(&self) -> Result<bool, Broken> {
        let end = self.queue.avail_idx(self.memory, Ordering::Acquire)?;
        Ok(!self.left_over.is_empty() || end.0 != self.queue.next_avail())
    }

    /// Answers a request that was taken: the guest's memory has `len` bytes more.
    pub(super) fn answer(&mut self, head: u16, len: u32) -> Result<(), Broken> {
        if let Some(inflight) = &self.inflight {
            inflight.about_to_answer(head);
        }
        self.queue.add_used(self.memory, head, len)?;
        if let Some(inflight) = &self.inflight {
            inflight.answered(head, self.queue.next_used());
        }
        self.is_taken[usize::from(head)] = false;
        self.untold += 1;
        Ok(())
    }

    /// Answers that the guest was not told of.
    pub(super) fn untold(&self) -> usize {
        self.untold
    }

    /// Whether the guest has to be told of the answers since the last call; true only once.
    pub(super) fn must_tell(&mut self) -> Result<bool, Broken> {
        if std::mem::take(&mut self.untold) == 0 {
            return Ok(false);
        }
        if self.queue.event_idx_enabled() {
            return Ok(self.queue.needs_notification(self.memory)?);
        }
        // Between the answers and what the guest says of them.
        fence(Ordering::SeqCst);
        let flags = self.memory.load(GuestAddress(self.queue.avail_ring()), Ordering::Relaxed);
        let flags: u16 = flags.map_err(|_| Broken)?;
        Ok(u16::from_le(flags) & VRING_AVAIL_F_NO_INTERRUPT as u16 == 0)
    }

    /// Asks to be told of the next request; false if there is one already.
    pub(super) fn wants_to_be_told(&mut self) -> Result<bool, Broken> {
        Ok(!self.queue.enable_notification(self.memory)?)
    }

    /// Asks not to be told while requests are being looked for.
    pub(super) fn need_not_be_told(&mut self) -> Result<(), Broken> {
        Ok(self.queue.disable_notification(self.memory)?)
    }
}
