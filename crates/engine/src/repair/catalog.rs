//! Which names a store had, by what is left: rows of the old catalog, root records of packs, headers of volumes.
//!
//! Decides only; what it needs to know of disks and folders it is told.

use silt_format::{RootRecord, VolumeHeader};
use silt_store::{
    FrozenDelta, ImageRecord, Listing, Salvaged, SnapshotPurpose, SnapshotRecord, VolumeRecord,
};
use silt_types::{DeltaId, DiskId, DiskName, Name, Result, SnapshotId, StateId, VolumeId};
use std::collections::{BTreeMap, HashMap, HashSet};

/// What is known of disks and folders.
pub(super) trait Surroundings {
    /// Bytes that a disk maps, as far as its map can be read; `None` if a node of it is in no pack.
    fn bytes_mapped(&self, disk: DiskId) -> Option<u64>;
    /// The volume in whose folder a delta is; `None` if it is in none.
    fn home_of(&self, delta: DeltaId) -> Option<VolumeId>;
    /// An id that nothing has.
    fn new_delta(&self) -> Result<DeltaId>;
    /// The same of a state: so that nothing that is held is taken for something else.
    fn new_state(&self) -> Result<StateId>;
}

/// The names, and what is to be said of how they were found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) listing: Listing,
    pub(super) told: Vec<String>,
    /// What is left does not tell.
    doubtful: Vec<String>,
    /// Names that there were, and of which nothing is left.
    pub(super) lost: Vec<String>,
}

/// What each frozen delta over a base became.
type Seals = HashMap<(DiskId, DeltaId), DiskId>;

/// Puts together the names. Where the rows are all there were, they are the answer. Otherwise what had been removed may come back:
/// nothing tells it from what was lost.
pub(super) fn find_names(
    salvaged: &Salvaged,
    headers: &[VolumeHeader],
    about: &dyn Surroundings,
) -> Result<Found> {
    let mut found = Found { listing: salvaged.listing.clone(), ..Found::default() };
    if salvaged.is_complete {
        return Ok(found);
    }
    found.images(salvaged, about);
    let seals = seals_of(salvaged);
    found.volumes(salvaged, headers, &seals, about)?;
    found.snapshots(salvaged);
    if salvaged.is_behind {
        found.apply(&seals, about);
    }
    found.lost_volumes(about)?;
    found.freeze_shared(about)?;
    found.untie();
    found.lost = found.lost(salvaged);
    found.lost.append(&mut found.doubtful);
    Ok(found)
}

fn seals_of(salvaged: &Salvaged) -> Seals {
    let seals = salvaged.roots.iter().filter_map(|root| match root {
        RootRecord::Seal { base, delta, disk } => Some(((*base, *delta), *disk)),
        _ => None,
    });
    seals.collect()
}

/// Goes up from a base through deltas, oldest last, that became parts of disks and are gone. One without a seal, or that still lies
/// there, ends that.
fn apply_seals(
    base: &mut DiskId,
    frozen: &mut Vec<FrozenDelta>,
    seals: &Seals,
    is_there: &dyn Fn(&FrozenDelta) -> bool,
) {
    while let Some(oldest) = frozen.last() {
        match seals.get(&(*base, oldest.delta)) {
            // Its folder goes after the transaction: while it is there, reading through it is as good.
            Some(disk) if !is_there(oldest) => {
                *base = *disk;
                frozen.pop();
            }
            _ => return,
        }
    }
}

impl Found {
    fn images(&mut self, salvaged: &Salvaged, about: &dyn Surroundings) {
        let mut newest: BTreeMap<&Name, ImageRecord> = BTreeMap::new();
        for root in &salvaged.roots {
            let RootRecord::Image { name, disk, tree, config, created_ns } = root else { continue };
            if newest.get(name).is_none_or(|known| known.created_ns < *created_ns) {
                let image = ImageRecord {
                    name: name.clone(),
                    disk: *disk,
                    tree: *tree,
                    config: *config,
                    created_ns: *created_ns,
                    bytes_nonzero: 0,
                };
                newest.insert(name, image);
            }
        }
        for (_, image) in newest {
            self.image(image, salvaged.is_behind, about);
        }
    }

    fn image(&mut self, image: ImageRecord, is_behind: bool, about: &dyn Surroundings) {
        let images = &self.listing.images;
        let is_same =
            |known: &ImageRecord| (known.disk, known.created_ns) == (image.disk, image.created_ns);
        if images.iter().any(is_same) {
            return; // Under the name that it has now.
        }
        let there = images.iter().position(|known| known.name == image.name);
        let is_newer = |at: usize| is_behind && images[at].created_ns < image.created_ns;
        if there.is_some_and(|at| !is_newer(at)) {
            return; // It was replaced.
        }
        let name = &image.name;
        let Some(bytes_nonzero) = about.bytes_mapped(image.disk) else {
            self.told.push(format!(
                "image {name}, which a pack tells of, is left out: it was removed and collected, in part"
            ));
            return;
        };
        self.told.push(format!("image {name} is what a pack tells of it"));
        let image = ImageRecord { bytes_nonzero, ..image };
        match there {
            Some(at) => self.listing.images[at] = image,
            None => {
                let name = self.free_name(&image.name);
                self.listing.images.push(ImageRecord { name, ..image });
            }
        }
    }

