//! Changing a map: nodes on the way to a change are written anew, all others are shared with the old map.

use super::{
    ChunkPlace, MapChange,
    node::{Shape, Spot, decode, push_run, put, run_in_leaf},
};
use silt_format::{MAP_LEAF_BLOCKS, MAP_RADIX, MapChildren, MapNode, MapRun};
use silt_store::{ChunkSink, ChunkSource, KeyContext};
use silt_types::{BlockRange, ChunkId, DiskId, Error, Result};

/// The map that `base` becomes when it grows to `size_bytes` and `changes` are made to it, in ascending order and
/// without overlap. `Invalid` for a smaller size, or changes out of order or off the disk; `Corrupt` if a node of the
/// base is damaged. Costs a few nodes for each changed MiB, never the size of the disk; memory is one path of the tree.
pub fn update_map(
    source: &dyn ChunkSource,
    sink: &dyn ChunkSink,
    base: DiskId,
    size_bytes: u64,
    changes: impl IntoIterator<Item = Result<MapChange>>,
) -> Result<DiskId> {
    if size_bytes < base.size_bytes {
        let old = base.size_bytes;
        return Err(Error::invalid(format!("a disk of {old} bytes cannot shrink to {size_bytes}")));
    }
    let shape = Shape::of_disk(size_bytes)?;
    let base_shape = Shape::of_disk(base.size_bytes)?;
    let changes = Changes { rest: changes.into_iter(), next: None, last_end: 0, shape };
    let mut update = Update { source, sink, base, base_shape, shape, changes };
    update.changes.advance()?;
    let old = if base.root == DiskId::ZERO_ROOT {
        Old::Zero
    } else if shape.root_level == base_shape.root_level {
        Old::Node(base.root)
    } else {
        Old::Above
    };
    let root = update.subtree(shape.root(), old)?;
    Ok(DiskId { root: root.unwrap_or(DiskId::ZERO_ROOT), size_bytes })
}

/// What was at a spot before.
enum Old {
    Zero,
    Node(ChunkId),
    /// The disk has grown: the old root is at the start of this spot, one or more levels down.
    Above,
}

struct Update<'a, I> {
    source: &'a dyn ChunkSource,
    sink: &'a dyn ChunkSink,
    base: DiskId,
    base_shape: Shape,
    shape: Shape,
    changes: Changes<I>,
}

impl<I: Iterator<Item = Result<MapChange>>> Update<'_, I> {
    /// The new subtree at a spot. Recursion is as deep as the tree: at most five.
    fn subtree(&mut self, spot: Spot, old: Old) -> Result<Option<ChunkId>> {
        let Some(next) = self.changes.next.filter(|next| next.range.start < spot.end()) else {
            match old {
                Old::Zero => return Ok(None),
                Old::Node(id) => return Ok(Some(id)),
                Old::Above => return self.inner(spot, old),
            }
        };
        let end = spot.end().min(self.shape.blocks);
        if next.place.is_none() && next.range.start <= spot.start() && next.range.end() >= end {
            self.changes.take_below(end)?;
            return Ok(None);
        }
        if spot.level == 0 { self.leaf(spot, old) } else { self.inner(spot, old) }
    }

    fn inner(&mut self, spot: Spot, old: Old) -> Result<Option<ChunkId>> {
        let above = matches!(old, Old::Above);
        let old_children = match self.read(spot, old)? {
            Some(MapNode::Inner { children, .. }) => children,
            _ => MapChildren::default(),
        };
        let mut children = MapChildren::default();
        for position in 0..MAP_RADIX as u8 {
            let child = spot.child(position);
            let old = match old_children.get(position) {
                Some(id) => Old::Node(*id),
                None if above && position == 0 => self.old_below(child),
                None => Old::Zero,
            };
            if let Some(id) = self.subtree(child, old)? {
                children.push(position, id);
            }
        }
        if children.is_empty() {
            return Ok(None);
        }
        put(self.sink, &MapNode::Inner { level: spot.level, children }).map(Some)
    }

    fn old_below(&self, spot: Spot) -> Old {
        if spot.level == self.base_shape.root_level {
            Old::Node(self.base.root)
        } else {
            Old::Above
        }
    }

    fn leaf(&mut self, spot: Spot, old: Old) -> Result<Option<ChunkId>> {
        let old_runs = match self.read(spot, old)? {
            Some(MapNode::Leaf(runs)) => runs,
            _ => Vec::new(),
        };
        let mut runs = Vec::new();
        let mut kept_to = 0;
        while let Some(change) = self.changes.take_below(spot.end())? {
            let start = change.range.start - spot.start();
            keep(&mut runs, &old_runs, kept_to, start);
            kept_to = change.range.end() - spot.start();
            if let Some(place) = change.place {
                push_run(&mut runs, run_in_leaf(spot, change.range, place));
            }
        }
        keep(&mut runs, &old_runs, kept_to, MAP_LEAF_BLOCKS);
        if runs.is_empty() { Ok(None) } else { put(self.sink, &MapNode::Leaf(runs)).map(Some) }
    }

    fn read(&self, spot: Spot, old: Old) -> Result<Option<MapNode>> {
        let Old::Node(id) = old else { return Ok(None) };
        let chunk = self.source.get(KeyContext::MapNode, &id)?;
        decode(&chunk, &id, spot, self.base_shape).map(Some)
    }
}

/// Appends what the old runs say of blocks `from..to` of a leaf.
fn keep(runs: &mut Vec<MapRun>, old: &[MapRun], from: u64, to: u64) {
    for run in &old[old.partition_point(|run| run.end() <= from)..] {
        let start = from.max(run.first.into());
        let end = to.min(run.end());
        if start >= end {
            break;
        }
        let chunk_offset = run.chunk_offset + (start - u64::from(run.first)) as u8;
        let len = (end - start) as u8;
        push_run(runs, MapRun { first: start as u8, len, chunk_offset, chunk: run.chunk });
    }
}

/// The changes still to be made; the first of them may be the rest of one that began in an earlier node.
struct Changes<I> {
    rest: I,
    next: Option<MapChange>,
    last_end: u64,
    shape: Shape,
}

impl<I: Iterator<Item = Result<MapChange>>> Changes<I> {
    fn advance(&mut self) -> Result<()> {
        self.next = self.rest.next().transpose()?;
        if let Some(MapChange { range, place }) = self.next {
            self.shape.check(range, place)?;
            if range.start < self.last_end {
                let (start, last) = (range.start, self.last_end);
                return Err(Error::invalid(format!("block {start} is changed after block {last}")));
            }
            self.last_end = range.end();
        }
        Ok(())
    }

    /// Takes the part of the next change below `end`, if there is one.
    fn take_below(&mut self, end: u64) -> Result<Option<MapChange>> {
        let Some(change) = self.next.filter(|change| change.range.start < end) else {
            return Ok(None);
        };
        if change.range.end() <= end {
            self.advance()?;
            return Ok(Some(change));
        }
        let len = end - change.range.start;
        let left = BlockRange { start: end, len: change.range.len - len };
        let place = change
            .place
            .map(|place| ChunkPlace { offset_blocks: place.offset_blocks + len, ..place });
        self.next = Some(MapChange { range: left, place });
        Ok(Some(MapChange { range: BlockRange { len, ..change.range }, ..change }))
    }
}
