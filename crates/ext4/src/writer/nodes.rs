//! The entries that become inodes: those of the hierarchy, and a `lost+found` where it has none.

use crate::{
    format::{directory, inode},
    hierarchy::{Child, EntryId, EntryKind, Hierarchy, Metadata, Xattr},
};

/// The directory that e2fsck needs for what it finds without a name.
const LOST_AND_FOUND: &[u8] = b"lost+found";

/// A hierarchy with its `lost+found`.
#[derive(Clone, Copy)]
pub(super) struct Nodes<'h> {
    pub(super) hierarchy: &'h Hierarchy,
    /// The entry with inode 11, if that name is a directory.
    pub(super) lost_and_found: Option<EntryId>,
}

impl<'h> Nodes<'h> {
    /// Where the hierarchy has a `lost+found` directory, that one is used; where it has something else of that name,
    /// there is none; otherwise an empty one is added.
    pub(super) fn new(hierarchy: &'h Hierarchy) -> Nodes<'h> {
        let lost_and_found = match hierarchy.lookup(EntryId::ROOT, LOST_AND_FOUND) {
            None => Some(EntryId(hierarchy.len() as u32)),
            Some(entry) => (hierarchy.kind(entry) == EntryKind::Directory).then_some(entry),
        };
        Nodes { hierarchy, lost_and_found }
    }

    fn is_added(&self, node: EntryId) -> bool {
        node.index() >= self.hierarchy.len()
    }

    /// The `lost+found` that the hierarchy does not have.
    fn added(&self) -> Option<EntryId> {
        self.lost_and_found.filter(|node| self.is_added(*node))
    }

    /// Number of nodes, those without a name counted too.
    pub(super) fn len(&self) -> usize {
        self.hierarchy.len() + usize::from(self.added().is_some())
    }

    /// Every node that has a name, and the root.
    pub(super) fn all(&self) -> impl Iterator<Item = EntryId> + use<'h> {
        self.hierarchy.entries().chain(self.added())
    }

    pub(super) fn kind(&self, node: EntryId) -> EntryKind<'h> {
        if self.is_added(node) { EntryKind::Directory } else { self.hierarchy.kind(node) }
    }

    pub(super) fn is_directory(&self, node: EntryId) -> bool {
        self.kind(node) == EntryKind::Directory
    }

    /// The added `lost+found` belongs to root alone and is as old as the root directory.
    pub(super) fn metadata(&self, node: EntryId) -> Metadata {
        if self.is_added(node) {
            let mtime = self.hierarchy.metadata(EntryId::ROOT).mtime;
            return Metadata { permissions: 0o700, uid: 0, gid: 0, mtime };
        }
        self.hierarchy.metadata(node)
    }

    pub(super) fn xattrs(&self, node: EntryId) -> &'h [Xattr] {
        if self.is_added(node) { &[] } else { self.hierarchy.xattrs(node) }
    }

    /// Names of a node that is no directory.
    pub(super) fn links(&self, node: EntryId) -> u32 {
        if self.is_added(node) { 1 } else { self.hierarchy.links(node) }
    }

    /// Blocks of file data.
    pub(super) fn data_blocks(&self, node: EntryId) -> u64 {
        if self.is_added(node) { 0 } else { self.hierarchy.content_blocks(node) }
    }

    /// The names in a directory, in byte order.
    pub(super) fn children(&self, node: EntryId) -> Vec<Child<'h>> {
        if self.is_added(node) {
            return Vec::new();
        }
        let mut children = self.hierarchy.children(node);
        if node == EntryId::ROOT
            && let Some(entry) = self.added()
        {
            let place = children.partition_point(|child| child.name < LOST_AND_FOUND);
            children.insert(place, Child { name: LOST_AND_FOUND, entry });
        }
        children
    }

    /// The type bits of the inode and the type in directory entries.
    pub(super) fn type_of(&self, node: EntryId) -> (u16, u8) {
        match self.kind(node) {
            EntryKind::Directory => (inode::MODE_DIRECTORY, directory::TYPE_DIRECTORY),
            EntryKind::File => (inode::MODE_FILE, directory::TYPE_FILE),
            EntryKind::Symlink(_) => (inode::MODE_SYMLINK, directory::TYPE_SYMLINK),
            EntryKind::CharDevice { .. } => (inode::MODE_CHAR_DEVICE, directory::TYPE_CHAR_DEVICE),
            EntryKind::BlockDevice { .. } => {
                (inode::MODE_BLOCK_DEVICE, directory::TYPE_BLOCK_DEVICE)
            }
            EntryKind::Fifo => (inode::MODE_FIFO, directory::TYPE_FIFO),
            EntryKind::Socket => (inode::MODE_SOCKET, directory::TYPE_SOCKET),
        }
    }
}
