//! Removing names.

use crate::{engine::Engine, freeze::Turn, seal::deltas_named, serve::image_in_use};
use silt_store::{FrozenDelta, Named, SnapshotRecord, VolumeRecord};
use silt_types::{Context as _, DiskName, Error, ErrorKind, Result, VolumeId};
use silt_volume::VolumeLock;
use std::{collections::HashSet, fs, path::Path};

impl Engine {
    /// Removes images, volumes and snapshots: all of them or, on any error, none. Nobody else is harmed: volumes keep their
    /// base, clones what they share, and what went on from a snapshot goes on from the one before it. `Busy`, naming them,
    /// if a volume has snapshots, unless `recursive` removes those too, or if something is served. The space of deltas that
    /// nobody needs any more is free at once; chunks are left to collection.
    pub fn remove(&self, names: &[DiskName], recursive: bool) -> Result<Vec<(DiskName, Named)>> {
        let gone = self.named_once(names, recursive)?;
        let _locks = self.lock_to_remove(gone.iter().map(|(_, named)| named))?;
        let mut deltas = Vec::new();
        self.store.change("cannot remove the names", |change| {
            let mut done = HashSet::new();
            for (_, named) in &gone {
                match named {
                    Named::Image(image) => change.remove_image(image)?,
                    Named::Snapshot(snapshot) if done.insert(snapshot.id) => {
                        deltas.extend(change.snapshot(snapshot.id)?.frozen);
                        change.remove_snapshot(snapshot.id)?;
                    }
                    Named::Snapshot(_) => {}
                    Named::Volume(volume) => {
                        for snapshot in change.snapshots_of(volume.id)? {
                            if done.insert(snapshot.id) {
                                must_be_expected(&snapshot, volume, names, recursive)?;
                                deltas.extend(snapshot.frozen);
                                change.remove_snapshot(snapshot.id)?;
                            }
                        }
                        let volume = change.volume(volume.id)?;
                        deltas.push(FrozenDelta { delta: volume.own, home: volume.id });
                        deltas.extend(volume.frozen);
                        change.remove_volume(volume.id)?;
                    }
                }
            }
            Ok(())
        })?;
        self.remove_unneeded(deltas)?;
        Ok(gone)
    }

    /// What is to be removed, each once. `Busy` if a volume has snapshots that are not to go with it.
    pub(crate) fn named_once(
        &self,
        names: &[DiskName],
        recursive: bool,
    ) -> Result<Vec<(DiskName, Named)>> {
        let (mut found, mut met) = (Vec::new(), HashSet::new());
        for name in names.iter().filter(|name| met.insert(*name)) {
            let named = self.find(name)?;
            if let (Named::Volume(volume), false) = (&named, recursive) {
                self.refuse_dependants(volume, names)?;
            }
            found.push((name.clone(), named));
        }
        Ok(found)
    }

    /// Removes a snapshot that held a state for work in progress.
    pub(crate) fn forget_snapshot(&self, snapshot: &SnapshotRecord) -> Result<()> {
        let doing = "cannot let go of a state";
        self.store.change(doing, |change| change.remove_snapshot(snapshot.id))?;
        self.remove_unneeded(snapshot.frozen.iter().copied())
    }

    fn refuse_dependants(&self, volume: &VolumeRecord, names: &[DiskName]) -> Result<()> {
        let snapshots = self.list()?.snapshots;
        let mut of_volume = snapshots.iter().filter(|snapshot| snapshot.volume == volume.id);
        of_volume.try_for_each(|snapshot| must_be_expected(snapshot, volume, names, false))
    }

    /// Makes sure that nobody uses what is to be removed, and begins to.
    fn lock_to_remove<'a>(
        &self,
        named: impl Iterator<Item = &'a Named>,
    ) -> Result<Vec<(Turn, VolumeLock)>> {
        let mut volumes = Vec::new();
        for named in named {
            match named {
                Named::Volume(volume) => volumes.push(volume),
                Named::Image(image) => image_in_use(self.store.paths(), &image.name)?,
                Named::Snapshot(_) => {}
            }
        }
        volumes.sort_by_key(|volume| volume.id);
        volumes.into_iter().map(|volume| self.turn_alone(volume)).collect()
    }

    /// Removes those of `deltas` that no name needs any more, and folders of volumes that are gone. A crash on the way
    /// leaves folders that nothing names.
    pub(crate) fn remove_unneeded(
        &self,
        deltas: impl IntoIterator<Item = FrozenDelta>,
    ) -> Result<()> {
        let (paths, listing) = (self.store.paths(), self.list()?);
        let named = deltas_named(&listing);
        let mut homes = HashSet::new();
        for FrozenDelta { delta, home } in deltas {
            if !named.contains(&delta) {
                remove_folder(&paths.delta(home, delta))?;
            }
            homes.insert(home);
        }
        let frozen = listing.volumes.iter().flat_map(|volume| &volume.frozen);
        let kept = listing.snapshots.iter().flat_map(|snapshot| &snapshot.frozen);
        let needed: HashSet<VolumeId> = frozen
            .chain(kept)
            .map(|frozen| frozen.home)
            .chain(listing.volumes.iter().map(|volume| volume.id))
            .collect();
        homes.difference(&needed).try_for_each(|home| remove_folder(&paths.volume(*home)))
    }
}

/// `Busy` if a snapshot of a volume that goes was not to go with it.
fn must_be_expected(
    snapshot: &SnapshotRecord,
    volume: &VolumeRecord,
    names: &[DiskName],
    recursive: bool,
) -> Result<()> {
    let name = DiskName { name: volume.name.clone(), snapshot: Some(snapshot.name.clone()) };
    if recursive || names.contains(&name) || !snapshot.is_shown() {
        return Ok(());
    }
    let message = format!("volume {} has the snapshot {name}", volume.name);
    Err(Error::new(ErrorKind::Busy, message))
}

pub(crate) fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.context(|| format!("cannot remove {}", path.display())),
    }
}
