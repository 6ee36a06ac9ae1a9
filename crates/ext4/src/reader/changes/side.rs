//! One of the two file systems, and what the comparison has claimed of it so far.

use super::super::{
    Ext4,
    disk::DiskRead,
    inode::{Inode, InodeKind, InodeNumber},
    tree::BlocksLeft,
};
use silt_types::{Error, Result};
use std::collections::HashSet;

/// Names of a directory with their inodes.
pub(super) type Entries = Vec<(Box<[u8]>, InodeNumber)>;

pub(super) struct Side<'a, D> {
    pub(super) ext4: &'a Ext4<D>,
    directories: HashSet<InodeNumber>,
    /// Inodes with several names whose blocks have been claimed.
    linked: HashSet<InodeNumber>,
    /// Blocks that the rest of the tree may claim.
    blocks_left: BlocksLeft,
}

impl<'a, D: DiskRead> Side<'a, D> {
    pub(super) fn new(ext4: &'a Ext4<D>) -> Side<'a, D> {
        Side {
            ext4,
            directories: HashSet::new(),
            linked: HashSet::new(),
            blocks_left: BlocksLeft(ext4.geometry().blocks),
        }
    }

    /// Notes that a directory is about to be compared; each may be only once.
    pub(super) fn enter(&mut self, directory: &Inode) -> Result<()> {
        let number = directory.number;
        if !self.directories.insert(number) {
            return Err(Error::corrupt(format!("directory inode {number} has two names")));
        }
        if directory.is_inline() {
            return Ok(());
        }
        self.claim(directory, directory.size_bytes / u64::from(self.ext4.block_size_bytes()))
    }

    /// The names in a directory but `.` and `..`, in byte order.
    pub(super) fn entries(&self, directory: &Inode) -> Result<Entries> {
        let mut entries = Entries::new();
        self.ext4.read_dir(directory, &mut |name, number| {
            entries.push((name.into(), number));
            Ok(())
        })?;
        entries.sort_unstable();
        if let Some(twice) = entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let (number, name) = (directory.number, twice[0].0.escape_ascii());
            return Err(Error::corrupt(format!(
                "directory inode {number}: name {name} is there twice"
            )));
        }
        Ok(entries)
    }

    /// The inode that an entry names.
    pub(super) fn named(&self, number: InodeNumber) -> Result<Inode> {
        let inode = self.ext4.inode(number)?;
        if inode.links == 0 {
            return Err(Error::corrupt(format!("inode {number} is deleted and has a name")));
        }
        Ok(inode)
    }

    /// Takes blocks from those that the tree may claim; once for an inode that has several names.
    pub(super) fn claim(&mut self, inode: &Inode, blocks: u64) -> Result<()> {
        let has_names = inode.links > 1 && inode.kind != InodeKind::Directory;
        if has_names && !self.linked.insert(inode.number) {
            return Ok(());
        }
        self.blocks_left.claim(inode, blocks)
    }

    /// Whether the journal lays a block over any of the bytes `offset..offset + len_bytes` of the disk.
    pub(super) fn is_logged(&self, offset: u64, len_bytes: u64) -> bool {
        let size = u64::from(self.ext4.block_size_bytes());
        let end = offset.saturating_add(len_bytes);
        self.ext4.blocks().is_logged(offset / size..end.div_ceil(size))
    }
}
