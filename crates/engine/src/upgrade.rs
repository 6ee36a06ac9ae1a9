//! Bringing a store to the format of this build.

use crate::control::RunFolder;
use silt_store::StorePaths;
use silt_types::{Context as _, Error, ErrorKind, Result};
use std::{fs, path::Path};

/// Brings the store at `path` to the format of this build. Answers the version that it had. `Busy` while it is worked with, or a
/// disk of it is served. A crash, or an error, before the last step leaves a store that the build before can go on with.
pub fn upgrade_store(path: &Path) -> Result<u16> {
    let paths = StorePaths::new(path);
    if !paths.store_file().exists() {
        let message = format!("there is no store at {}", path.display());
        return Err(Error::new(ErrorKind::NotFound, message));
    }
    let run = paths.run();
    for entry in fs::read_dir(&run).context(|| format!("cannot list {}", run.display()))? {
        let folder = entry.context(|| format!("cannot list {}", run.display()))?.path();
        if folder.is_dir() && RunFolder::is_alive(&paths, &folder)? {
            let message = "disks of the store are served: end that first, see `silt ps`";
            return Err(Error::new(ErrorKind::Busy, message));
        }
    }
    silt_store::upgrade_store(path)
}
