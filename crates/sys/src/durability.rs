//! Making files durable, in one place: temp + write + fsync + rename + fsync of the folder.
//!
//! Everything made here is private to its owner (files 0600, folders 0700) whatever the umask.

use silt_types::{Context as _, Error, ErrorKind, Result};
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

/// Mode of the files of a store.
pub const FILE_MODE: u32 = 0o600;
/// Mode of the folders of a store.
pub const DIR_MODE: u32 = 0o700;

/// Makes a new file, private whatever the umask, open for reading and writing. `AlreadyExists` if there is one.
/// Durable only after fsync of the file and [`sync_dir`] of its folder.
pub fn create_file(path: &Path) -> Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(path);
    let file = match file {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(Error::with_source(
                ErrorKind::AlreadyExists,
                format!("{} exists", path.display()),
                error,
            ));
        }
        other => other.context(|| format!("cannot make {}", path.display()))?,
    };
    make_private(&file, FILE_MODE).map_err(|error| {
        // Else the next try would find it taken.
        let _ = fs::remove_file(path);
        Error::io(format!("cannot set the mode of {}", path.display()), error)
    })?;
    Ok(file)
}

/// Undoes what an odd umask did. Any other needs no change of the mode, which a confined process could not make.
fn make_private(file: &File, mode: u32) -> io::Result<()> {
    match file.metadata()?.permissions().mode() & 0o7777 {
        found if found == mode => Ok(()),
        _ => file.set_permissions(Permissions::from_mode(mode)),
    }
}

/// Makes a folder, private whatever the umask, unless it is there. True if it was made. Durable only after
/// [`sync_dir`] of its parent.
pub fn create_dir(path: &Path) -> Result<bool> {
    match fs::DirBuilder::new().mode(DIR_MODE).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
            return Ok(false);
        }
        Err(error) => {
            return Err(Error::io(format!("cannot make the folder {}", path.display()), error));
        }
    }
    let opened = match File::open(path) {
        // Not even its owner can open it under some umasks.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            fs::set_permissions(path, Permissions::from_mode(DIR_MODE))
        }
        opened => opened.and_then(|folder| make_private(&folder, DIR_MODE)),
    };
    opened.context(|| format!("cannot set the mode of {}", path.display()))?;
    Ok(true)
}

/// Whether nothing can be written here since the file system is read-only.
pub fn is_on_read_only(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK) == Err(rustix::io::Errno::ROFS)
}

/// Makes the names in a folder durable. Costs one fsync.
pub fn sync_dir(path: &Path) -> Result<()> {
    let dir = File::open(path).context(|| format!("cannot open the folder {}", path.display()))?;
    dir.sync_all().context(|| format!("cannot sync the folder {}", path.display()))
}

/// Puts a whole small file in place of what is at `path`, if anything, durably: after a crash there is either the old
/// file or the new one. Costs two fsyncs.
pub fn replace_file(path: &Path, content: &[u8]) -> Result<()> {
    let (dir, temp) = temp_beside(path)?;
    let written = (|| {
        let mut file = create_file(&temp)?;
        file.write_all(content).context(|| format!("cannot write {}", temp.display()))?;
        file.sync_all().context(|| format!("cannot sync {}", temp.display()))?;
        fs::rename(&temp, path).context(|| format!("cannot rename {} into place", temp.display()))
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temp);
    }
    written?;
    sync_dir(dir)
}

/// Reads a whole small file of at most `len_max` bytes. `Corrupt` if it is longer.
pub fn read_file(path: &Path, len_max: u64) -> Result<Vec<u8>> {
    let file = File::open(path).context(|| format!("cannot open {}", path.display()))?;
    let mut content = Vec::new();
    let read = file.take(len_max + 1).read_to_end(&mut content);
    let len = read.context(|| format!("cannot read {}", path.display()))?;
    if len as u64 > len_max {
        return Err(Error::corrupt(format!("{} is longer than {len_max} bytes", path.display())));
    }
    Ok(content)
}

fn temp_beside(path: &Path) -> Result<(&Path, std::path::PathBuf)> {
    let split = path.parent().zip(path.file_name());
    let (dir, name) =
        split.ok_or_else(|| Error::invalid(format!("{} has no folder", path.display())))?;
    let mut temp = std::ffi::OsString::from(".");
    temp.push(name);
    temp.push(format!(".{:016x}.tmp", u64::from_le_bytes(random_bytes()?)));
    Ok((dir, dir.join(temp)))
}

/// Random bytes of the operating system, for names that must be unlike all others.
pub fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    match got {
        Ok(len) if len == N => Ok(bytes),
        Ok(_) => Err(Error::new(ErrorKind::Io, "the system gave too few random bytes")),
        Err(error) => Err(Error::io("the system gave no random bytes", error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_private_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        replace_file(&path, b"one").unwrap();
        replace_file(&path, b"two").unwrap();
        assert_eq!(read_file(&path, 3).unwrap(), b"two");
        assert_eq!(read_file(&path, 2).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, FILE_MODE);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
        assert!(create_dir(&dir.path().join("d")).unwrap());
        assert!(!create_dir(&dir.path().join("d")).unwrap());
    }
}
