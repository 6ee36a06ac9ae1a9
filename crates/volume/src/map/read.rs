//! Looking blocks up.

use super::{
    ChunkPlace, Extent,
    node::{Shape, Spot, decode},
};
use silt_format::{MAP_LEVEL_MAX, MAP_RADIX, MapChildren, MapNode, MapRun, map_node_blocks};
use silt_store::{Chunk, ChunkSource, KeyContext};
use silt_types::{ChunkId, DiskId, Error, Result};
use std::sync::{Arc, PoisonError, RwLock};

/// Leaves kept decoded: those of 4 GiB of disk. A leaf takes 35 bytes for each run, usually under 1 KiB; if every block
/// were a run of its own, all of them would take 36 MiB. More than one disk in use needs is only memory.
const LEAF_SLOTS: usize = 4096;
/// Inner nodes kept decoded, by level from 1: those of 64 GiB, then 256 GiB, then all. 2 KiB each.
const INNER_SLOTS: [usize; MAP_LEVEL_MAX as usize] = [1024, 64, 64, 1];

/// The map of a sealed disk, open for reading by many threads.
///
/// Decoded nodes stay in a cache of fixed size in which each place in the tree has one slot; slots are locked one by one,
/// so readers of different leaves never meet, and neighbouring leaves never push one another out.
pub struct DiskMap {
    source: Arc<dyn ChunkSource>,
    disk: DiskId,
    shape: Shape,
    leaves: Slots<Vec<MapRun>>,
    inner: Vec<Slots<MapChildren>>,
}

impl DiskMap {
    /// Opens a map. Reads nothing yet. `Invalid` for a disk beyond 16 TiB.
    pub fn open(source: Arc<dyn ChunkSource>, disk: DiskId) -> Result<DiskMap> {
        let shape = Shape::of_disk(disk.size_bytes)?;
        let slots_of = |level: u8, slots: usize| {
            let nodes = shape.blocks.div_ceil(map_node_blocks(level)).max(1);
            slots.min(usize::try_from(nodes).unwrap_or(slots).next_power_of_two())
        };
        let inner = (1..=shape.root_level)
            .map(|level| Slots::new(slots_of(level, INNER_SLOTS[usize::from(level) - 1])))
            .collect();
        Ok(DiskMap { source, disk, shape, leaves: Slots::new(slots_of(0, LEAF_SLOTS)), inner })
    }

    /// The disk.
    pub fn disk_id(&self) -> DiskId {
        self.disk
    }

    /// What is at a block and how far it goes on, as far as the leaf or the empty part around it tells: at least one block,
    /// never beyond the disk. `Invalid` for a block beyond it; `NotFound` or `Corrupt`, naming the node, if one on the
    /// way is missing or damaged. A cached leaf costs a lock that only readers of its slot share and a binary search.
    pub fn lookup(&self, block: u64) -> Result<Extent> {
        let fetch = |id: &ChunkId| self.source.get(KeyContext::MapNode, id).map(Some);
        let found = self.lookup_through(block, fetch)?;
        found.ok_or_else(|| Error::invalid(format!("block {block} is beyond the disk")))
    }

