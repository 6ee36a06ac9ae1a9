//! What the guest of a full volume meets: its write fails, or it waits until there is space.
//!
//! A device around the volume, under everything that counts and limits. Where a write waits it holds nothing of the volume, so
//! reads, flushes, discards, snapshots and writes that need no space go on. It is tried again once a second, and whenever a
//! discard has given something back; when the server is to end, or who asked is gone, it fails.

use silt_export::StopSignal;
use silt_store::WhenFull;
use silt_sys::iobuf::{IoBuf, IoBufMut};
use silt_types::{Error, ErrorKind, Result};
use silt_volume::{BlockDevice, BlockStatus, Geometry, Volume, is_wanted};
use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// How often a write that waits is tried again.
const RETRY_TIME: Duration = Duration::from_secs(1);

/// Who is told, and what, when a volume is full and when it is not any more.
pub(crate) type Told = Box<dyn Fn(&str) + Send + Sync>;

/// A volume that says so when it is full.
pub(crate) struct Bounded {
    volume: Arc<Volume>,
    /// Instead of what the store says.
    when_full: Option<WhenFull>,
    told: Told,
    is_told: AtomicBool,
    waiting: AtomicU64,
    /// How often space was given back.
    given_back: Mutex<u64>,
    is_given_back: Condvar,
    stop: StopSignal,
}

impl Bounded {
    pub(crate) fn new(
        volume: Arc<Volume>,
        when_full: Option<WhenFull>,
        told: Told,
        stop: StopSignal,
    ) -> Bounded {
        Bounded {
            volume,
            when_full,
            told,
            is_told: AtomicBool::new(false),
            waiting: AtomicU64::new(0),
            given_back: Mutex::default(),
            is_given_back: Condvar::new(),
            stop,
        }
    }

    /// What a guest meets.
    pub(crate) fn when_full(&self) -> WhenFull {
        self.when_full.unwrap_or_else(|| self.volume.when_full())
    }

    /// Writes that wait for space.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Relaxed)
    }

    /// Writes, be it later.
    fn patiently(&self, write: impl Fn() -> Result<()>) -> Result<()> {
        let mut before = self.given_back();
        let refused = match self.noticed(write()) {
            Err(error) if error.kind() == ErrorKind::NoSpace && self.waits() => error,
            other => return other,
        };
        self.waiting.fetch_add(1, Relaxed);
        let done = loop {
            self.wait(before);
            // It may have been asked for again elsewhere, and done there.
            if !is_wanted() {
                break Err(refused);
            }
            before = self.given_back();
            match self.noticed(write()) {
                Err(error) if error.kind() == ErrorKind::NoSpace && self.waits() => {}
                other => break other,
            }
        };
        self.waiting.fetch_sub(1, Relaxed);
        done
    }

    fn waits(&self) -> bool {
        self.when_full() == WhenFull::Pause && !self.stop.is_triggered() && is_wanted()
    }

    /// Waits for space to be given back that was not `before`, or until it is time to try again.
    fn wait(&self, before: u64) {
        let given_back = self.given_back.lock().unwrap_or_else(PoisonError::into_inner);
        if *given_back == before {
            let _ = self.is_given_back.wait_timeout(given_back, RETRY_TIME);
        }
    }

    fn given_back(&self) -> u64 {
        *self.given_back.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets those go on that wait, after something succeeded that gives space back.
    fn giving_back(&self, done: Result<()>) -> Result<()> {
        if done.is_ok() && self.waiting() > 0 {
            *self.given_back.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            self.is_given_back.notify_all();
        }
        done
    }

    fn tell_full(&self, error: &Error) {
        if self.is_told.swap(true, Relaxed) {
            return;
        }
        let what = match self.when_full() {
            WhenFull::Error => "writes that need space fail",
            WhenFull::Pause => "writes that need space wait",
        };
        (self.told)(&format!("the volume is full, {what}: {}", error.chain()));
    }

    fn tell_space(&self) {
        if !self.volume.is_full() && self.is_told.swap(false, Relaxed) {
            (self.told)("the volume has space again");
        }
    }

    /// Tells once that the volume is full, and once that it is not any more.
    fn noticed(&self, written: Result<()>) -> Result<()> {
        match &written {
            Err(error) if error.kind() == ErrorKind::NoSpace => self.tell_full(error),
            Ok(()) if self.is_told.load(Relaxed) => self.tell_space(),
            _ => {}
        }
        written
    }
}

impl BlockDevice for Bounded {
    fn geometry(&self) -> Geometry {
        self.volume.geometry()
    }

    fn readv_at(&self, buf: IoBufMut<'_>, offset: u64) -> Result<()> {
        self.volume.readv_at(buf, offset)
    }

    fn read_hot(&self, buf: IoBufMut<'_>, offset: u64) -> Result<bool> {
        self.volume.read_hot(buf, offset)
    }

    fn prefetch(&self, offset: u64, len_bytes: u64) -> Result<()> {
        self.volume.prefetch(offset, len_bytes)
    }

    fn writev_at(&self, buf: IoBuf<'_>, offset: u64) -> Result<()> {
        self.patiently(|| self.volume.writev_at(buf, offset))
    }

    fn write_hot(&self, buf: IoBuf<'_>, offset: u64) -> Result<bool> {
        match self.noticed(self.volume.writev_at(buf, offset)) {
            Err(error) if error.kind() == ErrorKind::NoSpace && self.waits() => Ok(false),
            other => other.map(|()| true),
        }
    }

    fn flush(&self) -> Result<()> {
        self.volume.flush()
    }

    fn discard(&self, offset: u64, len_bytes: u64) -> Result<()> {
        self.giving_back(self.volume.discard(offset, len_bytes))
    }

    fn write_zeroes(&self, offset: u64, len_bytes: u64, may_unmap: bool) -> Result<()> {
        let zero = || self.volume.write_zeroes(offset, len_bytes, may_unmap);
        let done = self.patiently(zero);
        if may_unmap { self.giving_back(done) } else { done }
    }

    fn block_status(
        &self,
        offset: u64,
        len_bytes: u64,
        runs_max: usize,
    ) -> Result<Vec<BlockStatus>> {
        self.volume.block_status(offset, len_bytes, runs_max)
    }
}
