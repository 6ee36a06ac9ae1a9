//! A volume's folder: its header, and the lock of whoever writes it.

use rustix::{fs::FlockOperation, io::Errno};
use silt_format::VolumeHeader;
use silt_sys::durability;
use silt_types::{Context as _, Error, ErrorKind, Result};
use std::{
    fs::{File, OpenOptions},
    io,
    path::Path,
};

const HEADER_NAME: &str = "header";
const LOCK_NAME: &str = "lock";

/// Puts a volume's header into its folder, in place of the old one if there is one, durably: after a crash there is either
/// the old or the new. Costs two fsyncs.
pub fn write_volume_header(dir: &Path, header: &VolumeHeader) -> Result<()> {
    durability::replace_file(&dir.join(HEADER_NAME), &header.encode())
}

/// Reads a volume's header. `Corrupt`, naming the file, if it is damaged.
pub fn read_volume_header(dir: &Path) -> Result<VolumeHeader> {
    let path = dir.join(HEADER_NAME);
    let bytes = durability::read_file(&path, VolumeHeader::LEN_MAX as u64)?;
    VolumeHeader::decode(&bytes).context(|| format!("cannot use {}", path.display()))
}

/// The right to write a volume. Held by one at a time, on this machine; ends with the process at the latest.
pub struct VolumeLock {
    _file: File,
}

impl VolumeLock {
    /// Takes the lock of the volume in `dir`. `Busy`, naming the folder, if another holds it; never waits.
    pub fn acquire(dir: &Path) -> Result<VolumeLock> {
        let path = dir.join(LOCK_NAME);
        let file = match durability::create_file(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                open_lock(&path).context(|| format!("cannot open {}", path.display()))?
            }
            other => other?,
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(VolumeLock { _file: file }),
            Err(Errno::WOULDBLOCK) => Err(Error::new(
                ErrorKind::Busy,
                format!("the volume in {} is served or in use", dir.display()),
            )),
            Err(error) => Err(Error::io(format!("cannot lock {}", path.display()), error.into())),
        }
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}
