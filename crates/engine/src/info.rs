//! What there is to know of a name, and of the store.

use crate::{
    control::{ControlClient, ServerStatus, SpaceStatus},
    engine::Engine,
    freeze::Frozen,
};
use silt_format::state_of_disk;
use silt_image::read_config;
use silt_store::{ChunkKind, Listing, Named, VolumeRecord};
use silt_types::{
    BLOCK_SIZE_BYTES, DiskId, DiskName, ErrorKind, Result, StateId, TreeId, VolumeId,
};
use silt_volume::{DiskMap, Volume, VolumeLock};
use std::{sync::Arc, time::Duration};

/// How long a served volume may seem damaged before it is: an append lasts as long as an fsync at most.
const MOMENT: Duration = Duration::from_millis(20);
const MOMENTS_MAX: u32 = 50;

/// Who serves a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedBy {
    /// Process number of the server; for people, nothing relies on it.
    pub pid: Option<u32>,
    /// Where it serves, as the command line says it.
    pub address: Option<String>,
    /// Whether it refuses writes. Then there may be others.
    pub read_only: bool,
}

impl ServedBy {
    fn of(status: &ServerStatus) -> ServedBy {
        ServedBy {
            pid: Some(status.pid),
            address: status.exports.first().map(|export| export.address.clone()),
            read_only: status.read_only,
        }
    }
}

/// What there is to know of an image, a volume or a snapshot.
#[derive(Clone, Debug)]
pub struct NameInfo {
    /// The name.
    pub name: DiskName,
    /// `image`, `volume` or `snapshot`.
    pub kind: &'static str,
    /// The sealed disk it is; `None` for a volume or snapshot with unsealed writes.
    pub disk_id: Option<DiskId>,
    /// The tree it was built from.
    pub tree_id: Option<TreeId>,
    /// The configuration that a container image came with: JSON, as it came.
    pub config: Option<Vec<u8>>,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Blocks written or zeroed since the base.
    pub blocks_modified: u64,
    /// Space that those take, in bytes.
    pub delta_bytes_allocated: u64,
    /// Length of the nodes of its disk map, in bytes.
    pub map_bytes: u64,
    /// The sealed disk below a volume or snapshot.
    pub base: Option<DiskId>,
    /// Name that a volume was cloned from.
    pub source: Option<DiskName>,
    /// Snapshots of a volume.
    pub snapshots: u64,
    /// Frozen deltas between a volume or snapshot and its base.
    pub frozen_deltas: usize,
    /// When it was made, in nanoseconds since 1970.
    pub created_ns: i64,
    /// The state it is in, where that is durable and nothing was written since it was last asked for.
    pub state_id: Option<StateId>,
    /// Who serves it, if anybody does.
    pub served_by: Option<ServedBy>,
    /// How its server says that it stands with its space, if that may write it.
    pub space: Option<SpaceStatus>,
}

/// What a store holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoreInfo {
    /// Distinct chunks of every kind.
    pub chunks: u64,
    /// Packs.
    pub packs: u64,
    /// Length of all images and volumes together.
    pub bytes_logical: u64,
    /// Content of all images together, without holes, before dedup.
    pub bytes_nonzero: u64,
    /// Uncompressed length of all distinct chunks.
    pub bytes_unique: u64,
    /// Of those, content of files.
    pub bytes_unique_file_data: u64,
    /// Of those, file system metadata, map and tree nodes.
    pub bytes_metadata: u64,
    /// Of the metadata, blocks of file systems.
    pub bytes_metadata_disk: u64,
    /// Of the metadata, nodes of disk maps.
    pub bytes_metadata_map: u64,
    /// Of the metadata, nodes of trees.
    pub bytes_metadata_tree: u64,
    /// Compressed length of all chunks, in packs.
    pub bytes_stored: u64,
    /// Number of images.
    pub images: u64,
    /// Number of volumes.
    pub volumes: u64,
    /// Number of snapshots.
    pub snapshots: u64,
}

