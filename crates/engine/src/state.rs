//! State ids: what a disk holds, by a name that nothing else ever goes by.
//!
//! A record in the catalog has the state of what is below its own delta, which outlives sealing; above it counts the mark
//! that the delta has in its log. So no state is ever written down anew for being told, and a write needs to know of no
//! catalog. Explained in `docs/internals/state.md`.

use crate::engine::Engine;
use silt_format::{state_of_delta, state_of_disk};
use silt_store::{Named, VolumeRecord};
use silt_types::{DiskName, Error, Result, StateId};
use silt_volume::{Delta, DeltaReader, WriteMark};

/// The state of a disk whose own delta has this mark, and that is in `below` without it.
pub(crate) fn state_above(below: StateId, mark: WriteMark) -> StateId {
    match mark.generation {
        0 => below,
        generation => state_of_delta(&mark.delta, generation),
    }
}

/// `Invalid`, naming both, unless the disk is in the state that is expected.
pub(crate) fn must_be_in(name: &DiskName, expected: Option<StateId>, found: StateId) -> Result<()> {
    match expected {
        Some(expected) if expected != found => {
            Err(Error::invalid(format!("{name} is not in state {expected} but in {found}")))
        }
        _ => Ok(()),
    }
}

impl Engine {
    /// The state that a disk is in, all of it durable: whatever is written after this was asked goes by another id, before
    /// that write is answered, and through any crash. Costs a flush of a volume that was written.
    pub fn state(&self, name: &DiskName) -> Result<StateId> {
        match self.find(name)? {
            Named::Image(image) => Ok(state_of_disk(&image.disk)),
            Named::Snapshot(snapshot) => Ok(snapshot.state),
            Named::Volume(volume) => {
                let _turn = self.turn(&volume)?;
                self.ask_or_do(&volume, |server, _| server.state(), |now| self.settle_at_rest(now))
            }
        }
    }

    /// The same of a volume that nobody writes. The caller sees to that.
    pub(crate) fn settle_at_rest(&self, record: &VolumeRecord) -> Result<StateId> {
        let record = self.reconciled(record)?;
        let own = self.own_delta(&record);
        if !own.exists() {
            return Ok(record.state);
        }
        if let Some(mark) = DeltaReader::open(&own)?.settled() {
            return Ok(state_above(record.state, mark));
        }
        // A killed server had it.
        let delta = Delta::open(&own)?;
        delta.close()?;
        self.sync_names_of(&record)?;
        Ok(state_above(record.state, delta.mark()))
    }

    /// The state of a volume that nobody writes, as far as it can be told without making anything durable.
    pub(crate) fn state_known(&self, record: &VolumeRecord) -> Result<Option<StateId>> {
        let own = self.own_delta(record);
        if !own.exists() {
            return Ok(Some(record.state));
        }
        let mark = DeltaReader::open(&own)?.settled();
        Ok(mark.map(|mark| state_above(record.state, mark)))
    }
}
