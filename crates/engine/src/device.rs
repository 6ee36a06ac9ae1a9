//! Opening disks: an image, a snapshot or a volume as a block device.

use crate::engine::Engine;
use silt_ext4::reader::DiskRead;
use silt_format::VolumeHeader;
use silt_store::{FrozenDelta, Lease, Named, SnapshotRecord, VolumeRecord};
use silt_types::{Context as _, DeltaId, DiskId, DiskName, Error, ErrorKind, Result};
use silt_volume::{
    BlockDevice, Delta, Volume, VolumeLock, VolumeParts, read_volume_header, write_volume_header,
};
use std::path::{Path, PathBuf};

/// How often what is looked at may change meanwhile: a volume that is being opened has at most eight deltas to be sealed.
const CHANGED_MEANWHILE_MAX: u32 = 10;

/// A disk that is open, and kept from others as far as that is needed.
pub(crate) struct OpenDisk {
    pub(crate) volume: Volume,
    /// Held for as long as the disk is open. None where nobody could write.
    pub(crate) lock: Option<VolumeLock>,
}

impl Engine {
    /// Opens a disk to read: shared with other readers, `Busy` while somebody writes it.
    pub(crate) fn open_to_read(&self, name: &DiskName) -> Result<OpenDisk> {
        self.while_deltas_are_sealed(|| {
            let lease = self.store.lease()?;
            match self.find(name)? {
                Named::Image(image) => self.open_sealed(image.disk, Some(lease), None),
                Named::Snapshot(snapshot) => self.open_snapshot(&snapshot, Some(lease)),
                Named::Volume(record) => {
                    let folder = self.store.paths().volume(record.id);
                    let lock = match folder.exists() {
                        true => Some(VolumeLock::share(&folder).context(|| in_use(&record))?),
                        false => None,
                    };
                    // Only now can it not change any more.
                    let record = self.reconciled(&record)?;
                    Ok(OpenDisk { volume: self.open_at_rest(&record, Some(lease))?, lock })
                }
            }
        })
    }

    /// A delta may become a part of its base, and be gone, between a look at the catalog and opening it: then what is there
    /// seems damaged or missing, and another look finds the base. `open` looks at the catalog each time.
    pub(crate) fn while_deltas_are_sealed<T>(&self, open: impl Fn() -> Result<T>) -> Result<T> {
        self.while_it_changes(&[ErrorKind::Io, ErrorKind::Corrupt], open)
    }

    /// Looks again after an error of these kinds, if the catalog has changed since the look began.
    pub(crate) fn while_it_changes<T>(
        &self,
        kinds: &[ErrorKind],
        look: impl Fn() -> Result<T>,
    ) -> Result<T> {
        for _ in 0..CHANGED_MEANWHILE_MAX {
            let before = self.store.last_change()?;
            match look() {
                Err(error)
                    if kinds.contains(&error.kind()) && self.store.last_change()? != before => {}
                other => return other,
            }
        }
        look()
    }

    /// A volume as it is now, without writing to its delta; right only while nobody else does.
    pub(crate) fn read_only_volume(&self, record: &VolumeRecord) -> Result<Volume> {
        self.open_at_rest(record, None)
    }

    fn open_at_rest(&self, record: &VolumeRecord, lease: Option<Lease>) -> Result<Volume> {
        let own = self.own_delta(record);
        let mut parts = self.parts(record, None, lease);
        if own.exists() {
            parts.frozen.insert(0, own);
        }
        Volume::open(parts)
    }

    pub(crate) fn open_snapshot(
        &self,
        snapshot: &SnapshotRecord,
        lease: Option<Lease>,
    ) -> Result<OpenDisk> {
        let parts = VolumeParts {
            source: self.source.clone(),
            base: snapshot.base,
            size_bytes: snapshot.size_bytes,
            frozen: self.folders_of(&snapshot.frozen),
            own: None,
            lease,
        };
        Ok(OpenDisk { volume: Volume::open(parts)?, lock: None })
    }

    /// A sealed disk; `lock` is kept with it. The lease was taken before the disk was found; none is needed while something
    /// else keeps it.
    pub(crate) fn open_sealed(
        &self,
        disk: DiskId,
        lease: Option<Lease>,
        lock: Option<VolumeLock>,
    ) -> Result<OpenDisk> {
        let parts = VolumeParts {
            source: self.source.clone(),
            base: disk,
            size_bytes: disk.size_bytes,
            frozen: Vec::new(),
            own: None,
            lease,
        };
        Ok(OpenDisk { volume: Volume::open(parts)?, lock })
    }

    /// Opens a volume to read and write: its folder, header and delta are made where there are none. `Busy` while
    /// anybody else has it open. Answers the record that it was opened by, too.
    pub(crate) fn open_to_write(&self, record: &VolumeRecord) -> Result<(OpenDisk, VolumeRecord)> {
        let folder = self.store.paths().volume(record.id);
        // A command that is at it ends before; after this, commands ask whoever has the lock.
        let (_turn, lock) = self.turn_alone(record)?;
        let (volume, record) = self.while_deltas_are_sealed(|| {
            let lease = self.store.lease()?;
            let record = self.reconciled(record)?;
            self.bring_header_up_to_date(&record)?;
            let own = self.own_delta(&record);
            if !own.exists() {
                drop(create_delta(&folder, record.own, record.size_bytes)?);
            }
            self.sync_names_of(&record)?;
            Ok((Volume::open(self.parts(&record, Some(own), Some(lease)))?, record))
        })?;
        Ok((OpenDisk { volume, lock: Some(lock) }, record))
    }

    /// The header follows the catalog, by which the record was reconciled with it before.
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

    pub(crate) fn own_delta(&self, record: &VolumeRecord) -> PathBuf {
        self.store.paths().delta(record.id, record.own)
    }

    fn parts(
        &self,
        record: &VolumeRecord,
        own: Option<PathBuf>,
        lease: Option<Lease>,
    ) -> VolumeParts {
        VolumeParts {
            source: self.source.clone(),
            base: record.base,
            size_bytes: record.size_bytes,
            frozen: self.folders_of(&record.frozen),
            own,
            lease,
        }
    }

    fn folders_of(&self, frozen: &[FrozenDelta]) -> Vec<PathBuf> {
        let paths = self.store.paths();
        frozen.iter().map(|frozen| paths.delta(frozen.home, frozen.delta)).collect()
    }
}

/// Makes an empty delta in a volume's folder. It appears under its name only once it is whole; the caller makes the name
/// durable.
pub(crate) fn create_delta(folder: &Path, id: DeltaId, size_bytes: u64) -> Result<Delta> {
    let (own, temp) = (folder.join(id.to_string()), folder.join(format!("{id}.tmp")));
    if temp.exists() {
        std::fs::remove_dir_all(&temp)
            .map_err(|e| Error::io(format!("cannot remove {}", temp.display()), e))?;
    }
    drop(Delta::create(&temp, id, size_bytes)?);
    std::fs::rename(&temp, &own)
        .map_err(|e| Error::io(format!("cannot make {}", own.display()), e))?;
    Delta::open(&own)
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
        state: record.state,
    }
}

/// A volume as the ext4 reader takes it.
pub(crate) struct AsDisk<'a>(pub(crate) &'a Volume);

impl DiskRead for AsDisk<'_> {
    fn size_bytes(&self) -> u64 {
        self.0.geometry().size_bytes
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        BlockDevice::read_at(self.0, buf, offset)
    }
}
