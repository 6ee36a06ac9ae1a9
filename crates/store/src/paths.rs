//! Where things lie in a store.

use silt_types::{DeltaId, LeaseId, PackId, VolumeId};
use std::path::{Path, PathBuf};

/// The folders and files of a store, by name. Knows no content.
#[derive(Clone, Debug)]
pub struct StorePaths {
    root: PathBuf,
}

impl StorePaths {
    /// The paths of the store at `root`.
    pub fn new(root: impl Into<PathBuf>) -> StorePaths {
        StorePaths { root: root.into() }
    }

    /// The store itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file that says that this is a store.
    pub fn store_file(&self) -> PathBuf {
        self.root.join("store")
    }

    /// The database of index and catalog.
    pub fn database(&self) -> PathBuf {
        self.root.join("catalog.db")
    }

    /// How far the database must have come.
    pub fn commit_file(&self) -> PathBuf {
        self.root.join("commit")
    }

    /// How far verification in the background has come.
    pub fn scrub_file(&self) -> PathBuf {
        self.root.join("scrub")
    }

    /// The lock of who verifies in the background.
    pub fn scrub_lock(&self) -> PathBuf {
        self.leases().join("scrub")
    }

    /// How large the store may become; not there unless something was set.
    pub fn limits(&self) -> PathBuf {
        self.root.join("limits")
    }

    /// The folder of packs.
    pub fn packs(&self) -> PathBuf {
        self.root.join("packs")
    }

    /// A finished pack.
    pub fn pack(&self, pack: PackId) -> PathBuf {
        self.packs().join(format!("{pack}.pack"))
    }

    /// A pack that the holder of `lease` is writing.
    pub fn unfinished_pack(&self, pack: PackId, lease: LeaseId) -> PathBuf {
        self.packs().join(format!("{pack}.{lease}.tmp"))
    }

    /// The folder of leases.
    pub fn leases(&self) -> PathBuf {
        self.root.join("leases")
    }

    /// The lock of who collects or verifies.
    pub(crate) fn collection_lock(&self) -> PathBuf {
        self.leases().join("lock")
    }

    /// The folder of volumes.
    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// The folder of a volume.
    pub fn volume(&self, volume: VolumeId) -> PathBuf {
        self.volumes().join(volume.to_string())
    }

    /// The folder of a delta that was written by `home`.
    pub fn delta(&self, home: VolumeId, delta: DeltaId) -> PathBuf {
        self.volume(home).join(delta.to_string())
    }

    /// The folder of damaged files that something has taken the place of. Made by the first repair.
    pub fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// The folder of sockets.
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// The folder of what can be had again: bounded, no roots. Made by whoever first keeps something in it.
    pub fn caches(&self) -> PathBuf {
        self.root.join("caches")
    }

    /// The folder of rebuild caches, one file for each source folder.
    pub fn folder_caches(&self) -> PathBuf {
        self.caches().join("folders")
    }

    /// The folder of what is known of container layers, one file for each.
    pub fn layer_caches(&self) -> PathBuf {
        self.caches().join("layers")
    }

    /// The folder of layers fetched from registries, whole or in part.
    pub fn fetched_blobs(&self) -> PathBuf {
        self.caches().join("blobs")
    }

    /// Every folder of a store that it cannot be without, in the order in which they are made.
    pub(crate) fn folders(&self) -> [PathBuf; 4] {
        [self.packs(), self.leases(), self.volumes(), self.run()]
    }
}
