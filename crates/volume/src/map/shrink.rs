//! Cutting a map: the beginning of a disk as a disk of its own.

use super::node::{Shape, Spot, decode, put};
use silt_format::{MapChildren, MapNode};
use silt_store::{ChunkSink, ChunkSource, KeyContext};
use silt_types::{ChunkId, DiskId, Error, Result};

/// The map of the first `size_bytes` of `base`. `Invalid` if the base is shorter, `Corrupt` if a node on the way to the new
/// end is damaged. Costs the nodes on that way; all others are shared.
pub fn shrink_map(
    source: &dyn ChunkSource,
    sink: &dyn ChunkSink,
    base: DiskId,
    size_bytes: u64,
) -> Result<DiskId> {
    if size_bytes > base.size_bytes {
        let old = base.size_bytes;
        return Err(Error::invalid(format!("a disk of {old} bytes has no first {size_bytes}")));
    }
    let (old, new) = (Shape::of_disk(base.size_bytes)?, Shape::of_disk(size_bytes)?);
    let cut = Cut { source, sink, old, blocks: new.blocks };
    let mut spot = old.root();
    let mut node = Some(base.root).filter(|root| *root != DiskId::ZERO_ROOT);
    while let Some(id) = node.filter(|_| spot.level > new.root_level) {
        let children = cut.children(spot, &id)?;
        (spot, node) = (spot.child(0), children.get(0).copied());
    }
    let root = node.map_or(Ok(None), |id| cut.subtree(spot, id))?;
    Ok(DiskId { root: root.unwrap_or(DiskId::ZERO_ROOT), size_bytes })
}

struct Cut<'a> {
    source: &'a dyn ChunkSource,
    sink: &'a dyn ChunkSink,
    old: Shape,
    /// Blocks that stay.
    blocks: u64,
}

impl Cut<'_> {
    /// What stays of a subtree. Recursion is as deep as the tree: at most five.
    fn subtree(&self, spot: Spot, id: ChunkId) -> Result<Option<ChunkId>> {
        if spot.end() <= self.blocks {
            return Ok(Some(id));
        }
        if spot.start() >= self.blocks {
            return Ok(None);
        }
        let node = match self.read(spot, &id)? {
            MapNode::Leaf(mut runs) => {
                let left = self.blocks - spot.start();
                runs.retain(|run| u64::from(run.first) < left);
                if let Some(last) = runs.last_mut() {
                    last.len = u64::from(last.len).min(left - u64::from(last.first)) as u8;
                }
                (!runs.is_empty()).then_some(MapNode::Leaf(runs))
            }
            MapNode::Inner { level, children: old } => {
                let mut children = MapChildren::default();
                for (position, child) in old.iter() {
                    if let Some(id) = self.subtree(spot.child(position), *child)? {
                        children.push(position, id);
                    }
                }
                (!children.is_empty()).then_some(MapNode::Inner { level, children })
            }
        };
        node.map(|node| put(self.sink, &node)).transpose()
    }

    fn children(&self, spot: Spot, id: &ChunkId) -> Result<MapChildren> {
        match self.read(spot, id)? {
            MapNode::Inner { children, .. } => Ok(children),
            MapNode::Leaf(_) => Err(Error::internal("a leaf above the level of leaves")),
        }
    }

    fn read(&self, spot: Spot, id: &ChunkId) -> Result<MapNode> {
        let chunk = self.source.get(KeyContext::MapNode, id)?;
        decode(&chunk, id, spot, self.old)
    }
}
