//! The blocks of directories: one block in the order of names, or leaves in the order of hashes under an index.
//!
//! A hash index is cut like a trie: the whole range of hashes is halved until the names of each part fit in a block.
//! So one name more changes one leaf, or cuts one in two, whatever else is in the directory; leaves are between half
//! full and full, as they are after the kernel's own splits.

use super::nodes::Nodes;
use crate::{
    format::{
        BLOCK_SIZE, HASH_SEED,
        directory::{
            DirectoryEntry, HashIndexEntry, LEAF_CAPACITY, LeafBuilder, NODE_ENTRIES_MAX,
            ROOT_ENTRIES_MAX, TYPE_DIRECTORY, encode_index_node, encode_index_root, entry_size,
        },
        hash::half_md4,
    },
    hierarchy::Child,
};
use silt_types::{Error, Result};

/// Bytes of `.` and `..`.
const DOTS_SIZE: usize = entry_size(1) + entry_size(2);

/// The names of a directory, cut into blocks.
pub(super) enum DirectoryBlocks<'h> {
    /// Everything fits in one block.
    Single(Vec<Child<'h>>),
    /// Leaves under an index.
    Indexed(IndexedDirectory<'h>),
}

pub(super) struct IndexedDirectory<'h> {
    /// In the order of (hash, name).
    children: Vec<Child<'h>>,
    leaves: Vec<Leaf>,
}

struct Leaf {
    /// The smallest hash in the leaf; odd where names of the even hash below are in the leaf before too.
    hash: u32,
    /// Children from here to where the next leaf begins.
    first: usize,
    end: usize,
}

/// What the blocks need to know about inodes.
pub(super) struct DirectoryInodes<'a> {
    pub(super) own: u32,
    pub(super) parent: u32,
    /// Of a node.
    pub(super) number: &'a dyn Fn(crate::hierarchy::EntryId) -> u32,
    /// Checksum seed of the directory.
    pub(super) seed: u32,
}

impl<'h> DirectoryBlocks<'h> {
    /// Cuts the names (in byte order) of a directory. `Invalid` when two levels of index are not enough for it, beyond
    /// some two and a half million of the longest names.
    pub(super) fn new(children: Vec<Child<'h>>) -> Result<DirectoryBlocks<'h>> {
        let size =
            DOTS_SIZE + children.iter().map(|child| entry_size(child.name.len())).sum::<usize>();
        if size <= LEAF_CAPACITY {
            return Ok(DirectoryBlocks::Single(children));
        }
        let mut hashed: Vec<_> =
            children.iter().map(|child| (half_md4(&HASH_SEED, child.name), *child)).collect();
        // Stable: names of the same hash stay in byte order.
        hashed.sort_by_key(|(hash, _)| *hash);
        let leaves = cut(&hashed);
        if leaves.len() > ROOT_ENTRIES_MAX * NODE_ENTRIES_MAX {
            let message = format!("{} names are more than one ext4 directory holds", hashed.len());
            return Err(Error::invalid(message));
        }
        let children = hashed.into_iter().map(|(_, child)| child).collect();
        Ok(DirectoryBlocks::Indexed(IndexedDirectory { children, leaves }))
    }

    /// Number of blocks.
    pub(super) fn len(&self) -> u64 {
        match self {
            DirectoryBlocks::Single(_) => 1,
            DirectoryBlocks::Indexed(directory) => {
                (1 + directory.index_nodes() + directory.leaves.len()) as u64
            }
        }
    }

    /// Writes one logical block.
    pub(super) fn encode(
        &self,
        logical: u64,
        nodes: &Nodes<'_>,
        inodes: &DirectoryInodes<'_>,
        block: &mut [u8; BLOCK_SIZE],
    ) {
        match self {
            DirectoryBlocks::Single(children) => {
                let dot = [(inodes.own, &b"."[..]), (inodes.parent, b"..")]
                    .map(|(inode, name)| DirectoryEntry { inode, file_type: TYPE_DIRECTORY, name });
                fill_leaf(
                    dot.into_iter().chain(directory_entries(children, nodes, inodes)),
                    inodes,
                    block,
                );
            }
            DirectoryBlocks::Indexed(directory) => {
                directory.encode(logical as usize, nodes, inodes, block);
            }
        }
    }
}

impl IndexedDirectory<'_> {
    /// Nodes between the root of the index and the leaves.
    fn index_nodes(&self) -> usize {
        if self.leaves.len() <= ROOT_ENTRIES_MAX {
            0
        } else {
            self.leaves.len().div_ceil(NODE_ENTRIES_MAX)
        }
    }

