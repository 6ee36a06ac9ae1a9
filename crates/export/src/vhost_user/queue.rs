//! The thread of one virtqueue: requests out of the guest's memory, answers into it.
//!
//! It does on the spot what takes no longer than handing it over would: hot reads and whole-block writes, straight between
//! the device and the guest's memory. Everything else goes to [`Workers`]. Nothing is allocated on the fast path. A guest that
//! asks again at once is waited for awake for a moment; idle, the thread sleeps in `poll`.

use super::{
    chain::{Chain, Segment, find_memory, take_last_byte, total_len},
    config::has,
    dirty_log::DirtyLog,
    inflight::InflightQueue,
    jobs::{Job, Task},
    limits::{
        ALONE_INLINE_BYTES_MAX, AWAKE_TIME_MAX, READ_INLINE_BYTES_MAX, UNTOLD_MAX,
        WRITE_INLINE_BYTES_MAX,
    },
    memory::{GuestMemory, Refused},
    pending::{Pending, Shared},
    request::{Request, Status, parse},
    ring::{Broken, Ring, RingPlace},
    workers::Workers,
};
use crate::StopSignal;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{Errno, retry_on_intr},
};
use silt_sys::iobuf::{IoBuf, IoBufMut, PieceMut};
use silt_types::BLOCK_SIZE_BYTES;
use silt_volume::BlockDevice;
use std::{
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Instant,
};
use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_ID_BYTES};

/// Everything a queue needs to run.
pub(super) struct Setup {
    pub(super) device: Arc<dyn BlockDevice>,
    pub(super) memory: Arc<GuestMemory>,
    pub(super) place: RingPlace,
    pub(super) inflight: Option<InflightQueue>,
    pub(super) log: Option<Arc<DirtyLog>>,
    /// Becomes readable when there are requests.
    pub(super) kick: Arc<File>,
    /// Is written to when there are answers.
    pub(super) call: Option<Arc<File>>,
    /// Is written to when the guest has broken the queue.
    pub(super) error: Option<Arc<File>>,
    /// What the guest negotiated.
    pub(super) features: u64,
}

/// How a queue is told to end.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    pub(super) signal: StopSignal,
    pub(super) is_wanted: Arc<AtomicBool>,
}

/// Serves a queue until it is told to end; then every request that was taken is answered. Returns where the next one goes
/// on in the available ring.
pub(super) fn run(mut setup: Setup, ending: &Ending) -> Result<u16, Refused> {
    let inflight = setup.inflight.take();
    let ring = Ring::open(&setup.memory, &setup.place, inflight)?;
    let (table, size) = ring.table();
    let (call, log) = (setup.call.as_deref(), setup.log.as_deref());
    if let Some(call) = call {
        // A server that was killed, or that this one took over from, may have given answers that the guest was not told of. It
        // looks for nothing without being told.
        let _ = rustix::io::write(call, &1u64.to_ne_bytes());
    }
    let shared = Shared::new(&setup.memory, &*setup.device, ring, call, log);
    thread::scope(|scope| {
        let mut queue = QueueThread {
            setup: &setup,
            shared: &shared,
            ending,
            workers: Workers::new(scope, &shared, ending.is_wanted.clone()),
            chain: Chain::default(),
            pieces: Vec::new(),
            table: (table, size),
            waits_awake: false,
        };
        if queue.serve().is_err() {
            queue.wait_for_end();
        }
        queue.workers.finish();
    });
    shared.tell();
    Ok(shared.ring().base())
}

struct QueueThread<'scope, 'env, 'q, 'm> {
    setup: &'m Setup,
    shared: &'q Shared<'m>,
    ending: &'q Ending,
    workers: Workers<'scope, 'env, 'q, 'm>,
    chain: Chain,
    pieces: Vec<PieceMut<'m>>,
    table: (vm_memory::GuestAddress, u16),
    /// Whether the last request came soon.
    waits_awake: bool,
}

impl<'scope, 'env, 'q: 'scope, 'm: 'scope> QueueThread<'scope, 'env, 'q, 'm> {
    fn serve(&mut self) -> Result<(), Broken> {
        loop {
            self.answer_all()?;
            let began = Instant::now();
            while self.waits_awake && !self.is_ending() && !self.shared.ring().has_more()? {
                thread::yield_now();
                self.waits_awake = began.elapsed() < AWAKE_TIME_MAX;
            }
            if self.is_ending() {
                return Ok(());
            }
            if !self.waits_awake && self.shared.ring().wants_to_be_told()? {
                if !self.wait_for_requests() {
                    return Ok(());
                }
                self.shared.ring().need_not_be_told()?;
            }
            self.waits_awake = began.elapsed() < AWAKE_TIME_MAX;
        }
    }

    /// Takes requests until there are none, or the queue is told to end.
    fn answer_all(&mut self) -> Result<(), Broken> {
        while !self.is_ending() {
            let (taken, untold) = {
                let mut ring = self.shared.ring();
                (ring.take()?, ring.untold())
            };
            if taken.is_none() || untold >= UNTOLD_MAX {
                self.shared.tell();
            }
            match taken {
                Some(head) => self.perform(head),
                None => break,
            }
            if self.shared.is_broken() {
                return Err(Broken);
            }
        }
        self.shared.tell();
        Ok(())
    }

