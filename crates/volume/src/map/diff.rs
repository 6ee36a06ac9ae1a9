//! Where two maps differ, in time proportional to the difference: what has the same node on both sides is passed over.

use super::{
    DiskMap,
    node::{Shape, Spot, decode},
    read::extent_in,
};
use silt_format::{MAP_RADIX, MapChildren, MapNode, MapRun};
use silt_store::KeyContext;
use silt_types::{BlockRange, ChunkId, DiskId, Result};

/// The blocks whose places differ between two maps, ascending, neighbours within a leaf joined. What lies beyond the
/// end of the shorter disk counts as zero there. Equal places are equal bytes; other places may be equal bytes too.
///
/// A node that cannot be read is an error, after which the iteration goes on behind it. Costs the nodes that are not the
/// same on both sides; memory is one path of the tree. Reads past the cache.
pub fn diff_maps<'a>(a: &'a DiskMap, b: &'a DiskMap) -> MapDiff<'a> {
    let (shapes, roots) = ([a.shape(), b.shape()], [a.disk_id().root, b.disk_id().root]);
    let blocks = shapes[0].blocks.max(shapes[1].blocks);
    let level = shapes[0].root_level.max(shapes[1].root_level);
    let spot = Spot { level, index: 0 };
    let below = [0, 1].map(|side| below_root(roots[side], shapes[side], spot));
    MapDiff { maps: [a, b], blocks, pending: vec![Pending { spot, below }], found: Vec::new() }
}

/// Iterator over differing blocks; see [`diff_maps`].
pub struct MapDiff<'a> {
    maps: [&'a DiskMap; 2],
    /// Length of the longer disk.
    blocks: u64,
    pending: Vec<Pending>,
    /// The ranges of the last leaf, in reverse.
    found: Vec<BlockRange>,
}

/// A part of the disks that is still to be compared.
struct Pending {
    spot: Spot,
    below: [Below; 2],
}

/// What one of the maps has at a spot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Below {
    Zero,
    Node(ChunkId),
    /// The other disk is longer: the root of this one is at the start of this spot, one or more levels down.
    Root,
}

fn below_root(root: ChunkId, shape: Shape, spot: Spot) -> Below {
    match root {
        DiskId::ZERO_ROOT => Below::Zero,
        _ if spot == shape.root() => Below::Node(root),
        _ => Below::Root,
    }
}

impl MapDiff<'_> {
    fn compare(&mut self, Pending { spot, below }: Pending) -> Result<()> {
        // Equal nodes of maps of unlike height cover the same blocks: positions are relative to the node.
        if below[0] == below[1] && below[0] != Below::Root {
            return Ok(());
        }
        if spot.level == 0 {
            let runs = [self.leaf(0, spot, below[0])?, self.leaf(1, spot, below[1])?];
            self.compare_leaves(spot, &runs);
            return Ok(());
        }
        let children = [self.children(0, spot, below[0])?, self.children(1, spot, below[1])?];
        for position in (0..MAP_RADIX as u8).rev() {
            let child = spot.child(position);
            let below = [0, 1].map(|side| match below[side] {
                Below::Root if position == 0 => {
                    let map = self.maps[side];
                    below_root(map.disk_id().root, map.shape(), child)
                }
                _ => children[side].get(position).map_or(Below::Zero, |id| Below::Node(*id)),
            });
            if below[0] != below[1] || below[0] == Below::Root {
                self.pending.push(Pending { spot: child, below });
            }
        }
        Ok(())
    }

    fn children(&self, side: usize, spot: Spot, below: Below) -> Result<MapChildren> {
        Ok(match self.node(side, spot, below)? {
            Some(MapNode::Inner { children, .. }) => children,
            _ => MapChildren::default(),
        })
    }

    fn leaf(&self, side: usize, spot: Spot, below: Below) -> Result<Vec<MapRun>> {
        Ok(match self.node(side, spot, below)? {
            Some(MapNode::Leaf(runs)) => runs,
            _ => Vec::new(),
        })
    }

    fn node(&self, side: usize, spot: Spot, below: Below) -> Result<Option<MapNode>> {
        let Below::Node(id) = below else { return Ok(None) };
        let chunk = self.maps[side].source().get(KeyContext::MapNode, &id)?;
        decode(&chunk, &id, spot, self.maps[side].shape()).map(Some)
    }

    fn compare_leaves(&mut self, spot: Spot, runs: &[Vec<MapRun>; 2]) {
        let end = spot.end().min(self.blocks);
        let mut at = spot.start();
        while at < end {
            let [a, b] = [0, 1].map(|side| extent_in(&runs[side], spot, at, end));
            let len = a.len_blocks.min(b.len_blocks).min(end - at);
            if a.place != b.place {
                match self.found.last_mut() {
                    Some(last) if last.end() == at => last.len += len,
                    _ => self.found.push(BlockRange { start: at, len }),
                }
            }
            at += len;
        }
        self.found.reverse();
    }
}

impl Iterator for MapDiff<'_> {
    type Item = Result<BlockRange>;

    fn next(&mut self) -> Option<Result<BlockRange>> {
        loop {
            if let Some(range) = self.found.pop() {
                return Some(Ok(range));
            }
            let pending = self.pending.pop()?;
            if let Err(error) = self.compare(pending) {
                return Some(Err(error));
            }
        }
    }
}

/// How many of `len` blocks, from block `a_block` of one disk and `b_block` of the other on, have the same places.
pub(crate) fn same_places(
    a: &DiskMap,
    a_block: u64,
    b: &DiskMap,
    b_block: u64,
    len: u64,
) -> Result<u64> {
    let mut same = 0;
    while same < len {
        let (x, y) = (a.lookup(a_block + same)?, b.lookup(b_block + same)?);
        if x.place != y.place {
            break;
        }
        same += x.len_blocks.min(y.len_blocks);
    }
    Ok(same.min(len))
}
