//! Devices that fail, wait and count, around a disk in memory.

use silt_sys::iobuf::{IoBuf, IoBufMut};
use silt_types::{Error, ErrorKind, Result};
use silt_volume::{BlockDevice, BlockStatus, Geometry, MemoryDevice};
use std::sync::{
    Arc, Condvar, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// A writable disk of zeroes.
pub(crate) fn memory(size: u64) -> Arc<dyn BlockDevice> {
    Arc::new(MemoryDevice::new(vec![0; size as usize], false))
}

/// A disk whose operations can be watched, held up and made to fail.
pub(crate) struct Odd {
    pub(crate) inner: MemoryDevice,
    /// Reads are never hot, so that workers do them.
    pub(crate) is_cold: AtomicBool,
    /// Whoever asks is told to wait.
    pub(crate) is_over_limit: AtomicBool,
    /// Every operation fails like this.
    pub(crate) failure: Mutex<Option<ErrorKind>>,
    /// Every operation panics.
    pub(crate) panics: AtomicBool,
    /// Operations other than hot reads wait while this is closed.
    pub(crate) gate: Gate,
    pub(crate) flushes: AtomicUsize,
    pub(crate) writes: AtomicUsize,
}

impl Odd {
    pub(crate) fn new(size: usize, read_only: bool) -> Arc<Odd> {
        Arc::new(Odd {
            inner: MemoryDevice::new(vec![7; size], read_only),
            is_cold: AtomicBool::new(false),
            is_over_limit: AtomicBool::new(false),
            failure: Mutex::new(None),
            panics: AtomicBool::new(false),
            gate: Gate::default(),
            flushes: AtomicUsize::new(0),
            writes: AtomicUsize::new(0),
        })
    }

    pub(crate) fn fail(&self, kind: Option<ErrorKind>) {
        *self.failure.lock().unwrap() = kind;
    }

    fn enter(&self) -> Result<()> {
        self.gate.pass();
        self.ends()
    }

    fn ends(&self) -> Result<()> {
        assert!(!self.panics.load(Ordering::Relaxed), "this device panics, as the test wants it");
        match *self.failure.lock().unwrap() {
            Some(kind) => Err(Error::new(kind, "the device fails, as the test wants it")),
            None => Ok(()),
        }
    }
}

impl BlockDevice for Odd {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn readv_at(&self, buf: IoBufMut<'_>, offset: u64) -> Result<()> {
        self.enter()?;
        self.inner.readv_at(buf, offset)
    }

    fn read_hot(&self, buf: IoBufMut<'_>, offset: u64) -> Result<bool> {
        if self.is_cold.load(Ordering::Relaxed) {
            return Ok(false);
        }
        self.ends()?;
        self.inner.read_hot(buf, offset)
    }

    fn must_wait(&self) -> bool {
        self.is_over_limit.load(Ordering::Relaxed)
    }

    fn writev_at(&self, buf: IoBuf<'_>, offset: u64) -> Result<()> {
        self.enter()?;
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.inner.writev_at(buf, offset)
    }

    fn flush(&self) -> Result<()> {
        self.enter()?;
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.inner.flush()
    }

    fn discard(&self, offset: u64, len_bytes: u64) -> Result<()> {
        self.enter()?;
        self.inner.discard(offset, len_bytes)
    }

    fn write_zeroes(&self, offset: u64, len_bytes: u64, may_unmap: bool) -> Result<()> {
        self.enter()?;
        self.inner.write_zeroes(offset, len_bytes, may_unmap)
    }

    fn block_status(&self, offset: u64, len: u64, runs_max: usize) -> Result<Vec<BlockStatus>> {
        self.enter()?;
        self.inner.block_status(offset, len, runs_max)
    }
}

/// Lets everybody pass until it is closed.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gate {
    pub(crate) fn close(&self) {
        self.state.lock().unwrap().0 = true;
    }

    pub(crate) fn open(&self) {
        self.state.lock().unwrap().0 = false;
        self.changed.notify_all();
    }

    /// Waits until so many stand before the closed gate.
    pub(crate) fn wait_for(&self, count: usize) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |state| state.1 < count).unwrap());
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.changed.notify_all();
        let mut state = self.changed.wait_while(state, |state| state.0).unwrap();
        state.1 -= 1;
    }
}
