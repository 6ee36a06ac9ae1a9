//! A file hierarchy in memory: what is to be written, or what was read.
//!
//! Made for a million entries: names and link targets share one buffer, attribute sets are kept once, ids are 32 bits;
//! about 100 bytes and the name per entry. Every limit of ext4 on a single entry is checked when the entry is
//! declared, so whoever holds a `Hierarchy` can write it; only what depends on the disk is left to the planner.
//!
//! Ids belong to the hierarchy that gave them; another's are a mistake of the program, and may panic.
//!
//! Content is not here: of a file the hierarchy knows the size and which 4 KiB blocks are not holes.
//!
//! Look next at [`mod@crate::writer`].

mod names;
mod walk;

use crate::format::{
    directory::NAME_LEN_MAX,
    inode::{SECONDS_MAX, SECONDS_MIN, encode_device},
    xattr::split_name,
};
use names::NameTable;
use silt_types::{BLOCK_SIZE_BYTES, BlockRange, Error, Result};
use std::collections::HashMap;
pub use walk::{Child, Visit, Walk};
pub(crate) use walk::{mix, name_hash};

/// The largest file: ext4 counts logical blocks of 4 KiB with 32 bits and keeps one number for itself.
pub const FILE_SIZE_BYTES_MAX: u64 = (u32::MAX as u64) * BLOCK_SIZE_BYTES;

/// The most names of one file: ext4's `EXT4_LINK_MAX`.
pub const LINKS_MAX: u32 = 65_000;

/// The longest target of a symbolic link in bytes: one block with its final zero, which is also `PATH_MAX`.
pub const SYMLINK_LEN_MAX: usize = 4095;

/// One file, directory, link, device, FIFO or socket of a [`Hierarchy`]. With several names (hard links) still one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId(pub(crate) u32);

impl EntryId {
    /// The root directory.
    pub const ROOT: EntryId = EntryId(0);