    fn volumes(
        &mut self,
        salvaged: &Salvaged,
        headers: &[VolumeHeader],
        seals: &Seals,
        about: &dyn Surroundings,
    ) -> Result<()> {
        for header in headers {
            let there = self.listing.volumes.iter().position(|volume| volume.id == header.id);
            let is_newer = |at: usize| {
                salvaged.is_behind && self.listing.volumes[at].generation < header.generation
            };
            if there.is_some_and(|at| !is_newer(at)) {
                continue;
            }
            let before = there.map(|at| self.listing.volumes.remove(at));
            let volume = self.volume_of(header, seals, about)?;
            self.told.push(format!("volume {} is what its folder says", volume.name));
            self.listing.volumes.push(match before {
                Some(before) => VolumeRecord {
                    name: before.name,
                    head: before.head,
                    source: before.source,
                    source_volume: before.source_volume,
                    created_ns: before.created_ns,
                    ..volume
                },
                None => volume,
            });
        }
        Ok(())
    }

    /// Lets seals that an old catalog does not know of be seen.
    fn apply(&mut self, seals: &Seals, about: &dyn Surroundings) {
        let is_there = |frozen: &FrozenDelta| about.home_of(frozen.delta).is_some();
        for volume in &mut self.listing.volumes {
            apply_seals(&mut volume.base, &mut volume.frozen, seals, &is_there);
        }
        for snapshot in &mut self.listing.snapshots {
            apply_seals(&mut snapshot.base, &mut snapshot.frozen, seals, &is_there);
        }
    }

    /// A delta that others read through, or that a seal has made a part of a disk, is nobody's own: the catalog had gone on without
    /// the header, which is written by who serves the volume next.
    fn freeze_shared(&mut self, about: &dyn Surroundings) -> Result<()> {
        let of_volumes = self.listing.volumes.iter().flat_map(|volume| &volume.frozen);
        let of_snapshots = self.listing.snapshots.iter().flat_map(|snapshot| &snapshot.frozen);
        let frozen: HashSet<DeltaId> =
            of_volumes.chain(of_snapshots).map(|frozen| frozen.delta).collect();
        for volume in &mut self.listing.volumes {
            if frozen.contains(&volume.own) {
                let home = about.home_of(volume.own).unwrap_or(volume.id);
                volume.frozen.insert(0, FrozenDelta { delta: volume.own, home });
                volume.own = about.new_delta()?;
                volume.state = about.new_state()?;
                volume.generation += 1;
            }
        }
        Ok(())
    }

    fn volume_of(
        &mut self,
        header: &VolumeHeader,
        seals: &Seals,
        about: &dyn Surroundings,
    ) -> Result<VolumeRecord> {
        let home = |delta: &DeltaId| about.home_of(*delta).unwrap_or(header.id);
        // The own delta may have been frozen, and sealed, since the header was written.
        let deltas = header.own.iter().chain(&header.frozen);
        let all = deltas.map(|delta| FrozenDelta { delta: *delta, home: home(delta) });
        let (mut base, mut frozen) = (header.base, all.collect::<Vec<_>>());
        apply_seals(&mut base, &mut frozen, seals, &|frozen| about.home_of(frozen.delta).is_some());
        let is_own = |frozen: &FrozenDelta| Some(frozen.delta) == header.own;
        let own = match frozen.first().is_some_and(is_own) {
            true => Some(frozen.remove(0).delta),
            false => None,
        };
        let generation = header.generation + u64::from(own.is_none());
        // The header's state is the one below its own delta, which is a part of what is below now.
        let state = own.map_or_else(|| about.new_state(), |_| Ok(header.state))?;
        if own.is_some_and(|own| about.home_of(own).is_none()) {
            self.doubtful.push(format!("what volume {} wrote last, if it did", header.name));
        }
        let of_base = self.listing.images.iter().find(|image| image.disk == base);
        let name = self.free_name(&header.name);
        let source: DiskName = of_base.map_or(&name, |image| &image.name).clone().into();
        Ok(VolumeRecord {
            id: header.id,
            base,
            size_bytes: header.size_bytes,
            frozen,
            state,
            own: own.map_or_else(|| about.new_delta(), Ok)?,
            generation,
            head: None,
            source,
            source_volume: None,
            created_ns: 0,
            name,
        })
    }

