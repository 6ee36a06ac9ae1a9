//! Making a delta durable: one flush at a time, each for everyone who asked before it began.

use super::{Delta, DeltaReader, log::LogChange};
use silt_types::{Error, Result};
use std::sync::{Condvar, Mutex, PoisonError};

/// Lets flushes that wait share the next one.
#[derive(Default)]
pub(super) struct FlushGate {
    state: Mutex<FlushState>,
    ended: Condvar,
}

#[derive(Default)]
struct FlushState {
    running: bool,
    begun: u64,
    ended: u64,
}

impl FlushGate {
    /// Returns after a whole run of `flush` that began after the call, by this thread or another.
    fn pass(&self, flush: impl FnOnce()) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let needed = state.begun + 1;
        while state.running {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
            if state.ended >= needed {
                return;
            }
        }
        state.running = true;
        state.begun += 1;
        let own = state.begun;
        drop(state);
        flush();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.running = false;
        state.ended = own;
        self.ended.notify_all();
    }
}

impl Delta {
    /// Makes everything durable that was written and zeroed before the call. Costs an fdatasync of each data file that
    /// changed and, if blocks joined, one of the log. After a failure every later write and flush fails with `Io`.
    pub fn flush(&self) -> Result<()> {
        self.usable()?;
        let mut failed = None;
        // Poisoned before those who waited for this flush look.
        self.flushes.pass(|| failed = self.flush_now().map_err(|error| self.poison(error)).err());
        failed.map_or_else(|| self.usable(), Err)
    }

    /// Flushes, then records durably that the log ends where it ends. The delta can be used on; the next write
    /// then costs one more sync.
    pub fn close(&self) -> Result<()> {
        self.flush()?;
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.close().map_err(|error| self.poison(error))?;
        let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
        if members.unlogged.is_empty() {
            members.notes.end();
        }
        Ok(())
    }

    /// Closes the delta for good: from now on it is only read.
    pub fn freeze(self) -> Result<DeltaReader> {
        self.close()?;
        Ok(self.reader())
    }

    fn flush_now(&self) -> Result<()> {
        // A flush that failed while this one waited for its turn.
        self.usable()?;
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        // First the blocks, then the data: the data of a block is written, and its file marked as changed, before it
        // joins. So whatever is taken here is covered by the sync below; what joins later is the next flush's.
        let change = {
            let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
            let joined = std::mem::take(&mut members.unlogged);
            let all = log.may_be_rewritten().then(|| members.all.clone());
            LogChange { joined, all }
        };
        self.segments.sync()?;
        log.apply(change)?;
        let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
        if members.unlogged.is_empty() {
            members.notes.begin_anew();
        }
        Ok(())
    }

    pub(super) fn poison(&self, error: Error) -> Error {
        let _ = self.poison.set(error.chain());
        self.members.write().unwrap_or_else(PoisonError::into_inner).notes.give_up();
        self.segments.forget_cached();
        error
    }
}
