//! What goes: images, and volumes with their snapshots, as the catalog has them, everything sealed.

use crate::engine::Engine;
use silt_format::{ArchivedName, RootRecord};
use silt_store::{ImageRecord, Listing, Named, SnapshotPurpose, SnapshotRecord, VolumeRecord};
use silt_types::{DeltaId, DiskId, DiskName, Error, ErrorKind, Name, Progress, Result, VolumeId};
use std::collections::{HashMap, HashSet};

/// Something with a name of its own.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Image(ImageRecord),
    Volume(SealedVolume),
}

/// A volume as it was at a moment, with its snapshots. All of them are sealed disks; the own delta of the record, and its
/// generation, are the store's that it comes from and mean nothing elsewhere.
#[derive(Clone, Debug)]
pub(super) struct SealedVolume {
    pub(super) record: VolumeRecord,
    /// In the order in which they were taken.
    pub(super) snapshots: Vec<SnapshotRecord>,
}

impl Item {
    /// What it is called in messages.
    pub(super) fn title(&self) -> String {
        match self {
            Item::Image(image) => format!("image {}", image.name),
            Item::Volume(volume) => format!("volume {}", volume.record.name),
        }
    }

    /// Names in it.
    pub(super) fn names(&self) -> u64 {
        match self {
            Item::Image(_) => 1,
            Item::Volume(volume) => 1 + volume.snapshots.len() as u64,
        }
    }

    /// What packs say of it.
    pub(super) fn root_records(&self) -> Vec<RootRecord> {
        match self {
            Item::Image(image) => vec![image.root_record()],
            Item::Volume(volume) => volume
                .snapshots
                .iter()
                .map(|snapshot| snapshot.root_record(snapshot.base))
                .collect(),
        }
    }

    /// What an archive says of it.
    pub(super) fn archived(&self) -> Vec<ArchivedName> {
        match self {
            Item::Image(image) => vec![archived_image(image)],
            Item::Volume(volume) => {
                let snapshots = volume.snapshots.iter().map(archived_snapshot);
                [archived_volume(&volume.record)].into_iter().chain(snapshots).collect()
            }
        }
    }
}

fn archived_image(image: &ImageRecord) -> ArchivedName {
    ArchivedName::Image {
        name: image.name.clone(),
        disk: image.disk,
        tree: image.tree,
        config: image.config,
        created_ns: image.created_ns,
    }
}

fn archived_volume(volume: &VolumeRecord) -> ArchivedName {
    ArchivedName::Volume {
        id: volume.id,
        name: volume.name.clone(),
        disk: volume.base,
        state: volume.state,
        head: volume.head,
        source: volume.source.clone(),
        source_volume: volume.source_volume,
        created_ns: volume.created_ns,
    }
}

fn archived_snapshot(snapshot: &SnapshotRecord) -> ArchivedName {
    ArchivedName::Snapshot {
        id: snapshot.id,
        volume: snapshot.volume,
        name: snapshot.name.clone(),
        disk: snapshot.base,
        state: snapshot.state,
        parent: snapshot.parent,
        purpose: snapshot.purpose as u8,
        created_ns: snapshot.created_ns,
    }
}

/// The items that an archive names. `Corrupt` if they make no sense. What images map is not counted yet.
pub(super) fn items_of_archive(names: Vec<ArchivedName>) -> Result<Vec<Item>> {
    let (mut items, mut volumes) = (Vec::new(), HashMap::new());
    for name in names {
        match name {
            ArchivedName::Image { name, disk, tree, config, created_ns } => {
                must_be_a_length(&name, disk)?;
                let bytes_nonzero = 0;
                let image = ImageRecord { name, disk, tree, config, created_ns, bytes_nonzero };
                items.push(Item::Image(image));
            }
            ArchivedName::Volume {
                id,
                name,
                disk,
                state,
                head,
                source,
                source_volume,
                created_ns,
            } => {
                must_be_a_length(&name, disk)?;
                if volumes.insert(id, items.len()).is_some() {
                    return Err(Error::corrupt(format!("the archive has volume {name} twice")));
                }
                let record = VolumeRecord {
                    name,
                    id,
                    base: disk,
                    size_bytes: disk.size_bytes,
                    frozen: Vec::new(),
                    state,
                    own: DeltaId::from_bytes([0; 16]),
                    generation: 1,
                    head,
                    source,
                    source_volume,
                    created_ns,
                };
                items.push(Item::Volume(SealedVolume { record, snapshots: Vec::new() }));
            }
            ArchivedName::Snapshot {
                id,
                volume,
                name,
                disk,
                state,
                parent,
                purpose,
                created_ns,
            } => {
                must_be_a_length(&name, disk)?;
                let of = volumes.get(&volume).and_then(|at| items.get_mut(*at));
                let (Some(Item::Volume(of)), Some(purpose)) = (of, shown_purpose(purpose)) else {
                    let message = format!("snapshot {name} of the archive is of no volume in it");
                    return Err(Error::corrupt(message));
                };
                of.snapshots.push(SnapshotRecord {
                    id,
                    volume,
                    name,
                    base: disk,
                    size_bytes: disk.size_bytes,
                    frozen: Vec::new(),
                    state,
                    parent,
                    purpose,
                    created_ns,
                });
            }
        }
    }
    Ok(items)
}

