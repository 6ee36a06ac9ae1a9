//! The walk: every name beneath the root, with its metadata, by all cores at once.

use super::{beneath::Root, problems::Problems};
use crate::edits::Edits;
use rustix::{
    fd::{AsRawFd as _, OwnedFd},
    fs::{AtFlags, FileType, RawDir, Stat, major, minor, readlinkat, statat},
    io::Errno,
};
use silt_ext4::{EntryId, EntryKind, Hierarchy, Metadata, Timestamp};
use silt_types::{Context as _, Error, Result};
use std::{
    collections::HashMap,
    mem::MaybeUninit,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

/// The kernel's limit on the value of an attribute, and on a list of names (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const XATTR_LEN_MAX: usize = 64 << 10;

/// Bytes of names asked for at a time: as many as the C library asks for.
const LISTING_LEN: usize = 32 << 10;

/// What was found.
pub(crate) struct Walked {
    /// Every entry; files as if they were one hole.
    pub(crate) hierarchy: Hierarchy,
    /// Files that are not empty, by entry.
    pub(crate) files: Vec<FileSeen>,
    /// Their length in bytes, holes not counted.
    pub(crate) bytes: u64,
}

/// A file as the walk saw it, by which a change is noticed when it is read.
pub(crate) struct FileSeen {
    pub(crate) entry: EntryId,
    pub(crate) stamp: Stamp,
}

/// What changes when a file does: device, inode, length, and the times of its content and of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size_bytes: u64,
    mtime_seconds: i64,
    ctime_seconds: i64,
    mtime_nanoseconds: u32,
    ctime_nanoseconds: u32,
}

impl Stamp {
    pub(crate) fn of(stat: &Stat) -> Stamp {
        Stamp {
            device: stat.st_dev,
            inode: stat.st_ino,
            size_bytes: stat.st_size as u64,
            mtime_seconds: stat.st_mtime,
            ctime_seconds: stat.st_ctime,
            mtime_nanoseconds: stat.st_mtime_nsec as u32,
            ctime_nanoseconds: stat.st_ctime_nsec as u32,
        }
    }

    /// Everything in it, as numbers.
    pub(crate) fn numbers(&self) -> [u64; 7] {
        [
            self.device,
            self.inode,
            self.size_bytes,
            self.mtime_seconds as u64,
            self.mtime_nanoseconds.into(),
            self.ctime_seconds as u64,
            self.ctime_nanoseconds.into(),
        ]
    }

    /// Seconds since 1970 and nanoseconds.
    pub(crate) fn ctime(&self) -> (i64, u32) {
        (self.ctime_seconds, self.ctime_nanoseconds)
    }
}

/// An entry of a folder before it has its place in the hierarchy.
struct Found {
    name: Vec<u8>,
    stat: Stat,
    /// Where a symbolic link leads.
    target: Vec<u8>,
    xattrs: Xattrs,
}

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

struct Folder {
    entry: EntryId,
    path: Vec<u8>,
}

struct State {
    walked: Walked,
    /// First name of each inode with several.
    linked: HashMap<(u64, u64), EntryId>,
    to_do: Vec<Folder>,
    busy: usize,
    failed: Option<Error>,
}

struct Walk<'a> {
    root: &'a Root,
    edits: &'a Edits,
    problems: &'a Problems,
    state: Mutex<State>,
    wake: Condvar,
}

/// Walks everything beneath `root`. What cannot be read goes to `problems`.
pub(crate) fn walk(root: &Root, edits: &Edits, problems: &Problems) -> Result<Walked> {
    let dir =
        root.open_dir(b"").map_err(|error| Error::io("cannot open the folder", error.into()))?;
    let stat = rustix::fs::fstat(&dir)
        .map_err(|error| Error::io("cannot look at the folder", error.into()))?;
    let mut hierarchy = Hierarchy::new(metadata(&stat))?;
    match xattrs_of(&dir, b".") {
        Ok(xattrs) => set_xattrs(&mut hierarchy, EntryId::ROOT, &xattrs)?,
        Err(error) => problems.unreadable(b"", "extended attributes", error),
    }
    let state = State {
        walked: Walked { hierarchy, files: Vec::new(), bytes: 0 },
        linked: HashMap::new(),
        to_do: vec![Folder { entry: EntryId::ROOT, path: Vec::new() }],
        busy: 0,
        failed: None,
    };
    let walk = Walk { root, edits, problems, state: Mutex::new(state), wake: Condvar::new() };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(|| walk.work())));
    });
    let state = walk.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = state.failed {
        return Err(error);
    }
    let mut walked = state.walked;
    walked.files.sort_unstable_by_key(|file| file.entry);
    Ok(walked)
}

