//! Extent trees of files whose places are known.

use crate::format::{
    BLOCK_SIZE,
    extent::{
        BLOCK_ENTRIES_MAX, EXTENT_LEN_MAX, Extent, ExtentIndex, ExtentNode, INODE_ENTRIES_MAX,
        seal_extent_block,
    },
};
use silt_types::BlockRange;

/// Joins runs of logical blocks with the runs of physical blocks that hold them into extents, adjoining ones merged, none
/// longer than an extent can be. Both sides have the same number of blocks.
pub(super) fn extents(
    logical: impl Iterator<Item = BlockRange>,
    physical: impl Iterator<Item = BlockRange>,
) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    let mut physical = physical.peekable();
    let mut used = 0;
    for mut run in logical {
        while run.len > 0 {
            let Some(place) = physical.peek().copied() else {
                return extents;
            };
            let len = run.len.min(place.len - used);
            push(&mut extents, run.start, place.start + used, len);
            run = BlockRange { start: run.start + len, len: run.len - len };
            used += len;
            if used == place.len {
                physical.next();
                used = 0;
            }
        }
    }
    extents
}

fn push(extents: &mut Vec<Extent>, logical: u64, physical: u64, mut len: u64) {
    let (mut logical, mut physical) = (logical, physical);
    if let Some(last) = extents.last_mut()
        && u64::from(last.logical) + u64::from(last.len) == logical
        && last.physical + u64::from(last.len) == physical
    {
        let more = len.min(u64::from(EXTENT_LEN_MAX - last.len));
        last.len += more as u32;
        (logical, physical, len) = (logical + more, physical + more, len - more);
    }
    while len > 0 {
        let part = len.min(u64::from(EXTENT_LEN_MAX));
        extents.push(Extent {
            logical: logical as u32,
            physical,
            len: part as u32,
            unwritten: false,
        });
        (logical, physical, len) = (logical + part, physical + part, len - part);
    }
}

/// Blocks that a tree over so many extents takes besides the inode.
pub(super) fn tree_blocks(extents: u64) -> u64 {
    levels(extents).sum()
}

/// Nodes in blocks, by level from the leaves up.
fn levels(extents: u64) -> impl Iterator<Item = u64> {
    let mut entries = extents;
    std::iter::from_fn(move || {
        (entries > INODE_ENTRIES_MAX as u64).then(|| {
            entries = entries.div_ceil(BLOCK_ENTRIES_MAX as u64);
            entries
        })
    })
}

/// The tree of one file: its nodes are numbered from the leaves up, and node `i` stands in `blocks[i]`.
pub(super) struct ExtentTree {
    extents: Vec<Extent>,
    blocks: Vec<u64>,
    /// By level, the number of the first node.
    level_starts: Vec<usize>,
}

impl ExtentTree {
    /// The tree over `extents`; `blocks` has [`tree_blocks`] numbers.
    pub(super) fn new(extents: Vec<Extent>, blocks: Vec<u64>) -> ExtentTree {
        let mut start = 0;
        let level_starts = levels(extents.len() as u64)
            .map(|nodes| {
                let first = start;
                start += nodes as usize;
                first
            })
            .collect();
        ExtentTree { extents, blocks, level_starts }
    }

    /// Nodes besides the root.
    pub(super) fn block_count(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Writes the root, as `i_block` holds it.
    pub(super) fn encode_root(&self) -> [u8; 60] {
        let mut bytes = [0; 60];
        self.node(self.level_starts.len(), 0, INODE_ENTRIES_MAX)
            .encode(&mut bytes, INODE_ENTRIES_MAX);
        bytes
    }

    /// Writes the node with this number into its block.
    pub(super) fn encode_block(&self, number: usize, seed: u32, block: &mut [u8; BLOCK_SIZE]) {
        let level = self.level_starts.partition_point(|start| *start <= number) - 1;
        let position = number - self.level_starts[level];
        block.fill(0);
        self.node(level, position, BLOCK_ENTRIES_MAX).encode(block, BLOCK_ENTRIES_MAX);
        seal_extent_block(seed, block);
    }

    fn node(&self, level: usize, position: usize, entries_max: usize) -> ExtentNode {
        let first = position * entries_max;
        if level == 0 {
            let end = (first + entries_max).min(self.extents.len());
            return ExtentNode::Leaf(self.extents[first..end].to_vec());
        }
        let below = self.level_starts[level - 1];
        let below_end = self.level_starts.get(level).copied().unwrap_or(self.blocks.len());
        let end = (first + entries_max).min(below_end - below);
        let entry = |child: usize| ExtentIndex {
            logical: self.extents[child * BLOCK_ENTRIES_MAX.pow(level as u32)].logical,
            physical: self.blocks[below + child],
        };
        ExtentNode::Index(level as u16, (first..end).map(entry).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_of_every_depth_lead_to_every_extent() {
        for count in [0, 1, 4, 5, 340, 341, 1360, 1361, 340 * 340, 340 * 340 * 4 + 1] {
            let extents: Vec<_> = (0..count as u32)
                .map(|n| Extent {
                    logical: n * 2,
                    physical: 9 + u64::from(n),
                    len: 1,
                    unwritten: false,
                })
                .collect();
            let blocks: Vec<u64> = (0..tree_blocks(count)).map(|n| 1_000_000 + n).collect();
            let tree = ExtentTree::new(extents.clone(), blocks);
            let mut found = Vec::new();
            let mut waiting = vec![ExtentNode::decode(&tree.encode_root()).unwrap()];
            while let Some(node) = waiting.pop() {
                match node {
                    ExtentNode::Leaf(leaf) => found.extend(leaf),
                    ExtentNode::Index(_, children) => {
                        for child in children.iter().rev() {
                            let mut block = [0; BLOCK_SIZE];
                            let number = (child.physical - 1_000_000) as usize;
                            tree.encode_block(number, 1, &mut block);
                            waiting.push(ExtentNode::decode(&block).unwrap());
                        }
                    }
                }
            }
            assert!(found == extents, "{count} extents");
        }
    }

    #[test]
    fn runs_join_into_the_fewest_extents() {
        let run = |start, len| BlockRange { start, len };
        let logical = [run(0, 3), run(10, 40_000)];
        let physical = [run(100, 1), run(101, 2), run(103, 40_000)];
        let joined = extents(logical.into_iter(), physical.into_iter());
        let expected = [(0, 100, 3), (10, 103, 32_768), (32_778, 32_871, 7_232)]
            .map(|(logical, physical, len)| Extent { logical, physical, len, unwritten: false });
        assert_eq!(joined, expected);
    }
}
