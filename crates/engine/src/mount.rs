//! Images and snapshots as read-only files of a folder, for as long as somebody shows them.
//!
//! Live: each look at a name is a look at the catalog. Nothing is kept from others: what is removed meanwhile stays readable
//! for whoever has it open.

use crate::engine::Engine;
use silt_export::{
    StopSignal,
    fuse::{Access, DiskEntry, DiskFolder, FolderServer},
};
use silt_store::{ImageRecord, Named, SnapshotRecord};
use silt_types::{DiskName, Error, ErrorKind, Result};
use silt_volume::BlockDevice;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where to show the disks, and to whom.
#[derive(Clone, Debug)]
pub struct Mounting {
    /// The folder: an empty one, or none yet.
    pub folder: PathBuf,
    /// Who gets at it.
    pub access: Access,
}

/// What is shown.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Images and snapshots that there are now.
    pub disks: usize,
}

impl Engine {
    /// Shows every image and snapshot as a file until `stop` is given, or somebody unmounts the folder. `ready` is told once
    /// the files can be seen.
    pub fn mount(
        &self,
        mounting: &Mounting,
        stop: &StopSignal,
        ready: impl FnOnce(&Shown),
    ) -> Result<()> {
        let disks = SealedDisks { engine: self.clone() };
        let shown = Shown { disks: disks.list()?.len() };
        let folder: &Path = &mounting.folder;
        let server = FolderServer::bind(folder, mounting.access)?;
        ready(&shown);
        server.run(Arc::new(disks), stop)
    }
}

/// Every image and snapshot of a store.
struct SealedDisks {
    engine: Engine,
}

impl SealedDisks {
    fn find_named(&self, name: &str) -> Result<Option<Named>> {
        // What cannot be a name is none.
        let Ok(name) = name.parse::<DiskName>() else { return Ok(None) };
        match self.engine.find(&name) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl DiskFolder for SealedDisks {
    fn list(&self) -> Result<Vec<DiskEntry>> {
        let listing = self.engine.list()?;
        let volumes = listing.volumes.iter().map(|volume| (volume.id, &volume.name));
        let volumes: HashMap<_, _> = volumes.collect();
        let images = listing.images.iter().map(entry_of_image);
        let snapshots = listing.snapshots.iter().filter(|snapshot| snapshot.is_shown());
        let snapshots = snapshots.filter_map(|snapshot| {
            let volume = volumes.get(&snapshot.volume)?;
            Some(entry_of_snapshot(format!("{volume}@{}", snapshot.name), snapshot))
        });
        Ok(images.chain(snapshots).collect())
    }

    fn find(&self, name: &str) -> Result<Option<DiskEntry>> {
        Ok(self.find_named(name)?.and_then(|found| entry_of(name, &found)))
    }

    fn open(&self, entry: &DiskEntry) -> Result<Arc<dyn BlockDevice>> {
        let gone = || Error::new(ErrorKind::NotFound, format!("{} is there no more", entry.name));
        self.engine.while_deltas_are_sealed(|| {
            let lease = self.engine.store.lease()?;
            let named = self.find_named(&entry.name)?.ok_or_else(gone)?;
            if !entry_of(&entry.name, &named).is_some_and(|found| found.is_same(entry)) {
                return Err(gone());
            }
            let disk = match named {
                Named::Image(image) => self.engine.open_sealed(image.disk, Some(lease), None)?,
                Named::Snapshot(snapshot) => self.engine.open_snapshot(&snapshot, Some(lease))?,
                Named::Volume(_) => return Err(gone()),
            };
            Ok(Arc::new(disk.volume) as Arc<dyn BlockDevice>)
        })
    }
}

/// A disk under its name; none for a volume, which changes.
fn entry_of(name: &str, named: &Named) -> Option<DiskEntry> {
    match named {
        Named::Image(image) => Some(entry_of_image(image)),
        Named::Snapshot(snapshot) => Some(entry_of_snapshot(name.to_owned(), snapshot)),
        Named::Volume(_) => None,
    }
}

fn entry_of_image(image: &ImageRecord) -> DiskEntry {
    let name = image.name.to_string();
    let identity = identity(&name, image.disk.root.as_bytes());
    let (size_bytes, created_ns) = (image.disk.size_bytes, image.created_ns);
    DiskEntry { name, identity, size_bytes, created_ns }
}

/// The same before and after it is sealed.
fn entry_of_snapshot(name: String, snapshot: &SnapshotRecord) -> DiskEntry {
    let identity = identity("", snapshot.id.as_bytes());
    let (size_bytes, created_ns) = (snapshot.size_bytes, snapshot.created_ns);
    DiskEntry { name, identity, size_bytes, created_ns }
}

/// A number for a disk that is the same at every time and on every machine (FNV-1a). Two images of the same content are two
/// files.
fn identity(name: &str, id: &[u8]) -> u64 {
    let bytes = name.bytes().chain(id.iter().copied());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