    /// A dense number: entries are counted from 0 in the order in which they were added.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A point in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds since 1970; ext4 holds the years 1901 to 2446.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// What every entry has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The permission bits with setuid, setgid and sticky: at most 0o7777.
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Timestamp,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind<'a> {
    /// A directory.
    Directory,
    /// A regular file; empty until [`Hierarchy::set_file_content`].
    File,
    /// A symbolic link with its target: 1 to 4095 bytes without zero.
    Symlink(&'a [u8]),
    /// A character device.
    CharDevice {
        /// At most 12 bits.
        major: u32,
        /// At most 20 bits.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// At most 12 bits.
        major: u32,
        /// At most 20 bits.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Xattr {
    /// The full name, as `listxattr(2)` gives it.
    pub name: Box<[u8]>,
    /// The value, as `getxattr(2)` gives it.
    pub value: Box<[u8]>,
}

/// A file hierarchy. See the [module](self).
pub struct Hierarchy {
    entries: Vec<Entry>,
    names: NameTable,
    /// Link targets.
    targets: Vec<u8>,
    /// Block runs of the files that have holes.
    runs: Vec<BlockRange>,
    xattr_sets: Vec<Box<[Xattr]>>,
    xattr_set_ids: HashMap<Box<[Xattr]>, u32>,
}

/// 52 bytes. `first` and `len` mean, by kind: first child and number of children; first of `runs` and their number;
/// place in `targets`; major and minor number.
struct Entry {
    size_bytes: u64,
    mtime_seconds: i64,
    mtime_nanoseconds: u32,
    uid: u32,
    gid: u32,
    first: u32,
    len: u32,
    links: u32,
    xattr_set: u32,
    /// The first name given to the entry, or the first after all were taken away.
    name: u32,
    permissions: u16,
    tag: Tag,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag {
    Directory,
    /// A file without holes: its one run is not stored.
    DenseFile,
    SparseFile,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
    Socket,
}

/// No name, no child.
const NONE: u32 = u32::MAX;

/// Ids stay below this, which leaves some for whoever needs a few more than the hierarchy has.
const ENTRIES_MAX: usize = u32::MAX as usize - 16;

impl Hierarchy {
    /// A hierarchy of a root directory alone. `Invalid` when ext4 cannot hold its metadata.
    pub fn new(root: Metadata) -> Result<Hierarchy> {
        let mut hierarchy = Hierarchy {
            entries: Vec::new(),
            names: NameTable::default(),
            targets: Vec::new(),
            runs: Vec::new(),
            xattr_sets: vec![Box::default()],
            xattr_set_ids: HashMap::from([(Box::default(), 0)]),
        };
        check_metadata(&root).map_err(|why| Error::invalid(format!("\"/\": {why}")))?;
        hierarchy.push_entry(EntryKind::Directory, root)?;
        hierarchy.entries[0].links = 1;
        Ok(hierarchy)
    }

    /// Declares an entry. `Invalid`, naming the path, when the name is taken or is none (empty, `.`, `..`, longer than
    /// 255 bytes, with `/` or zero), `parent` is no directory, or ext4 cannot hold the entry. Nothing is changed then.
    pub fn add(
        &mut self,
        parent: EntryId,
        name: &[u8],
        kind: EntryKind<'_>,
        metadata: Metadata,
    ) -> Result<EntryId> {
        self.check_name(parent, name)?;
        check_metadata(&metadata).map_err(|why| self.invalid_name(parent, name, &why))?;
        check_kind(kind).map_err(|why| self.invalid_name(parent, name, &why))?;
        let id = self.push_entry(kind, metadata)?;
        self.push_name(parent, name, id)?;
        Ok(id)
    }

    /// Gives an entry one more name. `Invalid`, naming the path, as for [`Hierarchy::add`], and for directories and
    /// files with 65,000 names.
    pub fn link(&mut self, parent: EntryId, name: &[u8], existing: EntryId) -> Result<()> {
        self.check_name(parent, name)?;
        let entry = &self.entries[existing.index()];
        if entry.tag == Tag::Directory {
            return Err(self.invalid_name(parent, name, "a hard link to a directory"));
        }
        if entry.links >= LINKS_MAX {
            return Err(self.invalid_name(parent, name, "a file has at most 65000 names"));
        }
        self.push_name(parent, name, existing)
    }

    /// Takes a name away, and of a directory everything beneath it. Whatever has no name left is as if it had never been
    /// added, but for its id and the memory it takes. `Invalid` if there is no such name. Costs as much as there is beneath.
    pub fn remove(&mut self, parent: EntryId, name: &[u8]) -> Result<()> {
        let Some(found) = self.names.find(parent.0, name) else {
            return Err(self.invalid_name(parent, name, "there is no such name"));
        };
        let mut going = vec![(parent, found)];
        while let Some((parent, name)) = going.pop() {
            let entry = EntryId(self.names.take(name));
            self.entries[parent.index()].len -= 1;
            let slot = &mut self.entries[entry.index()];
            slot.links -= 1;
            if slot.tag == Tag::Directory {
                let names = self.names_in(entry);
                going.extend(names.map(|name| (entry, name)));
            }
        }
        Ok(())
    }

    /// Replaces owner, permissions and time. `Invalid` when ext4 cannot hold them.
    pub fn set_metadata(&mut self, entry: EntryId, metadata: Metadata) -> Result<()> {
        check_metadata(&metadata).map_err(|why| self.invalid(entry, &why))?;
        let slot = &mut self.entries[entry.index()];
        slot.permissions = metadata.permissions;
        (slot.uid, slot.gid) = (metadata.uid, metadata.gid);
        (slot.mtime_seconds, slot.mtime_nanoseconds) =
            (metadata.mtime.seconds, metadata.mtime.nanoseconds);
        Ok(())
    }

    /// Replaces the extended attributes: full names and values as `getxattr(2)` gives them, in any order. `Invalid` for
    /// a name twice and for names that ext4 cannot hold. Whether all fit is known when the layout is planned.
    pub fn set_xattrs(&mut self, entry: EntryId, xattrs: &[(&[u8], &[u8])]) -> Result<()> {
        let mut set: Vec<Xattr> =
            xattrs.iter().map(|(n, v)| Xattr { name: (*n).into(), value: (*v).into() }).collect();
        set.sort_unstable();
        let name_text = |xattr: &Xattr| String::from_utf8_lossy(&xattr.name).into_owned();
        if let Some(pair) = set.windows(2).find(|pair| pair[0].name == pair[1].name) {
            let why = format!("the attribute {:?} is given twice", name_text(&pair[0]));
            return Err(self.invalid(entry, &why));
        }
        if let Some(bad) = set.iter().find(|xattr| split_name(&xattr.name).is_none()) {
            let why = format!("ext4 cannot hold an attribute named {:?}", name_text(bad));
            return Err(self.invalid(entry, &why));
        }
        let set: Box<[Xattr]> = set.into();
        let id = match self.xattr_set_ids.get(&set) {
            Some(id) => *id,
            None => {
                let id = self.xattr_sets.len() as u32;
                self.xattr_sets.push(set.clone());
                self.xattr_set_ids.insert(set, id);
                id
            }
        };
        self.entries[entry.index()].xattr_set = id;
        Ok(())
    }

    /// Declares a file's size and which of its 4 KiB blocks are not holes: runs of logical blocks, ascending, not
    /// adjoining, none empty, none past the end. `Invalid` otherwise, for other kinds, and for more than
    /// [`FILE_SIZE_BYTES_MAX`].
    pub fn set_file_content(
        &mut self,
        entry: EntryId,
        size_bytes: u64,
        runs: &[BlockRange],
    ) -> Result<()> {
        if !matches!(self.entries[entry.index()].tag, Tag::DenseFile | Tag::SparseFile) {
            return Err(self.invalid(entry, "only a file has content"));
        }
        if size_bytes > FILE_SIZE_BYTES_MAX {
            return Err(self.invalid(entry, "larger than ext4's largest file (16 TiB - 4 KiB)"));
        }
        let blocks = size_bytes.div_ceil(BLOCK_SIZE_BYTES);
        check_runs(runs, blocks).map_err(|why| self.invalid(entry, why))?;
        let is_dense = match runs {
            [] => blocks == 0,
            [run] => run.len == blocks,
            _ => false,
        };
        let (first, len) = (self.runs.len(), runs.len());
        if !is_dense {
            if first + len > ENTRIES_MAX {
                return Err(self.invalid(entry, "too many block runs in the hierarchy"));
            }
            self.runs.extend_from_slice(runs);
        }
        let slot = &mut self.entries[entry.index()];
        slot.size_bytes = size_bytes;
        slot.tag = if is_dense { Tag::DenseFile } else { Tag::SparseFile };
        (slot.first, slot.len) = (first as u32, len as u32);
        Ok(())
    }

    /// Number of ids given so far, the root's included; a file with several names has one, and so has what was removed.
    #[expect(clippy::len_without_is_empty, reason = "a hierarchy always has its root")]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Every entry that has a name, and the root, in the order in which they were added.
    pub fn entries(&self) -> impl Iterator<Item = EntryId> + '_ {
        let all = (0..self.entries.len() as u32).map(EntryId);
        all.filter(|entry| self.entries[entry.index()].links > 0)
    }

    /// The entry of that name in a directory.
    pub fn lookup(&self, parent: EntryId, name: &[u8]) -> Option<EntryId> {
        self.names.find(parent.0, name).map(|name| EntryId(self.names.entry(name)))
    }

    /// The records of the names in a directory, the last given first.
    fn names_in(&self, directory: EntryId) -> impl Iterator<Item = u32> + '_ {
        let first = self.entries[directory.index()].first;
        let next = |name: &u32| Some(self.names.next(*name)).filter(|name| *name != NONE);
        let all = std::iter::successors(Some(first).filter(|name| *name != NONE), next);
        all.filter(|name| self.names.entry(*name) != NONE)
    }

    /// What the entry is.
    pub fn kind(&self, entry: EntryId) -> EntryKind<'_> {
        let slot = &self.entries[entry.index()];
        let (major, minor) = (slot.first, slot.len);
        match slot.tag {
            Tag::Directory => EntryKind::Directory,
            Tag::DenseFile | Tag::SparseFile => EntryKind::File,
            Tag::Symlink => {
                let start = slot.first as usize;
                EntryKind::Symlink(&self.targets[start..start + slot.len as usize])
            }
            Tag::CharDevice => EntryKind::CharDevice { major, minor },
            Tag::BlockDevice => EntryKind::BlockDevice { major, minor },
            Tag::Fifo => EntryKind::Fifo,
            Tag::Socket => EntryKind::Socket,
        }
    }

