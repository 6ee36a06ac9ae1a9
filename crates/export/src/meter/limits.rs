//! Limits: so many operations and so many bytes a second, with bursts.
//!
//! A token bucket for each limit, for both directions together, as in Firecracker and in the `total` limits of QEMU. A bucket
//! holds a burst at most and fills at its rate. A request begins when no bucket is in debt, and takes what it costs, be it
//! more than is there: so a request longer than a burst is possible, and those behind it wait for what it took. Requests
//! begin in the order in which they came.
//!
//! Flushes are never limited: they cost a guest's data nothing but time. Discards and zeroes are operations without bytes,
//! since they move none. When the server is to end nothing is limited any more, so that what it has received is done.

use crate::StopSignal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use silt_sys::iobuf::{IoBuf, IoBufMut};
use silt_types::Result;
use silt_volume::{BlockDevice, BlockStatus, Geometry};
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

const SECOND_NS: u128 = 1_000_000_000;

/// The longest time that one request may owe or a burst may last: half a century. Beyond it, arithmetic would overflow.
const TIME_NS_MAX: i64 = i64::MAX / 4;

/// A rate, and what may be taken at once above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    per_second: u64,
    burst: u64,
}

impl Rate {
    /// `per_second`, and after a rest `burst` at once; without one, a tenth of a second's worth, as QEMU has it. `None` for a
    /// rate of zero, by which nothing would ever end.
    pub fn new(per_second: u64, burst: Option<u64>) -> Option<Rate> {
        (per_second > 0).then_some(Rate { per_second, burst: burst.unwrap_or(per_second / 10) })
    }

    /// What may be taken in a second.
    pub fn per_second(&self) -> u64 {
        self.per_second
    }

    /// What may be taken at once after a rest.
    pub fn burst(&self) -> u64 {
        self.burst
    }

    /// How long the rate needs for an amount.
    fn time_ns(&self, amount: u64) -> i64 {
        let time = u128::from(amount) * SECOND_NS / u128::from(self.per_second);
        i64::try_from(time).unwrap_or(TIME_NS_MAX).min(TIME_NS_MAX)
    }
}

/// What a device is limited to. Without any, it is not wrapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Operations: reads, writes, discards and zeroes together.
    pub iops: Option<Rate>,
    /// Bytes that are read and written, together.
    pub bandwidth: Option<Rate>,
}

impl Limits {
    /// Whether nothing is limited.
    pub fn are_none(&self) -> bool {
        *self == Limits::default()
    }
}

/// A token bucket as one number: the time until which what was taken is paid for by the rate. Behind the present by a burst
/// it is full, ahead of it in debt.
struct Bucket {
    rate: Rate,
    burst_ns: i64,
    paid_until_ns: AtomicI64,
}

impl Bucket {
    fn full(rate: Rate) -> Bucket {
        let burst_ns = rate.time_ns(rate.burst);
        Bucket { rate, burst_ns, paid_until_ns: AtomicI64::new(-burst_ns) }
    }

    fn is_in_debt(&self, now_ns: i64) -> bool {
        self.paid_until_ns.load(Relaxed) > now_ns
    }

    /// Takes an amount. Answers when whoever took it may begin.
    fn take(&self, amount: u64, now_ns: i64) -> i64 {
        let cost = self.rate.time_ns(amount);
        let begin = |paid_until: i64| paid_until.max(now_ns - self.burst_ns);
        let taken = self.paid_until_ns.fetch_update(Relaxed, Relaxed, |paid_until| {
            Some(begin(paid_until).saturating_add(cost).min(2 * TIME_NS_MAX))
        });
        // The update never declines.
        begin(taken.unwrap_or(now_ns))
    }
}

/// A device whose requests wait while they are over its limits.
pub struct Limited {
    device: Arc<dyn BlockDevice>,
    limits: Limits,
    iops: Option<Bucket>,
    bandwidth: Option<Bucket>,
    started: Instant,
    waited_ns: AtomicU64,
    stop: StopSignal,
}

impl Limited {
    /// Limits what is done to `device` through this, until `stop` is given. Begins with full buckets.
    pub fn new(device: Arc<dyn BlockDevice>, limits: Limits, stop: StopSignal) -> Limited {
        Limited {
            device,
            limits,
            iops: limits.iops.map(Bucket::full),
            bandwidth: limits.bandwidth.map(Bucket::full),
            started: Instant::now(),
            waited_ns: AtomicU64::new(0),
            stop,
        }
    }

    /// The limits.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// How long requests have waited, all together.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited_ns.load(Relaxed))
    }

    fn now_ns(&self) -> i64 {
        self.started.elapsed().as_nanos() as i64
    }

    /// Takes an operation and its bytes from the buckets. Answers how long it has to wait.
    fn take(&self, bytes: u64) -> Duration {
        let now = self.now_ns();
        let begin = |bucket: &Option<Bucket>, amount| {
            bucket.as_ref().map_or(now, |bucket| bucket.take(amount, now))
        };
        let begin = begin(&self.iops, 1).max(begin(&self.bandwidth, bytes));
        Duration::from_nanos(u64::try_from(begin - now).unwrap_or(0))
    }

    /// Waits for the turn of an operation.
    fn pass(&self, bytes: u64) {
        let wait = self.take(bytes);
        if wait.is_zero() {
            return;
        }
        let began = Instant::now();
        loop {
            let left = wait.saturating_sub(began.elapsed());
            let timeout =
                Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            // Ends early when the server is to; a signal of the process interrupts it.
            let polled = poll(&mut [PollFd::new(&self.stop, PollFlags::IN)], Some(&timeout));
            if left.is_zero() || matches!(polled, Ok(1..)) {
                break;
            }
        }
        self.waited_ns.fetch_add(began.elapsed().as_nanos() as u64, Relaxed);
    }
}

