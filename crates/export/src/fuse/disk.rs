//! A disk behind a file: requests that were checked, done and answered.
//!
//! Quick ones at once, on the thread that received them: hot reads and whole-block writes, straight from the request and
//! straight into the reply. What may wait for a disk or decode something goes to [`Workers`].
//!
//! The device can be taken away: then what is under way ends, what comes is refused, and nobody touches it any more. Whoever
//! takes it away may do something between the two, while requests that come wait.

use super::{
    limits::{SEEK_RUNS_MAX, WRITE_HANDOVER_BYTES_MAX},
    request::{
        Change, Sought, check_allocate, check_seek, check_write, gives_space_back, is_whole_blocks,
        readable,
    },
    workers::{Kind, Workers},
};
use fuser::{Errno, OpenFlags, ReplyData, ReplyEmpty, ReplyLseek, ReplyWrite};
use silt_types::{Error, ErrorKind};
use silt_volume::{BlockDevice, Geometry};
use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

thread_local! {
    /// Where a read of this thread puts what it found; as long as the longest so far.
    static FOUND: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The number that a program is given for an error of the device.
pub(super) fn errno_of(error: &Error) -> Errno {
    match error.kind() {
        ErrorKind::NoSpace => Errno::ENOSPC,
        ErrorKind::Invalid => Errno::EINVAL,
        ErrorKind::NotFound => Errno::ENOENT,
        ErrorKind::Busy => Errno::EBUSY,
        _ => Errno::EIO,
    }
}

/// A disk that programs have as a file. Clones are the same one.
#[derive(Clone)]
pub(super) struct Disk {
    device: Arc<RwLock<Option<Arc<dyn BlockDevice>>>>,
    gate: Arc<Gate>,
    workers: Workers,
}

/// Shut while somebody takes the device away, who would never find it unused if requests went on coming.
#[derive(Default)]
struct Gate {
    is_shut: AtomicBool,
    lock: Mutex<()>,
    opened: Condvar,
}

impl Gate {
    /// Waits while it is shut: one load where it is not.
    fn pass(&self) {
        if self.is_shut.load(Ordering::Acquire) {
            let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            let is_shut = |(): &mut ()| self.is_shut.load(Ordering::Acquire);
            drop(self.opened.wait_while(guard, is_shut));
        }
    }

    fn set(&self, is_shut: bool) {
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_shut.store(is_shut, Ordering::Release);
        self.opened.notify_all();
    }
}

/// The device, kept for one request.
pub(super) struct Held<'a>(RwLockReadGuard<'a, Option<Arc<dyn BlockDevice>>>);

impl Held<'_> {
    pub(super) fn get(&self) -> &dyn BlockDevice {
        self.0.as_deref().expect("`Disk::hold` looked")
    }
}

impl Disk {
    pub(super) fn new(device: Arc<dyn BlockDevice>, workers: Workers) -> Disk {
        Disk { device: Arc::new(RwLock::new(Some(device))), gate: Arc::default(), workers }
    }

    /// Ends what is under way, and takes the device away; false if that takes longer than `time`, and something may use it
    /// still.
    pub(super) fn take_away(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let is_idle = self.workers.wait_until_idle(time);
        self.take_away_by(deadline, || ()).is_some() && is_idle
    }

    /// Takes the device away, and does `change` when nothing uses it and every request that did is answered. Those that come
    /// meanwhile, or wait for a worker, go on behind it, and are refused. None, and nothing has happened, if something uses it
    /// for longer than `time`.
    pub(super) fn take_away_and<T>(&self, time: Duration, change: impl FnOnce() -> T) -> Option<T> {
        self.take_away_by(Instant::now() + time, change)
    }

    fn take_away_by<T>(&self, deadline: Instant, change: impl FnOnce() -> T) -> Option<T> {
        self.gate.set(true);
        let done = self.take_away_when_unused(deadline, change);
        self.gate.set(false);
        done
    }

