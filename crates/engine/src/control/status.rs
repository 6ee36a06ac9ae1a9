//! What a server says of itself.

use crate::engine::now_ns;
use serde::{Deserialize, Serialize};
use silt_export::{Counts, Limits, OpCounts, Rate};
use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A server and what it serves, at a moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Name of what is served; as it is now where the engine tells, as it was at the start where the server does.
    pub name: String,
    /// `image`, `volume` or `snapshot`.
    pub kind: String,
    /// Id of the volume or the snapshot; first half of the root of the disk map of an image.
    pub id: String,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Process number of the server.
    pub pid: u32,
    /// When it began to serve, in nanoseconds since 1970.
    pub started_ns: i64,
    /// Length of the disk in bytes.
    pub size_bytes: u64,
    /// Bytes of decoded chunks that it may keep in memory.
    pub cache_bytes: u64,
    /// Where it serves.
    pub exports: Vec<ExportStatus>,
    /// What it keeps to.
    pub limits: LimitsStatus,
    /// What was done since the start.
    pub counts: CountsStatus,
    /// What of that was done in the last five to ten seconds, or since the start where that is shorter.
    pub recent: RecentStatus,
    /// How long requests have waited for their turn, all together, in nanoseconds.
    pub waited_ns: u64,
    /// How it stands with its space; of a volume that is written.
    pub space: Option<SpaceStatus>,
    /// Frozen deltas that are read through.
    pub frozen_deltas: usize,
    /// Generation of the header in the folder of a volume that is written.
    pub generation: Option<u64>,
    /// The state, if all of it is durable and nothing was written since it was last asked for.
    pub state_id: Option<String>,
}

/// An export of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportStatus {
    /// By which protocol.
    pub protocol: String,
    /// Where, as the command line says it.
    pub address: String,
    /// Clients that are connected.
    pub clients: usize,
}

/// Space of a volume that is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceStatus {
    /// What its deltas take, in bytes.
    pub delta_bytes: u64,
    /// What they may take, as far as the server has heard.
    pub delta_bytes_max: Option<u64>,
    /// What a guest meets when there is no space: `error` or `pause`.
    pub when_full: String,
    /// Whether the last write that needed space was refused.
    pub is_full: bool,
    /// Writes that wait for space.
    pub waiting: u64,
}

/// Limits of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsStatus {
    /// Operations.
    pub iops: Option<RateStatus>,
    /// Bytes.
    pub bandwidth: Option<RateStatus>,
}

/// A limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateStatus {
    /// In a second.
    pub per_second: u64,
    /// At once after a rest.
    pub burst: u64,
}

/// What was done to a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountsStatus {
    /// Reads.
    pub read: OpStatus,
    /// Writes.
    pub write: OpStatus,
    /// Flushes.
    pub flush: OpStatus,
    /// Discards.
    pub discard: OpStatus,
    /// Zeroed ranges.
    pub write_zeroes: OpStatus,
    /// Time that flushes took, in nanoseconds.
    pub flush_ns: u64,
}

/// Operations of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpStatus {
    /// Those that succeeded.
    pub operations: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that failed.
    pub errors: u64,
}

/// What was done lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecentStatus {
    /// In how long, in nanoseconds.
    pub ns: u64,
    /// What.
    pub counts: CountsStatus,
}

impl CountsStatus {
    /// The kinds by name.
    pub fn kinds(&self) -> [(&'static str, OpStatus); 5] {
        [
            ("read", self.read),
            ("write", self.write),
            ("flush", self.flush),
            ("discard", self.discard),
            ("write_zeroes", self.write_zeroes),
        ]
    }

    /// What was done since these were the counts.
    pub fn since(&self, before: &CountsStatus) -> CountsStatus {
        let less = |now: OpStatus, before: OpStatus| OpStatus {
            operations: now.operations.saturating_sub(before.operations),
            bytes: now.bytes.saturating_sub(before.bytes),
            errors: now.errors.saturating_sub(before.errors),
        };
        CountsStatus {
            read: less(self.read, before.read),
            write: less(self.write, before.write),
            flush: less(self.flush, before.flush),
            discard: less(self.discard, before.discard),
            write_zeroes: less(self.write_zeroes, before.write_zeroes),
            flush_ns: self.flush_ns.saturating_sub(before.flush_ns),
        }
    }

    /// Operations and bytes of reads, writes, discards and zeroes together.
    pub fn total(&self) -> OpStatus {
        let all = [self.read, self.write, self.discard, self.write_zeroes].into_iter();
        all.fold(OpStatus::default(), |sum, op| OpStatus {
            operations: sum.operations + op.operations,
            bytes: sum.bytes + op.bytes,
            errors: sum.errors + op.errors,
        })
    }
}

impl ServerStatus {
    /// All that was done, and in how long.
    pub fn since_start(&self) -> RecentStatus {
        let ns = u64::try_from(now_ns() - self.started_ns).unwrap_or(0);
        RecentStatus { ns, counts: self.counts }
    }
}

impl RecentStatus {
    /// Operations in a second, of every kind but flushes.
    pub fn operations_per_second(&self) -> f64 {
        self.per_second(self.counts.total().operations)
    }

    /// So many of something in a second.
    pub fn per_second(&self, amount: u64) -> f64 {
        // Just begun is not endless.
        amount as f64 / (self.ns.max(1_000_000) as f64 / 1e9)
    }
}

impl From<OpCounts> for OpStatus {
    fn from(counts: OpCounts) -> OpStatus {
        let OpCounts { operations, bytes, errors } = counts;
        OpStatus { operations, bytes, errors }
    }
}

impl From<Counts> for CountsStatus {
    fn from(counts: Counts) -> CountsStatus {
        CountsStatus {
            read: counts.read.into(),
            write: counts.write.into(),
            flush: counts.flush.into(),
            discard: counts.discard.into(),
            write_zeroes: counts.write_zeroes.into(),
            flush_ns: counts.flush_ns,
        }
    }
}

impl From<Limits> for LimitsStatus {
    fn from(limits: Limits) -> LimitsStatus {
        let status = |rate: Rate| RateStatus { per_second: rate.per_second(), burst: rate.burst() };
        LimitsStatus { iops: limits.iops.map(status), bandwidth: limits.bandwidth.map(status) }
    }
}

/// Counts as they were at two moments, of which the older one is what rates are told from.
pub(crate) struct Samples(Mutex<[(Instant, CountsStatus); 2]>);

impl Samples {
    /// How far apart samples are taken. A server that has nothing else to do wakes as seldom.
    pub(super) const PERIOD: Duration = Duration::from_secs(5);

    pub(crate) fn start() -> Samples {
        let now = (Instant::now(), CountsStatus::default());
        Samples(Mutex::new([now, now]))
    }

    /// Takes one, if it is time.
    pub(super) fn take(&self, counts: impl FnOnce() -> CountsStatus) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now.duration_since(samples[1].0) >= Samples::PERIOD {
            *samples = [samples[1], (now, counts())];
        }
    }

    /// What was done since the older one.
    pub(super) fn recent(&self, counts: CountsStatus) -> RecentStatus {
        let (since, before) = self.0.lock().unwrap_or_else(PoisonError::into_inner)[0];
        let counts = counts.since(&before);
        RecentStatus { ns: since.elapsed().as_nanos() as u64, counts }
    }
}
