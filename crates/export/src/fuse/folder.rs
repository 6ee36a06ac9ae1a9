//! A folder of disks that never change, as read-only files: the kernel's requests, each handed to what answers it.
//!
//! Live: names are asked for each time. A file's bytes never change, so the kernel may keep what it has read for as long
//! as it likes, also from one open to the next; another disk under the same name is another inode.

use super::{
    attributes::{Attributes, time_of},
    disk::{Disk, errno_of},
    mount::Access,
    nodes::{FOLDER, Nodes},
    session::negotiate,
    workers::Workers,
};
use fuser::{
    Errno, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, Request,
};
use silt_types::Result;
use silt_volume::{BlockDevice, Geometry};
use std::{
    collections::HashMap,
    ffi::OsStr,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How long the kernel may take a name for what it was: names come and go behind its back.
const BELIEVE_NAMES: Duration = Duration::ZERO;
/// How long it may believe what an inode is like: for as long as it knows it.
const BELIEVE_ATTRIBUTES: Duration = Duration::from_secs(3600);

/// A disk that never changes, under its name.
#[derive(Clone, Debug)]
pub struct DiskEntry {
    /// Its name, without `/`.
    pub name: String,
    /// Says which disk it is: another one under the same name has another number, the same one always the same.
    pub identity: u64,
    /// Length in bytes.
    pub size_bytes: u64,
    /// When it was made, in nanoseconds since 1970.
    pub created_ns: i64,
}

impl DiskEntry {
    /// Whether both are one disk under one name.
    pub fn is_same(&self, other: &DiskEntry) -> bool {
        self.identity == other.identity && self.name == other.name
    }
}

/// Where a folder's disks come from. Called from many threads.
pub trait DiskFolder: Send + Sync {
    /// Every disk there is now.
    fn list(&self) -> Result<Vec<DiskEntry>>;

    /// The disk of this name, if there is one.
    fn find(&self, name: &str) -> Result<Option<DiskEntry>>;

    /// Opens a disk that was listed or found. `NotFound` if it is there no more.
    fn open(&self, entry: &DiskEntry) -> Result<Arc<dyn BlockDevice>>;
}

/// The folder, mounted.
pub(super) struct Folder {
    disks: Arc<dyn DiskFolder>,
    nodes: Nodes,
    attributes: Attributes,
    listings: Mutex<Listings>,
    workers: Workers,
}

/// What readers of the folder see, each what was there when it opened it.
#[derive(Default)]
struct Listings {
    open: HashMap<u64, Arc<Vec<DiskEntry>>>,
    next: u64,
}

impl Folder {
    pub(super) fn new(disks: Arc<dyn DiskFolder>, access: Access, workers: Workers) -> Folder {
        let mut attributes = Attributes::of_own(access).read_only();
        attributes.mode |= (attributes.mode & 0o444) >> 2; // Who may look at it may go in.
        let (nodes, listings) = (Nodes::default(), Mutex::default());
        Folder { disks, nodes, attributes, listings, workers }
    }

    fn listings(&self) -> MutexGuard<'_, Listings> {
        self.listings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attributes_of(&self, node: INodeNo, entry: &DiskEntry) -> fuser::FileAttr {
        let geometry = Geometry { size_bytes: entry.size_bytes, read_only: true };
        let attributes =
            Attributes { time: time_of(entry.created_ns), ..self.attributes.read_only() };
        attributes.disk(node, geometry)
    }

    fn find(&self, name: &OsStr) -> Result<DiskEntry, Errno> {
        let found = name.to_str().map(|name| self.disks.find(name));
        let found = found.unwrap_or(Ok(None)).map_err(|error| errno_of(&error))?;
        found.ok_or(Errno::ENOENT)
    }

    /// The disk behind an inode, opened by the first who opens the file.
    fn open_disk(&self, node: INodeNo) -> Result<(), Errno> {
        self.nodes.open(node, |entry| {
            let device = self.disks.open(entry).map_err(|error| errno_of(&error))?;
            Ok(Disk::new(device, self.workers.clone()))
        })
    }

    fn list(&self, handle: FileHandle, offset: u64, reply: &mut ReplyDirectory) {
        let Some(listing) = self.listings().open.get(&handle.0).cloned() else { return };
        let dots = [".", ".."].map(|name| (FOLDER, FileType::Directory, name));
        let disks = listing.iter().map(|disk| {
            let node = INodeNo(self.nodes.number_of(disk));
            (node, FileType::RegularFile, disk.name.as_str())
        });
        let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
        for (line, (node, kind, name)) in dots.into_iter().chain(disks).enumerate().skip(skipped) {
            if reply.add(node, line as u64 + 1, kind, name) {
                break;
            }
        }
    }
}

impl Filesystem for Folder {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(config);
        // An old kernel goes without.
        let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = if parent == FOLDER { self.find(name) } else { Err(Errno::ENOTDIR) };
        match found {
            Ok(entry) => {
                let node = self.nodes.remember(&entry);
                let attributes = self.attributes_of(node, &entry);
                let (attribute_ttl, name_ttl) = (&BELIEVE_ATTRIBUTES, &BELIEVE_NAMES);
                reply.entry_with_ttls(attribute_ttl, name_ttl, &attributes, Generation(0));
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn forget(&self, _: &Request, node: INodeNo, lookups: u64) {
        self.nodes.forget(node, lookups);
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        if node == FOLDER {
            return reply.attr(&BELIEVE_ATTRIBUTES, &self.attributes.folder(FOLDER));
        }
        match self.nodes.entry(node) {
            Some(entry) => reply.attr(&BELIEVE_ATTRIBUTES, &self.attributes_of(node, &entry)),
            None => reply.error(Errno::ESTALE),
        }
    }

    fn open(&self, _: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        match self.open_disk(node) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        len: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.nodes.disk(node) {
            Some(disk) => disk.read(offset, len, reply),
            None => reply.error(Errno::EBADF),
        }
    }

    fn lseek(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        match self.nodes.disk(node) {
            Some(disk) => disk.seek(offset, whence, reply),
            None => reply.error(Errno::EBADF),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.nodes.close(node);
        reply.ok();
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.disks.list() {
            Ok(listing) => {
                let mut listings = self.listings();
                let handle = listings.next;
                listings.next += 1;
                listings.open.insert(handle, Arc::new(listing));
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(error) => reply.error(errno_of(&error)),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.list(handle, offset, &mut reply);
        reply.ok();
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.listings().open.remove(&handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let block = silt_types::BLOCK_SIZE_BYTES as u32;
        reply.statfs(0, 0, 0, 0, 0, block, 255, block);
    }
}
