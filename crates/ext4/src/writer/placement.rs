//! Who gets which numbers of a space: inodes, directory blocks, data blocks. The one mechanism that keeps small changes
//! small.
//!
//! Units (the files of one directory, or one large file) have homes that depend on nothing but their path and, loosely,
//! on the total: cells of a size fit for the unit are counted, and a jump consistent hash picks one, so that more content
//! adds cells and moves only what the new cells take. Large units are placed first. A unit that does not fit into what is
//! left of its home cell tries another home when all others of its size class have tried their first, and so on; last it
//! takes the first gap there is. So a unit that grows moves itself and whom it collides with, not everything behind it.
//! A unit for which no gap is long enough is placed member by member, a member in pieces.

use super::{
    roster::{Members, Order, Unit},
    space::Space,
};
use crate::hierarchy::mix;
use silt_types::{BlockRange, Error, ErrorKind, Result};
use std::collections::BTreeMap;

/// Homes that a unit tries. With a third of the space free, hardly any needs more than three.
const HOMES_MAX: u64 = 8;

/// How homes are chosen in a part of a space.
#[derive(Clone, Copy, Debug)]
pub(super) struct Homes {
    /// The numbers where homes are.
    pub(super) window: BlockRange,
    /// Cells of the smallest size class. Units up to a quarter of a cell are of its class.
    pub(super) cell_len_min: u64,
    /// Homes spread over the total need times this and divided by two.
    pub(super) spread_halves: u64,
    /// Units begin at multiples of this, so that one that grows a little touches no other.
    pub(super) granule: u64,
    /// Whether units stand close together from the start of their cell on, which saves half-empty blocks of inodes, or
    /// each has a place of its own in it, which moves fewer when one grows.
    pub(super) is_packed: bool,
}

/// Where each node's numbers begin.
pub(super) struct Placed {
    /// By node; [`Placed::NOWHERE`] or [`Placed::IN_PIECES`].
    start: Vec<u32>,
    pieces: BTreeMap<u32, Vec<BlockRange>>,
}

impl Placed {
    const NOWHERE: u32 = u32::MAX;
    const IN_PIECES: u32 = u32::MAX - 1;

    pub(super) fn new(nodes: usize) -> Placed {
        Placed { start: vec![Placed::NOWHERE; nodes], pieces: BTreeMap::new() }
    }

    /// Gives a node one number.
    pub(super) fn put(&mut self, node: u32, number: u32) {
        self.start[node as usize] = number;
    }

    /// The runs of a node that needs `len` numbers.
    pub(super) fn runs(&self, node: u32, len: u64) -> impl Iterator<Item = BlockRange> + '_ {
        let start = self.start[node as usize];
        let whole = (start < Placed::IN_PIECES && len > 0)
            .then_some(BlockRange { start: u64::from(start), len });
        let pieces = self.pieces.get(&node).map_or(&[][..], Vec::as_slice);
        whole.into_iter().chain(pieces.iter().copied())
    }

    /// The first number of a node in one piece.
    pub(super) fn start(&self, node: u32) -> Option<u32> {
        let start = self.start[node as usize];
        (start < Placed::IN_PIECES).then_some(start)
    }
}

/// Places everybody in a space. `weight` says what a node needs; 0 for one that does not take part.
pub(super) struct Placer<'a> {
    pub(super) space: &'a mut Space,
    pub(super) homes: Homes,
    pub(super) order: &'a Order,
    pub(super) weight: &'a dyn Fn(u32) -> u64,
    /// Nodes that need so much are units of their own, and not in one with others.
    pub(super) alone_from: u64,
}

impl Placer<'_> {
    /// Places all. `NoSpace` when the space has not as many free numbers as they need.
    pub(super) fn place(&mut self, placed: &mut Placed) -> Result<()> {
        let mut units = self.order.units(self.weight, self.alone_from);
        let total: u64 = units.iter().map(|unit| unit.len).sum();
        if total > self.space.free() {
            return Err(no_space(total, self.space.free()));
        }
        let homes = self.homes;
        let class_of = |unit: &Unit| homes.class_of(unit.len);
        units.sort_by_key(|unit| (std::cmp::Reverse(class_of(unit)), unit.key));
        for class in units.chunk_by(|a, b| class_of(a) == class_of(b)) {
            let cell_len = homes.cell_len_min << class_of(&class[0]);
            let cells = homes.cells(total, cell_len);
            let mut waiting: Vec<&Unit> = class.iter().collect();
            for attempt in 0..HOMES_MAX {
                waiting.retain(|unit| {
                    let key = if attempt == 0 { unit.key } else { mix(unit.key ^ attempt) };
                    let cell = homes.cell(jump_hash(key, cells), cell_len);
                    let found = homes.find_in(self.space, cell, key, unit.len);
                    found.is_none_or(|start| {
                        self.settle(unit, start, placed);
                        false
                    })
                });
            }
            for unit in waiting {
                let start = homes.window.start;
                match homes.find(self.space, start, unit.len).or_else(|| self.find(start, unit.len))
                {
                    Some(start) => self.settle(unit, start, placed),
                    None => self.scatter(unit, placed)?,
                }
            }
        }
        Ok(())
    }

    /// The first place in the window or behind it, else anywhere.
    fn find(&self, start: u64, len: u64) -> Option<u64> {
        self.space.find(start, len).or_else(|| self.space.find(0, len))
    }

    /// Puts a unit at a place that is free, its members one behind the other.
    fn settle(&mut self, unit: &Unit, start: u64, placed: &mut Placed) {
        self.space.take(BlockRange { start, len: unit.len });
        let mut next = start;
        for (node, len) in self.taking_part(unit) {
            placed.put(node, next as u32);
            next += len;
        }
    }

    /// Puts each member of a unit where it fits, in pieces where it must.
    fn scatter(&mut self, unit: &Unit, placed: &mut Placed) -> Result<()> {
        for (node, len) in self.taking_part(unit) {
            if let Some(start) = self.find(self.homes.window.start, len) {
                self.space.take(BlockRange { start, len });
                placed.put(node, start as u32);
                continue;
            }
            let pieces = take_pieces(self.space, len)?;
            placed.put(node, Placed::IN_PIECES);
            placed.pieces.insert(node, pieces);
        }
        Ok(())
    }

    fn taking_part(&self, unit: &Unit) -> Vec<(u32, u64)> {
        let weighed = |node: &u32| (*node, (self.weight)(*node));
        match unit.members {
            Members::One(node) => vec![weighed(&node)],
            Members::Range { start, end } => {
                let members = self.order.members[start as usize..end as usize].iter().map(weighed);
                members.filter(|(_, len)| (1..self.alone_from).contains(len)).collect()
            }
        }
    }
}

