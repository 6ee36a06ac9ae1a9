//! One power cut carried out: what became of each change, and the bytes that are then on the disk.
//!
//! Knows no names and lays nothing out; `powercut` does.

use std::sync::Arc;

use super::{
    content::{Content, SECTOR},
    op::{Allocation, Op},
    powercut::{Choice, PowerCut},
    promise::{Ledger, Model, is_step},
};

/// What became of one change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Whole,
    Lost,
    /// Sector by sector, drawn from this seed.
    Torn(u64),
}

/// What became of every change before a cut.
pub(super) struct Survival {
    promised: Vec<bool>,
    fates: Vec<Fate>,
}

impl Survival {
    /// `ops` are those before the cut.
    pub(super) fn decide(ledger: &Ledger, ops: &[Op], cut: PowerCut) -> Survival {
        let promised = ledger.promised(cut.model, ops);
        let wanted = match cut.choice {
            Choice::Only(op) => with_needs(ledger, cut.model, op, ops.len()),
            _ => Vec::new(),
        };
        let mut fates = Vec::with_capacity(ops.len());
        for (number, op) in ops.iter().enumerate() {
            let lacks = |need: &usize| fates[*need] == Fate::Lost;
            let orphan = ledger.needs(cut.model, number).iter().any(lacks);
            let survives = |yes: bool| if yes { Fate::Whole } else { Fate::Lost };
            fates.push(match cut.choice {
                _ if promised[number] => Fate::Whole,
                _ if orphan => Fate::Lost,
                Choice::Kept => Fate::Whole,
                Choice::Lost => Fate::Lost,
                Choice::Only(_) => survives(wanted[number]),
                Choice::Without(op) => survives(number != op),
                Choice::Mixed(seed) if is_step(op) => survives(step_survives(cut, seed, number)),
                Choice::Mixed(seed) => draw_write(mix(seed, number as u64)),
            });
        }
        Survival { promised, fates }
    }

    pub(super) fn fate(&self, number: usize) -> Fate {
        self.fates[number]
    }

    pub(super) fn is_promised(&self, number: usize) -> bool {
        self.promised[number]
    }
}

/// An operation and all it needs, which comes before it: one walk backwards finds them.
fn with_needs(ledger: &Ledger, model: Model, op: usize, length: usize) -> Vec<bool> {
    let mut wanted = vec![false; length];
    for number in (0..length.min(op.saturating_add(1))).rev() {
        wanted[number] |= number == op;
        if wanted[number] {
            for need in ledger.needs(model, number) {
                wanted[*need] = true;
            }
        }
    }
    wanted
}

/// A journal survives up to a moment; without one each step has its own luck.
fn step_survives(cut: PowerCut, seed: u64, number: usize) -> bool {
    match cut.model {
        Model::Ext4 => (number as u64) < mix(seed, u64::MAX) % (cut.after as u64 + 1),
        Model::Posix => mix(seed, number as u64) & 1 == 0,
    }
}

/// Half of the writes are torn, so that whole ones out of order are as frequent.
fn draw_write(draw: u64) -> Fate {
    match draw & 3 {
        0 => Fate::Whole,
        1 => Fate::Lost,
        _ => Fate::Torn(draw),
    }
}

/// A number drawn from two: the finalizer of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom
/// number generators, 2014), once for each.
pub(super) fn mix(seed: u64, number: u64) -> u64 {
    let scramble = |mut x: u64| {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    scramble(scramble(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)).wrapping_add(number))
}

/// A file's bytes twice: as programs see them, and as the disk has them. Both are one until a change is lost.
pub(super) struct Disk {
    seen: Content,
    disk: Option<Content>,
}

impl Disk {
    pub(super) fn new(content: &Arc<Content>) -> Disk {
        Disk { seen: Content::clone(content), disk: None }
    }

    /// Carries a change out, on the disk as far as its fate says.
    pub(super) fn apply(&mut self, op: &Op, fate: Fate) {
        if fate != Fate::Whole && self.disk.is_none() {
            self.disk = Some(self.seen.clone());
        }
        change(&mut self.seen, op);
        let Some(disk) = &mut self.disk else { return };
        match op {
            Op::Write { offset, bytes, .. } if !bytes.is_empty() => {
                let end = offset + bytes.len() as u64;
                // What reaches the disk is the page cache's sector, with what earlier writes left in it.
                for sector in offset / SECTOR..end.div_ceil(SECTOR) {
                    if survives(fate, sector) {
                        disk.adopt_sector(&self.seen, sector);
                    }
                }
                if survives(fate, GROWTH) {
                    disk.set_size_only(disk.size().max(end));
                }
            }
            _ if fate == Fate::Whole => change(disk, op),
            _ => {}
        }
    }

    /// What the disk holds in the end.
    pub(super) fn left(self) -> Content {
        let mut left = self.disk.unwrap_or(self.seen);
        left.trim();
        left
    }
}

/// The growth of a file among the sectors of a write.
const GROWTH: u64 = u64::MAX;

/// Whether one sector of a write survives. Growth is lost more rarely: without it sectors hardly matter.
fn survives(fate: Fate, sector: u64) -> bool {
    match fate {
        Fate::Whole => true,
        Fate::Lost => false,
        Fate::Torn(seed) if sector == GROWTH => !mix(seed, GROWTH).is_multiple_of(4),
        Fate::Torn(seed) => mix(seed, sector) & 1 == 0,
    }
}

fn change(content: &mut Content, op: &Op) {
    match op {
        Op::Write { offset, bytes, .. } => content.write(*offset, bytes),
        Op::Truncate { size, .. } => content.truncate(*size),
        Op::Fallocate { range, allocation, size, .. } => {
            if *allocation != Allocation::Reserve {
                content.punch(range.clone());
            }
            content.set_size_only(*size);
        }
        _ => {}
    }
}