impl Engine {
    /// What there is to know of a name. Reads the whole disk map of its base.
    pub fn info(&self, name: &DiskName) -> Result<NameInfo> {
        self.while_deltas_are_sealed(|| self.info_now(name))
    }

    fn info_now(&self, name: &DiskName) -> Result<NameInfo> {
        let _lease = self.store.lease()?;
        let named = self.find(name)?;
        let base = match &named {
            Named::Image(image) => image.disk,
            Named::Volume(volume) => volume.base,
            Named::Snapshot(snapshot) => snapshot.base,
        };
        let map_bytes = DiskMap::open(Arc::new(self.store.clone()), base)?.map_bytes()?;
        match named {
            Named::Image(image) => Ok(NameInfo {
                name: name.clone(),
                kind: "image",
                disk_id: Some(image.disk),
                tree_id: image.tree,
                config: image.config.map(|at| read_config(&self.store, at)).transpose()?,
                size_bytes: image.disk.size_bytes,
                blocks_modified: 0,
                delta_bytes_allocated: 0,
                map_bytes,
                base: None,
                source: None,
                snapshots: 0,
                frozen_deltas: 0,
                created_ns: image.created_ns,
                state_id: Some(state_of_disk(&image.disk)),
                served_by: self.server_of(name)?,
                space: None,
            }),
            Named::Volume(volume) => self.volume_info(name, volume, map_bytes),
            Named::Snapshot(snapshot) => {
                let disk = self.open_snapshot(&snapshot, None)?.volume;
                Ok(NameInfo {
                    name: name.clone(),
                    kind: "snapshot",
                    disk_id: snapshot.disk_id(),
                    tree_id: None,
                    config: None,
                    size_bytes: snapshot.size_bytes,
                    blocks_modified: disk.blocks_modified(),
                    delta_bytes_allocated: disk.delta_bytes_allocated()?,
                    map_bytes,
                    base: Some(snapshot.base),
                    source: None,
                    snapshots: 0,
                    frozen_deltas: snapshot.frozen.len(),
                    created_ns: snapshot.created_ns,
                    state_id: Some(snapshot.state),
                    served_by: self.server_of(name)?,
                    space: None,
                })
            }
        }
    }

    fn volume_info(
        &self,
        name: &DiskName,
        volume: VolumeRecord,
        map_bytes: u64,
    ) -> Result<NameInfo> {
        let server = ControlClient::connect(self.store.paths(), &volume)?;
        let told = server.map(ControlClient::status).and_then(Result::ok);
        let served_by = match &told {
            Some(told) => Some(ServedBy::of(told)),
            None => match self.served_by(&volume)? {
                None => self.server_of(name)?,
                writer => writer,
            },
        };
        let (volume, disk) = self.open_as_it_is(&volume)?;
        let (blocks_modified, delta_bytes_allocated) =
            (disk.blocks_modified(), disk.delta_bytes_allocated()?);
        let space = told.as_ref().and_then(|told| told.space.clone());
        let state_id = match (told, &served_by) {
            (Some(told), _) => told.state_id.and_then(|id| id.parse().ok()),
            // Whoever has it is just beginning, just ending, or was asked in vain.
            (None, Some(by)) if !by.read_only => None,
            (None, _) => self.state_known(&volume)?,
        };
        let is_base = blocks_modified == 0
            && volume.size_bytes == volume.base.size_bytes
            && served_by.as_ref().is_none_or(|by| by.read_only);
        Ok(NameInfo {
            name: name.clone(),
            kind: "volume",
            disk_id: is_base.then_some(volume.base),
            tree_id: None,
            config: None,
            size_bytes: volume.size_bytes,
            blocks_modified,
            delta_bytes_allocated,
            map_bytes,
            base: Some(volume.base),
            source: Some(volume.source),
            snapshots: self.snapshots_shown(volume.id)?,
            frozen_deltas: volume.frozen.len(),
            created_ns: volume.created_ns,
            state_id,
            served_by,
            space,
        })
    }

