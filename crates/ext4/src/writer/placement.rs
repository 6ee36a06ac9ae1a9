//! Who gets which numbers of a space: inodes, directory blocks, data blocks. The one mechanism that keeps small changes
//! small.
//!
//! Units (the files of one directory, or one large file) have a home that depends on nothing but their path and,
//! loosely, on the total: cells of a size fit for the unit are counted, and a jump consistent hash picks one, so that
//! more content adds cells and moves only what the new cells take. Large units are placed first. A unit that does not
//! fit into what is left of its home cell waits until all others of its size class are placed, then takes the first
//! gap behind its home. So a unit that grows moves itself and whom it collides with, not everything behind it.
//! A unit for which no gap is long enough is placed member by member, a member in pieces.

use super::space::Space;
use silt_types::{BlockRange, Error, ErrorKind, Result};
use std::collections::{BTreeMap, HashSet};

/// Members that want to be together.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    /// Picks the home.
    pub(super) key: u64,
    /// Numbers that all members need together.
    pub(super) len: u64,
    /// The members with what each needs, in the order in which they stand.
    pub(super) members: Members,
}

impl Unit {
    /// The node that is a unit of its own, and so takes no part in that of its directory.
    fn alone(&self) -> Option<u32> {
        match self.members {
            Members::One(node) => Some(node),
            Members::Range { .. } => None,
        }
    }
}

/// The members of a [`Unit`].
#[derive(Clone, Debug)]
pub(super) enum Members {
    /// One node.
    One(u32),
    /// A range of [`Order::members`](super::roster::Order::members), of which only some take part.
    Range { start: u32, end: u32 },
}

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

/// Places units in a space. `weight` says what a node needs; 0 for a member that does not take part.
pub(super) struct Placer<'a> {
    pub(super) space: &'a mut Space,
    pub(super) homes: Homes,
    pub(super) members: &'a [u32],
    pub(super) weight: &'a dyn Fn(u32) -> u64,
}

impl Placer<'_> {
    /// Places all units. `NoSpace` when the space has not as many free numbers as they need.
    pub(super) fn place(&mut self, mut units: Vec<Unit>, placed: &mut Placed) -> Result<()> {
        let total: u64 = units.iter().map(|unit| unit.len).sum();
        if total > self.space.free() {
            return Err(no_space(total, self.space.free()));
        }
        let class_of = |unit: &Unit| self.homes.class_of(unit.len);
        let alone: HashSet<u32> = units.iter().filter_map(Unit::alone).collect();
        let together = |node| if alone.contains(&node) { 0 } else { (self.weight)(node) };
        units.sort_by_key(|unit| (std::cmp::Reverse(class_of(unit)), unit.key));
        let mut waiting = Vec::new();
        for class in units.chunk_by(|a, b| class_of(a) == class_of(b)) {
            let cell_len = self.homes.cell_len_min << class_of(&class[0]);
            let cells = self.homes.cells(total, cell_len);
            waiting.clear();
            for unit in class {
                let home = self.homes.window.start + jump_hash(unit.key, cells) * cell_len;
                match self.homes.find(self.space, home, unit.len) {
                    Some(start) if start + unit.len <= home + cell_len => {
                        settle(self.space, unit, start, self.members, &together, placed);
                    }
                    _ => waiting.push((unit, home)),
                }
            }
            for (unit, home) in &waiting {
                let found = self.homes.find(self.space, *home, unit.len);
                match found.or_else(|| find_behind(self.space, *home, unit.len)) {
                    Some(start) => {
                        settle(self.space, unit, start, self.members, &together, placed);
                    }
                    None => scatter(self.space, unit, *home, self.members, &together, placed)?,
                }
            }
        }
        Ok(())
    }
}

impl Homes {
    /// 0 for units up to a quarter of the smallest cell, one more for each doubling.
    fn class_of(&self, len: u64) -> u32 {
        len.div_ceil(self.cell_len_min / 4).max(1).next_power_of_two().ilog2()
    }

    /// The first place for `len` numbers from `from` on that begins at a multiple of the granule.
    fn find(&self, space: &Space, from: u64, len: u64) -> Option<u64> {
        let mut aligned = from;
        loop {
            let found = space.find(aligned, len)?;
            let behind = (found - self.window.start.min(found)) % self.granule;
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

/// The first place of any kind, from `home` on and then from the start.
fn find_behind(space: &Space, home: u64, len: u64) -> Option<u64> {
    space.find(home, len).or_else(|| space.find(0, len))
}

/// Puts a unit at a place that is free, its members one behind the other.
fn settle(
    space: &mut Space,
    unit: &Unit,
    start: u64,
    members: &[u32],
    weight: &dyn Fn(u32) -> u64,
    placed: &mut Placed,
) {
    space.take(BlockRange { start, len: unit.len });
    let mut next = start;
    for (node, len) in taking_part(unit, members, weight) {
        placed.start[node as usize] = next as u32;
        next += len;
    }
}

/// Puts each member of a unit where it fits, in pieces where it must.
fn scatter(
    space: &mut Space,
    unit: &Unit,
    home: u64,
    members: &[u32],
    weight: &dyn Fn(u32) -> u64,
    placed: &mut Placed,
) -> Result<()> {
    for (node, len) in taking_part(unit, members, weight) {
        if let Some(start) = find_behind(space, home, len) {
            space.take(BlockRange { start, len });
            placed.start[node as usize] = start as u32;
            continue;
        }
        let pieces = take_pieces(space, len)?;
        placed.start[node as usize] = Placed::IN_PIECES;
        placed.pieces.insert(node, pieces);
    }
    Ok(())
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

fn taking_part<'a>(
    unit: &Unit,
    members: &'a [u32],
    weight: &'a dyn Fn(u32) -> u64,
) -> impl Iterator<Item = (u32, u64)> + 'a {
    let (one, range) = match unit.members {
        Members::One(node) => (Some((node, unit.len)), 0..0),
        Members::Range { start, end } => (None, start as usize..end as usize),
    };
    let range = members[range].iter().map(move |node| (*node, weight(*node)));
    one.into_iter().chain(range).filter(|(_, len)| *len > 0)
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
    use crate::hierarchy::mix;

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
        let homes = Homes {
            window: BlockRange { start: 0, len: total },
            cell_len_min: 64,
            spread_halves: 3,
            granule: 4,
        };
        let members: Vec<u32> = (0..400).collect();
        let weight = |node: u32| weights[node as usize];
        let units: Vec<Unit> = (0..40)
            .map(|unit| Unit {
                key: mix(unit),
                len: (unit * 10..unit * 10 + 10).map(|node| weights[node as usize]).sum(),
                members: Members::Range { start: unit as u32 * 10, end: unit as u32 * 10 + 10 },
            })
            .collect();
        let mut space = Space::new(total);
        let mut placed = Placed::new(400);
        let mut placer = Placer { space: &mut space, homes, members: &members, weight: &weight };
        placer.place(units, &mut placed).unwrap();
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