impl Walk<'_> {
    fn work(&self) {
        while let Some(folder) = self.next() {
            let added = self.read_folder(&folder.path).and_then(|found| self.add(&folder, found));
            let mut state = self.lock();
            state.busy -= 1;
            if let Err(error) = added {
                state.failed.get_or_insert(error);
            }
            self.wake.notify_all();
        }
    }

    /// The next folder to read; waits for one as long as others may still find some.
    fn next(&self) -> Option<Folder> {
        let mut state = self.lock();
        loop {
            if state.failed.is_some() {
                return None;
            }
            if let Some(folder) = state.to_do.pop() {
                state.busy += 1;
                return Some(folder);
            }
            if state.busy == 0 {
                return None;
            }
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_folder(&self, path: &[u8]) -> Result<Vec<Found>> {
        let mut all = Vec::new();
        let listed = self.root.open_dir(path).and_then(|dir| {
            let mut buffer = [MaybeUninit::uninit(); LISTING_LEN];
            let mut items = RawDir::new(&dir, &mut buffer);
            while let Some(item) = items.next() {
                let name = item?.file_name().to_bytes().to_vec();
                if name == b"." || name == b".." {
                    continue;
                }
                if !self.edits.is_empty() && self.is_left_out(&dir, path, &name) {
                    continue;
                }
                match find(&dir, name.clone()) {
                    Ok(found) => all.push(found),
                    Err((what, error)) => self.problems.unreadable(&join(path, &name), what, error),
                }
            }
            Ok(())
        });
        if let Err(error) = listed {
            self.problems.unreadable(path, "folder", error);
        }
        Ok(all)
    }

    /// What is left out need not be readable.
    fn is_left_out(&self, dir: &OwnedFd, folder: &[u8], name: &[u8]) -> bool {
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        let is_folder =
            stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        self.edits.excludes(&join(folder, name), is_folder)
    }

    fn add(&self, folder: &Folder, found: Vec<Found>) -> Result<()> {
        let mut state = self.lock();
        let State { walked, linked, to_do, .. } = &mut *state;
        for Found { name, stat, target, xattrs } in found {
            let kind = kind_of(&stat, &target);
            let (is_file, is_dir) =
                (matches!(kind, EntryKind::File), matches!(kind, EntryKind::Directory));
            let inode = (stat.st_dev, stat.st_ino);
            let has_links = !is_dir && stat.st_nlink > 1;
            if let Some(first) = linked.get(&inode).filter(|_| has_links) {
                walked.hierarchy.link(folder.entry, &name, *first)?;
                continue;
            }
            let entry = walked.hierarchy.add(folder.entry, &name, kind, metadata(&stat))?;
            set_xattrs(&mut walked.hierarchy, entry, &xattrs)?;
            if has_links {
                linked.insert(inode, entry);
            }
            if is_dir {
                to_do.push(Folder { entry, path: join(&folder.path, &name) });
            }
            if is_file && stat.st_size > 0 {
                walked.hierarchy.set_file_content(entry, stat.st_size as u64, &[])?;
                walked.bytes +=
                    (stat.st_size as u64).min((stat.st_blocks as u64).saturating_mul(512).max(1));
                walked.files.push(FileSeen { entry, stamp: Stamp::of(&stat) });
            }
        }
        Ok(())
    }
}

/// Looks at one name of a folder. The error says what could not be read.
fn find(dir: &OwnedFd, name: Vec<u8>) -> Result<Found, (&'static str, Errno)> {
    let stat = statat(dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| ("metadata", error))?;
    let target = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => {
            let target = readlinkat(dir, name.as_slice(), Vec::new());
            target.map_err(|error| ("link", error))?.into_bytes()
        }
        FileType::Unknown => return Err(("kind of file", Errno::INVAL)),
        _ => Vec::new(),
    };
    let xattrs = xattrs_of(dir, &name).map_err(|error| ("extended attributes", error))?;
    Ok(Found { name, stat, target, xattrs })
}

fn kind_of<'a>(stat: &Stat, target: &'a [u8]) -> EntryKind<'a> {
    let (major, minor) = (major(stat.st_rdev), minor(stat.st_rdev));
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink(target),
        FileType::CharacterDevice => EntryKind::CharDevice { major, minor },
        FileType::BlockDevice => EntryKind::BlockDevice { major, minor },
        FileType::Fifo => EntryKind::Fifo,
        FileType::Socket => EntryKind::Socket,
        _ => EntryKind::File,
    }
}

fn metadata(stat: &Stat) -> Metadata {
    Metadata {
        permissions: (stat.st_mode & 0o7777) as u16,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Timestamp { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 },
    }
}

fn set_xattrs(hierarchy: &mut Hierarchy, entry: EntryId, xattrs: &Xattrs) -> Result<()> {
    if xattrs.is_empty() {
        return Ok(());
    }
    let borrowed: Vec<(&[u8], &[u8])> =
        xattrs.iter().map(|(name, value)| (&name[..], &value[..])).collect();
    hierarchy.set_xattrs(entry, &borrowed).context(|| "cannot keep extended attributes".into())
}

/// The attributes of a name of a folder, which is not followed. There is no system call that takes both a directory
/// handle and a name, so the handle is named through `/proc`.
fn xattrs_of(dir: &OwnedFd, name: &[u8]) -> Result<Xattrs, Errno> {
    let path = [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name].concat();
    let mut names = [0; 1024];
    let names = match rustix::fs::llistxattr(path.as_slice(), &mut names) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(len) => names[..len].to_vec(),
        Err(Errno::RANGE) => {
            let mut names = vec![0; XATTR_LEN_MAX];
            let len = rustix::fs::llistxattr(path.as_slice(), &mut names[..])?;
            names.truncate(len);
            names
        }
        Err(error) => return Err(error),
    };
    let mut xattrs = Vec::new();
    let mut value = vec![0; XATTR_LEN_MAX];
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let len = rustix::fs::lgetxattr(path.as_slice(), name, &mut value[..])?;
        xattrs.push((name.to_vec(), value[..len].to_vec()));
    }
    xattrs.sort();
    Ok(xattrs)
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}
