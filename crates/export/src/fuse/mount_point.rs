//! The file or folder that is mounted over: made where there is none, held by one server at a time, and left as found.
//!
//! * Only an empty file or folder is mounted over, so that nothing is hidden.
//! * What a killed server left, a mount that nobody answers for, is taken off first. A living one is `Busy`.
//! * It is locked (flock) for as long as the value lives: two servers that start at once do not cover one another.

use super::{mount::Mounted, mount_table::mounted_at};
use rustix::{
    fs::{self, AtFlags, FlockOperation, Mode, OFlags, StatxFlags},
    io::Errno,
};
use silt_types::{Error, ErrorKind, Result};
use std::{
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// How often the place is tried for, and how long after one another: whoever cleans up behind a killed server has it for a
/// moment, and removes it then.
const TRIES_MAX: u32 = 10;
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// What is mounted over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointKind {
    /// A regular file, which the mounted one takes the place of.
    File,
    /// A folder.
    Folder,
}

impl PointKind {
    fn in_words(self) -> &'static str {
        match self {
            PointKind::File => "a regular file",
            PointKind::Folder => "a folder",
        }
    }
}

/// A place to mount at, taken.
#[derive(Debug)]
pub struct MountPoint {
    /// Absolute, without links.
    pub(super) path: PathBuf,
    pub(super) kind: PointKind,
    /// Whether it is to be removed at the end.
    pub(super) is_made: bool,
    pub(super) lock: OwnedFd,
}

impl MountPoint {
    /// Takes the place at `path`. `AlreadyExists` if something else, or something that is not empty, is there; `Busy` if
    /// something is mounted there or somebody else is about to; `NotFound` if the folder above is missing.
    pub fn take(path: &Path, kind: PointKind) -> Result<MountPoint> {
        let path = resolve(path)?;
        let mut is_made = false;
        for _ in 0..TRIES_MAX {
            is_made |= remove_dead(&path)?;
            if let Some(lock) = lock(&path, kind, &mut is_made)? {
                return Ok(MountPoint { path, kind, is_made, lock });
            }
            thread::sleep(TRY_AGAIN_AFTER);
        }
        Err(busy(&path, "another server is about to"))
    }
}

/// Removes a place that was made, if it is as it was made, and nothing is mounted there; for whoever has it locked.
pub(super) fn remove(path: &Path) -> Result<()> {
    if mounted_at(path)?.is_some() {
        return Ok(());
    }
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => _ = std::fs::remove_dir(path),
        Ok(found) if found.is_file() && found.size() == 0 => _ = std::fs::remove_file(path),
        _ => (),
    }
    Ok(())
}

/// The same for another process than had it locked: what has a new owner by then is left to that.
pub(super) fn remove_unless_taken(path: &Path) -> Result<()> {
    match try_lock(path) {
        Ok(_lock) => remove(path),
        // Gone, taken, or out of reach.
        Err(_) => Ok(()),
    }
}

fn failed(path: &Path, error: impl Into<io::Error>) -> Error {
    Error::io(format!("cannot mount at {}", path.display()), error.into())
}

fn busy(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Busy, format!("cannot mount at {}: {why}", path.display()))
}

fn taken(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("cannot mount at {}: {why}", path.display()))
}

/// The path as the mount table has it. Nothing below a dead mount is touched unless it is a link.
fn resolve(path: &Path) -> Result<PathBuf> {
    let is_link = || path.symlink_metadata().is_ok_and(|found| found.is_symlink());
    let name = path.file_name().filter(|_| !is_link());
    let Some(name) = name else { return path.canonicalize().map_err(|error| failed(path, error)) };
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match folder.canonicalize() {
        Ok(folder) => Ok(folder.join(name)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let message = format!("cannot mount at {}: no such folder", path.display());
            Err(Error::with_source(ErrorKind::NotFound, message, error))
        }
        Err(error) => Err(failed(path, error)),
    }
}

