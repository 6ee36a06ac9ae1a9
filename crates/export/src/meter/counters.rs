//! Counting what exports do with a device.
//!
//! An operation is a request as it reaches the device: a protocol cuts long ones into pieces. It is counted once it is
//! done: with its bytes, or as an error and without them.

use silt_sys::iobuf::{IoBuf, IoBufMut};
use silt_types::Result;
use silt_volume::{BlockDevice, BlockStatus, Geometry};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

/// Operations of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpCounts {
    /// Those that succeeded.
    pub operations: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that failed.
    pub errors: u64,
}

/// What was done to a device, by kind, since it was wrapped. Grows only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads.
    pub read: OpCounts,
    /// Writes.
    pub write: OpCounts,
    /// Flushes; they have no bytes.
    pub flush: OpCounts,
    /// Discards; the bytes are those of the ranges that were given back.
    pub discard: OpCounts,
    /// Zeroed ranges.
    pub write_zeroes: OpCounts,
    /// Time that flushes took, those that ran beside each other each for itself, in nanoseconds.
    pub flush_ns: u64,
}

impl Counts {
    /// The kinds by their names in JSON and metrics, always in this order.
    pub fn kinds(&self) -> [(&'static str, OpCounts); 5] {
        [
            ("read", self.read),
            ("write", self.write),
            ("flush", self.flush),
            ("discard", self.discard),
            ("write_zeroes", self.write_zeroes),
        ]
    }
}

/// A cache line of its own for each kind, so that readers and writers do not take it from each other.
#[derive(Debug, Default)]
#[repr(align(64))]
struct OpMeter {
    operations: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
}

impl OpMeter {
    fn count<T>(&self, bytes: u64, done: Result<T>) -> Result<T> {
        match &done {
            Ok(_) => {
                self.operations.fetch_add(1, Relaxed);
                self.bytes.fetch_add(bytes, Relaxed);
            }
            Err(_) => {
                self.errors.fetch_add(1, Relaxed);
            }
        }
        done
    }

    fn counts(&self) -> OpCounts {
        OpCounts {
            operations: self.operations.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            errors: self.errors.load(Relaxed),
        }
    }
}

/// The counters of a device, to be looked at from anywhere at any time.
#[derive(Debug, Default)]
pub struct Meter {
    read: OpMeter,
    write: OpMeter,
    flush: OpMeter,
    discard: OpMeter,
    write_zeroes: OpMeter,
    flush_ns: AtomicU64,
}

impl Meter {
    /// The counts now. Each is right; together they may be of moments that lie nanoseconds apart.
    pub fn counts(&self) -> Counts {
        Counts {
            read: self.read.counts(),
            write: self.write.counts(),
            flush: self.flush.counts(),
            discard: self.discard.counts(),
            write_zeroes: self.write_zeroes.counts(),
            flush_ns: self.flush_ns.load(Relaxed),
        }
    }
}

/// A device whose operations are counted.
pub struct Metered {
    device: Arc<dyn BlockDevice>,
    meter: Arc<Meter>,
}

impl Metered {
    /// Counts what is done to `device` through this.
    pub fn new(device: Arc<dyn BlockDevice>) -> Metered {
        Metered { device, meter: Arc::default() }
    }

    /// The counters.
    pub fn meter(&self) -> Arc<Meter> {
        self.meter.clone()
    }
}

impl BlockDevice for Metered {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn readv_at(&self, buf: IoBufMut<'_>, offset: u64) -> Result<()> {
        let len = buf.len() as u64;
        self.meter.read.count(len, self.device.readv_at(buf, offset))
    }

    /// Counted only if it is answered: else the same read comes again.
    fn read_hot(&self, buf: IoBufMut<'_>, offset: u64) -> Result<bool> {
        let len = buf.len() as u64;
        match self.device.read_hot(buf, offset) {
            Ok(false) => Ok(false),
            other => self.meter.read.count(len, other),
        }
    }

    fn prefetch(&self, offset: u64, len_bytes: u64) -> Result<()> {
        self.device.prefetch(offset, len_bytes)
    }

    fn must_wait(&self) -> bool {
        self.device.must_wait()
    }

    fn writev_at(&self, buf: IoBuf<'_>, offset: u64) -> Result<()> {
        let len = buf.len() as u64;
        self.meter.write.count(len, self.device.writev_at(buf, offset))
    }

    /// Counted only if it is done: else the same write comes again.
    fn write_hot(&self, buf: IoBuf<'_>, offset: u64) -> Result<bool> {
        let len = buf.len() as u64;
        match self.device.write_hot(buf, offset) {
            Ok(false) => Ok(false),
            other => self.meter.write.count(len, other),
        }
    }

    fn flush(&self) -> Result<()> {
        // The one operation beside which reading a clock costs nothing.
        let started = Instant::now();
        let done = self.meter.flush.count(0, self.device.flush());
        self.meter.flush_ns.fetch_add(started.elapsed().as_nanos() as u64, Relaxed);
        done
    }

    fn discard(&self, offset: u64, len_bytes: u64) -> Result<()> {
        self.meter.discard.count(len_bytes, self.device.discard(offset, len_bytes))
    }

    fn write_zeroes(&self, offset: u64, len_bytes: u64, may_unmap: bool) -> Result<()> {
        let done = self.device.write_zeroes(offset, len_bytes, may_unmap);
        self.meter.write_zeroes.count(len_bytes, done)
    }

    fn block_status(
        &self,
        offset: u64,
        len_bytes: u64,
        runs_max: usize,
    ) -> Result<Vec<BlockStatus>> {
        self.device.block_status(offset, len_bytes, runs_max)
    }
}