    /// Opens a volume to look at what it holds, though it may be written meanwhile. Answers its record as its server has
    /// it, too.
    pub(crate) fn open_as_it_is(&self, record: &VolumeRecord) -> Result<(VolumeRecord, Volume)> {
        let mut record = record.clone();
        // A server may be ahead of the catalog. One that is just ending, or that can write no more, is not asked.
        let server = ControlClient::connect(self.store.paths(), &record)?;
        if let Some(Ok(state)) = server.map(ControlClient::layers) {
            Frozen::of(state).apply(&mut record)?;
        }
        let is_served = VolumeLock::holder(&self.store.paths().volume(record.id))?.is_some();
        let disk = self.volume_at_rest(&record, is_served)?;
        Ok((record, disk))
    }

    fn snapshots_shown(&self, volume: VolumeId) -> Result<u64> {
        let snapshots = self.list()?.snapshots;
        let of_volume = snapshots.iter().filter(|snapshot| snapshot.volume == volume);
        Ok(of_volume.filter(|snapshot| snapshot.is_shown()).count() as u64)
    }

    /// The record of a delta that is being written may be met in the middle of an append, and look damaged; a moment
    /// later it does not.
    fn volume_at_rest(&self, volume: &VolumeRecord, is_served: bool) -> Result<Volume> {
        for _ in 0..MOMENTS_MAX {
            match self.read_only_volume(volume) {
                Err(error) if is_served && error.kind() == ErrorKind::Corrupt => {
                    std::thread::sleep(MOMENT);
                }
                other => return other,
            }
        }
        self.read_only_volume(volume)
    }

    /// One that serves a disk read-only.
    fn server_of(&self, name: &DiskName) -> Result<Option<ServedBy>> {
        let first = self.servers_of(name)?.into_iter().next();
        Ok(first.as_ref().map(ServedBy::of))
    }

    /// Who may write a volume.
    pub(crate) fn served_by(&self, volume: &VolumeRecord) -> Result<Option<ServedBy>> {
        let folder = self.store.paths().volume(volume.id);
        match VolumeLock::holder(&folder)? {
            None => Ok(None),
            Some(text) => {
                let (pid, address) = text.split_once(' ').unwrap_or((&text, ""));
                let address = Some(address.to_owned()).filter(|address| !address.is_empty());
                Ok(Some(ServedBy { pid: pid.parse().ok(), address, read_only: false }))
            }
        }
    }

    /// What the store holds. Costs a row for each pack and each name.
    pub fn store_info(&self) -> Result<StoreInfo> {
        let totals = self.store.totals()?;
        let Listing { images, volumes, snapshots } = self.list()?;
        let bytes = |kind: ChunkKind| totals.chunks.bytes[kind as usize - 1];
        let metadata = [ChunkKind::DiskData, ChunkKind::MapNode, ChunkKind::TreeNode].map(bytes);
        Ok(StoreInfo {
            chunks: totals.chunks.chunks,
            packs: totals.packs,
            bytes_logical: images.iter().map(|image| image.disk.size_bytes).sum::<u64>()
                + volumes.iter().map(|volume| volume.size_bytes).sum::<u64>(),
            bytes_nonzero: images.iter().map(|image| image.bytes_nonzero).sum(),
            bytes_unique: totals.chunks.bytes.iter().sum(),
            bytes_unique_file_data: bytes(ChunkKind::FileData),
            bytes_metadata: metadata.iter().sum(),
            bytes_metadata_disk: metadata[0],
            bytes_metadata_map: metadata[1],
            bytes_metadata_tree: metadata[2],
            bytes_stored: totals.chunks.bytes_stored,
            images: images.len() as u64,
            volumes: volumes.len() as u64,
            snapshots: snapshots.iter().filter(|snapshot| snapshot.is_shown()).count() as u64,
        })
    }
}

impl NameInfo {
    /// Blocks of the disk.
    pub fn blocks(&self) -> u64 {
        self.size_bytes.div_ceil(BLOCK_SIZE_BYTES)
    }
}
