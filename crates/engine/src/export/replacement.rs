//! A file that takes the place of another once it is whole.

use silt_sys::durability::random_bytes;
use silt_types::{Context as _, Error, Result};
use std::{
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
};

/// A new file beside the one that it is to replace, under a name of its own; removed when dropped.
pub(super) struct Replacement {
    temp: PathBuf,
    target: PathBuf,
    in_place: bool,
}

/// Whether `path` is something that cannot be replaced, but written to: a device, a pipe, a folder.
pub(crate) fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|there| !there.is_file())
}

impl Replacement {
    /// Makes the file, empty, to read and write. Where `path` is a link, it stays, and what it leads to is replaced.
    pub(super) fn create(path: &Path) -> Result<(Replacement, File)> {
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let temp = temp_beside(&target)?;
        let failed = || format!("cannot make {}", temp.display());
        let file = File::options().read(true).write(true).create_new(true).open(&temp);
        let file = file.context(failed)?;
        Ok((Replacement { temp, target, in_place: false }, file))
    }

    /// Takes what is to be replaced away, if there is anything, before this file is in its place.
    pub(super) fn remove_old(&self) -> Result<()> {
        match fs::remove_file(&self.target) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("cannot replace {}", self.target.display()), error))
            }
            _ => Ok(()),
        }
    }

    /// Gives the file its name.
    pub(super) fn put_in_place(mut self) -> Result<()> {
        let failed = || format!("cannot rename {} into place", self.temp.display());
        fs::rename(&self.temp, &self.target).context(failed)?;
        self.in_place = true;
        Ok(())
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.in_place {
            // The error that led here is told; there is nothing to do about another one.
            let _ = fs::remove_file(&self.temp);
        }
    }
}

fn temp_beside(path: &Path) -> Result<PathBuf> {
    let name = path.file_name();
    let name = name
        .ok_or_else(|| Error::invalid(format!("{} is not the name of a file", path.display())))?;
    let mut temp = OsString::from(".");
    temp.push(name);
    temp.push(format!(".{:08x}.tmp", u32::from_le_bytes(random_bytes()?)));
    Ok(path.with_file_name(temp))
}
