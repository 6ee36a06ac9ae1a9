//! Cloning: a new volume on what another disk holds now, at the cost of one record.

use crate::engine::{Engine, now_ns};
use silt_format::FROZEN_DELTAS_MAX;
use silt_store::{FrozenDelta, Named, VolumeRecord};
use silt_sys::durability::random_bytes;
use silt_types::{DeltaId, Error, ErrorKind, Name, Result, VolumeId};
use silt_volume::Delta;

/// What to clone.
#[derive(Clone, Debug)]
pub struct CloneRequest {
    /// The image or volume to begin from.
    pub source: Name,
    /// Name of the new volume.
    pub volume: Name,
}

impl Engine {
    /// Makes a new volume that begins as `source` is now. The source may be changed or removed afterwards.
    ///
    /// A volume that was written since it was made freezes its delta, which both share from then on. `Busy` if it is
    /// served, or has as many frozen deltas as it can have. Costs a transaction, whatever the size of the disk.
    pub fn clone_volume(&self, request: &CloneRequest) -> Result<VolumeRecord> {
        let source = self.find(&request.source)?;
        let mut record = VolumeRecord {
            name: request.volume.clone(),
            id: VolumeId::from_bytes(random_bytes()?),
            base: silt_types::DiskId { root: silt_types::DiskId::ZERO_ROOT, size_bytes: 0 },
            size_bytes: 0,
            frozen: Vec::new(),
            own: DeltaId::from_bytes(random_bytes()?),
            generation: 1,
            source: request.source.clone(),
            created_ns: now_ns(),
        };
        match source {
            Named::Image(image) => {
                record.base = image.disk;
                record.size_bytes = image.disk.size_bytes;
                self.store.add_volume(&record)?;
            }
            Named::Volume(source) => self.clone_of_volume(&mut record, source)?,
        }
        Ok(record)
    }

    fn clone_of_volume(&self, record: &mut VolumeRecord, mut source: VolumeRecord) -> Result<()> {
        let _lock = self.lock_if_made(&source)?;
        // Only now can it not change any more.
        source = self.unchanged(&source)?;
        let own = self.store.paths().delta(source.id, source.own);
        let delta = if own.exists() { Some(Delta::open(&own)?) } else { None };
        let written = delta.filter(|delta| delta.blocks_modified() > 0);
        record.base = source.base;
        record.size_bytes = source.size_bytes;
        let Some(delta) = written else {
            record.frozen = source.frozen;
            return self.store.add_volume(record);
        };
        if source.frozen.len() == FROZEN_DELTAS_MAX {
            let message = format!(
                "volume {} reads through {FROZEN_DELTAS_MAX} frozen deltas already and cannot freeze another one",
                source.name
            );
            return Err(Error::new(ErrorKind::Busy, message));
        }
        // From here on it never changes; what a killed server had written and not flushed becomes durable with it.
        delta.freeze()?;
        self.sync_names_of(&source)?;
        source.frozen.insert(0, FrozenDelta { delta: source.own, home: source.id });
        source.own = DeltaId::from_bytes(random_bytes()?);
        source.generation += 1;
        record.frozen = source.frozen.clone();
        self.store.add_volume_freezing(record, &source)
    }
}
