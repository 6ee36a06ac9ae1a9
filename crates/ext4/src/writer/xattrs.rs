//! Extended attributes: which go into the inode, which into a block of their own.

use crate::{
    format::{
        BLOCK_SIZE,
        acl::acl_to_disk,
        inode::{INLINE_XATTR_OFFSET, INODE_SIZE},
        xattr::{
            BLOCK_HEADER_SIZE, INDEX_ACL_ACCESS, INDEX_ACL_DEFAULT, INODE_HEADER_SIZE, XattrEntry,
            area_size, encode_block, encode_inode_area, split_name,
        },
    },
    hierarchy::Xattr,
};
use silt_types::{Error, Result};
use std::borrow::Cow;

/// Bytes for attributes inside an inode.
const INODE_ROOM: usize = INODE_SIZE - INLINE_XATTR_OFFSET - INODE_HEADER_SIZE;

/// Bytes for attributes in a block.
const BLOCK_ROOM: usize = BLOCK_SIZE - BLOCK_HEADER_SIZE;

/// The attributes of an inode as they are on the disk.
pub(super) struct DiskXattrs<'a> {
    /// In the order of a block; the first `in_inode` are those that fit into the inode.
    in_inode: Vec<DiskXattr<'a>>,
    in_block: Vec<DiskXattr<'a>>,
}

struct DiskXattr<'a> {
    index: u8,
    name: &'a [u8],
    value: Cow<'a, [u8]>,
}

impl DiskXattr<'_> {
    fn entry(&self) -> XattrEntry<'_> {
        XattrEntry { index: self.index, name: self.name, value: &self.value, value_inode: 0 }
    }
}

impl<'a> DiskXattrs<'a> {
    /// Distributes attributes: each goes into the inode if it still fits there. `Invalid` when the others do not fit in
    /// one block, or an ACL is none.
    pub(super) fn new(xattrs: &'a [Xattr]) -> Result<DiskXattrs<'a>> {
        let mut all = xattrs.iter().map(to_disk).collect::<Result<Vec<_>>>()?;
        all.sort_by_key(|xattr| (xattr.index, xattr.name.len(), xattr.name));
        let mut room = INODE_ROOM - area_size([]);
        let (in_inode, in_block): (Vec<_>, Vec<_>) = all.into_iter().partition(|xattr| {
            let size = xattr.entry().size();
            let fits = size <= room;
            room -= if fits { size } else { 0 };
            fits
        });
        let size = area_size(in_block.iter().map(DiskXattr::entry));
        if size > BLOCK_ROOM {
            let message = format!(
                "extended attributes of {size} bytes beyond those in the inode; one block holds {BLOCK_ROOM}"
            );
            return Err(Error::invalid(message));
        }
        Ok(DiskXattrs { in_inode, in_block })
    }

    /// Whether a block is needed.
    pub(super) fn needs_block(&self) -> bool {
        !self.in_block.is_empty()
    }

    /// Writes those of the inode.
    pub(super) fn encode_in_inode(&self, inode: &mut [u8; INODE_SIZE]) {
        if !self.in_inode.is_empty() {
            let entries: Vec<_> = self.in_inode.iter().map(DiskXattr::entry).collect();
            encode_inode_area(&mut inode[INLINE_XATTR_OFFSET..], &entries);
        }
    }

    /// Writes the block.
    pub(super) fn encode_block(&self, seed: u32, block_number: u64, block: &mut [u8; BLOCK_SIZE]) {
        let entries: Vec<_> = self.in_block.iter().map(DiskXattr::entry).collect();
        encode_block(block, seed, block_number, &entries);
    }
}

fn to_disk(xattr: &Xattr) -> Result<DiskXattr<'_>> {
    let (index, name) = split_name(&xattr.name)
        .ok_or_else(|| Error::invalid("an attribute with a name that ext4 cannot hold"))?;
    let value = match index {
        INDEX_ACL_ACCESS | INDEX_ACL_DEFAULT => Cow::Owned(acl_to_disk(&xattr.value)?),
        _ => Cow::Borrowed(&*xattr.value),
    };
    Ok(DiskXattr { index, name, value })
}