impl BlockDevice for Limited {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn readv_at(&self, buf: IoBufMut<'_>, offset: u64) -> Result<()> {
        self.pass(buf.len() as u64);
        self.device.readv_at(buf, offset)
    }

    fn read_hot(&self, buf: IoBufMut<'_>, offset: u64) -> Result<bool> {
        if self.must_wait() {
            return Ok(false);
        }
        let len = buf.len() as u64;
        let is_answered = self.device.read_hot(buf, offset)?;
        if is_answered {
            // Others may have come between: then the next one waits for this, too.
            self.take(len);
        }
        Ok(is_answered)
    }

    fn prefetch(&self, offset: u64, len_bytes: u64) -> Result<()> {
        self.device.prefetch(offset, len_bytes)
    }

    fn must_wait(&self) -> bool {
        let now = self.now_ns();
        let is_in_debt =
            |bucket: &Option<Bucket>| bucket.as_ref().is_some_and(|bucket| bucket.is_in_debt(now));
        is_in_debt(&self.iops) || is_in_debt(&self.bandwidth) || self.device.must_wait()
    }

    fn writev_at(&self, buf: IoBuf<'_>, offset: u64) -> Result<()> {
        self.pass(buf.len() as u64);
        self.device.writev_at(buf, offset)
    }

    fn write_hot(&self, buf: IoBuf<'_>, offset: u64) -> Result<bool> {
        if self.must_wait() {
            return Ok(false);
        }
        let len = buf.len() as u64;
        let is_done = self.device.write_hot(buf, offset)?;
        if is_done {
            self.take(len);
        }
        Ok(is_done)
    }

    fn flush(&self) -> Result<()> {
        self.device.flush()
    }

    fn discard(&self, offset: u64, len_bytes: u64) -> Result<()> {
        self.pass(0);
        self.device.discard(offset, len_bytes)
    }

    fn write_zeroes(&self, offset: u64, len_bytes: u64, may_unmap: bool) -> Result<()> {
        self.pass(0);
        self.device.write_zeroes(offset, len_bytes, may_unmap)
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

#[cfg(test)]
mod tests {
    use super::*;
    use silt_volume::MemoryDevice;
    use std::thread;

    const MS: i64 = 1_000_000;

    #[test]
    fn a_bucket_gives_its_burst_at_once_and_then_its_rate() {
        let bucket = Bucket::full(Rate::new(1000, Some(10)).unwrap());
        let begins: Vec<i64> = (0..14).map(|_| bucket.take(1, 0).max(0)).collect();
        // A burst of ten, the one by which the bucket goes into debt, and then one a millisecond.
        assert_eq!(begins, [vec![0; 11], vec![MS, 2 * MS, 3 * MS]].concat());
        assert!(bucket.is_in_debt(0) && !bucket.is_in_debt(4 * MS));
        // However long the rest, what is saved is a burst.
        let later = 1000 * MS;
        assert!((0..11).all(|_| bucket.take(1, later) <= later));
        assert_eq!(bucket.take(1, later), later + MS);
    }

    #[test]
    fn what_costs_more_than_a_burst_begins_and_those_behind_it_pay() {
        let bucket = Bucket::full(Rate::new(1 << 20, Some(4096)).unwrap());
        assert!(bucket.take(8 << 20, 0) <= 0);
        let begin = bucket.take(1, 0);
        assert!((7900 * MS..8000 * MS).contains(&begin), "{begin}");
        // Nothing overflows, whatever is asked.
        for (rate, burst) in [(1, u64::MAX), (u64::MAX, 0), (1, 0)] {
            let bucket = Bucket::full(Rate::new(rate, Some(burst)).unwrap());
            let last = (0..8).map(|_| bucket.take(u64::MAX, i64::MAX / 8)).max();
            assert!(last <= Some(2 * TIME_NS_MAX));
        }
        assert_eq!(Rate::new(0, None), None);
    }

    #[test]
    fn what_is_over_the_limit_is_not_hot_and_flushes_always_are_free() {
        let limits = Limits { iops: Rate::new(1, Some(2)), bandwidth: None };
        let disk = Arc::new(MemoryDevice::new(vec![7; 4096], false));
        let stop = StopSignal::new().unwrap();
        let device = Arc::new(Limited::new(disk, limits, stop.clone()));
        let mut buf = [0; 512];
        while device.read_hot(buf.as_mut_slice().into(), 0).unwrap() {}
        assert!(device.must_wait());
        (0..100).for_each(|_| device.flush().unwrap());
        // A request that waits goes on as soon as the server is to end, and so do all later ones.
        let waiting = {
            let device = device.clone();
            thread::spawn(move || (0..100).for_each(|_| device.write_at(&[1; 512], 0).unwrap()))
        };
        thread::sleep(Duration::from_millis(20));
        stop.trigger();
        waiting.join().unwrap();
        assert!(device.waited() >= Duration::from_millis(10));
    }
}
