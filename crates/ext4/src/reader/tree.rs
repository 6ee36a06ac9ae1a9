//! The whole tree of a disk as a [`Hierarchy`].
//!
//! Directories are walked with a list of those still to be read, each once: a directory with two names, and so every loop,
//! is damage. There may be no more entries than inodes, and together they may claim no more blocks than the disk has and hold
//! attributes no longer than that: so a small disk cannot stand for endless work, nor for more memory than it is long.

use super::{
    Ext4,
    disk::DiskRead,
    inode::{BlockForm, Inode, InodeKind, InodeNumber},
};
use crate::hierarchy::{EntryId, EntryKind, Hierarchy, Metadata};
use silt_types::{BLOCK_SIZE_BYTES, BlockRange, Error, ErrorKind, Result};
use std::collections::HashMap;

/// Attributes for each byte of the disk. More than one, because a block of them may serve a thousand inodes.
const XATTR_BYTES_PER_BYTE: u64 = 2;

/// The tree of a disk, and where each entry came from.
pub struct ReadHierarchy {
    /// All entries with their attributes. A file's runs are the blocks that are mapped and written: one may still hold
    /// nothing but zeros, and with smaller file system blocks a part of one may be a hole.
    pub hierarchy: Hierarchy,
    inodes: Vec<InodeNumber>,
}

impl ReadHierarchy {
    /// The inode that `entry` of the hierarchy was read from.
    pub fn inode(&self, entry: EntryId) -> InodeNumber {
        self.inodes[entry.index()]
    }
}

impl<D: DiskRead> Ext4<D> {
    /// Reads every directory, inode and attribute; names of one inode become hard links. `lost+found` is an entry like any
    /// other. Reads no content of files. Costs about 100 bytes of memory for each entry and its name.
    pub fn hierarchy(&self) -> Result<ReadHierarchy> {
        let root = self.root()?;
        if root.kind != InodeKind::Directory {
            return Err(Error::corrupt("the root inode is not a directory"));
        }
        self.hierarchy_below(&root)
    }

    /// The same of what is below a directory, which is the root of the answer. Nothing else is read. `Invalid` for other
    /// kinds.
    pub fn hierarchy_below(&self, root: &Inode) -> Result<ReadHierarchy> {
        if root.kind != InodeKind::Directory {
            return Err(Error::invalid(format!("inode {} is not a directory", root.number)));
        }
        let mut reading = Reading {
            ext4: self,
            hierarchy: Hierarchy::new(metadata(root)).map_err(|error| impossible(root, error))?,
            inodes: vec![root.number],
            shared: HashMap::from([(root.number, EntryId::ROOT)]),
            directories: vec![EntryId::ROOT],
            blocks_left: BlocksLeft(self.geometry().blocks),
            xattr_bytes_left: self.size_bytes().saturating_mul(XATTR_BYTES_PER_BYTE),
        };
        reading.set_xattrs(EntryId::ROOT, root)?;
        while let Some(directory) = reading.directories.pop() {
            reading.read_directory(directory)?;
        }
        Ok(ReadHierarchy { hierarchy: reading.hierarchy, inodes: reading.inodes })
    }
}

struct Reading<'a, D> {
    ext4: &'a Ext4<D>,
    hierarchy: Hierarchy,
    inodes: Vec<InodeNumber>,
    /// Directories, and whatever may have more than one name.
    shared: HashMap<InodeNumber, EntryId>,
    /// Directories still to be read.
    directories: Vec<EntryId>,
    /// Blocks that the rest of the tree may claim.
    blocks_left: BlocksLeft,
    /// Bytes of attributes that the rest of the tree may hold.
    xattr_bytes_left: u64,
}

