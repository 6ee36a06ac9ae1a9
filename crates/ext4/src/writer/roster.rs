//! Everybody in the order in which they stand: which nodes belong together, and what each needs.

use super::{
    directories::DirectoryBlocks, extents::tree_blocks, nodes::Nodes, sizing::Need,
    xattrs::DiskXattrs,
};
use crate::{
    format::{extent::EXTENT_LEN_MAX, inode::INODE_FIRST},
    hierarchy::{Child, EntryId, EntryKind, mix, name_hash},
};
use silt_types::{Context as _, Result};

/// The longest link target that the inode itself holds, in bytes: 60 with its final zero.
pub(super) const FAST_SYMLINK_LEN_MAX: usize = 59;

/// A directory of more names is cut by the hash of its names into buckets of 64 to 128, so that one name more does not
/// shift all the others.
const NAMES_TOGETHER_MAX: usize = 256;

/// Names in a bucket at most, on average.
const BUCKET_NAMES_MAX: usize = 128;

/// What the planner knows about every node.
pub(super) struct Roster {
    pub(super) order: Order,
    pub(super) facts: Facts,
    pub(super) need: Need,
}

/// Who stands beside whom.
pub(super) struct Order {
    /// Every node once: by directory in path order, the directory itself first, then its files by bucket and name.
    pub(super) members: Vec<u32>,
    units: Vec<UnitRange>,
    /// By node: the hash of its path.
    path_hashes: Vec<u64>,
}

/// What stays of interest about every node once all have their places. All by node.
pub(super) struct Facts {
    /// Blocks of directory, link target and attributes.
    node_blocks: Vec<u32>,
    subdirectories: Vec<u32>,
    /// The directory that holds the node.
    parents: Vec<u32>,
}

/// Members that want to be together.
pub(super) struct Unit {
    /// Picks the home.
    pub(super) key: u64,
    /// Numbers that all members need together.
    pub(super) len: u64,
    /// The members, in the order in which they stand.
    pub(super) members: Members,
}

/// The members of a [`Unit`].
pub(super) enum Members {
    /// One node.
    One(u32),
    /// A range of [`Order::members`], without those that are units of their own.
    Range { start: u32, end: u32 },
}

/// A directory, or a bucket of it, in [`Order::members`].
struct UnitRange {
    key: u64,
    start: u32,
    end: u32,
}

struct Member {
    /// Where the directory itself stands among all members, before they are sorted.
    rank: u32,
    bucket: u32,
    node: u32,
}

/// A directory that the walk is in.
struct OpenDirectory<'h> {
    node: EntryId,
    rank: u32,
    bucket_mask: u32,
    children: std::vec::IntoIter<Child<'h>>,
}

impl<'h> OpenDirectory<'h> {
    /// Enters a directory, which is the first member of its first bucket.
    fn new(nodes: &Nodes<'h>, node: EntryId, members: &mut Vec<Member>) -> OpenDirectory<'h> {
        let children = nodes.children(node);
        let rank = members.len() as u32;
        members.push(Member { rank, bucket: 0, node: node.0 });
        let bucket_mask = bucket_mask(children.len());
        OpenDirectory { node, rank, bucket_mask, children: children.into_iter() }
    }
}

impl Roster {
    /// Looks at every entry once. `Invalid`, naming the path, for attributes that do not fit and directories with too
    /// many names.
    pub(super) fn new(nodes: &Nodes<'_>) -> Result<Roster> {
        let count = nodes.len();
        let mut roster = Roster {
            order: Order {
                members: Vec::with_capacity(count),
                units: Vec::new(),
                path_hashes: vec![0; count],
            },
            facts: Facts {
                node_blocks: vec![0; count],
                subdirectories: vec![0; count],
                parents: vec![0; count],
            },
            need: Need { data_blocks: 0, node_blocks: 0, inodes: u64::from(INODE_FIRST) - 1 },
        };
        roster.order.path_hashes[0] = mix(1);
        let members = roster.collect(nodes);
        roster.form_units(members);
        roster.measure(nodes)?;
        Ok(roster)
    }

    /// Walks the paths in order: the first name of a file decides where it belongs. A directory stands before its own
    /// files, not beside its siblings: its inode is in every subdirectory's `..`, so it should seldom move.
    fn collect(&mut self, nodes: &Nodes<'_>) -> Vec<Member> {
        let mut members = Vec::with_capacity(nodes.len());
        let mut seen = vec![false; nodes.len()];
        let mut open = vec![OpenDirectory::new(nodes, EntryId::ROOT, &mut members)];
        while let Some(directory) = open.last_mut() {
            let Some(child) = directory.children.next() else {
                open.pop();
                continue;
            };
            let node = child.entry.index();
            if std::mem::replace(&mut seen[node], true) {
                continue;
            }
            let parent = directory.node;
            let hash = name_hash(self.order.path_hashes[parent.index()], child.name);
            let bucket = (hash >> 32) as u32 & directory.bucket_mask;
            self.order.path_hashes[node] = hash;
            self.facts.parents[node] = parent.0;
            if nodes.is_directory(child.entry) {
                self.facts.subdirectories[parent.index()] += 1;
                open.push(OpenDirectory::new(nodes, child.entry, &mut members));
            } else {
                members.push(Member { rank: directory.rank, bucket, node: child.entry.0 });
            }
        }
        // Stable: within a bucket the order of names stays.
        members.sort_by_key(|member| (member.rank, member.bucket));
        members
    }

