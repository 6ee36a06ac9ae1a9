//! One writer for each delta: a lock on its folder, released by the kernel at the latest when the process ends.

use rustix::{fs::FlockOperation, io::Errno};
use silt_types::{Context as _, Error, ErrorKind, Result};
use std::{fs::File, path::Path, thread, time::Duration};

/// How often, and how far apart, the lock is asked for before it counts as taken. A child that another thread is just
/// starting has the last holder's descriptor for a moment too. (Unlocking on drop would end that, but also let a forked
/// process end its parent's right.)
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(20);

/// The right to write a delta, held until it is dropped.
pub(super) struct FolderLock {
    _dir: File,
}

impl FolderLock {
    /// Takes the right; `Busy`, naming the folder, if another has it for long.
    pub(super) fn acquire(dir: &Path) -> Result<FolderLock> {
        let name = dir.display();
        let file = File::open(dir).context(|| format!("cannot open the delta {name}"))?;
        for attempt in 1.. {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if attempt < TRIES => thread::sleep(PAUSE),
                Err(Errno::WOULDBLOCK) => {
                    return Err(Error::new(ErrorKind::Busy, format!("the delta {name} is in use")));
                }
                Err(error) => return Err(Error::io(format!("cannot lock {name}"), error.into())),
            }
        }
        Ok(FolderLock { _dir: file })
    }
}