/// Takes off what a killed server left; says whether it had made the place.
fn remove_dead(path: &Path) -> Result<bool> {
    let mut is_made = false;
    while let Some(found) = mounted_at(path)? {
        let mounted = Mounted { path: path.to_owned(), source: found.source };
        if !found.kind.starts_with("fuse") || !mounted.is_ours() || !is_dead(path) {
            return Err(busy(path, "something is mounted there"));
        }
        mounted.detach()?;
        is_made |= mounted.is_made();
    }
    Ok(is_made)
}

/// Asks whoever answers for the mount, not what the kernel remembers of it.
fn is_dead(path: &Path) -> bool {
    let asked = fs::statx(fs::CWD, path, AtFlags::STATX_FORCE_SYNC, StatxFlags::BASIC_STATS);
    matches!(asked, Err(Errno::NOTCONN | Errno::CONNABORTED))
}

/// Makes the place where there is none, and locks it. `None` if somebody else has it, or it has changed under way.
fn lock(path: &Path, kind: PointKind, is_made: &mut bool) -> Result<Option<OwnedFd>> {
    *is_made |= make(path, kind)?;
    let found = match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found.map_err(|error| failed(path, error))?,
    };
    let fits = match kind {
        PointKind::File => found.is_file(),
        PointKind::Folder => found.is_dir(),
    };
    if !fits {
        return Err(taken(path, &format!("what is there is not {}", kind.in_words())));
    }
    let opened = match try_lock(path) {
        Err(Errno::NOENT | Errno::WOULDBLOCK) => return Ok(None),
        opened => opened.map_err(|errno| failed(path, errno))?,
    };
    let locked = fs::fstat(&opened).map_err(|errno| failed(path, errno))?;
    let is_same = (locked.st_dev, locked.st_ino) == (found.dev(), found.ino());
    if !is_same || mounted_at(path)?.is_some() {
        return Ok(None);
    }
    let is_empty = match kind {
        PointKind::File => locked.st_size == 0,
        PointKind::Folder => path.read_dir().map_err(|error| failed(path, error))?.next().is_none(),
    };
    if is_empty { Ok(Some(opened)) } else { Err(taken(path, "what is there is not empty")) }
}

/// Opens a file or folder that is no link, and locks it; `WOULDBLOCK` if somebody else has.
fn try_lock(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = fs::open(path, flags, Mode::empty())?;
    fs::flock(&opened, FlockOperation::NonBlockingLockExclusive)?;
    Ok(opened)
}

/// Makes an empty file or folder, its owner's alone; says whether it did.
fn make(path: &Path, kind: PointKind) -> Result<bool> {
    let made = match kind {
        PointKind::File => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            fs::open(path, flags, Mode::RUSR | Mode::WUSR).map(drop)
        }
        PointKind::Folder => fs::mkdir(path, Mode::RWXU),
    };
    match made {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(failed(path, errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_empty_file_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let kind_of = |name: &str| MountPoint::take(&at(name), PointKind::File).unwrap_err().kind();
        std::fs::write(at("full"), "precious").unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();
        assert_eq!(kind_of("full"), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(at("full")).unwrap(), b"precious");
        assert_eq!(kind_of("folder"), ErrorKind::AlreadyExists);
        assert_eq!(kind_of("missing/file"), ErrorKind::NotFound);
        assert_eq!(kind_of("dangling"), ErrorKind::Io);
        std::fs::write(at("folder/inhabitant"), "").unwrap();
        let error = MountPoint::take(&at("folder"), PointKind::Folder).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_place_is_made_where_there_is_none_and_is_one_servers_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let point = MountPoint::take(&path, PointKind::File).unwrap();
        assert!(point.is_made && path.is_file());
        let error = MountPoint::take(&path, PointKind::File).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        drop(point);
        assert!(!MountPoint::take(&path, PointKind::File).unwrap().is_made);
    }
}