    fn snapshots(&mut self, salvaged: &Salvaged) {
        for root in &salvaged.roots {
            let RootRecord::Snapshot { volume, id, name, parent, disk, state, created_ns } = root
            else {
                continue;
            };
            let there = self.listing.snapshots.iter_mut().find(|known| known.id == *id);
            if let Some(known) =
                there.filter(|known| !known.frozen.is_empty() && salvaged.is_behind)
            {
                (known.base, known.size_bytes) = (*disk, disk.size_bytes);
                known.frozen.clear();
                continue;
            }
            let mut of_volume = self.listing.snapshots.iter().filter(|s| s.volume == *volume);
            let is_taken = of_volume.any(|known| known.id == *id || known.name == *name);
            if is_taken || self.listing.snapshots.iter().any(|known| known.id == *id) {
                continue;
            }
            self.told.push(format!("snapshot {name} is what a pack tells of it"));
            self.listing.snapshots.push(SnapshotRecord {
                id: *id,
                volume: *volume,
                name: name.clone(),
                base: *disk,
                size_bytes: disk.size_bytes,
                frozen: Vec::new(),
                state: *state,
                parent: *parent,
                purpose: SnapshotPurpose::Asked,
                created_ns: *created_ns,
            });
        }
    }

    /// A volume of which only snapshots are left goes on from the newest.
    fn lost_volumes(&mut self, about: &dyn Surroundings) -> Result<()> {
        let known: HashSet<VolumeId> = self.listing.volumes.iter().map(|v| v.id).collect();
        let mut newest: BTreeMap<[u8; 16], SnapshotRecord> = BTreeMap::new();
        for snapshot in self.listing.snapshots.iter().filter(|s| !known.contains(&s.volume)) {
            let there = newest.get(snapshot.volume.as_bytes());
            if there.is_none_or(|there| there.created_ns < snapshot.created_ns) {
                newest.insert(*snapshot.volume.as_bytes(), snapshot.clone());
            }
        }
        for snapshot in newest.into_values() {
            let name = format!("recovered-{}", &snapshot.volume.to_string()[..8]).parse()?;
            let name = self.free_name(&name);
            self.told.push(format!(
                "volume {name}, whose name is lost, is as in its snapshot {}",
                snapshot.name
            ));
            self.listing.volumes.push(VolumeRecord {
                id: snapshot.volume,
                base: snapshot.base,
                size_bytes: snapshot.size_bytes,
                frozen: snapshot.frozen,
                state: snapshot.state,
                own: about.new_delta()?,
                generation: 1,
                head: Some(snapshot.id),
                source: name.clone().into(),
                source_volume: None,
                created_ns: snapshot.created_ns,
                name,
            });
        }
        Ok(())
    }

    /// What there was and is not found: by name, or else by how much of it there was.
    fn lost(&self, salvaged: &Salvaged) -> Vec<String> {
        let Some(counted) = salvaged.counted else {
            let what = "what the catalog alone had (volumes that were never written, snapshots that are not sealed)";
            return vec![what.to_owned()];
        };
        // One that has lost its name, too, is told by the counts.
        let by_name =
            salvaged.lost.iter().filter(|what| !what.ends_with("\"\"") && !self.has(what));
        let by_name: Vec<String> = by_name.cloned().collect();
        if !by_name.is_empty() {
            return by_name;
        }
        let Listing { images, volumes, snapshots } = &self.listing;
        let found = [images.len(), volumes.len(), snapshots.len()];
        let kinds = ["images", "volumes", "snapshots"].into_iter().zip(counted).zip(found);
        let missing =
            kinds.map(|((kind, counted), found)| (counted.saturating_sub(found as u64), kind));
        missing
            .filter(|(count, _)| *count > 0)
            .map(|(count, kind)| format!("{count} {kind}"))
            .collect()
    }

    /// Whether a record that could not be read was found elsewhere.
    fn has(&self, what: &str) -> bool {
        let Listing { images, volumes, snapshots } = &self.listing;
        let images = images.iter().map(|image| format!("image {:?}", image.name.as_str()));
        let volumes = volumes.iter().map(|volume| format!("volume {:?}", volume.name.as_str()));
        let snapshots = snapshots.iter().map(|kept| format!("snapshot {:?}", kept.name.as_str()));
        images.chain(volumes).chain(snapshots).any(|there| there == *what)
    }

    /// What went on from a snapshot that is lost goes on from none.
    fn untie(&mut self) {
        let known: HashSet<SnapshotId> = self.listing.snapshots.iter().map(|s| s.id).collect();
        let keep = |id: Option<SnapshotId>| id.filter(|id| known.contains(id));
        self.listing.snapshots.iter_mut().for_each(|s| s.parent = keep(s.parent));
        self.listing.volumes.iter_mut().for_each(|v| v.head = keep(v.head));
    }

    /// The name, or one like it that is not taken.
    fn free_name(&self, wanted: &Name) -> Name {
        let images = self.listing.images.iter().map(|image| &image.name);
        let taken: HashSet<&Name> =
            images.chain(self.listing.volumes.iter().map(|volume| &volume.name)).collect();
        let head = &wanted.as_str()[..wanted.as_str().len().min(Name::LEN_MAX - 8)];
        let others = (2..).filter_map(|number| format!("{head}.{number}").parse().ok());
        let mut names = std::iter::once(wanted.clone()).chain(others);
        names.find(|name| !taken.contains(name)).unwrap_or_else(|| wanted.clone())
    }
}
