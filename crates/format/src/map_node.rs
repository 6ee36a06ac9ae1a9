//! Nodes of disk maps.
//!
//! A leaf covers 256 blocks and holds runs of blocks that are consecutive in one chunk; an inner node has room for 64
//! children. Positions are relative to the node, blocks without a run and children without an id read as zero, and a
//! node without any content does not exist. So one mapping has one encoding. Nodes are chunks: their id is their
//! checksum and their length is the chunk's. Which node belongs where, and the tree above, is `silt-volume`'s `map`.

use crate::{
    layout::{Field, Record},
    wire::{WireReader, WireWrite},
};
use silt_types::{CHUNK_BLOCKS_MAX, ChunkId, DiskId, Result};

const MAGIC: [u8; 4] = *b"SMAP";
const VERSION: u8 = 1;
const HEADER_LEN: usize = 8;
const RUN_LEN: usize = 34;

/// Blocks that a leaf covers: 1 MiB of disk. Part of the format: other values give other roots.
pub const MAP_LEAF_BLOCKS: u64 = 256;
/// Children of an inner node. Part of the format.
pub const MAP_RADIX: u64 = 64;
/// Level of the root of the largest disk: 256 * 64^4 = 2^32 blocks.
pub const MAP_LEVEL_MAX: u8 = 4;

/// Blocks that a node of this level covers; leaves have level 0.
pub const fn map_node_blocks(level: u8) -> u64 {
    MAP_LEAF_BLOCKS * MAP_RADIX.pow(level as u32)
}

/// Level of the root of a disk of so many blocks: the least that covers it. `None` beyond the largest disk.
pub fn map_root_level(blocks: u64) -> Option<u8> {
    (0..=MAP_LEVEL_MAX).find(|level| map_node_blocks(*level) >= blocks)
}

/// The layout of the header of a node, as documented in `docs/internals/formats.md`. Runs follow in a leaf; in an inner
/// node the presence of each child as one bit of eight bytes, then the ids of those present.
pub const MAP_NODE_RECORD: Record = Record {
    name: "map node header",
    len: HEADER_LEN,
    fields: &[
        Field::new(0, 4, "magic", "`SMAP`"),
        Field::new(4, 1, "version", "1"),
        Field::new(5, 1, "level", "0 for a leaf, 1 to 4 for inner nodes"),
        Field::new(6, 2, "count", "runs of a leaf, 1 to 256; children of an inner node, 1 to 64"),
    ],
};

/// Blocks of a leaf that are consecutive in one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRun {
    /// First block, relative to the leaf.
    pub first: u8,
    /// Number of blocks, 1 to 16.
    pub len: u8,
    /// Block of the chunk that the first block is, 0 to 15.
    pub chunk_offset: u8,
    /// The chunk; never all zero.
    pub chunk: ChunkId,
}

impl MapRun {
    /// The layout, as documented in `docs/internals/formats.md`.
    pub const RECORD: Record = Record {
        name: "map run",
        len: RUN_LEN,
        fields: &[
            Field::new(0, 1, "first", "first block, relative to the leaf"),
            Field::new(1, 1, "extent", "low half: blocks - 1; high half: first block in the chunk"),
            Field::new(2, 32, "chunk id", "never all zero"),
        ],
    };

    /// The block after the last one, relative to the leaf.
    pub const fn end(&self) -> u64 {
        self.first as u64 + self.len as u64
    }

    /// Whether `next` goes on where this run ends, on the disk and in the chunk: then the two are one run.
    pub fn continues_in(&self, next: &MapRun) -> bool {
        self.end() == u64::from(next.first)
            && self.chunk_offset + self.len == next.chunk_offset
            && self.chunk == next.chunk
    }

    fn is_possible(&self) -> bool {
        self.end() <= MAP_LEAF_BLOCKS
            && u64::from(self.chunk_offset + self.len) <= CHUNK_BLOCKS_MAX
            && self.chunk != DiskId::ZERO_ROOT
    }
}

/// Children of an inner node, those that are all zero left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapChildren {
    present: u64,
    ids: Vec<ChunkId>,
}

impl MapChildren {
    /// The child at this position, if it is not all zero.
    pub fn get(&self, position: u8) -> Option<&ChunkId> {
        let bit = 1u64.checked_shl(position.into()).unwrap_or(0);
        let rank = (self.present & bit.wrapping_sub(1)).count_ones();
        (self.present & bit != 0).then(|| &self.ids[rank as usize])
    }

    /// Appends a child; positions ascend and are below 64.
    pub fn push(&mut self, position: u8, id: ChunkId) {
        debug_assert!(u64::from(position) < MAP_RADIX && self.present >> position == 0);
        self.present |= 1 << position;
        self.ids.push(id);
    }

