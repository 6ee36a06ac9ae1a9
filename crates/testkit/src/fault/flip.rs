//! Damage for tests of detection: one bit of one file, and the list of files to damage.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use silt_types::{Error, Result};

/// Turns one bit of a file over, in place: a second call undoes the first. `offset` is in bytes, `bit` 0 to 7.
/// Not synced.
///
/// # Errors
/// `Invalid` where there is no such byte or bit, otherwise what the operating system refuses, with the path.
pub fn flip_bit(path: &Path, offset: u64, bit: u8) -> Result<()> {
    let failed =
        |error| Error::io(format!("flip bit {bit} at {offset} of {}", path.display()), error);
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    if offset >= length || bit > 7 {
        let what = format!("bit {bit} at {offset} of {}, {length} bytes long", path.display());
        return Err(Error::invalid(what));
    }
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).map_err(failed)?;
    file.write_all_at(&[byte[0] ^ (1 << bit)], offset).map_err(failed)
}

/// Every regular file below `store`, sorted by path. Links are not followed.
///
/// # Errors
/// What the operating system refuses, with the path.
pub fn every_file_of(store: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![store.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let failed = |error| Error::io(format!("list {}", folder.display()), error);
        let entries = match fs::read_dir(&folder) {
            // It went meanwhile, as the folders of servers do.
            Err(error) if error.kind() == io::ErrorKind::NotFound && folder != store => continue,
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use silt_types::ErrorKind;

    use super::*;

    #[test]
    fn a_bit_flipped_twice_is_as_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/file");
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(&path, [0, 0x10]).unwrap();
        assert_eq!(every_file_of(dir.path()).unwrap(), std::slice::from_ref(&path));
        flip_bit(&path, 1, 7).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [0, 0x90]);
        flip_bit(&path, 1, 7).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [0, 0x10]);
        for (offset, bit) in [(2, 0), (0, 8)] {
            assert_eq!(flip_bit(&path, offset, bit).unwrap_err().kind(), ErrorKind::Invalid);
        }
    }
}
