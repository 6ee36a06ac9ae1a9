//! Building a map from its extents in order, in memory for one path from root to leaf.

use super::{
    ChunkPlace,
    node::{Shape, Spot, push_run, put, run_in_leaf},
};
use silt_format::{MapChildren, MapNode, MapRun};
use silt_store::ChunkSink;
use silt_types::{BlockRange, ChunkId, DiskId, Error, Result};

/// Writes the map of a disk, extent by extent.
///
/// A node is stored as soon as what follows lies beyond it, so memory is one node for each level whatever the disk's
/// size. Dropping the builder leaves nodes behind that nothing refers to.
pub struct MapBuilder<'a> {
    sink: &'a dyn ChunkSink,
    size_bytes: u64,
    shape: Shape,
    next_block: u64,
    leaf: Spot,
    runs: Vec<MapRun>,
    // The node under construction of each level above the leaves, lowest first.
    parents: Vec<(Spot, MapChildren)>,
}

impl<'a> MapBuilder<'a> {
    /// A map without extents: every block of the disk reads as zero. `Invalid` beyond 16 TiB.
    pub fn new(sink: &'a dyn ChunkSink, size_bytes: u64) -> Result<MapBuilder<'a>> {
        let shape = Shape::of_disk(size_bytes)?;
        let parent = |level| (Spot { level, index: 0 }, MapChildren::default());
        let parents = (1..=shape.root_level).map(parent).collect();
        let leaf = Spot { level: 0, index: 0 };
        Ok(MapBuilder { sink, size_bytes, shape, next_block: 0, leaf, runs: Vec::new(), parents })
    }

    /// Maps `len_blocks` blocks from `block` on to the blocks of a chunk from `offset_blocks` on. Blocks ascend: none
    /// before the end of the last call. `Invalid` otherwise, beyond the disk, or beyond 64 KiB of the chunk.
    pub fn map(
        &mut self,
        block: u64,
        len_blocks: u64,
        chunk: ChunkId,
        offset_blocks: u64,
    ) -> Result<()> {
        let range = BlockRange { start: block, len: len_blocks };
        let place = ChunkPlace { chunk, offset_blocks };
        self.shape.check(range, Some(place))?;
        if block < self.next_block {
            let next = self.next_block;
            return Err(Error::invalid(format!("block {block} is mapped after block {next}")));
        }
        self.next_block = range.end();
        let mut at = block;
        while at < range.end() {
            let leaf = Spot::of_leaf(at);
            if leaf != self.leaf {
                self.finish_leaf()?;
                self.leaf = leaf;
            }
            push_run(&mut self.runs, run_in_leaf(leaf, range, place));
            at = leaf.end();
        }
        Ok(())
    }

    /// Stores what is left and names the disk.
    pub fn finish(mut self) -> Result<DiskId> {
        let mut root = self.finish_leaf()?;
        for level in 1..=self.shape.root_level {
            root = self.finish_parent(level)?;
        }
        Ok(DiskId { root: root.unwrap_or(DiskId::ZERO_ROOT), size_bytes: self.size_bytes })
    }

    /// Stores the leaf, if it has runs; `Some` if it is the root.
    fn finish_leaf(&mut self) -> Result<Option<ChunkId>> {
        if self.runs.is_empty() {
            return Ok(None);
        }
        let id = put(self.sink, &MapNode::Leaf(std::mem::take(&mut self.runs)))?;
        self.add_to_parent(self.leaf, id)
    }

    /// Stores the inner node of this level, if it has children; `Some` if it is the root.
    fn finish_parent(&mut self, level: u8) -> Result<Option<ChunkId>> {
        let (spot, children) = &mut self.parents[usize::from(level) - 1];
        if children.is_empty() {
            return Ok(None);
        }
        let (spot, children) = (*spot, std::mem::take(children));
        let id = put(self.sink, &MapNode::Inner { level, children })?;
        self.add_to_parent(spot, id)
    }

    fn add_to_parent(&mut self, spot: Spot, id: ChunkId) -> Result<Option<ChunkId>> {
        if spot.level == self.shape.root_level {
            return Ok(Some(id));
        }
        let parent = spot.parent();
        if self.parents[usize::from(spot.level)].0 != parent {
            self.finish_parent(parent.level)?;
            self.parents[usize::from(spot.level)].0 = parent;
        }
        self.parents[usize::from(spot.level)].1.push(spot.position_in_parent(), id);
        Ok(None)
    }
}
