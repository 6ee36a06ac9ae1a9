//! Opening what lies beneath a folder, and nothing else.

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2},
    io::Errno,
};
use silt_types::{Error, Result};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// Paths are opened in pieces shorter than `PATH_MAX`, so that any depth can be reached.
const PIECE_LEN_MAX: usize = 3072;

/// The folder that everything is opened beneath.
pub(crate) struct Root {
    fd: OwnedFd,
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Root {
    /// Opens the folder. It may be named through symbolic links; what lies in it may not.
    pub(crate) fn open(dir: &Path) -> Result<Root> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        match openat(CWD, dir, flags, Mode::empty()) {
            Ok(fd) => Ok(Root { fd }),
            Err(Errno::NOTDIR) => Err(Error::invalid(format!("{} is not a folder", dir.display()))),
            Err(error) => Err(Error::io(format!("cannot open {}", dir.display()), error.into())),
        }
    }

    /// Opens the folder at `path` beneath the root; the root itself for an empty path.
    pub(crate) fn open_dir(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.open_beneath(path, OFlags::DIRECTORY | OFlags::RDONLY)
    }

    /// Opens the regular file at `path` for reading. A pipe put in its place meanwhile does not block.
    pub(crate) fn open_file(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        // Reading should not change what is read; only the owner may ask for that.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        match self.open_beneath(path, flags | OFlags::NOATIME) {
            Err(Errno::PERM) => self.open_beneath(path, flags),
            other => other,
        }
    }

    fn open_beneath(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let open = |dir: &OwnedFd, path: &[u8], flags| {
            let resolve =
                ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            let path = if path.is_empty() { b"." } else { path };
            openat2(dir.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
        };
        let (mut rest, mut dir) = (path, None);
        while rest.len() > PIECE_LEN_MAX {
            // A name has at most 255 bytes, so there is a slash.
            let cut = rest[..PIECE_LEN_MAX]
                .iter()
                .rposition(|byte| *byte == b'/')
                .ok_or(Errno::NAMETOOLONG)?;
            dir = Some(open(
                dir.as_ref().unwrap_or(&self.fd),
                &rest[..cut],
                OFlags::DIRECTORY | OFlags::PATH,
            )?);
            rest = &rest[cut + 1..];
        }
        open(dir.as_ref().unwrap_or(&self.fd), rest, flags)
    }
}
