//! Bringing a store to the format of this build.

use crate::servers::refuse_served;
use silt_store::StorePaths;
use silt_types::{Error, ErrorKind, Result};
use std::path::Path;

/// Brings the store at `path` to the format of this build. Answers the version that it had. `Busy` while it is worked with, or a
/// disk of it is served. A crash, or an error, before the last step leaves a store that the build before can go on with.
pub fn upgrade_store(path: &Path) -> Result<u16> {
    let paths = StorePaths::new(path);
    if !paths.store_file().exists() {
        let message = format!("there is no store at {}", path.display());
        return Err(Error::new(ErrorKind::NotFound, message));
    }
    refuse_served(&paths)?;
    silt_store::upgrade_store(path)
}