    fn take_away_when_unused<T>(&self, deadline: Instant, change: impl FnOnce() -> T) -> Option<T> {
        loop {
            let device = match self.device.try_write() {
                Ok(device) => Some(device),
                Err(TryLockError::Poisoned(device)) => Some(device.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            };
            if let Some(mut device) = device {
                *device = None;
                return Some(change());
            }
            if Instant::now() >= deadline {
                return None;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// What the disk is like now; an error once it was taken away.
    pub(super) fn geometry(&self) -> Result<Geometry, Errno> {
        Ok(self.hold()?.get().geometry())
    }

    pub(super) fn read(&self, offset: u64, len: u32, reply: ReplyData) {
        answered(|| {
            let held = match self.hold() {
                Ok(held) => held,
                Err(errno) => return reply.error(errno),
            };
            let len = readable(offset, len, held.get().geometry());
            if len == 0 {
                return reply.data(&[]);
            }
            let read = with_buffer(len, |found| match held.get().read_hot(found.into(), offset) {
                Ok(true) => {
                    reply.data(found);
                    None
                }
                Ok(false) => Some((reply, None)),
                Err(error) => Some((reply, Some(error))),
            });
            drop(held);
            match read {
                None => (),
                Some((reply, Some(error))) => reply.error(errno_of(&error)),
                Some((reply, None)) => {
                    let disk = self.clone();
                    self.workers.submit(Kind::Other, move || disk.read_cold(offset, len, reply));
                }
            }
        });
    }

    fn read_cold(&self, offset: u64, len: usize, reply: ReplyData) {
        let held = match self.hold() {
            Ok(held) => held,
            Err(errno) => return reply.error(errno),
        };
        with_buffer(len, |found| match held.get().read_at(found, offset) {
            Ok(()) => reply.data(found),
            Err(error) => reply.error(errno_of(&error)),
        });
    }

    /// Writes, and flushes if the program wants its writes to be durable one by one.
    pub(super) fn write(&self, offset: u64, data: &[u8], flags: OpenFlags, reply: ReplyWrite) {
        answered(|| {
            let checked = self.geometry().and_then(|disk| check_write(offset, data.len(), disk));
            if let Err(errno) = checked {
                return reply.error(errno);
            }
            let is_synchronous = is_synchronous(flags);
            let is_quick = is_whole_blocks(offset, data.len()) && !is_synchronous;
            let is_here = is_quick || data.len() > WRITE_HANDOVER_BYTES_MAX;
            let hot = |device: &dyn BlockDevice| device.write_hot(data.into(), offset);
            let reply = match is_here {
                true => self.write_by(hot, data.len(), is_synchronous, reply),
                false => Some(reply),
            };
            let Some(reply) = reply else { return };
            let (disk, data) = (self.clone(), Box::<[u8]>::from(data));
            self.workers.submit(Kind::Write, move || {
                let wait = |device: &dyn BlockDevice| device.write_at(&data, offset).map(|()| true);
                disk.write_by(wait, data.len(), is_synchronous, reply);
            });
        });
    }

    /// Answers a write by what `write` says of it. Gives the reply back where that says that it would have to wait.
    fn write_by(
        &self,
        write: impl FnOnce(&dyn BlockDevice) -> silt_types::Result<bool>,
        len: usize,
        is_synchronous: bool,
        reply: ReplyWrite,
    ) -> Option<ReplyWrite> {
        let held = match self.hold() {
            Ok(held) => held,
            Err(errno) => {
                reply.error(errno);
                return None;
            }
        };
        let written = write(held.get()).and_then(|is_done| match is_done && is_synchronous {
            true => held.get().flush().map(|()| true),
            false => Ok(is_done),
        });
        match written {
            Ok(false) => return Some(reply),
            Ok(true) => reply.written(len as u32),
            Err(error) => reply.error(errno_of(&error)),
        }
        None
    }

    /// Everything written before is durable when this is answered.
    pub(super) fn flush(&self, reply: ReplyEmpty) {
        let disk = self.clone();
        self.workers.submit(Kind::Other, move || {
            done(reply, || {
                let held = disk.hold()?;
                let is_read_only = held.get().geometry().read_only;
                let flushed = if is_read_only { Ok(()) } else { held.get().flush() };
                flushed.map_err(|error| errno_of(&error))
            });
        });
    }

    pub(super) fn allocate(&self, mode: i32, offset: u64, len: u64, reply: ReplyEmpty) {
        let disk = self.clone();
        let kind = if gives_space_back(mode) { Kind::Other } else { Kind::Write };
        self.workers.submit(kind, move || {
            done(reply, || {
                let held = disk.hold()?;
                match check_allocate(mode, offset, len, held.get().geometry())? {
                    Change::Nothing => Ok(()),
                    Change::Zero { may_unmap } => {
                        let zeroed = held.get().write_zeroes(offset, len, may_unmap);
                        zeroed.map_err(|error| errno_of(&error))
                    }
                }
            });
        });
    }

    pub(super) fn seek(&self, offset: i64, whence: i32, reply: ReplyLseek) {
        let disk = self.clone();
        self.workers.submit(Kind::Other, move || {
            let found = disk.hold().and_then(|held| {
                let geometry = held.get().geometry();
                let (sought, from) = check_seek(offset, whence, geometry)?;
                find(held.get(), sought, from, geometry.size_bytes)
            });
            match found {
                Ok(at) => reply.offset(at.cast_signed()),
                Err(errno) => reply.error(errno),
            }
        });
    }

    /// The device for one request, which is best answered before it is let go of: then it is answered once.
    pub(super) fn hold(&self) -> Result<Held<'_>, Errno> {
        self.gate.pass();
        let device = self.device.read().unwrap_or_else(PoisonError::into_inner);
        if device.is_some() { Ok(Held(device)) } else { Err(Errno::ENOTCONN) }
    }
}

/// Where the next data or hole begins, from `from` on. The end of the disk is a hole, as lseek(2) has it.
fn find(device: &dyn BlockDevice, sought: Sought, from: u64, size: u64) -> Result<u64, Errno> {
    let mut at = from;
    while at < size {
        let runs = device.block_status(at, size - at, SEEK_RUNS_MAX);
        let runs = runs.map_err(|error| errno_of(&error))?;
        let before = at;
        for run in runs {
            if run.zero == (sought == Sought::Hole) {
                return Ok(at);
            }
            at = at.saturating_add(run.len_bytes);
        }
        if at == before {
            return Err(Errno::EIO); // A device that says nothing of its next bytes would be asked for ever.
        }
    }
    match sought {
        Sought::Hole => Ok(size),
        Sought::Data => Err(Errno::ENXIO),
    }
}

/// Whether a write has to be durable before it is answered: O_DSYNC, which is a part of O_SYNC.
fn is_synchronous(flags: OpenFlags) -> bool {
    let dsync = rustix::fs::OFlags::DSYNC.bits().cast_signed();
    flags.0 & dsync == dsync
}

fn done(reply: ReplyEmpty, work: impl FnOnce() -> Result<(), Errno>) {
    match work() {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// Keeps the thread alive if the device panics: the reply that is dropped then is an answer, and the panic was reported.
fn answered(work: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(work));
}

/// `len` bytes of this thread's own, with anything in them.
fn with_buffer<T>(len: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    FOUND.with_borrow_mut(|found| {
        if found.len() < len {
            found.resize(len, 0);
        }
        work(&mut found[..len])
    })
}
