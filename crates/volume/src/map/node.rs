//! Where a node belongs, reading it and checking that it does, and writing it.

use super::ChunkPlace;
use silt_format::{MAP_LEAF_BLOCKS, MAP_RADIX, MapNode, MapRun, map_node_blocks, map_root_level};
use silt_store::{Chunk, ChunkKind, ChunkSink};
use silt_types::{
    BLOCK_SIZE_BYTES, BlockRange, CHUNK_BLOCKS_MAX, ChunkId, Context as _, DiskId, Error, Result,
};

/// The place of a node in the tree: it covers blocks `index * blocks()` and following.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) level: u8,
    pub(super) index: u64,
}

impl Spot {
    /// The place of the leaf that covers a block.
    pub(super) fn of_leaf(block: u64) -> Spot {
        Spot { level: 0, index: block / MAP_LEAF_BLOCKS }
    }

    pub(super) fn start(self) -> u64 {
        self.index * map_node_blocks(self.level)
    }

    pub(super) fn end(self) -> u64 {
        self.start() + map_node_blocks(self.level)
    }

    pub(super) fn child(self, position: u8) -> Spot {
        Spot { level: self.level - 1, index: self.index * MAP_RADIX + u64::from(position) }
    }

    pub(super) fn parent(self) -> Spot {
        Spot { level: self.level + 1, index: self.index / MAP_RADIX }
    }

    pub(super) fn position_in_parent(self) -> u8 {
        (self.index % MAP_RADIX) as u8
    }
}

/// The shape of the tree of a disk: its length in blocks and the level of its root.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) blocks: u64,
    pub(super) root_level: u8,
}

impl Shape {
    /// The shape of a disk of this length; `Invalid` beyond 16 TiB.
    pub(super) fn of_disk(size_bytes: u64) -> Result<Shape> {
        let blocks = size_bytes.div_ceil(BLOCK_SIZE_BYTES);
        let root_level = map_root_level(blocks).ok_or_else(|| {
            Error::invalid(format!("a disk of {size_bytes} bytes is larger than 16 TiB"))
        })?;
        Ok(Shape { blocks, root_level })
    }

    pub(super) fn root(self) -> Spot {
        Spot { level: self.root_level, index: 0 }
    }

    /// Checks that blocks lie on the disk and that `place` can hold them.
    pub(super) fn check(self, range: BlockRange, place: Option<ChunkPlace>) -> Result<()> {
        let end = range.start.checked_add(range.len);
        if range.len == 0 || end.is_none_or(|end| end > self.blocks) {
            return Err(Error::invalid(format!(
                "{} blocks at block {} are not on a disk of {} blocks",
                range.len, range.start, self.blocks
            )));
        }
        match place {
            Some(ChunkPlace { chunk, offset_blocks })
                if chunk == DiskId::ZERO_ROOT
                    || offset_blocks > CHUNK_BLOCKS_MAX
                    || range.len > CHUNK_BLOCKS_MAX - offset_blocks =>
            {
                let len = range.len;
                Err(Error::invalid(format!("chunk {chunk} has no {len} blocks at {offset_blocks}")))
            }
            _ => Ok(()),
        }
    }
}

/// Decodes a node whose hash has been checked. `Corrupt`, naming the node, if it is none or does not belong to its spot.
pub(super) fn decode(chunk: &Chunk, id: &ChunkId, spot: Spot, shape: Shape) -> Result<MapNode> {
    let name = || format!("cannot use disk map node {id}");
    let node = MapNode::decode(chunk).context(name)?;
    if node.level() != spot.level {
        return Err(Error::corrupt("it belongs to another level").context(name()));
    }
    if spot.start() + node.blocks_used_min() > shape.blocks {
        return Err(Error::corrupt("it maps blocks beyond the disk").context(name()));
    }
    Ok(node)
}

/// Stores a node.
pub(super) fn put(sink: &dyn ChunkSink, node: &MapNode) -> Result<ChunkId> {
    sink.put(ChunkKind::MapNode, &node.encode()).context(|| "cannot store a disk map node".into())
}

/// Appends a run to a leaf, or lets its last run go on in it.
pub(super) fn push_run(runs: &mut Vec<MapRun>, run: MapRun) {
    match runs.last_mut() {
        Some(last) if last.continues_in(&run) => last.len += run.len,
        _ => runs.push(run),
    }
}

/// The part of an extent that lies in the leaf at `spot`, as a run of it; the two must meet.
pub(super) fn run_in_leaf(spot: Spot, range: BlockRange, place: ChunkPlace) -> MapRun {
    let start = range.start.max(spot.start());
    let end = range.end().min(spot.end());
    MapRun {
        first: (start - spot.start()) as u8,
        len: (end - start) as u8,
        chunk_offset: (place.offset_blocks + start - range.start) as u8,
        chunk: place.chunk,
    }
}
