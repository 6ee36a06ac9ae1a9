//! Quarantine: the folder of a store that damaged files are moved to when something takes their place. Nothing here reads or
//! removes what is in it; that is for people.

use crate::paths::StorePaths;
use silt_sys::durability;
use silt_types::{Context as _, Error, Result};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// As many files of one name as anybody will ever repair.
const SAME_NAME_MAX: u32 = 10_000;

/// Moves a file or folder of the store aside, durably. Answers where it is now; `None` if there was none. Costs two fsyncs.
pub fn quarantine(paths: &StorePaths, path: &Path) -> Result<Option<PathBuf>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.context(|| format!("cannot look at {}", path.display()))?,
    };
    let folder = paths.quarantine();
    durability::create_dir(&folder)?;
    let to = free_name(paths, path)?;
    fs::rename(path, &to).context(|| format!("cannot move {} aside", path.display()))?;
    durability::sync_dir(&folder)?;
    path.parent().map_or(Ok(()), durability::sync_dir)?;
    Ok(Some(to))
}

/// The path within the store as one name, and a number where there is such a file already.
fn free_name(paths: &StorePaths, path: &Path) -> Result<PathBuf> {
    let within = path.strip_prefix(paths.root()).unwrap_or(path);
    let words: Vec<_> = within.iter().map(|word| word.to_string_lossy()).collect();
    let name = words.join("-");
    let names = (2..SAME_NAME_MAX).map(|number| format!("{name}.{number}"));
    let names = std::iter::once(name.clone()).chain(names);
    let mut free = names.map(|name| paths.quarantine().join(name));
    let free = free.find(|to| fs::symlink_metadata(to).is_err());
    free.ok_or_else(|| Error::invalid(format!("there is no free name for {name} in quarantine")))
}