impl Homes {
    /// One cell, filled from its start on.
    pub(super) fn dense(window: BlockRange) -> Homes {
        let cell_len_min = window.len.max(4);
        Homes { window, cell_len_min, spread_halves: 2, granule: 1, is_packed: true }
    }

    /// 0 for units up to a quarter of the smallest cell, one more for each doubling.
    fn class_of(&self, len: u64) -> u32 {
        len.div_ceil(self.cell_len_min / 4).max(1).next_power_of_two().ilog2()
    }

    /// Cell number `number`, as far as it lies in the window.
    fn cell(&self, number: u64, cell_len: u64) -> BlockRange {
        let start = self.window.start + number * cell_len;
        BlockRange { start, len: cell_len.min(self.window.end().saturating_sub(start)) }
    }

    /// A place in a cell: from the one that the key picks on, else from the start.
    fn find_in(&self, space: &Space, cell: BlockRange, key: u64, len: u64) -> Option<u64> {
        let choices = cell.len.saturating_sub(len) / self.granule + 1;
        let picked = if self.is_packed { 0 } else { mix(key) % choices * self.granule };
        [picked, 0]
            .into_iter()
            .filter_map(|offset| self.find(space, cell.start + offset, len))
            .find(|start| start + len <= cell.end())
    }

    /// The first place for `len` numbers from `from` on that begins at a multiple of the granule. Looks for room for
    /// whole granules, as there is little else between units that all begin at one.
    fn find(&self, space: &Space, from: u64, len: u64) -> Option<u64> {
        let whole = len.next_multiple_of(self.granule);
        let mut aligned = from;
        loop {
            let found = space.find(aligned, whole)?;
            let behind = found.saturating_sub(self.window.start) % self.granule;
            if behind == 0 {
                return Some(found);
            }
            aligned = found + self.granule - behind;
        }
    }

    fn cells(&self, total: u64, cell_len: u64) -> u64 {
        let spread = (total * self.spread_halves / 2).min(self.window.len);
        spread.div_ceil(cell_len).min(self.window.len / cell_len).max(1)
    }
}

/// The longest free runs, until they suffice.
fn take_pieces(space: &mut Space, len: u64) -> Result<Vec<BlockRange>> {
    let mut pieces = Vec::new();
    let mut missing = len;
    while missing > 0 {
        let piece_len = space.longest_run().min(missing);
        let start = space.find(0, piece_len.max(1)).ok_or_else(|| no_space(missing, 0))?;
        let piece = BlockRange { start, len: piece_len };
        space.take(piece);
        pieces.push(piece);
        missing -= piece_len;
    }
    Ok(pieces)
}

fn no_space(needed: u64, free: u64) -> Error {
    Error::new(ErrorKind::NoSpace, format!("the layout needs {needed} more and {free} are free"))
}

/// The jump consistent hash of Lamping and Veach (2014): a bucket of `buckets` such that one bucket more moves only the
/// keys that go to it.
fn jump_hash(mut key: u64, buckets: u64) -> u64 {
    let (mut bucket, mut next) = (0, 0);
    while next < buckets {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let draw = (1u64 << 31) as f64 / ((key >> 33) + 1) as f64;
        next = ((bucket + 1) as f64 * draw) as u64;
    }
    bucket
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bucket_more_moves_only_what_goes_there() {
        for buckets in 1..200 {
            for key in (0..300).map(mix) {
                let (before, after) = (jump_hash(key, buckets), jump_hash(key, buckets + 1));
                assert!(before < buckets && (after == before || after == buckets));
            }
        }
    }

    #[test]
    fn everything_is_placed_once_even_in_a_full_space() {
        let weights: Vec<u64> = (0..400).map(|node| mix(node) % 40 + 1).collect();
        let total: u64 = weights.iter().sum();
        let window = BlockRange { start: 0, len: total };
        let spread =
            Homes { window, cell_len_min: 64, spread_halves: 3, granule: 4, is_packed: false };
        let weight = |node: u32| weights[node as usize];
        let order = Order::of_tens(400);
        for homes in [spread, Homes::dense(window)] {
            let mut space = Space::new(total);
            let mut placed = Placed::new(400);
            Placer { space: &mut space, homes, order: &order, weight: &weight, alone_from: 39 }
                .place(&mut placed)
                .unwrap();
            assert_eq!(space.free(), 0);
            let mut taken = vec![false; total as usize];
            for node in 0..400 {
                let runs: Vec<_> = placed.runs(node, weight(node)).collect();
                assert_eq!(runs.iter().map(|run| run.len).sum::<u64>(), weight(node));
                for number in runs.iter().flat_map(|run| run.start..run.end()) {
                    assert!(!std::mem::replace(&mut taken[number as usize], true));
                }
            }
        }
    }
}
