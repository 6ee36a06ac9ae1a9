//! The entries of a directory: every leaf block from first to last, whether there is an index over them or not.
//!
//! The index of a large directory is not used: in the blocks that hold it, one entry without an inode spans everything, so a
//! linear reader passes over it, as was meant when it was designed. A name that could lead elsewhere, an entry that does
//! not fit its block, an inode number that no entry may have, a hole in the directory: each is damage.
//!
//! Source: Linux `Documentation/filesystems/ext4/directory.rst`.

use super::{
    Ext4,
    disk::DiskRead,
    inode::{Inode, InodeKind, InodeNumber},
};
use crate::format::directory::{entries, leaf_checksum_holds};
use silt_types::{Context as _, Error, Result};

/// Called for each entry with its name and inode; an error ends the reading and is passed on.
pub type VisitEntry<'a> = &'a mut dyn FnMut(&[u8], InodeNumber) -> Result<()>;

impl<D: DiskRead> Ext4<D> {
    /// Calls `visit` for every entry of `directory` but `.` and `..`, in the order of the disk, which is none that means
    /// anything. Entries before damage are visited before it is reported.
    pub fn read_dir(&self, directory: &Inode, visit: VisitEntry<'_>) -> Result<()> {
        if directory.kind != InodeKind::Directory {
            return Err(Error::invalid(format!("inode {} is not a directory", directory.number)));
        }
        directory.refuse_encrypted()?;
        if directory.is_inline() {
            return self.read_inline_dir(directory, visit);
        }
        let block_size = self.blocks().block_size_bytes() as u64;
        let damage =
            |what: &str| Error::corrupt(format!("directory inode {}: {what}", directory.number));
        if !directory.size_bytes.is_multiple_of(block_size) {
            return Err(damage("its size is not whole blocks"));
        }
        let blocks = directory.size_bytes / block_size;
        let mut reached = 0;
        for extent in self.extents(directory) {
            let extent = extent?;
            if extent.logical >= blocks {
                break;
            }
            if extent.logical != reached || extent.unwritten {
                return Err(damage("has a hole"));
            }
            reached = extent.logical_end().min(blocks);
            for index in extent.logical..reached {
                let block = self.blocks().read(extent.physical + (index - extent.logical))?;
                self.check_directory_block(directory, index, &block)?;
                self.visit_entries(directory, &block, index == 0, visit)?;
            }
        }
        if reached < blocks {
            return Err(damage("ends in a hole"));
        }
        Ok(())
    }

    /// What `name` names in `directory`. Reads entries up to the one that is found.
    pub fn lookup(&self, directory: &Inode, name: &[u8]) -> Result<Option<Inode>> {
        let mut found = None;
        let read = self.read_dir(directory, &mut |entry, number| {
            if entry != name {
                return Ok(());
            }
            found = Some(number);
            Err(Error::invalid("no more need be read"))
        });
        match found {
            Some(number) => self.inode(number).map(Some),
            None => read.map(|()| None),
        }
    }

    /// A small directory kept in its inode: the parent's number, then entries, which go on in an attribute.
    fn read_inline_dir(&self, directory: &Inode, visit: VisitEntry<'_>) -> Result<()> {
        let (first, rest) = self.inline_data(directory)?;
        let entries = first.get(4..).unwrap_or_default();
        self.visit_entries(directory, entries, false, visit)?;
        self.visit_entries(directory, rest, false, visit)
    }

    /// Visits the entries in `bytes`, which may begin with `.` and `..` if they are the directory's `first`.
    fn visit_entries(
        &self,
        directory: &Inode,
        bytes: &[u8],
        first: bool,
        visit: VisitEntry<'_>,
    ) -> Result<()> {
        let damage = |what: &str, name: &[u8]| {
            let name = name.escape_ascii();
            Error::corrupt(format!("directory inode {}: entry {name} {what}", directory.number))
        };
        for (index, entry) in entries(bytes).enumerate() {
            let entry = entry.context(|| format!("directory inode {}", directory.number))?;
            let name = entry.name;
            if entry.inode == 0
                || first && (index, name) == (0, b".")
                || first && (index, name) == (1, b"..")
            {
                continue;
            }
            if matches!(name, b"" | b"." | b"..") || name.contains(&0) || name.contains(&b'/') {
                return Err(damage("has an impossible name", name));
            }
            let inode = self.named_inode(entry.inode);
            visit(
                name,
                inode.ok_or_else(|| damage("names a reserved or impossible inode", name))?,
            )?;
        }
        Ok(())
    }

    /// Checks the checksum of block `index` of a directory, if there are checksums. The blocks of an index, which give no
    /// entries, have theirs elsewhere; it is not looked at, because nothing else in them is either.
    fn check_directory_block(&self, directory: &Inode, index: u64, block: &[u8]) -> Result<()> {
        let is_index = directory.is_indexed() && (index == 0 || spans_all(block));
        if !self.geometry().metadata_checksums
            || is_index
            || leaf_checksum_holds(directory.checksum_seed, block)
        {
            return Ok(());
        }
        let number = directory.number;
        Err(Error::corrupt(format!(
            "directory inode {number}: the checksum of its block {index} does not match"
        )))
    }

    /// Inode `number`, if an entry may name it.
    fn named_inode(&self, number: u32) -> Option<InodeNumber> {
        let geometry = self.geometry();
        let named = InodeNumber::new(number).filter(|_| number <= geometry.inodes)?;
        (number >= geometry.first_free_inode || named == InodeNumber::ROOT).then_some(named)
    }
}

/// Whether one unused entry spans the whole block, as in the nodes of an index.
fn spans_all(block: &[u8]) -> bool {
    entries(block).next().is_some_and(|first| first.is_ok_and(|entry| entry.inode == 0))
        && entries(block).nth(1).is_none()
}
