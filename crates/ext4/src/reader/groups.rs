//! Group descriptors, and by them: where an inode stands, and which inodes are in use.
//!
//! Descriptors are read when they are needed, so opening a disk of 16 TiB costs no more than opening a small one.

use super::{Ext4, disk::DiskRead, inode::InodeNumber};
use crate::format::{
    checksum::crc32c,
    group::{FLAG_INODE_UNINIT, GroupDescriptor, descriptor_checksum, stored_checksum},
    superblock::incompatible,
};
use silt_types::{Error, Result};
use std::sync::Arc;

/// Answers the first picked block of the file system at or behind the one it is given, if there is one.
pub type NextPicked<'a> = &'a dyn Fn(u64) -> Option<u64>;

impl<D: DiskRead> Ext4<D> {
    /// The inodes in use, ascending, without the reserved ones but with the root: directories, files, and files that are
    /// open but no longer named. Reads the inode bitmap of each group that ever had an inode.
    pub fn used_inodes(&self) -> UsedInodes<'_, D> {
        UsedInodes {
            ext4: self,
            picked: None,
            group: 0,
            table: 0,
            bitmap: [].into(),
            inodes: 0,
            next: 0,
        }
    }

    /// Those of them that stand in a picked block, or in one that the journal has a newer copy of.
    pub(super) fn used_inodes_where<'a>(
        &'a self,
        next_picked: NextPicked<'a>,
    ) -> UsedInodes<'a, D> {
        UsedInodes { picked: Some(next_picked), ..self.used_inodes() }
    }

    /// The block that holds inode `number`, and the inode's first byte in it.
    pub(super) fn inode_place(&self, number: InodeNumber) -> Result<(u64, usize)> {
        let geometry = self.geometry();
        let index = number.get() - 1;
        if index >= geometry.inodes {
            return Err(Error::corrupt(format!(
                "inode {number}: there are only {}",
                geometry.inodes
            )));
        }
        let (group, index) = (index / geometry.inodes_per_group, index % geometry.inodes_per_group);
        let offset = u64::from(index) * u64::from(geometry.inode_size_bytes);
        let block_size = u64::from(geometry.block_size_bytes);
        let table = self.descriptor(group)?.inode_table;
        let block =
            table.checked_add(offset / block_size).filter(|block| geometry.holds(*block, 1));
        let block =
            block.ok_or_else(|| damage(group, "its inode table lies outside the file system"))?;
        Ok((block, (offset % block_size) as usize))
    }

    fn descriptor(&self, group: u32) -> Result<GroupDescriptor> {
        let geometry = self.geometry();
        let size = geometry.descriptor_size_bytes;
        let per_block = geometry.block_size_bytes / size;
        let block = self.descriptor_block(group, per_block);
        if !geometry.holds(block, 1) {
            return Err(damage(group, "its descriptor lies outside the file system"));
        }
        let block = self.blocks().read(block)?;
        let start = (group % per_block * size) as usize;
        let bytes = &block[start..start + size as usize];
        let sum = if geometry.metadata_checksums {
            descriptor_checksum(geometry.seed, group, bytes)
        } else if geometry.tracks_unused_inodes() {
            old_descriptor_checksum(&geometry.superblock.uuid, group, bytes)
        } else {
            stored_checksum(bytes)
        };
        if sum != stored_checksum(bytes) {
            return Err(damage(group, "the checksum of its descriptor does not match"));
        }
        Ok(GroupDescriptor::decode(bytes))
    }

    /// The block that holds the descriptor of `group`: in one table behind the superblock, or with `meta_bg` in the first
    /// of the groups that one block describes.
    fn descriptor_block(&self, group: u32, per_block: u32) -> u64 {
        let geometry = self.geometry();
        let table = group / per_block;
        let spread = geometry.superblock.incompatible & incompatible::META_BG != 0;
        if !spread || table < geometry.superblock.first_meta_bg {
            return geometry.first_block + 1 + u64::from(table);
        }
        let first = table * per_block;
        geometry.group_start(first) + u64::from(geometry.superblock.group_has_copy(first.into()))
    }

    /// The first block of the inode table of `group`, all of which lies on the file system, and the block behind it.
    fn inode_table(&self, group: u32) -> Result<(u64, u64)> {
        let geometry = self.geometry();
        let table = self.descriptor(group)?.inode_table;
        let len = geometry.inodes_per_group.div_ceil(self.inodes_per_block());
        if !geometry.holds(table, len.into()) {
            return Err(damage(group, "its inode table lies outside the file system"));
        }
        Ok((table, table + u64::from(len)))
    }

    pub(super) fn inodes_per_block(&self) -> u32 {
        self.geometry().block_size_bytes / self.geometry().inode_size_bytes
    }

    /// The inode bitmap of `group` and how many of its inodes it speaks for.
    fn inode_bitmap(&self, group: u32) -> Result<(Arc<[u8]>, u32)> {
        let geometry = self.geometry();
        let descriptor = self.descriptor(group)?;
        let mut inodes = geometry.inodes_per_group;
        if geometry.tracks_unused_inodes() {
            if descriptor.flags & FLAG_INODE_UNINIT != 0 {
                return Ok(([].into(), 0));
            }
            inodes = inodes.saturating_sub(descriptor.unused_inodes_count);
        }
        if !geometry.holds(descriptor.inode_bitmap, 1) {
            return Err(damage(group, "its inode bitmap lies outside the file system"));
        }
        let bitmap = self.blocks().read(descriptor.inode_bitmap)?;
        if geometry.metadata_checksums {
            let bytes = &bitmap[..geometry.inodes_per_group as usize / 8];
            let mask = if geometry.descriptor_size_bytes >= 64 { u32::MAX } else { 0xFFFF };
            if crc32c(geometry.seed, bytes) & mask != descriptor.inode_bitmap_checksum & mask {
                return Err(damage(group, "the checksum of its inode bitmap does not match"));
            }
        }
        Ok((bitmap, inodes))
    }
}