    /// Owner, permissions and time.
    pub fn metadata(&self, entry: EntryId) -> Metadata {
        let slot = &self.entries[entry.index()];
        Metadata {
            permissions: slot.permissions,
            uid: slot.uid,
            gid: slot.gid,
            mtime: Timestamp { seconds: slot.mtime_seconds, nanoseconds: slot.mtime_nanoseconds },
        }
    }

    /// The extended attributes, sorted by name.
    pub fn xattrs(&self, entry: EntryId) -> &[Xattr] {
        &self.xattr_sets[self.entries[entry.index()].xattr_set as usize]
    }

    /// Number of names; 1 for directories.
    pub fn links(&self, entry: EntryId) -> u32 {
        self.entries[entry.index()].links
    }

    /// A file's size in bytes; 0 for everything else.
    pub fn size_bytes(&self, entry: EntryId) -> u64 {
        self.entries[entry.index()].size_bytes
    }

    /// A file's runs of logical blocks that are not holes, ascending; nothing for everything else.
    pub fn content_runs(&self, entry: EntryId) -> impl Iterator<Item = BlockRange> + '_ {
        let slot = &self.entries[entry.index()];
        let (dense, stored) = match slot.tag {
            Tag::DenseFile => (slot.size_bytes.div_ceil(BLOCK_SIZE_BYTES), &[][..]),
            Tag::SparseFile => {
                let first = slot.first as usize;
                (0, &self.runs[first..first + slot.len as usize])
            }
            _ => (0, &[][..]),
        };
        let dense = (dense > 0).then_some(BlockRange { start: 0, len: dense });
        dense.into_iter().chain(stored.iter().copied())
    }

    /// Number of blocks that are not holes.
    pub fn content_blocks(&self, entry: EntryId) -> u64 {
        self.content_runs(entry).map(|run| run.len).sum()
    }

    /// A path of the entry, for messages: with several names, the first one given.
    pub fn path(&self, entry: EntryId) -> Vec<u8> {
        let mut parts = Vec::new();
        let mut name = self.entries[entry.index()].name;
        while name != NONE {
            parts.push(self.names.bytes(name));
            name = self.entries[self.names.parent(name) as usize].name;
        }
        parts.iter().rev().fold(Vec::new(), |mut path, part| {
            path.push(b'/');
            path.extend_from_slice(part);
            path
        })
    }

    /// An error of kind `Invalid` about an entry, naming its path.
    pub(crate) fn invalid(&self, entry: EntryId, why: &str) -> Error {
        let path = self.path(entry);
        let path = if path.is_empty() { "/".into() } else { String::from_utf8_lossy(&path) };
        Error::invalid(format!("{path:?}: {why}"))
    }

    fn invalid_name(&self, parent: EntryId, name: &[u8], why: &str) -> Error {
        let mut path = self.path(parent);
        path.push(b'/');
        path.extend_from_slice(name);
        Error::invalid(format!("{:?}: {why}", String::from_utf8_lossy(&path)))
    }

    fn check_name(&self, parent: EntryId, name: &[u8]) -> Result<()> {
        let why = if self.entries[parent.index()].tag != Tag::Directory {
            "its parent is no directory"
        } else if name.is_empty() {
            "the name is empty"
        } else if name == b"." || name == b".." {
            "the name is reserved"
        } else if name.len() > NAME_LEN_MAX {
            "the name is longer than 255 bytes"
        } else if name.contains(&b'/') || name.contains(&0) {
            "the name holds a slash or a zero byte"
        } else if self.names.find(parent.0, name).is_some() {
            "the name is taken"
        } else {
            return Ok(());
        };
        Err(self.invalid_name(parent, name, why))
    }

    fn push_name(&mut self, parent: EntryId, name: &[u8], entry: EntryId) -> Result<()> {
        let record = match self.names.give_again(parent.0, name, entry.0) {
            Some(record) => record,
            None => {
                let next = self.entries[parent.index()].first;
                let record = self.names.push(parent.0, name, entry.0, next)?;
                self.entries[parent.index()].first = record;
                record
            }
        };
        self.entries[parent.index()].len += 1;
        let slot = &mut self.entries[entry.index()];
        if slot.links == 0 {
            slot.name = record;
        }
        slot.links += 1;
        Ok(())
    }

    fn push_entry(&mut self, kind: EntryKind<'_>, metadata: Metadata) -> Result<EntryId> {
        let id = self.entries.len();
        if id >= ENTRIES_MAX {
            return Err(Error::invalid("the hierarchy has too many entries"));
        }
        let (tag, first, len) = match kind {
            EntryKind::Directory => (Tag::Directory, NONE, 0),
            EntryKind::File => (Tag::DenseFile, 0, 0),
            EntryKind::Symlink(target) => {
                let start = self.targets.len();
                if start + target.len() > u32::MAX as usize {
                    return Err(Error::invalid("the link targets of the hierarchy exceed 4 GiB"));
                }
                self.targets.extend_from_slice(target);
                (Tag::Symlink, start as u32, target.len() as u32)
            }
            EntryKind::CharDevice { major, minor } => (Tag::CharDevice, major, minor),
            EntryKind::BlockDevice { major, minor } => (Tag::BlockDevice, major, minor),
            EntryKind::Fifo => (Tag::Fifo, 0, 0),
            EntryKind::Socket => (Tag::Socket, 0, 0),
        };
        self.entries.push(Entry {
            size_bytes: 0,
            mtime_seconds: metadata.mtime.seconds,
            mtime_nanoseconds: metadata.mtime.nanoseconds,
            uid: metadata.uid,
            gid: metadata.gid,
            first,
            len,
            links: 0,
            xattr_set: 0,
            name: NONE,
            permissions: metadata.permissions,
            tag,
        });
        Ok(EntryId(id as u32))
    }
}