fn shown_purpose(number: u8) -> Option<SnapshotPurpose> {
    let shown = [SnapshotPurpose::Asked, SnapshotPurpose::Rollback];
    shown.into_iter().find(|purpose| *purpose as u8 == number)
}

fn must_be_a_length(name: &Name, disk: DiskId) -> Result<()> {
    let checked = crate::resize::must_be_a_size(disk.size_bytes);
    checked.map_err(|error| Error::corrupt(format!("{name} of the archive: {}", error.chain())))
}

impl Engine {
    /// What these names stand for, or all that there are, sealed: what volumes hold now is frozen for it, as by `commit`, and
    /// afterwards held by nothing but the caller's lease. Those that others go on from come first. `Invalid` for a snapshot:
    /// it goes with its volume. Costs what is not sealed yet.
    pub(super) fn items(&self, names: &[DiskName], progress: &dyn Progress) -> Result<Vec<Item>> {
        let (images, volumes) = self.named(names)?;
        let mut sealed = Vec::new();
        for volume in &volumes {
            match self.sealed_now(volume, progress) {
                Err(error) if gone(&error, names) => {}
                other => sealed.push(other?),
            }
        }
        // Afterwards, so that the ones they go on from are among them.
        let mut snapshots: HashMap<VolumeId, Vec<SnapshotRecord>> = HashMap::new();
        for snapshot in self.list()?.snapshots.into_iter().filter(SnapshotRecord::is_shown) {
            snapshots.entry(snapshot.volume).or_default().push(snapshot);
        }
        let mut items: Vec<_> = images.into_iter().map(Item::Image).collect();
        for record in sealed {
            let of = snapshots.remove(&record.id).unwrap_or_default();
            let snapshots = self.sealed_snapshots(of, progress)?;
            items.push(Item::Volume(SealedVolume { record, snapshots }));
        }
        Ok(items)
    }

    /// Images and volumes, oldest first.
    fn named(&self, names: &[DiskName]) -> Result<(Vec<ImageRecord>, Vec<VolumeRecord>)> {
        let Listing { mut images, mut volumes, .. } = match names {
            [] => self.list()?,
            names => {
                let (mut found, mut met) = (Listing::default(), HashSet::new());
                for name in names.iter().filter(|name| met.insert(*name)) {
                    match self.find(name)? {
                        Named::Image(image) => found.images.push(image),
                        Named::Volume(volume) => found.volumes.push(volume),
                        Named::Snapshot(_) => return Err(no_snapshot(name)),
                    }
                }
                found
            }
        };
        images.sort_by_key(|image| image.created_ns);
        volumes.sort_by_key(|volume| volume.created_ns);
        Ok((images, volumes))
    }

    /// A volume as it is now, all of it sealed. What a guest writes meanwhile is not in it.
    fn sealed_now(&self, volume: &VolumeRecord, progress: &dyn Progress) -> Result<VolumeRecord> {
        let is_sealed = volume.frozen.is_empty() && volume.base.size_bytes == volume.size_bytes;
        if is_sealed && !self.own_delta(volume).exists() {
            return Ok(volume.clone());
        }
        let name = volume.name.clone().into();
        self.with_sealed_state(&name, progress, |state| {
            self.store.change("cannot let go of a state", |change| {
                let head = state.head_in(change)?;
                let now = change.volume(volume.id)?;
                state.release_in(change)?;
                Ok(VolumeRecord {
                    base: state.disk,
                    size_bytes: state.disk.size_bytes,
                    frozen: Vec::new(),
                    state: state.state,
                    head,
                    ..now
                })
            })
        })
    }

    /// Those of the snapshots that are still there, sealed.
    fn sealed_snapshots(
        &self,
        snapshots: Vec<SnapshotRecord>,
        progress: &dyn Progress,
    ) -> Result<Vec<SnapshotRecord>> {
        let mut sealed = Vec::new();
        for snapshot in snapshots {
            match self.seal_snapshot(&snapshot, progress) {
                Ok(base) => sealed.push(SnapshotRecord { base, frozen: Vec::new(), ..snapshot }),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sealed)
    }
}

/// Whether something went meanwhile that nobody asked for by name.
fn gone(error: &Error, names: &[DiskName]) -> bool {
    names.is_empty() && error.kind() == ErrorKind::NotFound
}

fn no_snapshot(name: &DiskName) -> Error {
    let volume = &name.name;
    Error::invalid(format!(
        "{name} is a snapshot, which goes with its volume: name {volume}, or make an image of it by `silt commit`"
    ))
}
