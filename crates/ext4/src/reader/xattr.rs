//! The extended attributes of an inode, under their full names and in the form `getxattr(2)` gives.

use super::{Ext4, disk::DiskRead, inode::Inode};
use crate::format::{
    acl::acl_from_disk,
    xattr::{
        INDEX_ACL_ACCESS, INDEX_ACL_DEFAULT, INDEX_SYSTEM, XattrEntry, block_checksum,
        decode_block, decode_inode_area, prefix_of, stored_block_checksum,
    },
};
use silt_types::{Context as _, Error, ErrorKind, Result};

/// Prefix number of what encryption keeps for itself; no program sees it.
const INDEX_ENCRYPTION: u8 = 9;

/// Full names and values.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

impl<D: DiskRead> Ext4<D> {
    /// The extended attributes of `inode`, sorted by name; POSIX ACLs in the kernel's form. `Unsupported` if a value is in
    /// an inode of its own (feature `ea_inode`) or a prefix is unknown.
    pub fn xattrs(&self, inode: &Inode) -> Result<Xattrs> {
        self.read_xattrs(inode).context(|| format!("inode {}", inode.number))
    }

    fn read_xattrs(&self, inode: &Inode) -> Result<Xattrs> {
        let mut xattrs = decode(&decode_inode_area(&inode.xattr_area)?, inode.xattr_area.len())?;
        if inode.xattr_block != 0 {
            let number = inode.xattr_block;
            let geometry = self.geometry();
            if !geometry.holds(number, 1) {
                return Err(damage("the attribute block lies outside the file system"));
            }
            let block = self.blocks().read(number)?;
            if geometry.metadata_checksums
                && block_checksum(geometry.seed, number, &block) != stored_block_checksum(&block)
            {
                return Err(damage("the checksum of the attribute block does not match"));
            }
            xattrs.extend(decode(&decode_block(&block)?, block.len())?);
        }
        xattrs.sort();
        if xattrs.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(damage("an attribute is there twice"));
        }
        Ok(xattrs)
    }
}

/// What programs see of `entries`, whose values came from an area of `room` bytes.
fn decode(entries: &[XattrEntry<'_>], room: usize) -> Result<Xattrs> {
    // Values may not share bytes, or a small area could stand for a large list.
    if entries.iter().map(|entry| entry.value.len()).sum::<usize>() > room {
        return Err(damage("the values of the attributes overlap"));
    }
    let seen =
        entries.iter().filter(|entry| !matches!(entry.index, INDEX_SYSTEM | INDEX_ENCRYPTION));
    seen.map(|entry| Ok((full_name(entry)?, value(entry)?))).collect()
}

fn full_name(entry: &XattrEntry<'_>) -> Result<Vec<u8>> {
    let prefix = prefix_of(entry.index).ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            format!("attributes: unknown prefix number {}", entry.index),
        )
    })?;
    if entry.name.is_empty() == prefix.ends_with(b".") || entry.name.contains(&0) {
        return Err(damage("an attribute has an impossible name"));
    }
    Ok([prefix, entry.name].concat())
}

fn value(entry: &XattrEntry<'_>) -> Result<Vec<u8>> {
    if entry.value_inode != 0 {
        let name = entry.name.escape_ascii();
        let message = format!("the value of attribute {name} is in an inode of its own (ea_inode)");
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    match entry.index {
        INDEX_ACL_ACCESS | INDEX_ACL_DEFAULT => acl_from_disk(entry.value),
        _ => Ok(entry.value.to_vec()),
    }
}

fn damage(what: &str) -> Error {
    Error::corrupt(format!("attributes: {what}"))
}