impl<D: DiskRead> Reading<'_, D> {
    fn read_directory(&mut self, entry: EntryId) -> Result<()> {
        let ext4 = self.ext4;
        let directory = ext4.inode(self.inodes[entry.index()])?;
        if !directory.is_inline() {
            self.blocks_left
                .claim(&directory, directory.size_bytes / u64::from(ext4.block_size_bytes()))?;
        }
        ext4.read_dir(&directory, &mut |name, number| self.add(entry, name, number))
    }

    fn add(&mut self, parent: EntryId, name: &[u8], number: InodeNumber) -> Result<()> {
        let inode = self.ext4.inode(number)?;
        if let Some(existing) = self.shared.get(&number) {
            let linked = self.hierarchy.link(parent, name, *existing);
            return linked.map_err(|error| impossible(&inode, error));
        }
        if inode.links == 0 {
            return Err(Error::corrupt(format!(
                "inode {number} is deleted, but entry {} names it",
                name.escape_ascii()
            )));
        }
        if self.inodes.len() as u64 >= u64::from(self.ext4.geometry().inodes) {
            return Err(Error::corrupt("there are more entries than inodes"));
        }
        if inode.kind == InodeKind::Symlink && inode.block_form() != BlockForm::None {
            self.blocks_left.claim(&inode, 1)?;
        }
        let target = if inode.kind == InodeKind::Symlink {
            self.ext4.read_link(&inode)?
        } else {
            Vec::new()
        };
        let kind = match inode.kind {
            InodeKind::Directory => EntryKind::Directory,
            InodeKind::File => EntryKind::File,
            InodeKind::Symlink => EntryKind::Symlink(&target),
            InodeKind::CharDevice { major, minor } => EntryKind::CharDevice { major, minor },
            InodeKind::BlockDevice { major, minor } => EntryKind::BlockDevice { major, minor },
            InodeKind::Fifo => EntryKind::Fifo,
            InodeKind::Socket => EntryKind::Socket,
        };
        let added = self.hierarchy.add(parent, name, kind, metadata(&inode));
        let entry = added.map_err(|error| impossible(&inode, error))?;
        self.inodes.push(number);
        self.set_xattrs(entry, &inode)?;
        if inode.kind == InodeKind::File {
            self.set_content(entry, &inode)?;
        }
        if inode.kind == InodeKind::Directory {
            self.directories.push(entry);
        }
        if inode.kind == InodeKind::Directory || inode.links > 1 {
            self.shared.insert(number, entry);
        }
        Ok(())
    }

    fn set_xattrs(&mut self, entry: EntryId, inode: &Inode) -> Result<()> {
        let xattrs = self.ext4.xattrs(inode)?;
        let bytes: usize = xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        let left = self.xattr_bytes_left.checked_sub(bytes as u64);
        self.xattr_bytes_left =
            left.ok_or_else(|| Error::corrupt("the attributes are longer than the disk"))?;
        let xattrs: Vec<(&[u8], &[u8])> =
            xattrs.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        self.hierarchy.set_xattrs(entry, &xattrs).map_err(|error| impossible(inode, error))
    }

    fn set_content(&mut self, entry: EntryId, inode: &Inode) -> Result<()> {
        inode.refuse_encrypted()?;
        let mut runs = Runs { runs: Vec::new(), end: inode.size_bytes.div_ceil(BLOCK_SIZE_BYTES) };
        if inode.is_inline() {
            runs.push(0, 1);
        }
        let block_size = u64::from(self.ext4.block_size_bytes());
        let mut extents = self.ext4.extents(inode);
        for extent in extents.by_ref() {
            let extent = extent?;
            if !extent.unwritten {
                let end = (extent.logical_end() * block_size).div_ceil(BLOCK_SIZE_BYTES);
                runs.push(extent.logical * block_size / BLOCK_SIZE_BYTES, end);
            }
        }
        let claimed = extents.blocks_claimed();
        self.blocks_left.claim(inode, claimed)?;
        self.hierarchy
            .set_file_content(entry, inode.size_bytes, &runs.runs)
            .map_err(|error| impossible(inode, error))
    }
}

/// Blocks that the inodes of a tree may still claim: together no more than there are.
pub(super) struct BlocksLeft(pub(super) u64);

impl BlocksLeft {
    /// Takes those of an inode. `Corrupt`, naming it, if there are not so many left.
    pub(super) fn claim(&mut self, inode: &Inode, blocks: u64) -> Result<()> {
        self.0 = self.0.checked_sub(blocks).ok_or_else(|| {
            Error::corrupt(format!(
                "inode {}: with it the tree claims more blocks than there are",
                inode.number
            ))
        })?;
        Ok(())
    }
}

/// Ascending runs of 4 KiB blocks that do not adjoin.
struct Runs {
    runs: Vec<BlockRange>,
    /// The block behind the end of the file.
    end: u64,
}

impl Runs {
    /// Adds the blocks `start..end`, which do not start before the last run.
    fn push(&mut self, start: u64, end: u64) {
        let end = end.min(self.end);
        match self.runs.last_mut() {
            _ if start >= end => {}
            Some(last) if start <= last.end() => last.len = last.len.max(end - last.start),
            _ => self.runs.push(BlockRange { start, len: end - start }),
        }
    }
}

fn metadata(inode: &Inode) -> Metadata {
    Metadata { permissions: inode.permissions, uid: inode.uid, gid: inode.gid, mtime: inode.mtime }
}

/// What a hierarchy refuses was no sound disk.
fn impossible(inode: &Inode, error: Error) -> Error {
    Error::with_source(ErrorKind::Corrupt, format!("inode {}", inode.number), error)
}
