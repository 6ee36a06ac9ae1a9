//! Telling states apart: the write generation of a delta.
//!
//! Somebody who was told of a state relies on it: nothing else may ever go by its name. So the first write after that makes
//! the delta one of the next generation, durably, before any of its data is written; those that follow cost one look at an
//! atomic. A delta that is opened takes its state for told, since anybody may have looked at it meanwhile.

use super::{Delta, log::Log};
use silt_types::{DeltaId, ErrorKind, Result};
use std::sync::{
    MutexGuard, PoisonError,
    atomic::{AtomicU8, AtomicU64, Ordering},
};

/// A delta in one of its generations. What it holds in each is one content, once nobody writes in it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteMark {
    /// The delta.
    pub delta: DeltaId,
    /// How often writing was begun anew; 0 if the delta was never written.
    pub generation: u64,
}

/// Writes go on without a look at anything else.
const WRITTEN: u8 = 0;
/// The next write begins a generation.
const TOLD: u8 = 1;
/// The same, and everything that was written is durable.
const SETTLED: u8 = 2;

/// Where a delta stands in its generation.
pub(super) struct Marking {
    phase: AtomicU8,
    /// As in the header of the log.
    generation: AtomicU64,
}

impl Marking {
    pub(super) fn of(log: &Log) -> Marking {
        let phase = if log.is_closed() { SETTLED } else { TOLD };
        Marking {
            phase: AtomicU8::new(phase),
            generation: AtomicU64::new(log.header().write_generation),
        }
    }
}

impl Delta {
    /// The generation that the delta is in.
    pub fn mark(&self) -> WriteMark {
        let generation = self.marking.generation.load(Ordering::Acquire);
        WriteMark { delta: self.id, generation }
    }

    /// Lets the next write begin a generation. Answers the one that ends: nobody may be writing meanwhile.
    pub(crate) fn tell(&self) -> WriteMark {
        let _ =
            self.marking.phase.compare_exchange(WRITTEN, TOLD, Ordering::AcqRel, Ordering::Acquire);
        self.mark()
    }

    /// Says that all is durable that was written before the last [`Delta::tell`]. One caller at a time.
    pub(crate) fn settle(&self) {
        let _ =
            self.marking.phase.compare_exchange(TOLD, SETTLED, Ordering::AcqRel, Ordering::Acquire);
    }

    /// The generation, if all of it is durable and nothing was written since it was told.
    pub(crate) fn settled(&self) -> Option<WriteMark> {
        (self.marking.phase.load(Ordering::Acquire) == SETTLED).then(|| self.mark())
    }

    /// What every change of data begins with: begins a generation if somebody was told of the present one. Costs a sync
    /// then, and a load otherwise. `NoSpace` changes nothing.
    pub(super) fn begin_writing(&self) -> Result<()> {
        self.usable()?;
        match self.marking.phase.load(Ordering::Acquire) {
            WRITTEN => Ok(()),
            _ => self.begin_generation(),
        }
    }

    fn begin_generation(&self) -> Result<()> {
        let mut log: MutexGuard<'_, Log> = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if self.marking.phase.load(Ordering::Acquire) == WRITTEN {
            return self.usable();
        }
        match log.begin_generation() {
            Err(error) if error.kind() == ErrorKind::NoSpace => return Err(error),
            other => other?,
        }
        log.sync().map_err(|error| self.poison(error))?;
        self.marking.generation.store(log.header().write_generation, Ordering::Release);
        self.marking.phase.store(WRITTEN, Ordering::Release);
        Ok(())
    }
}
