//! Removing names.

use crate::engine::Engine;
use silt_store::{Named, VolumeRecord};
use silt_types::{Context as _, Name, Result};
use std::{collections::HashSet, fs, path::Path};

impl Engine {
    /// Removes an image or a volume. Nobody else is harmed: volumes keep their base, clones what they share. `Busy` if
    /// the volume is served. The space of a volume's own delta is free at once; chunks are left to collection.
    pub fn remove(&self, name: &Name) -> Result<Named> {
        let named = self.find(name)?;
        let Named::Volume(volume) = &named else {
            self.store.remove(name, &named)?;
            return Ok(named);
        };
        let _lock = self.lock_if_made(volume)?;
        self.store.remove(name, &named)?;
        self.remove_deltas_of(volume)?;
        Ok(named)
    }

    /// Removes the deltas that only `gone` needed. A crash on the way leaves folders that nothing names.
    fn remove_deltas_of(&self, gone: &VolumeRecord) -> Result<()> {
        let paths = self.store.paths();
        let (_, volumes) = self.list()?;
        let needed: HashSet<_> =
            volumes.iter().flat_map(|volume| &volume.frozen).map(|f| f.delta).collect();
        let homes_needed: HashSet<_> = volumes
            .iter()
            .flat_map(|volume| volume.frozen.iter().map(|f| f.home).chain([volume.id]))
            .collect();
        remove_folder(&paths.delta(gone.id, gone.own))?;
        for frozen in gone.frozen.iter().filter(|frozen| !needed.contains(&frozen.delta)) {
            remove_folder(&paths.delta(frozen.home, frozen.delta))?;
        }
        let homes: HashSet<_> =
            gone.frozen.iter().map(|frozen| frozen.home).chain([gone.id]).collect();
        homes.difference(&homes_needed).try_for_each(|home| remove_folder(&paths.volume(*home)))
    }
}

fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.context(|| format!("cannot remove {}", path.display())),
    }
}
