//! A volume's folder: its header, and the lock of whoever writes it.

use rustix::{fs::FlockOperation, io::Errno};
use silt_format::VolumeHeader;
use silt_sys::durability;
use silt_types::{Context as _, Error, ErrorKind, Result};
use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _},
    os::unix::fs::FileExt as _,
    path::Path,
    thread,
    time::Duration,
};

const HEADER_NAME: &str = "header";
const LOCK_NAME: &str = "lock";

/// Puts a volume's header into its folder, in place of the old one if there is one, durably: after a crash there is either
/// the old or the new. Costs two fsyncs.
pub fn write_volume_header(dir: &Path, header: &VolumeHeader) -> Result<()> {
    durability::replace_file(&dir.join(HEADER_NAME), &header.encode())
}

/// Reads a volume's header. `NotFound` if there is none, `Corrupt`, naming the file, if it is damaged.
pub fn read_volume_header(dir: &Path) -> Result<VolumeHeader> {
    let path = dir.join(HEADER_NAME);
    // Asked for afterwards: it may go, with its folder, at any moment.
    let read = durability::read_file(&path, VolumeHeader::LEN_MAX as u64);
    let is_gone =
        || std::fs::symlink_metadata(&path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
    if read.is_err() && is_gone() {
        return Err(Error::new(ErrorKind::NotFound, format!("there is no {}", path.display())));
    }
    let bytes = read?;
    VolumeHeader::decode(&bytes).context(|| format!("cannot use {}", path.display()))
}

/// How often, and how far apart, a lock is asked for before it counts as busy: whoever looks whether a volume is in use
/// holds it for a moment too.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The longest note of a holder, in bytes.
const NOTE_LEN_MAX: u64 = 4096;

/// The right to a volume, on this machine: to write it, held by one alone, or to read it while nobody writes. Ends with
/// the process at the latest.
#[derive(Debug)]
pub struct VolumeLock {
    file: File,
}

impl VolumeLock {
    /// Takes the right to write the volume in `dir`. `Busy`, naming who has it, if another holds any right.
    pub fn acquire(dir: &Path) -> Result<VolumeLock> {
        VolumeLock::take(dir, FlockOperation::NonBlockingLockExclusive)
    }

    /// Takes the right to read the volume in `dir`, which others may have too. `Busy`, naming who has it, if another may
    /// write.
    pub fn share(dir: &Path) -> Result<VolumeLock> {
        VolumeLock::take(dir, FlockOperation::NonBlockingLockShared)
    }

    /// The note of whoever may write the volume in `dir`; `None` if nobody may.
    pub fn holder(dir: &Path) -> Result<Option<String>> {
        match OpenOptions::new().read(true).open(dir.join(LOCK_NAME)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => {
                let file =
                    other.context(|| format!("cannot open the lock in {}", dir.display()))?;
                match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
                    Err(Errno::WOULDBLOCK) => Ok(Some(read_note(&file))),
                    _ => Ok(None),
                }
            }
        }
    }

    /// Says to others who holds the right. For people; nothing relies on it.
    pub fn note(&self, text: &str) -> Result<()> {
        let write = || {
            self.file.set_len(0)?;
            self.file.write_all_at(text.as_bytes(), 0)
        };
        write().context(|| "cannot write into the lock of a volume".into())
    }

    fn take(dir: &Path, operation: FlockOperation) -> Result<VolumeLock> {
        let path = dir.join(LOCK_NAME);
        let file = match durability::create_file(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let write = !durability::is_on_read_only(&path);
                let open = OpenOptions::new().read(true).write(write).open(&path);
                open.context(|| format!("cannot open {}", path.display()))?
            }
            other => other?,
        };
        for attempt in 1.. {
            match rustix::fs::flock(&file, operation) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if attempt < LOCK_TRIES => thread::sleep(LOCK_PAUSE),
                Err(Errno::WOULDBLOCK) => {
                    let message = format!(
                        "the volume in {} is served or in use by {}",
                        dir.display(),
                        read_note(&file)
                    );
                    return Err(Error::new(ErrorKind::Busy, message));
                }
                Err(error) => {
                    return Err(Error::io(format!("cannot lock {}", path.display()), error.into()));
                }
            }
        }
        Ok(VolumeLock { file })
    }
}

/// What the holder said of itself, printable whatever is in the file.
fn read_note(file: &File) -> String {
    let mut bytes = Vec::new();
    let mut start = file;
    let read = start.rewind().and_then(|()| start.take(NOTE_LEN_MAX).read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes);
    let printable: String = text.chars().filter(|c| !c.is_control()).collect();
    match read {
        Ok(_) if !printable.is_empty() => printable,
        _ => "another process".to_owned(),
    }
}