    /// The root is block 0, then come index nodes, then leaves.
    fn encode(
        &self,
        logical: usize,
        nodes: &Nodes<'_>,
        inodes: &DirectoryInodes<'_>,
        block: &mut [u8; BLOCK_SIZE],
    ) {
        let index_nodes = self.index_nodes();
        if logical == 0 {
            let entries = self.root_entries(index_nodes);
            let levels = u8::from(index_nodes > 0);
            encode_index_root(block, inodes.seed, inodes.own, inodes.parent, levels, &entries);
        } else if logical <= index_nodes {
            let first = (logical - 1) * NODE_ENTRIES_MAX;
            let end = (first + NODE_ENTRIES_MAX).min(self.leaves.len());
            encode_index_node(block, inodes.seed, &self.leaf_entries(first..end));
        } else {
            let leaf = &self.leaves[logical - 1 - index_nodes];
            let children = &self.children[leaf.first..leaf.end];
            fill_leaf(directory_entries(children, nodes, inodes), inodes, block);
        }
    }

    fn root_entries(&self, index_nodes: usize) -> Vec<HashIndexEntry> {
        if index_nodes == 0 {
            return self.leaf_entries(0..self.leaves.len());
        }
        (0..index_nodes)
            .map(|node| HashIndexEntry {
                hash: self.leaves[node * NODE_ENTRIES_MAX].hash,
                block: 1 + node as u32,
            })
            .collect()
    }

    fn leaf_entries(&self, leaves: std::ops::Range<usize>) -> Vec<HashIndexEntry> {
        let first_block = 1 + self.index_nodes();
        leaves
            .map(|leaf| HashIndexEntry {
                hash: self.leaves[leaf].hash,
                block: (first_block + leaf) as u32,
            })
            .collect()
    }
}

fn directory_entries<'a>(
    children: &'a [Child<'a>],
    nodes: &'a Nodes<'_>,
    inodes: &'a DirectoryInodes<'_>,
) -> impl Iterator<Item = DirectoryEntry<'a>> {
    children.iter().map(|child| DirectoryEntry {
        inode: (inodes.number)(child.entry),
        file_type: nodes.type_of(child.entry).1,
        name: child.name,
    })
}

fn fill_leaf<'a>(
    entries: impl Iterator<Item = DirectoryEntry<'a>>,
    inodes: &DirectoryInodes<'_>,
    block: &mut [u8; BLOCK_SIZE],
) {
    let mut leaf = LeafBuilder::new(block);
    for entry in entries {
        let fits = leaf.push(&entry);
        debug_assert!(fits, "names were cut into blocks by their sizes");
    }
    leaf.finish(inodes.seed);
}

/// Cuts names sorted by hash into leaves.
fn cut(hashed: &[(u32, Child<'_>)]) -> Vec<Leaf> {
    let mut leaves = Vec::new();
    // Parts still to be cut, the next one last: first hash, width, children.
    let mut parts = vec![(0u64, 1u64 << 32, 0..hashed.len())];
    while let Some((hash, width, range)) = parts.pop() {
        let names = &hashed[range.clone()];
        let size: usize = names.iter().map(|(_, child)| entry_size(child.name.len())).sum();
        if names.is_empty() {
            continue;
        }
        if size <= LEAF_CAPACITY {
            leaves.push(Leaf { hash: hash as u32, first: range.start, end: range.end });
        } else if width <= 2 {
            cut_collision(hashed, hash as u32, range, &mut leaves);
        } else {
            let middle = hash + width / 2;
            let split = range.start + names.partition_point(|(h, _)| u64::from(*h) < middle);
            parts.push((middle, width / 2, split..range.end));
            parts.push((hash, width / 2, range.start..split));
        }
    }
    // Whatever the first leaf's range is, lookups below it end there.
    if let Some(first) = leaves.first_mut() {
        first.hash = 0;
    }
    leaves
}

/// More names of one and the same hash than fit in a block: leaves that continue each other.
fn cut_collision(
    hashed: &[(u32, Child<'_>)],
    hash: u32,
    range: std::ops::Range<usize>,
    leaves: &mut Vec<Leaf>,
) {
    let (mut first, mut size, mut leaf_hash) = (range.start, 0, hash);
    for index in range.clone() {
        let entry = entry_size(hashed[index].1.name.len());
        if size + entry > LEAF_CAPACITY {
            leaves.push(Leaf { hash: leaf_hash, first, end: index });
            (first, size, leaf_hash) = (index, 0, hash | 1);
        }
        size += entry;
    }
    leaves.push(Leaf { hash: leaf_hash, first, end: range.end });
}