    /// Positions and ids of the children that are not all zero, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &ChunkId)> {
        let positions = (0..MAP_RADIX as u8).filter(|position| self.present >> position & 1 == 1);
        positions.zip(&self.ids)
    }

    /// Whether all of it is zero; such a node is not written.
    pub fn is_empty(&self) -> bool {
        self.present == 0
    }
}

/// A decoded node. What decodes is canonical: encoding it again gives the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapNode {
    /// Runs in ascending order, none of them continuing in the next.
    Leaf(Vec<MapRun>),
    /// Children, one level down.
    Inner {
        /// 1 to [`MAP_LEVEL_MAX`].
        level: u8,
        /// Those that are not all zero; at least one.
        children: MapChildren,
    },
}

impl MapNode {
    /// Level of the node: 0 for a leaf.
    pub fn level(&self) -> u8 {
        match self {
            MapNode::Leaf(_) => 0,
            MapNode::Inner { level, .. } => *level,
        }
    }

    /// Blocks from the start of the node to the end of its last content: no disk that it belongs to is shorter, counted
    /// in whole children.
    pub fn blocks_used_min(&self) -> u64 {
        match self {
            MapNode::Leaf(runs) => runs.last().map_or(0, MapRun::end),
            MapNode::Inner { level, children } => {
                let last = 63 - u64::from(children.present.leading_zeros().min(63));
                last * map_node_blocks(level - 1) + 1
            }
        }
    }

    /// The encoded node: at most 8,712 bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut header = |level: u8, count: usize, body_len: usize| {
            out.reserve_exact(HEADER_LEN + body_len);
            out.put_bytes(&MAGIC);
            out.put_u8(VERSION);
            out.put_u8(level);
            out.put_u16(count as u16);
        };
        match self {
            MapNode::Leaf(runs) => {
                header(0, runs.len(), runs.len() * RUN_LEN);
                for run in runs {
                    out.put_u8(run.first);
                    out.put_u8(run.chunk_offset << 4 | (run.len - 1));
                    out.put_bytes(run.chunk.as_bytes());
                }
            }
            MapNode::Inner { level, children } => {
                header(*level, children.ids.len(), 8 + children.ids.len() * ChunkId::LEN);
                out.put_u64(children.present);
                children.ids.iter().for_each(|id| out.put_bytes(id.as_bytes()));
            }
        }
        out
    }

    /// Decodes a node. `Corrupt` for anything that [`MapNode::encode`] does not write: order, overlap, runs that should
    /// be one, zero ids, bounds. Whether the node belongs where it was found, the caller checks.
    pub fn decode(bytes: &[u8]) -> Result<MapNode> {
        let mut wire = WireReader::new(bytes, "map node");
        if wire.array()? != MAGIC || wire.u8()? != VERSION {
            return Err(wire.corrupt("it is none of this version"));
        }
        let (level, count) = (wire.u8()?, usize::from(wire.u16()?));
        let node = match level {
            0 => MapNode::Leaf(read_runs(&mut wire, count)?),
            1..=MAP_LEVEL_MAX => {
                MapNode::Inner { level, children: read_children(&mut wire, count)? }
            }
            _ => return Err(wire.corrupt("no disk is that deep")),
        };
        wire.finish()?;
        Ok(node)
    }
}

fn read_runs(wire: &mut WireReader<'_>, count: usize) -> Result<Vec<MapRun>> {
    if count == 0 || count as u64 > MAP_LEAF_BLOCKS || wire.remaining() != count * RUN_LEN {
        return Err(wire.corrupt("its length is not that of its runs"));
    }
    let mut runs: Vec<MapRun> = Vec::with_capacity(count);
    for _ in 0..count {
        let (first, extent) = (wire.u8()?, wire.u8()?);
        let chunk = ChunkId::from_bytes(wire.array()?);
        let run = MapRun { first, len: (extent & 15) + 1, chunk_offset: extent >> 4, chunk };
        if !run.is_possible() {
            return Err(wire.corrupt("a run is out of bounds or without chunk"));
        }
        if runs.last().is_some_and(|last| last.end() > first.into() || last.continues_in(&run)) {
            return Err(wire.corrupt("its runs overlap or should be one"));
        }
        runs.push(run);
    }
    Ok(runs)
}

fn read_children(wire: &mut WireReader<'_>, count: usize) -> Result<MapChildren> {
    let present = wire.u64()?;
    if present == 0
        || present.count_ones() as usize != count
        || wire.remaining() != count * ChunkId::LEN
    {
        return Err(wire.corrupt("its length is not that of its children"));
    }
    let mut ids = Vec::with_capacity(count);
    for _ in 0..count {
        let id = ChunkId::from_bytes(wire.array()?);
        if id == DiskId::ZERO_ROOT {
            return Err(wire.corrupt("a child is there and all zero"));
        }
        ids.push(id);
    }
    Ok(MapChildren { present, ids })
}

