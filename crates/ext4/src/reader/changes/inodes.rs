//! What changed between two inodes.

use super::{
    super::{
        disk::DiskRead,
        inode::{BlockForm, Inode, InodeKind, InodeNumber},
    },
    content::{content_differs, known_equal},
    report::{Aspect, Aspects},
    walk::Walk,
};
use crate::format::u16_at;
use silt_types::Result;
use std::mem::discriminant;

/// What makes an inode the same one on both sides of one file system: numbers are used again, generations and times of
/// creation are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    number: InodeNumber,
    kind: std::mem::Discriminant<InodeKind>,
    birth: (u32, i64, u32),
}

impl Identity {
    pub(super) fn of(inode: &Inode) -> Identity {
        Identity { number: inode.number, kind: discriminant(&inode.kind), birth: inode.birth }
    }
}

impl<A: DiskRead, B: DiskRead> Walk<'_, A, B> {
    /// Whether inode `number` is known to be the same bytes on both sides.
    pub(super) fn is_shared(&mut self, number: InodeNumber) -> Result<bool> {
        if !self.related {
            return Ok(false);
        }
        // Inodes that share a block share the answer, and neighbours are often named one after the other.
        let geometry = self.after.ext4.geometry();
        let per_block = geometry.block_size_bytes / geometry.inode_size_bytes;
        let in_group = (number.get() - 1) % geometry.inodes_per_group;
        let first = number.get() - in_group % per_block;
        if let Some((_, shared)) = self.last_shared.filter(|(held, _)| *held == first) {
            return Ok(shared);
        }
        let (block, start) = self.before.ext4.inode_place(number)?;
        let shared =
            (block, start) == self.after.ext4.inode_place(number)? && self.is_same_block(block)?;
        self.last_shared = Some((first, shared));
        Ok(shared)
    }

    /// Whether a block is known to be the same on both sides.
    pub(super) fn is_same_block(&self, block: u64) -> Result<bool> {
        let size = u64::from(self.after.ext4.block_size_bytes());
        let at = block * size;
        Ok(self.related
            && known_equal(&self.before, &self.after, self.pair, (at, at), size)? == size)
    }

    /// What changed between two inodes of one kind, the content of directories left out; `shared` if they are the same
    /// bytes.
    pub(super) fn compare(&mut self, a: &Inode, b: &Inode, shared: bool) -> Result<Aspects> {
        let mut aspects = Aspects::default();
        aspects.add_if(a.permissions != b.permissions, Aspect::Mode);
        aspects.add_if((a.uid, a.gid) != (b.uid, b.gid), Aspect::Owner);
        aspects.add_if(a.mtime != b.mtime, Aspect::Times);
        aspects.add_if(self.xattrs_differ(a, b)?, Aspect::Xattrs);
        match b.kind {
            InodeKind::File if shared && self.has_same_blocks(b)? => {}
            InodeKind::File => {
                let sides = (&mut self.before, &mut self.after);
                aspects.add_if(content_differs(sides, (a, b), self.pair)?, Aspect::Content);
            }
            InodeKind::Symlink if !shared || b.block_form() != BlockForm::None => {
                let differs = self.before.ext4.read_link(a)? != self.after.ext4.read_link(b)?;
                aspects.add_if(differs, Aspect::Target);
            }
            InodeKind::CharDevice { .. } | InodeKind::BlockDevice { .. } => {
                aspects.add_if(a.kind != b.kind, Aspect::Device);
            }
            _ => {}
        }
        Ok(aspects)
    }

    fn xattrs_differ(&self, a: &Inode, b: &Inode) -> Result<bool> {
        let same_block = a.xattr_block == b.xattr_block
            && (a.xattr_block == 0 || self.is_same_block(a.xattr_block)?);
        if same_block && a.xattr_area == b.xattr_area {
            return Ok(false);
        }
        Ok(self.before.ext4.xattrs(a)? != self.after.ext4.xattrs(b)?)
    }

    /// Whether a directory or file that is the same inode is known to have the same blocks too.
    pub(super) fn has_same_blocks(&self, inode: &Inode) -> Result<bool> {
        let in_itself = match inode.block_form() {
            BlockForm::None => true,
            // The depth of the root: at 0 there are no other nodes, which might differ.
            BlockForm::Tree => u16_at(&inode.block_area, 6) == 0,
            BlockForm::Map => false,
        };
        if !in_itself {
            return Ok(false);
        }
        let size = u64::from(self.after.ext4.block_size_bytes());
        for extent in self.after.ext4.extents(inode) {
            let extent = extent?;
            let (at, len) = (extent.physical * size, extent.len * size);
            if known_equal(&self.before, &self.after, self.pair, (at, at), len)? != len {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
