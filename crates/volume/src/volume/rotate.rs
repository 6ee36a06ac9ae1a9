//! Other layers under running I/O: a rotation freezes the own delta and goes on in a new one; a rebase replaces the oldest
//! frozen deltas by the sealed disk that they and the base became.
//!
//! What a writer waits for in a rotation is that the writes in flight end, no more: the frozen delta is made durable after
//! that, beside new writes. A flush waits until it is, and until what says so is: before, a crash leaves the layers from
//! before the rotation, so nothing written since may be called durable. If that fails, so does every later write and
//! flush, as after a failed flush.

use super::{Layers, Volume, read_only};
use crate::{
    delta::{Delta, WriteMark},
    map::DiskMap,
};
use silt_format::FROZEN_DELTAS_MAX;
use silt_types::{DISK_SIZE_BYTES_MAX, DeltaId, DiskId, Error, ErrorKind, Result};
use std::sync::{Arc, OnceLock, PoisonError, atomic::Ordering};

/// Whether layers are what a crash would leave: not yet, yes, or never, and why. Clones are one.
#[derive(Clone)]
pub(super) struct Recorded(Arc<OnceLock<Result<(), String>>>);

impl Recorded {
    /// Of layers that were opened.
    pub(super) fn already() -> Recorded {
        Recorded(Arc::new(OnceLock::from(Ok(()))))
    }

    fn pending() -> Recorded {
        Recorded(Arc::default())
    }

    /// Waits until it is settled.
    pub(super) fn wait(&self) -> Result<()> {
        check(self.0.wait())
    }

    /// Whether it is settled, and well. Does not wait.
    pub(super) fn is_done(&self) -> bool {
        self.0.get().is_some_and(Result::is_ok)
    }

    /// Does not wait.
    pub(super) fn must_not_have_failed(&self) -> Result<()> {
        self.0.get().map_or(Ok(()), check)
    }
}

fn check(outcome: &Result<(), String>) -> Result<()> {
    let failed = |why| format!("the volume takes no writes until it is opened anew, since: {why}");
    outcome.as_ref().map_or_else(|why| Err(Error::new(ErrorKind::Io, failed(why))), |()| Ok(()))
}

impl Volume {
    /// The deltas that the disk reads through, newest first: the own one, if there is one, and the frozen ones.
    pub fn deltas(&self) -> Vec<DeltaId> {
        let layers = self.layers();
        let own = layers.own.iter().map(|own| own.id());
        own.chain(layers.frozen.iter().map(|delta| delta.id())).collect()
    }

    /// Deltas below the one that is written to.
    pub fn frozen_deltas(&self) -> usize {
        self.layers().frozen.len()
    }

    /// The sealed disk below everything.
    pub fn base(&self) -> DiskId {
        self.layers().base.disk_id()
    }

    /// Waits until a crash would leave the layers as they are. `Io` if the last rotation failed: then it would not.
    pub fn must_be_recorded(&self) -> Result<()> {
        self.layers().recorded.wait()
    }

    /// Whether the own delta says anything that the layers below do not: it was written, or the disk has grown. `Io` if the
    /// last rotation failed.
    pub fn needs_freezing(&self) -> Result<bool> {
        self.must_be_recorded()?;
        let layers = self.layers();
        let below = layers.frozen.first().map(|newest| newest.size_bytes());
        let is_written = layers.own.as_ref().is_some_and(|own| own.is_written());
        let length_below = below.unwrap_or(layers.base.disk_id().size_bytes);
        Ok(is_written || length_below < self.size_bytes())
    }

    /// Freezes the own delta and goes on in `next`, which is empty, and from then on as long as that is. Reads and writes go
    /// on; a write waits for those in flight before it. `record` makes durable that the layers are these from now on; it is
    /// given the mark by which the frozen delta ends, runs once that is durable, and flushes wait for it. If it fails, so does
    /// every later write and flush. What a longer disk has more can be used when this returns.
    ///
    /// `Busy` if there are as many frozen deltas as there can be.
    pub fn rotate(&self, next: Delta, record: impl FnOnce(WriteMark) -> Result<()>) -> Result<()> {
        let _one_at_a_time = self.rotations.lock().unwrap_or_else(PoisonError::into_inner);
        let layers = self.layers();
        layers.recorded.wait()?;
        let old = layers.own.clone().ok_or_else(read_only)?;
        if layers.frozen.len() >= FROZEN_DELTAS_MAX {
            let message = format!("the volume reads through {FROZEN_DELTAS_MAX} frozen deltas");
            return Err(Error::new(ErrorKind::Busy, message));
        }
        let size_bytes = next.size_bytes();
        if size_bytes < self.size_bytes() || size_bytes > DISK_SIZE_BYTES_MAX {
            return Err(Error::internal("a delta of an impossible size was to take writes"));
        }
        // Most of what has to be written is written before anybody waits.
        old.flush()?;
        let recorded = Recorded::pending();
        {
            let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
            // No write is in flight here, so what is frozen is all that was answered.
            let frozen = std::iter::once(Arc::new(old.reader()));
            *layers = Arc::new(Layers {
                base: layers.base.clone(),
                frozen: frozen.chain(layers.frozen.iter().cloned()).collect(),
                own: Some(Arc::new(next)),
                recorded: recorded.clone(),
            });
        }
        // Nobody writes to it any more.
        let result = old.close().and_then(|()| record(old.mark()));
        let outcome = result.as_ref().map_or_else(|error| Err(error.chain()), |()| Ok(()));
        if result.is_ok() {
            self.size_bytes.fetch_max(size_bytes, Ordering::AcqRel);
        }
        recorded.0.set(outcome).map_err(|_| Error::internal("a rotation was settled twice"))?;
        result
    }

    /// Goes on over `base` with only `frozen` of the frozen deltas, the newest ones, left: the others and the base before
    /// have become `base`, which reads the same. Nothing changes where no other is left. `Invalid` if it cannot be that.
    pub fn rebase(&self, base: DiskId, frozen: &[DeltaId]) -> Result<()> {
        let _one_at_a_time = self.rotations.lock().unwrap_or_else(PoisonError::into_inner);
        if base.size_bytes > self.size_bytes() {
            return Err(Error::invalid(format!("disk {base} is longer than the volume")));
        }
        // Both bases are read until the switch is made.
        if let Some(lease) = &self.lease {
            lease.reads(&[self.base(), base])?;
        }
        let map = Arc::new(DiskMap::open(self.source.clone(), base)?);
        let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        let is_prefix = layers.frozen.len() >= frozen.len()
            && layers.frozen.iter().zip(frozen).all(|(delta, id)| delta.id() == *id);
        let is_same = layers.frozen.len() == frozen.len();
        if !is_prefix || is_same && base != layers.base.disk_id() {
            return Err(Error::invalid("the volume has other frozen deltas"));
        }
        if is_same {
            return Ok(());
        }
        let next = Arc::new(Layers {
            base: map,
            frozen: layers.frozen[..frozen.len()].to_vec(),
            own: layers.own.clone(),
            recorded: layers.recorded.clone(),
        });
        let before = std::mem::replace(&mut *layers, next);
        drop(layers);
        if let Some(lease) = &self.lease {
            // If this fails, the base before is kept for longer than needed.
            let _ = lease.reads(&[base]);
        }
        // The last close of a removed file frees its space, which takes long; no guest is to wait for it.
        drop(before);
        Ok(())
    }
}
