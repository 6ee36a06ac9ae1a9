//! The files the kernel knows, each held by a descriptor that only names it (`O_PATH`).
//!
//! A node's number is the backing inode number; the descriptor keeps that number from being given away until
//! the kernel forgets the node, so a file that was unlinked while open stays itself.

use std::{
    collections::{HashMap, hash_map::Entry},
    ffi::OsStr,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use fuser::{FileAttr, FileType, INodeNo};
use rustix::{
    fs::{Mode, OFlags, Stat},
    io::{Errno, Result},
};

/// Opens a name without touching what it stands for.
const NAME_ONLY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Every node the kernel holds.
pub(super) struct Nodes {
    device: u64,
    root_inode: u64,
    known: Mutex<HashMap<u64, Node>>,
}

struct Node {
    fd: Arc<OwnedFd>,
    lookups: u64,
}

impl Nodes {
    /// `root` is the backing folder, opened.
    pub(super) fn new(root: OwnedFd) -> Result<Nodes> {
        let stat = rustix::fs::fstat(&root)?;
        let node = Node { fd: Arc::new(root), lookups: 1 };
        let known = Mutex::new(HashMap::from([(INodeNo::ROOT.0, node)]));
        Ok(Nodes { device: stat.st_dev, root_inode: stat.st_ino, known })
    }

    /// The descriptor of a node.
    pub(super) fn fd(&self, node: INodeNo) -> Result<Arc<OwnedFd>> {
        self.lock().get(&node.0).map(|node| node.fd.clone()).ok_or(Errno::STALE)
    }

    /// Opens what a node stands for.
    pub(super) fn open(&self, node: INodeNo, flags: OFlags) -> Result<OwnedFd> {
        rustix::fs::open(self_path(&*self.fd(node)?), flags | OFlags::CLOEXEC, Mode::empty())
    }

    /// Finds a name and counts one more lookup of its node.
    pub(super) fn look_up(&self, dir: INodeNo, name: &OsStr) -> Result<FileAttr> {
        let fd = rustix::fs::openat(&*self.fd(dir)?, name, NAME_ONLY, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        if stat.st_dev != self.device {
            return Err(Errno::XDEV);
        }
        let attr = self.attr_of(&stat);
        match self.lock().entry(attr.ino.0) {
            Entry::Occupied(mut entry) => entry.get_mut().lookups += 1,
            Entry::Vacant(entry) => {
                entry.insert(Node { fd: Arc::new(fd), lookups: 1 });
            }
        }
        Ok(attr)
    }

    /// The kernel dropped so many lookups.
    pub(super) fn forget(&self, node: INodeNo, lookups: u64) {
        if let Entry::Occupied(mut entry) = self.lock().entry(node.0) {
            entry.get_mut().lookups = entry.get().lookups.saturating_sub(lookups);
            if entry.get().lookups == 0 && node != INodeNo::ROOT {
                entry.remove();
            }
        }
    }

    pub(super) fn attr(&self, node: INodeNo) -> Result<FileAttr> {
        Ok(self.attr_of(&rustix::fs::fstat(&*self.fd(node)?)?))
    }

    /// The number by which the kernel knows a backing inode.
    pub(super) fn number(&self, inode: u64) -> INodeNo {
        INodeNo(if inode == self.root_inode { INodeNo::ROOT.0 } else { inode })
    }

    fn attr_of(&self, stat: &Stat) -> FileAttr {
        FileAttr {
            ino: self.number(stat.st_ino),
            size: stat.st_size.cast_unsigned(),
            blocks: stat.st_blocks.cast_unsigned(),
            atime: time(stat.st_atime, stat.st_atime_nsec as i64),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec as i64),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec as i64),
            crtime: SystemTime::UNIX_EPOCH,
            kind: kind(rustix::fs::FileType::from_raw_mode(stat.st_mode)),
            perm: (stat.st_mode & 0o7777) as u16,
            nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: u32::try_from(stat.st_rdev).unwrap_or(0),
            blksize: 4096,
            flags: 0,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Node>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A path that means an open descriptor, for calls that take no `O_PATH` descriptor.
pub(super) fn self_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// The kind as the protocol says it; what the backing folder does not tell is called a file.
pub(super) fn kind(kind: rustix::fs::FileType) -> FileType {
    use rustix::fs::FileType as Backing;
    match kind {
        Backing::Directory => FileType::Directory,
        Backing::Symlink => FileType::Symlink,
        Backing::Fifo => FileType::NamedPipe,
        Backing::Socket => FileType::Socket,
        Backing::CharacterDevice => FileType::CharDevice,
        Backing::BlockDevice => FileType::BlockDevice,
        Backing::RegularFile | Backing::Unknown => FileType::RegularFile,
    }
}

/// Nanoseconds count forwards from the second, before 1970 too.
fn time(seconds: i64, nanoseconds: i64) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let second = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    };
    let part = Duration::from_nanos(nanoseconds.unsigned_abs());
    second.and_then(|second| second.checked_add(part)).unwrap_or(SystemTime::UNIX_EPOCH)
}
