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
use silt_types::{Error, Result};

const HEADER_LEN: usize = 8;

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
        let damage = |what: &str| Error::corrupt(format!("directory inode {}: {what}", directory.number));
        if directory.size_bytes % block_size != 0 {
            return Err(damage("its size is not whole blocks"));
        }
        let blocks = directory.size_bytes / block_size;
        let mut reached = 0;
        for extent in self.extents(directory)? {
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

    /// A small directory kept in its inode: the parent's number, then entries, which go on in an attribute.
    fn read_inline_dir(&self, directory: &Inode, visit: VisitEntry<'_>) -> Result<()> {
        let (first, rest) = self.inline_data(directory)?;
        let entries = first.get(4..).unwrap_or_default();
        self.visit_entries(directory, entries, false, visit)?;
        self.visit_entries(directory, &rest, false, visit)
    }

    /// Visits the entries in `bytes`; `starts` says that they begin with `.` and `..`.
    fn visit_entries(&self, directory: &Inode, bytes: &[u8], starts: bool, visit: VisitEntry<'_>) -> Result<()> {
        let mut rest = bytes;
        let mut own = if starts { [b".".as_slice(), b".."].iter() } else { [].iter() };
        while !rest.is_empty() {
            let damage = |what: &str| {
                let at = bytes.len() - rest.len();
                Error::corrupt(format!("directory inode {}: an entry at byte {at} of its block {what}", directory.number))
            };
            let entry = Entry::decode(rest, self.geometry().entries_have_kinds).ok_or_else(|| damage("does not fit"))?;
            if entry.inode != 0 && !own.next().is_some_and(|name| *name == entry.name) {
                if entry.name.is_empty() || entry.name.contains(&0) || entry.name.contains(&b'/') {
                    return Err(damage("has an impossible name"));
                }
                if matches!(entry.name, b"." | b"..") {
                    return Err(damage("is named . or .. in the wrong place"));
                }
                visit(entry.name, self.named_inode(entry.inode).ok_or_else(|| damage("names a reserved inode"))?)?;
            }
            rest = &rest[entry.len..];
        }
        Ok(())
    }

    /// Inode `number`, if an entry may name it.
    fn named_inode(&self, number: u32) -> Option<InodeNumber> {
        let geometry = self.geometry();
        let named = InodeNumber::new(number).filter(|_| number <= geometry.inodes)?;
        (number >= geometry.first_free_inode || named == InodeNumber::ROOT).then_some(named)
    }
}

/// One entry; `inode` is zero if it is unused.
struct Entry<'a> {
    inode: u32,
    name: &'a [u8],
    /// From this entry to the next.
    len: usize,
}

impl<'a> Entry<'a> {
    /// The entry at the start of `bytes`, or `None` if it does not fit there.
    fn decode(bytes: &'a [u8], has_kind: bool) -> Option<Entry<'a>> {
        let inode = u32::from_le_bytes(*bytes.first_chunk()?);
        let len = usize::from(u16::from_le_bytes(*bytes.get(4..)?.first_chunk()?));
        let name_len = match has_kind {
            true => usize::from(*bytes.get(6)?),
            false => usize::from(u16::from_le_bytes(*bytes.get(6..)?.first_chunk()?)),
        };
        let fits = len >= HEADER_LEN && len % 4 == 0 && len <= bytes.len() && name_len <= 255;
        let name = bytes.get(HEADER_LEN..HEADER_LEN + name_len)?;
        (fits && HEADER_LEN + name_len <= len).then_some(Entry { inode, name, len })
    }
}