/// Iterator over the inodes in use. A damaged group is one error, and the iteration goes on with the next.
pub struct UsedInodes<'a, D> {
    ext4: &'a Ext4<D>,
    /// Which blocks of the inode tables count; all of them if there is none.
    picked: Option<NextPicked<'a>>,
    /// The group after the one that is being walked.
    group: u32,
    /// Where the walked group has its inodes, if blocks are picked.
    table: u64,
    bitmap: Arc<[u8]>,
    /// Inodes of the walked group that the bitmap speaks for, and the next to look at.
    inodes: u32,
    next: u32,
}

impl<D: DiskRead> UsedInodes<'_, D> {
    /// Begins with the next group, of which no inode may count.
    fn enter_group(&mut self) -> Result<()> {
        let group = self.group;
        (self.inodes, self.next, self.group) = (0, 0, group + 1);
        if let Some(picked) = self.picked {
            let (start, end) = self.ext4.inode_table(group)?;
            if self.ext4.next_picked(picked, start).is_none_or(|block| block >= end) {
                return Ok(());
            }
            self.table = start;
        }
        (self.bitmap, self.inodes) = self.ext4.inode_bitmap(group)?;
        Ok(())
    }

    /// Passes over the inodes of blocks that do not count, up to the first of one that does or the end of the group.
    fn skip_unpicked(&mut self) {
        let per_block = self.ext4.inodes_per_block();
        let Some(picked) = self.picked.filter(|_| self.next.is_multiple_of(per_block)) else {
            return;
        };
        let at = self.table + u64::from(self.next / per_block);
        let found = self.ext4.next_picked(picked, at).map(|block| block - at);
        let skipped = found.and_then(|blocks| u32::try_from(blocks).ok()?.checked_mul(per_block));
        self.next = skipped.map_or(self.inodes, |inodes| self.next.saturating_add(inodes));
    }
}

impl<D: DiskRead> Ext4<D> {
    /// The first block at or behind `block` that counts.
    fn next_picked(&self, picked: NextPicked<'_>, block: u64) -> Option<u64> {
        let picked = picked(block).filter(|found| *found >= block);
        picked.into_iter().chain(self.blocks().next_overlaid(block)).min()
    }
}

impl<D: DiskRead> Iterator for UsedInodes<'_, D> {
    type Item = Result<InodeNumber>;

    fn next(&mut self) -> Option<Result<InodeNumber>> {
        let geometry = self.ext4.geometry();
        loop {
            while self.next < self.inodes {
                self.skip_unpicked();
                if self.next >= self.inodes {
                    break;
                }
                let index = self.next;
                self.next += 1;
                if self.bitmap[index as usize / 8] >> (index % 8) & 1 == 0 {
                    continue;
                }
                let number =
                    InodeNumber::new((self.group - 1) * geometry.inodes_per_group + index + 1)?;
                if number.get() >= geometry.first_free_inode || number == InodeNumber::ROOT {
                    return Some(Ok(number));
                }
            }
            if self.group == geometry.groups {
                return None;
            }
            if let Err(error) = self.enter_group() {
                return Some(Err(error));
            }
        }
    }
}

/// The CRC-16 over UUID, group number and descriptor that feature `uninit_bg` keeps. Source: Linux `fs/ext4/super.c`.
fn old_descriptor_checksum(uuid: &[u8; 16], group: u32, bytes: &[u8]) -> u16 {
    let (before, after) = (&bytes[..0x1E], &bytes[0x20..]);
    let all = uuid
        .iter()
        .chain(&group.to_le_bytes())
        .chain(before)
        .chain(after)
        .copied()
        .collect::<Vec<u8>>();
    all.iter().fold(0xFFFF, |sum, byte| {
        (0..8).fold(
            sum ^ u16::from(*byte),
            |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0xA001 } else { sum >> 1 },
        )
    })
}

fn damage(group: u32, what: &str) -> Error {
    Error::corrupt(format!("group {group}: {what}"))
}
