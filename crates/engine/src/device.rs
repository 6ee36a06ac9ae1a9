//! Opening disks: an image or a volume as a block device.

use crate::engine::Engine;
use silt_format::VolumeHeader;
use silt_store::{ImageRecord, Named, VolumeRecord};
use silt_sys::durability::{create_dir, sync_dir};
use silt_types::{Context as _, Error, ErrorKind, Name, Result};
use silt_volume::{
    Delta, Volume, VolumeLock, VolumeParts, read_volume_header, write_volume_header,
};
use std::{path::PathBuf, sync::Arc};

/// A disk that is open, and kept from others as far as that is needed.
pub(crate) struct OpenDisk {
    pub(crate) volume: Volume,
    /// Held for as long as the disk is open. None where nobody could write.
    pub(crate) lock: Option<VolumeLock>,
}

impl Engine {
    /// Opens a disk to read: shared with other readers, `Busy` while somebody writes it.
    pub(crate) fn open_to_read(&self, name: &Name) -> Result<OpenDisk> {
        match self.find(name)? {
            Named::Image(image) => self.open_image(&image),
            Named::Volume(record) => {
                let folder = self.store.paths().volume(record.id);
                let lock = match folder.exists() {
                    true => Some(VolumeLock::share(&folder).context(|| in_use(&record))?),
                    false => None,
                };
                // Only now can it not change any more.
                let record = self.unchanged(&record)?;
                Ok(OpenDisk { volume: self.read_only_volume(&record)?, lock })
            }
        }
    }

    /// A volume as it is now, without writing to its delta; right only while nobody else does.
    pub(crate) fn read_only_volume(&self, record: &VolumeRecord) -> Result<Volume> {
        let own = self.own_delta(record);
        let mut parts = self.parts(record, None);
        if own.exists() {
            parts.frozen.insert(0, own);
        }
        Volume::open(parts)
    }

    fn open_image(&self, image: &ImageRecord) -> Result<OpenDisk> {
        let parts = VolumeParts {
            source: Arc::new(self.store.clone()),
            base: image.disk,
            size_bytes: image.disk.size_bytes,
            frozen: Vec::new(),
            own: None,
        };
        Ok(OpenDisk { volume: Volume::open(parts)?, lock: None })
    }

    /// Opens a volume to read and write: its folder, header and delta are made where there are none. `Busy` while
    /// anybody else has it open.
    pub(crate) fn open_to_write(&self, record: &VolumeRecord) -> Result<OpenDisk> {
        let folder = self.store.paths().volume(record.id);
        create_dir(&folder)?;
        let lock = VolumeLock::acquire(&folder).context(|| in_use(record))?;
        let record = self.unchanged(record)?;
        self.bring_header_up_to_date(&record)?;
        let own = self.own_delta(&record);
        if !own.exists() {
            self.create_delta(&record, &own)?;
        }
        self.sync_names_of(&record)?;
        Ok(OpenDisk { volume: Volume::open(self.parts(&record, Some(own)))?, lock: Some(lock) })
    }

    /// Makes the names of a volume's folder and of its deltas durable, whoever made them: a process that was killed may
    /// have left names that are seen and not durable.
    pub(crate) fn sync_names_of(&self, record: &VolumeRecord) -> Result<()> {
        sync_dir(&self.store.paths().volume(record.id))?;
        sync_dir(&self.store.paths().volumes())
    }

    /// A delta appears under its name only once it is whole; the caller makes the name durable.
    fn create_delta(&self, record: &VolumeRecord, own: &PathBuf) -> Result<()> {
        let folder = self.store.paths().volume(record.id);
        let temp = folder.join(format!("{}.tmp", record.own));
        if temp.exists() {
            std::fs::remove_dir_all(&temp)
                .map_err(|e| Error::io(format!("cannot remove {}", temp.display()), e))?;
        }
        drop(Delta::create(&temp, record.own, record.size_bytes)?);
        std::fs::rename(&temp, own)
            .map_err(|e| Error::io(format!("cannot make {}", own.display()), e))
    }

    /// The header follows the catalog: it is behind after a crash, and never ahead.
    fn bring_header_up_to_date(&self, record: &VolumeRecord) -> Result<()> {
        let folder = self.store.paths().volume(record.id);
        let header = header_of(record);
        match read_volume_header(&folder) {
            Ok(there) if there == header => return Ok(()),
            Ok(there) if there.id != record.id || there.generation > record.generation => {
                let message = format!(
                    "the header of volume {} is not the one the catalog knows",
                    record.name
                );
                return Err(Error::corrupt(message));
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        write_volume_header(&folder, &header)
    }

    /// The record as it is now, for one whose lock was just taken.
    pub(crate) fn unchanged(&self, record: &VolumeRecord) -> Result<VolumeRecord> {
        match self.find(&record.name)? {
            Named::Volume(now) if now.id == record.id => Ok(now),
            _ => Err(Error::new(
                ErrorKind::NotFound,
                format!("volume {} was removed meanwhile", record.name),
            )),
        }
    }

    pub(crate) fn own_delta(&self, record: &VolumeRecord) -> PathBuf {
        self.store.paths().delta(record.id, record.own)
    }

    /// Takes the right to write a volume. One without a folder was never written, and whoever begins to write it makes
    /// one, so there is nothing to lock.
    pub(crate) fn lock_if_made(&self, record: &VolumeRecord) -> Result<Option<VolumeLock>> {
        let folder = self.store.paths().volume(record.id);
        match folder.exists() {
            true => VolumeLock::acquire(&folder).map(Some).context(|| in_use(record)),
            false => Ok(None),
        }
    }

    fn parts(&self, record: &VolumeRecord, own: Option<PathBuf>) -> VolumeParts {
        let paths = self.store.paths();
        VolumeParts {
            source: Arc::new(self.store.clone()),
            base: record.base,
            size_bytes: record.size_bytes,
            frozen: record
                .frozen
                .iter()
                .map(|frozen| paths.delta(frozen.home, frozen.delta))
                .collect(),
            own,
        }
    }
}

fn in_use(record: &VolumeRecord) -> String {
    format!("volume {} cannot be had", record.name)
}

/// What the header of a volume's folder says for this record.
pub(crate) fn header_of(record: &VolumeRecord) -> VolumeHeader {
    VolumeHeader {
        id: record.id,
        name: record.name.clone(),
        base: record.base,
        size_bytes: record.size_bytes,
        frozen: record.frozen.iter().map(|frozen| frozen.delta).collect(),
        own: Some(record.own),
        generation: record.generation,
    }
}
