//! Going through what a map has that others have not, from the leaves up: what is copied to where the others are whole.

use super::{DiskMap, node::Spot};
use silt_format::{MapNode, map_node_blocks};
use silt_types::{ChunkId, DiskId, Result};

/// What fits at a place of a map: a node that was found sound at one is sound at every equal one, of whatever disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodePlace {
    /// Level of the node.
    pub level: u8,
    /// Blocks of the disk that are below it.
    pub blocks: u64,
}

/// What such a walk finds: all that a node names before the node.
pub trait MapClimber {
    /// A node is about to be read. False leaves it out, and all that is below it.
    fn enter(&mut self, node: &ChunkId, place: NodePlace) -> bool;

    /// A chunk of content that a node names; told once for every run, neighbours of one chunk together.
    fn content(&mut self, chunk: &ChunkId) -> Result<()>;

    /// A node, after all that is below it.
    fn node(&mut self, node: &ChunkId) -> Result<()>;
}

/// A node that another map has where this one has one.
type KnownNode<'a> = (&'a DiskMap, ChunkId);

impl DiskMap {
    /// Visits every node that none of the `known` maps has at the same place, and the content that it names. Costs the
    /// nodes that are not the same on both sides; memory is one path of the tree. `Corrupt`, naming the node, if one
    /// cannot be read. Reads past the cache.
    pub fn climb(&self, known: &[DiskMap], climber: &mut dyn MapClimber) -> Result<()> {
        let (root, spot) = (self.disk_id().root, self.shape().root());
        if root == DiskId::ZERO_ROOT {
            return Ok(());
        }
        let mut there = Vec::new();
        for map in known.iter().filter(|map| map.shape().root_level >= spot.level) {
            there.extend(map.first_node_of(spot.level)?.map(|node| (map, node)));
        }
        self.climb_node(known, spot, root, &there, climber)
    }

    fn climb_node(
        &self,
        known: &[DiskMap],
        spot: Spot,
        id: ChunkId,
        there: &[KnownNode<'_>],
        climber: &mut dyn MapClimber,
    ) -> Result<()> {
        let place = self.place_of(spot);
        let is_known = |(map, node): &KnownNode<'_>| *node == id && map.place_of(spot) == place;
        if there.iter().any(is_known) || !climber.enter(&id, place) {
            return Ok(());
        }
        match self.read_node(spot, &id)?.1 {
            MapNode::Leaf(runs) => {
                let mut last = None;
                for run in &runs {
                    if last.replace(run.chunk) != Some(run.chunk) {
                        climber.content(&run.chunk)?;
                    }
                }
            }
            MapNode::Inner { children, .. } => {
                let mut nodes = Vec::new();
                for (map, node) in there {
                    nodes.push((*map, map.read_node(spot, node)?.1));
                }
                for (position, child) in children.iter() {
                    let below = spot.child(position);
                    let there: Vec<_> = nodes
                        .iter()
                        .filter_map(|(map, node)| Some((*map, child_of(node, position)?)))
                        .chain(roots_at(known, below))
                        .collect();
                    self.climb_node(known, below, *child, &there, climber)?;
                }
            }
        }
        climber.node(&id)
    }

    fn place_of(&self, spot: Spot) -> NodePlace {
        let left = self.shape().blocks.saturating_sub(spot.start());
        NodePlace { level: spot.level, blocks: left.min(map_node_blocks(spot.level)) }
    }

    /// The node at the beginning of the disk at a level; `None` if it reads as zero there.
    fn first_node_of(&self, level: u8) -> Result<Option<ChunkId>> {
        let (mut spot, mut id) = (self.shape().root(), self.disk_id().root);
        while id != DiskId::ZERO_ROOT && spot.level > level {
            let node = self.read_node(spot, &id)?.1;
            (spot, id) = (spot.child(0), child_of(&node, 0).unwrap_or(DiskId::ZERO_ROOT));
        }
        Ok((id != DiskId::ZERO_ROOT).then_some(id))
    }
}

fn child_of(node: &MapNode, position: u8) -> Option<ChunkId> {
    match node {
        MapNode::Inner { children, .. } => children.get(position).copied(),
        MapNode::Leaf(_) => None,
    }
}

/// The roots of shorter disks, which are at the beginning of a longer one.
fn roots_at(known: &[DiskMap], spot: Spot) -> impl Iterator<Item = KnownNode<'_>> {
    let here = known.iter().filter(move |map| map.shape().root() == spot);
    here.map(|map| (map, map.disk_id().root)).filter(|(_, root)| *root != DiskId::ZERO_ROOT)
}