    /// As [`DiskMap::lookup`], if that needs no I/O.
    pub fn lookup_hot(&self, block: u64) -> Result<Option<Extent>> {
        self.lookup_through(block, |id| Ok(self.source.get_hot(KeyContext::MapNode, id)))
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    pub(super) fn source(&self) -> &dyn ChunkSource {
        &*self.source
    }

    /// `None` if `fetch` has a node not at hand, or the block is beyond the disk.
    #[inline]
    fn lookup_through(
        &self,
        block: u64,
        fetch: impl Fn(&ChunkId) -> Result<Option<Chunk>>,
    ) -> Result<Option<Extent>> {
        if block >= self.shape.blocks {
            return Ok(None);
        }
        let leaf = Spot::of_leaf(block);
        let end = leaf.end().min(self.shape.blocks);
        if let Some(extent) = self.leaves.find(leaf, |runs| extent_in(runs, leaf, block, end)) {
            return Ok(Some(extent));
        }
        self.descend(block, fetch)
    }

    fn descend(
        &self,
        block: u64,
        fetch: impl Fn(&ChunkId) -> Result<Option<Chunk>>,
    ) -> Result<Option<Extent>> {
        let mut id = self.disk.root;
        let mut spot = self.shape.root();
        loop {
            let end = spot.end().min(self.shape.blocks);
            if id == DiskId::ZERO_ROOT {
                return Ok(Some(Extent { len_blocks: end - block, place: None }));
            }
            if spot.level == 0 {
                let Some(MapNode::Leaf(runs)) = self.fetch_node(&id, spot, &fetch)? else {
                    return Ok(None);
                };
                let extent = extent_in(&runs, spot, block, end);
                self.leaves.keep(spot, runs);
                return Ok(Some(extent));
            }
            let child_blocks = map_node_blocks(spot.level - 1);
            let position = (block / child_blocks % MAP_RADIX) as u8;
            let child = |children: &MapChildren| {
                children.get(position).copied().unwrap_or(DiskId::ZERO_ROOT)
            };
            let slots = &self.inner[usize::from(spot.level) - 1];
            id = match slots.find(spot, child) {
                Some(id) => id,
                None => {
                    let Some(MapNode::Inner { children, .. }) =
                        self.fetch_node(&id, spot, &fetch)?
                    else {
                        return Ok(None);
                    };
                    let id = child(&children);
                    slots.keep(spot, children);
                    id
                }
            };
            spot = spot.child(position);
        }
    }

    fn fetch_node(
        &self,
        id: &ChunkId,
        spot: Spot,
        fetch: &impl Fn(&ChunkId) -> Result<Option<Chunk>>,
    ) -> Result<Option<MapNode>> {
        let chunk = fetch(id)?;
        chunk.map(|chunk| decode(&chunk, id, spot, self.shape)).transpose()
    }
}

/// What a leaf says of a block of it; `end` is the end of the leaf or of the disk.
pub(super) fn extent_in(runs: &[MapRun], leaf: Spot, block: u64, end: u64) -> Extent {
    let relative = block - leaf.start();
    match runs.get(runs.partition_point(|run| run.end() <= relative)) {
        Some(run) if u64::from(run.first) <= relative => {
            let skipped = relative - u64::from(run.first);
            let offset_blocks = u64::from(run.chunk_offset) + skipped;
            let place = Some(ChunkPlace { chunk: run.chunk, offset_blocks });
            Extent { len_blocks: run.end() - relative, place }
        }
        Some(run) => Extent { len_blocks: u64::from(run.first) - relative, place: None },
        None => Extent { len_blocks: end - block, place: None },
    }
}

/// Nodes of one level, each with one slot where it can be.
struct Slots<T> {
    slots: Box<[RwLock<Option<Kept<T>>>]>,
}

struct Kept<T> {
    index: u64,
    node: T,
}

impl<T> Slots<T> {
    /// `count` is a power of two.
    fn new(count: usize) -> Slots<T> {
        Slots { slots: (0..count).map(|_| RwLock::new(None)).collect() }
    }

    fn slot(&self, spot: Spot) -> &RwLock<Option<Kept<T>>> {
        &self.slots[spot.index as usize & (self.slots.len() - 1)]
    }

    fn find<R>(&self, spot: Spot, read: impl FnOnce(&T) -> R) -> Option<R> {
        let slot = self.slot(spot).read().unwrap_or_else(PoisonError::into_inner);
        slot.as_ref().filter(|kept| kept.index == spot.index).map(|kept| read(&kept.node))
    }

    fn keep(&self, spot: Spot, node: T) {
        let mut slot = self.slot(spot).write().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(Kept { index: spot.index, node });
    }
}
