//! The content of files and the targets of symbolic links, from blocks or from the inode itself.

use super::{
    Ext4,
    disk::DiskRead,
    inode::{Inode, InodeKind},
};
use crate::format::xattr::{INDEX_SYSTEM, decode_inode_area};
use silt_types::{Context as _, Error, Result};

/// The longest target that the kernel follows.
const LINK_LEN_MAX: u64 = 4095;

/// The attribute that holds what does not fit the inode's first part with feature `inline_data`.
const INLINE_REST: &[u8] = b"data";

impl<D: DiskRead> Ext4<D> {
    /// Fills `buf` with the content of `file` from `offset` on. Holes and unwritten blocks read as zero. A range that
    /// does not lie in the file is `Invalid`. Costs a walk down the extent tree for each call, so read in large pieces.
    pub fn read_file_at(&self, file: &Inode, buf: &mut [u8], offset: u64) -> Result<()> {
        if file.kind != InodeKind::File {
            return Err(Error::invalid(format!("inode {} is not a file", file.number)));
        }
        file.refuse_encrypted()?;
        self.read_content(file, buf, offset)
    }

    /// The target of a symbolic link, 1 to 4095 bytes without a zero byte.
    pub fn read_link(&self, link: &Inode) -> Result<Vec<u8>> {
        if link.kind != InodeKind::Symlink {
            return Err(Error::invalid(format!("inode {} is not a symbolic link", link.number)));
        }
        link.refuse_encrypted()?;
        let damage = || {
            Error::corrupt(format!("symbolic link inode {}: its target is impossible", link.number))
        };
        if !(1..=LINK_LEN_MAX).contains(&link.size_bytes) {
            return Err(damage());
        }
        let mut target = vec![0; link.size_bytes as usize];
        if link.is_inline() || !link.is_short_link() {
            self.read_content(link, &mut target, 0)?;
        } else {
            target.copy_from_slice(&link.block_area[..link.size_bytes as usize]);
        }
        if target.contains(&0) { Err(damage()) } else { Ok(target) }
    }

    fn read_content(&self, inode: &Inode, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= inode.size_bytes);
        let end = end.ok_or_else(|| {
            let what =
                format!("cannot read {} bytes at {offset} of inode {}", buf.len(), inode.number);
            Error::invalid(format!("{what}: it has {}", inode.size_bytes))
        })?;
        buf.fill(0);
        if inode.is_inline() {
            return self.read_inline(inode, buf, offset);
        }
        let block_size = u64::from(self.geometry().block_size_bytes);
        for extent in self.extents_from(inode, offset / block_size) {
            let extent = extent?;
            let start = extent.logical * block_size;
            if start >= end {
                break;
            }
            let from = start.max(offset);
            let to = end.min(extent.logical_end() * block_size);
            if extent.unwritten || from >= to {
                continue;
            }
            let piece = &mut buf[(from - offset) as usize..(to - offset) as usize];
            let read = self.blocks().read_data(piece, extent.physical, from - start);
            read.context(|| format!("cannot read inode {} at {from}", inode.number))?;
        }
        Ok(())
    }

    fn read_inline(&self, inode: &Inode, buf: &mut [u8], offset: u64) -> Result<()> {
        let (first, rest) = self.inline_data(inode)?;
        if inode.size_bytes > (first.len() + rest.len()) as u64 {
            return Err(Error::corrupt(format!(
                "inode {}: its content is longer than its room",
                inode.number
            )));
        }
        let content = first.iter().chain(rest).skip(offset as usize);
        buf.iter_mut().zip(content).for_each(|(to, from)| *to = *from);
        Ok(())
    }

    /// The two parts of content kept in the inode: where block numbers would be, and in an attribute.
    pub(super) fn inline_data<'a>(&self, inode: &'a Inode) -> Result<(&'a [u8], &'a [u8])> {
        let attributes = decode_inode_area(&inode.xattr_area);
        let attributes = attributes.context(|| format!("inode {}", inode.number))?;
        let rest = attributes
            .iter()
            .find(|entry| entry.index == INDEX_SYSTEM && entry.name == INLINE_REST);
        Ok((&inode.block_area, rest.map_or(&[], |entry| entry.value)))
    }
}
