//! What programs have open: files, and folders with the listing they are in the middle of.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    fs::File,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use fuser::{FileHandle, FileType, INodeNo};
use rustix::{
    fs::Dir,
    io::{Errno, Result},
};

use super::node::{self, Nodes};

/// Open files and folders by handle. Handles are never used twice.
#[derive(Default)]
pub(super) struct Handles {
    next: AtomicU64,
    files: Mutex<HashMap<u64, Arc<File>>>,
    folders: Mutex<HashMap<u64, Arc<Folder>>>,
}

/// An open folder.
pub(super) struct Folder {
    fd: OwnedFd,
    listing: Mutex<Arc<[Listed]>>,
}

/// One line of a listing.
pub(super) struct Listed {
    pub(super) node: INodeNo,
    pub(super) kind: FileType,
    pub(super) name: OsString,
}

impl Handles {
    pub(super) fn add_file(&self, fd: OwnedFd) -> FileHandle {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.files).insert(handle, Arc::new(File::from(fd)));
        FileHandle(handle)
    }

    pub(super) fn add_folder(&self, fd: OwnedFd) -> FileHandle {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        let folder = Folder { fd, listing: Mutex::new(Arc::default()) };
        lock(&self.folders).insert(handle, Arc::new(folder));
        FileHandle(handle)
    }

    pub(super) fn file(&self, handle: FileHandle) -> Result<Arc<File>> {
        lock(&self.files).get(&handle.0).cloned().ok_or(Errno::BADF)
    }

    pub(super) fn folder(&self, handle: FileHandle) -> Result<Arc<Folder>> {
        lock(&self.folders).get(&handle.0).cloned().ok_or(Errno::BADF)
    }

    pub(super) fn close(&self, handle: FileHandle) {
        lock(&self.files).remove(&handle.0);
        lock(&self.folders).remove(&handle.0);
    }
}

impl Folder {
    /// The listing from line `offset` on; line 0 reads the folder anew, as rewinding must.
    pub(super) fn list(&self, nodes: &Nodes, offset: usize) -> Result<Arc<[Listed]>> {
        let mut listing = lock(&self.listing);
        if offset == 0 {
            *listing = Dir::read_from(&self.fd)?
                .map(|entry| {
                    let entry = entry?;
                    let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
                    let kind = node::kind(entry.file_type());
                    Ok(Listed { node: nodes.number(entry.ino()), kind, name })
                })
                .collect::<Result<_>>()?;
        }
        Ok(listing.clone())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