    fn perform(&mut self, head: u16) {
        let (memory, (table, size)) = (self.shared.memory, self.table);
        let chain = &mut self.chain;
        let status = match chain.read(memory, table, size, head) {
            Ok(()) => take_last_byte(&mut chain.writable),
            Err(_) => None,
        };
        let Some(status) = status else { return Pending::refuse(self.shared, head) };
        let pending = Pending::new(self.shared, head, status, &chain.writable);
        match parse(memory, chain, self.setup.features) {
            Ok(request) => self.answer(request, pending),
            Err(status) => pending.answer(status),
        }
    }

    fn answer(&mut self, request: Request, pending: Pending<'q, 'm>) {
        self.pieces.clear();
        let task = match request {
            Request::Read { offset } => {
                if find_memory(self.shared.memory, &self.chain.writable, &mut self.pieces).is_err()
                {
                    return pending.answer(Status::Failed);
                }
                match self.read_inline(offset) {
                    Some(status) => return pending.answer(status),
                    None => Task::Read { pieces: self.pieces.clone(), offset },
                }
            }
            Request::Write { offset } => {
                if find_memory(self.shared.memory, &self.chain.readable, &mut self.pieces).is_err()
                {
                    return pending.answer(Status::Failed);
                }
                match self.write_inline(offset) {
                    Some(status) => return pending.answer(status),
                    None => Task::Write { pieces: self.pieces.clone(), offset },
                }
            }
            Request::Identify => return pending.answer(self.identify()),
            Request::Zero(ranges) => Task::Zero(ranges),
            Request::Flush if !self.is_writable() => return pending.answer(Status::Done),
            Request::Flush => Task::Flush,
        };
        let then_flush =
            matches!(task, Task::Write { .. } | Task::Zero(_)) && self.writes_through();
        if self.workers.is_full() {
            self.shared.tell();
        }
        self.workers.submit(Job { pending, task, then_flush });
    }

    /// Does a read if that is quick.
    fn read_inline(&mut self, offset: u64) -> Option<Status> {
        if !self.is_quick(total_len(&self.chain.writable), READ_INLINE_BYTES_MAX) {
            return None;
        }
        match self.shared.device.read_hot(IoBufMut::from(&self.pieces[..]), offset) {
            Ok(false) => None,
            read => Some(Status::from(&read)),
        }
    }

    /// Does a write if that is quick.
    fn write_inline(&mut self, offset: u64) -> Option<Status> {
        let len = total_len(&self.chain.readable);
        let is_whole_blocks =
            offset.is_multiple_of(BLOCK_SIZE_BYTES) && len.is_multiple_of(BLOCK_SIZE_BYTES);
        let may_wait = !is_whole_blocks || self.writes_through() || self.shared.device.must_wait();
        if may_wait || !self.is_quick(len, WRITE_INLINE_BYTES_MAX) {
            return None;
        }
        match self.shared.device.write_hot(IoBuf::from(&self.pieces[..]), offset) {
            Ok(false) => None,
            written => Some(Status::from(&written)),
        }
    }

    /// Whether a request of this length holds nobody up: it is short, or there is no other.
    fn is_quick(&self, len: u64, usual_max: u64) -> bool {
        let is_alone = || {
            let has_more = self.shared.ring().has_more();
            has_more == Ok(false) && self.workers.are_idle()
        };
        len <= usual_max || (len <= ALONE_INLINE_BYTES_MAX && is_alone())
    }

    /// A guest that cannot flush must find everything durable that is answered.
    fn writes_through(&self) -> bool {
        !has(self.setup.features, VIRTIO_BLK_F_FLUSH)
    }

    fn is_writable(&self) -> bool {
        !self.shared.device.geometry().read_only
    }

    /// Fills in the name of the disk, which is the same for every disk: the monitor knows better.
    fn identify(&mut self) -> Status {
        const NAME: &[u8] = b"siltstone";
        let mut name = [0; VIRTIO_BLK_ID_BYTES as usize];
        name[..NAME.len()].copy_from_slice(NAME);
        let mut room: Vec<Segment> = Vec::new();
        std::mem::swap(&mut room, &mut self.chain.writable);
        if find_memory(self.shared.memory, &room, &mut self.pieces).is_err() {
            return Status::Failed;
        }
        let mut into = IoBufMut::from(&self.pieces[..]);
        let len = into.len().min(name.len());
        into.take(len).copy_from(&name[..len]);
        Status::Done
    }

    fn is_ending(&self) -> bool {
        self.ending.is_wanted.load(Ordering::Relaxed)
    }

    /// Sleeps until the guest has requests; false if the queue is to end.
    fn wait_for_requests(&self) -> bool {
        let kick = &*self.setup.kick;
        let mut fds =
            [PollFd::new(&self.ending.signal, PollFlags::IN), PollFd::new(kick, PollFlags::IN)];
        let _ = retry_on_intr(|| poll(&mut fds, None));
        let [end, kicked] = fds.map(|fd| fd.revents());
        if !end.is_empty() {
            return false;
        }
        let mut count = [0; 8];
        match rustix::io::read(kick, &mut count) {
            Ok(8) | Err(Errno::AGAIN) if kicked.contains(PollFlags::IN) => true,
            _ => {
                // It will never be readable again, or always: nobody kicks with it.
                self.wait_for_end();
                false
            }
        }
    }

    /// Tells the monitor that the queue is of no use any more, and waits until it is told to end.
    fn wait_for_end(&self) {
        if let Some(error) = self.setup.error.as_deref() {
            let _ = rustix::io::write(error, &1u64.to_ne_bytes());
        }
        let mut fds = [PollFd::new(&self.ending.signal, PollFlags::IN)];
        let _ = retry_on_intr(|| poll(&mut fds, None));
    }
}
