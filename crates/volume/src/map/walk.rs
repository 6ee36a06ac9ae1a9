//! Going through a whole map: its extents in order, or its nodes and the chunks they name.

use super::{
    ChunkPlace, DiskMap, MappedExtent,
    node::{Spot, decode},
};
use silt_format::{MapNode, MapRun};
use silt_store::{Chunk, KeyContext};
use silt_types::{BlockRange, ChunkId, DiskId, Error, Result};
use std::{
    collections::{HashMap, HashSet},
    vec,
};

/// What a walk over the nodes of a map finds, node before content.
pub trait MapVisitor {
    /// A node is about to be read. False leaves it out and all that is below it, for instance because it was seen before.
    fn enter(&mut self, node: &ChunkId) -> bool;

    /// A node was read and is whole; this is its length.
    fn node(&mut self, node: &ChunkId, len_bytes: u64);

    /// A chunk of content that a node names; told once for every run.
    fn content(&mut self, chunk: &ChunkId);

    /// A node is missing or damaged. `Ok` goes on without it and what is below it, `Err` ends the walk.
    fn unreadable(&mut self, node: &ChunkId, error: Error) -> Result<()>;
}

impl DiskMap {
    /// All mapped extents, ascending; what lies between them reads as zero. Neighbours may continue one another. A node
    /// that cannot be read is an error, after which the iteration goes on behind it. Reads past the cache.
    pub fn extents(&self) -> Extents<'_> {
        Extents {
            map: self,
            pending: self.root_pending(),
            leaf_start: 0,
            runs: Vec::new().into_iter(),
        }
    }

    /// Visits every node, and every chunk that a leaf names. Reads past the cache.
    pub fn walk(&self, visitor: &mut dyn MapVisitor) -> Result<()> {
        let mut pending = self.root_pending();
        while let Some((spot, id)) = pending.pop() {
            if !visitor.enter(&id) {
                continue;
            }
            match self.read_node(spot, &id) {
                Ok((chunk, node)) => {
                    visitor.node(&id, chunk.len() as u64);
                    match node {
                        MapNode::Leaf(runs) => {
                            runs.iter().for_each(|run| visitor.content(&run.chunk))
                        }
                        MapNode::Inner { .. } => push_children(&mut pending, spot, &node),
                    }
                }
                Err(error) => visitor.unreadable(&id, error)?,
            }
        }
        Ok(())
    }

    /// Whether one of `wanted` is a node of the map, or named by it. Of nodes that were looked into, `known` keeps the answer, for
    /// other maps that have them too.
    pub fn reaches(
        &self,
        wanted: &HashSet<ChunkId>,
        known: &mut HashMap<ChunkId, bool>,
    ) -> Result<bool> {
        self.root_pending().into_iter().try_fold(false, |found, (spot, id)| {
            Ok(found || self.node_reaches(spot, &id, wanted, known)?)
        })
    }

    fn node_reaches(
        &self,
        spot: Spot,
        id: &ChunkId,
        wanted: &HashSet<ChunkId>,
        known: &mut HashMap<ChunkId, bool>,
    ) -> Result<bool> {
        if let Some(known) = known.get(id) {
            return Ok(*known);
        }
        let found = wanted.contains(id)
            || match self.read_node(spot, id)?.1 {
                MapNode::Leaf(runs) => runs.iter().any(|run| wanted.contains(&run.chunk)),
                MapNode::Inner { children, .. } => {
                    let mut children = children.iter();
                    children.try_fold(false, |found, (position, child)| {
                        let spot = spot.child(position);
                        Ok::<_, Error>(found || self.node_reaches(spot, child, wanted, known)?)
                    })?
                }
            };
        known.insert(*id, found);
        Ok(found)
    }

    /// Length of all nodes together, each distinct one counted once. Reads them all.
    pub fn map_bytes(&self) -> Result<u64> {
        let mut total = NodeBytes { seen: HashSet::new(), bytes: 0 };
        self.walk(&mut total)?;
        Ok(total.bytes)
    }

    fn root_pending(&self) -> Vec<(Spot, ChunkId)> {
        let root = (self.shape().root(), self.disk_id().root);
        if root.1 == DiskId::ZERO_ROOT { Vec::new() } else { vec![root] }
    }

    pub(super) fn read_node(&self, spot: Spot, id: &ChunkId) -> Result<(Chunk, MapNode)> {
        let chunk = self.source().get(KeyContext::MapNode, id)?;
        let node = decode(&chunk, id, spot, self.shape())?;
        Ok((chunk, node))
    }
}

/// Pushes the children so that the first is popped first.
fn push_children(pending: &mut Vec<(Spot, ChunkId)>, spot: Spot, node: &MapNode) {
    if let MapNode::Inner { children, .. } = node {
        let start = pending.len();
        pending.extend(children.iter().map(|(position, id)| (spot.child(position), *id)));
        pending[start..].reverse();
    }
}

/// Iterator over the mapped extents of a disk; see [`DiskMap::extents`].
pub struct Extents<'a> {
    map: &'a DiskMap,
    pending: Vec<(Spot, ChunkId)>,
    leaf_start: u64,
    runs: vec::IntoIter<MapRun>,
}

impl Iterator for Extents<'_> {
    type Item = Result<MappedExtent>;

    fn next(&mut self) -> Option<Result<MappedExtent>> {
        loop {
            if let Some(run) = self.runs.next() {
                let start = self.leaf_start + u64::from(run.first);
                let range = BlockRange { start, len: run.len.into() };
                let place = ChunkPlace { chunk: run.chunk, offset_blocks: run.chunk_offset.into() };
                return Some(Ok(MappedExtent { range, place }));
            }
            let (spot, id) = self.pending.pop()?;
            match self.map.read_node(spot, &id) {
                Ok((_, MapNode::Leaf(runs))) => {
                    self.leaf_start = spot.start();
                    self.runs = runs.into_iter();
                }
                Ok((_, node)) => push_children(&mut self.pending, spot, &node),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

struct NodeBytes {
    seen: HashSet<ChunkId>,
    bytes: u64,
}

impl MapVisitor for NodeBytes {
    fn enter(&mut self, node: &ChunkId) -> bool {
        self.seen.insert(*node)
    }

    fn node(&mut self, _node: &ChunkId, len_bytes: u64) {
        self.bytes += len_bytes;
    }

    fn content(&mut self, _chunk: &ChunkId) {}

    fn unreadable(&mut self, _node: &ChunkId, error: Error) -> Result<()> {
        Err(error)
    }
}