#[cfg(test)]
mod tests {
    use super::*;
    use silt_types::ErrorKind;

    fn run(first: u8, len: u8, chunk_offset: u8, chunk: u8) -> MapRun {
        MapRun { first, len, chunk_offset, chunk: ChunkId::from_bytes([chunk; 32]) }
    }

    fn leaf() -> MapNode {
        MapNode::Leaf(vec![
            run(0, 16, 0, 1),
            run(16, 3, 4, 2),
            run(19, 1, 8, 2),
            run(255, 1, 15, 3),
        ])
    }

    fn inner() -> MapNode {
        let mut children = MapChildren::default();
        for position in [0, 5, 63] {
            children.push(position, ChunkId::from_bytes([position + 1; 32]));
        }
        MapNode::Inner { level: 4, children }
    }

    #[test]
    fn the_bytes_of_version_1_stay_what_they_were() {
        let hex = |node: &MapNode| -> String {
            node.encode().iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let (one, two, three) = ("01".repeat(32), "02".repeat(32), "03".repeat(32));
        let expected = format!("534d4150010004000 00f{one}1042{two}1380{two}fff0{three}");
        assert_eq!(hex(&leaf()), expected.replace(' ', ""));
        let (six, last) = ("06".repeat(32), "40".repeat(32));
        assert_eq!(hex(&inner()), format!("534d4150010403002100000000000080{one}{six}{last}"));
        for record in [&MAP_NODE_RECORD, &MapRun::RECORD] {
            assert!(record.is_contiguous(), "{}", record.name);
        }
    }

    #[test]
    fn nodes_read_back_and_children_are_found_by_position() {
        for node in [leaf(), inner()] {
            assert_eq!(MapNode::decode(&node.encode()).unwrap(), node);
        }
        let MapNode::Inner { children, .. } = inner() else { unreachable!() };
        for position in 0..=255 {
            let expected = [0, 5, 63].contains(&position).then(|| position + 1);
            assert_eq!(children.get(position).map(|id| id.as_bytes()[0]), expected, "{position}");
        }
        assert_eq!(inner().blocks_used_min(), 63 * map_node_blocks(3) + 1);
        assert_eq!(leaf().blocks_used_min(), 256);
    }

    #[test]
    fn what_is_not_canonical_is_corrupt() {
        let bad_leaves = [
            vec![],
            vec![run(4, 2, 0, 1), run(5, 1, 0, 2)],
            vec![run(4, 2, 0, 1), run(3, 1, 0, 2)],
            vec![run(4, 2, 0, 1), run(6, 1, 2, 1)],
            vec![run(250, 7, 0, 1)],
            vec![run(0, 2, 15, 1)],
            vec![run(0, 1, 0, 0)],
        ];
        for runs in bad_leaves {
            let bytes = MapNode::Leaf(runs.clone()).encode();
            assert_eq!(MapNode::decode(&bytes).unwrap_err().kind(), ErrorKind::Corrupt, "{runs:?}");
        }
        let mut zero_child = MapChildren::default();
        zero_child.push(3, DiskId::ZERO_ROOT);
        for (level, children) in
            [(1, MapChildren::default()), (1, zero_child), (5, inner_children())]
        {
            let bytes = MapNode::Inner { level, children }.encode();
            assert_eq!(MapNode::decode(&bytes).unwrap_err().kind(), ErrorKind::Corrupt, "{level}");
        }
    }

    fn inner_children() -> MapChildren {
        match inner() {
            MapNode::Inner { children, .. } => children,
            MapNode::Leaf(_) => unreachable!(),
        }
    }

    #[test]
    fn damaged_nodes_are_errors_or_canonical_and_never_panic() {
        for node in [leaf(), inner()] {
            let bytes = node.encode();
            for len in 0..bytes.len() {
                assert!(MapNode::decode(&bytes[..len]).is_err(), "{len}");
            }
            for at in 0..bytes.len() {
                for value in 0..=255 {
                    let mut bytes = bytes.clone();
                    bytes[at] = value;
                    if let Ok(node) = MapNode::decode(&bytes) {
                        assert_eq!(node.encode(), bytes);
                    }
                }
            }
        }
    }

    #[test]
    fn the_root_level_is_the_least_that_covers_the_disk() {
        let cases = [(0, 0), (1, 0), (256, 0), (257, 1), (1 << 14, 1), (1 << 28, 4), (1 << 32, 4)];
        for (blocks, level) in cases {
            assert_eq!(map_root_level(blocks), Some(level), "{blocks}");
        }
        assert_eq!(map_root_level((1 << 32) + 1), None);
    }
}