    fn form_units(&mut self, members: Vec<Member>) {
        let same = |a: &Member, b: &Member| (a.rank, a.bucket) == (b.rank, b.bucket);
        let mut directory = 0;
        for unit in members.chunk_by(same) {
            let start = self.order.members.len() as u32;
            self.order.members.extend(unit.iter().map(|member| member.node));
            if unit[0].bucket == 0 {
                directory = unit[0].node as usize;
            }
            // The bits of a bucket stand at the top, so the first half of a bucket that is cut in two keeps its key.
            let bucket = u64::from(unit[0].bucket) << 32;
            let key = mix(self.order.path_hashes[directory] ^ bucket);
            self.order.units.push(UnitRange { key, start, end: self.order.members.len() as u32 });
        }
    }

    fn measure(&mut self, nodes: &Nodes<'_>) -> Result<()> {
        for node in nodes.all() {
            let blocks = blocks_of_node(nodes, node).context(|| {
                let path = nodes.hierarchy.path(node);
                format!("{:?}", String::from_utf8_lossy(&path))
            })?;
            self.facts.node_blocks[node.index()] = blocks as u32;
            self.need.node_blocks += blocks + tree_blocks(extents_at_least(nodes, node));
            self.need.data_blocks += nodes.data_blocks(node);
            self.need.inodes += u64::from(node != EntryId::ROOT);
        }
        // Inode 11 is for lost+found even where there is none.
        self.need.inodes += u64::from(nodes.lost_and_found.is_none());
        Ok(())
    }
}

impl Order {
    /// Nodes in units of ten.
    #[cfg(test)]
    pub(super) fn of_tens(nodes: u32) -> Order {
        let unit =
            |ten| UnitRange { key: mix(ten), start: ten as u32 * 10, end: ten as u32 * 10 + 10 };
        Order {
            members: (0..nodes).collect(),
            units: (0..u64::from(nodes / 10)).map(unit).collect(),
            path_hashes: (0..u64::from(nodes)).map(mix).collect(),
        }
    }

    /// The units of all nodes with a weight. From `alone_from` on, a node is a unit of its own.
    pub(super) fn units(&self, weight: &dyn Fn(u32) -> u64, alone_from: u64) -> Vec<Unit> {
        let mut units = Vec::new();
        for unit in &self.units {
            let mut len = 0;
            for node in &self.members[unit.start as usize..unit.end as usize] {
                match weight(*node) {
                    alone if alone >= alone_from => units.push(Unit {
                        key: self.path_hashes[*node as usize],
                        len: alone,
                        members: Members::One(*node),
                    }),
                    together => len += together,
                }
            }
            if len > 0 {
                let members = Members::Range { start: unit.start, end: unit.end };
                units.push(Unit { key: unit.key, len, members });
            }
        }
        units
    }
}

impl Facts {
    /// Blocks of directory, link target and attributes of a node, in this order.
    pub(super) fn node_blocks(&self, node: u32) -> u64 {
        u64::from(self.node_blocks[node as usize])
    }

    /// Number of directories in a directory.
    pub(super) fn subdirectories(&self, node: EntryId) -> u32 {
        self.subdirectories[node.index()]
    }

    /// The directory that holds a directory; the root holds itself.
    pub(super) fn parent(&self, node: EntryId) -> EntryId {
        EntryId(self.parents[node.index()])
    }
}

/// The top bits of a path's hash that tell the buckets of a directory of so many names apart.
fn bucket_mask(names: usize) -> u32 {
    if names <= NAMES_TOGETHER_MAX {
        return 0;
    }
    let bits = names.next_power_of_two().ilog2() - BUCKET_NAMES_MAX.ilog2();
    !(u32::MAX >> bits)
}

fn blocks_of_node(nodes: &Nodes<'_>, node: EntryId) -> Result<u64> {
    let own = match nodes.kind(node) {
        EntryKind::Directory => DirectoryBlocks::new(nodes.children(node))?.len(),
        EntryKind::Symlink(target) => u64::from(target.len() > FAST_SYMLINK_LEN_MAX),
        _ => 0,
    };
    let xattrs = nodes.xattrs(node);
    let in_block = !xattrs.is_empty() && DiskXattrs::new(xattrs)?.needs_block();
    Ok(own + u64::from(in_block))
}

/// Extents of a file that is nowhere interrupted.
fn extents_at_least(nodes: &Nodes<'_>, node: EntryId) -> u64 {
    if nodes.kind(node) != EntryKind::File {
        return 0;
    }
    let runs = nodes.hierarchy.content_runs(node);
    runs.map(|run| run.len.div_ceil(u64::from(EXTENT_LEN_MAX))).sum()
}