fn check_metadata(metadata: &Metadata) -> Result<(), String> {
    let Timestamp { seconds, nanoseconds } = metadata.mtime;
    if metadata.permissions > 0o7777 {
        return Err(format!("permissions {:o} hold more than 7777", metadata.permissions));
    }
    if !(SECONDS_MIN..=SECONDS_MAX).contains(&seconds) || nanoseconds >= 1_000_000_000 {
        return Err(format!("ext4 cannot hold the time {seconds}.{nanoseconds:09}"));
    }
    Ok(())
}

fn check_kind(kind: EntryKind<'_>) -> Result<(), String> {
    match kind {
        EntryKind::Symlink(target) => {
            let is_good = (1..=SYMLINK_LEN_MAX).contains(&target.len()) && !target.contains(&0);
            is_good.then_some(()).ok_or_else(|| {
                format!("a link target of {} bytes; 1 to 4095 without zero fit", target.len())
            })
        }
        EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => {
            let encoded = encode_device(major, minor).map(|_| ());
            encoded.ok_or_else(|| format!("ext4 cannot hold the device number {major}:{minor}"))
        }
        _ => Ok(()),
    }
}

fn check_runs(runs: &[BlockRange], blocks: u64) -> Result<(), &'static str> {
    let mut free_from = 0;
    for run in runs {
        let end = run.start.checked_add(run.len);
        if run.len == 0 || run.start < free_from || end.is_none_or(|end| end > blocks) {
            return Err("block runs must ascend, not adjoin, not be empty and end with the file");
        }
        free_from = run.end() + 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
