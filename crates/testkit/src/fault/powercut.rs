//! Recordings, and the folders that a power cut at any moment of one may leave behind.
//!
//! A state is a moment and a [`Choice`]: of the changes before the moment, those promised by an answered fsync
//! are there (see [`Model`]), and of every other one the choice says whether it is. A write may survive in
//! any of its 512-byte sectors, with or without the growth of the file; a sector holds what the page cache held
//! after some write to it. Everything else survives whole, and never without what it needs.
//!
//! The same recording, model and limits give the same states. A [`PowerCut`] prints as a short word and is read
//! back from it, so that one failing state can be rebuilt alone.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    ops::Range,
    path::Path,
    str::FromStr,
    sync::Arc,
};

use silt_types::{Error, Result};
use silt_volume::BOOT_NOTES;

use super::{
    image::{Body, Image},
    op::Op,
    promise::{Ledger, Model},
    survival::{Disk, Fate, Survival, mix},
};

/// Unpromised changes looked at one by one at each moment: the latest, where a forgotten fsync shows.
const SINGLED_OUT: usize = 8;

/// Mixtures tried for each state wanted, since many are alike.
const PERSISTENCE: u64 = 4;

/// Everything that happened below a mounted folder, and the folder as it was before.
pub struct Recording {
    base: Image,
    ops: Vec<Op>,
    ledger: Ledger,
}

/// Which unpromised changes survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// All: what `kill -9` leaves. The others begin another boot: notes of the one before count for nothing, and are left out.
    Kept,
    /// None.
    Lost,
    /// This one and what it needs.
    Only(usize),
    /// All but this one and what needs it.
    Without(usize),
    /// A mixture drawn from this seed, writes torn at 512 bytes.
    Mixed(u64),
}

/// A power cut: under which promises, after how many operations, and what survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerCut {
    /// The promises of the file system.
    pub model: Model,
    /// Operations that had happened.
    pub after: usize,
    /// What survived.
    pub choice: Choice,
}

/// How many states to look at, and which.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// At most so many; equal ones are met once and count as one, so there may be fewer.
    pub states: usize,
    /// Draws mixtures, and the states where there are more than allowed. Print it.
    pub seed: u64,
}

/// A folder as a power cut left it, in memory.
pub struct PowerState<'a> {
    recording: &'a Recording,
    cut: PowerCut,
    image: Image,
}

impl Recording {
    pub(super) fn new(base: Image, ops: Vec<Op>) -> Recording {
        let ledger = Ledger::new(&base, &ops);
        Recording { base, ops, ledger }
    }

    /// What happened, in order.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// The recording of a scenario that never did what `is_forgotten` says, such as a certain fsync: to see that a test
    /// notices. Only for operations that no later one needs.
    pub fn without(&self, mut is_forgotten: impl FnMut(&Op) -> bool) -> Recording {
        let ops = self.ops.iter().filter(|op| !is_forgotten(op)).cloned().collect();
        Recording::new(self.base.clone(), ops)
    }

    /// The recording of a scenario that did some of its operations in another order: those in `range` of which `is_late`
    /// says so came after the others there. Only for operations that can be carried out in that order too.
    pub fn with_last(
        &self,
        range: Range<usize>,
        mut is_late: impl FnMut(&Op) -> bool,
    ) -> Recording {
        let mut ops = self.ops.clone();
        let (late, early) =
            ops[range.clone()].iter().cloned().partition::<Vec<_>, _>(|op| is_late(op));
        ops.splice(range, early.into_iter().chain(late));
        Recording::new(self.base.clone(), ops)
    }

    /// Different states that a power cut may leave: for every moment all unpromised changes kept, and all lost;
    /// with at most half of what the limit leaves, each of the latest changes alone kept or lost; then mixtures
    /// until the limit is reached or hardly any is new. Two states are the same where the folder is and as many
    /// marks came before.
    ///
    /// Costs a replay of the operations for each state met. With fewer states wanted than there are moments, only
    /// so many moments are looked at.
    pub fn states(&self, model: Model, limits: &Limits) -> impl Iterator<Item = PowerState<'_>> {
        let mut met = HashSet::new();
        self.candidates(model, limits)
            .map(|cut| self.build(cut))
            .filter(move |state| met.insert((state.image.fingerprint(), state.marks().count())))
            .take(limits.states)
    }

    /// One state, for looking at a failure again.
    ///
    /// # Errors
    /// `Invalid` where the recording is shorter than the cut says.
    pub fn state(&self, cut: PowerCut) -> Result<PowerState<'_>> {
        if cut.after > self.ops.len() {
            let length = self.ops.len();
            return Err(Error::invalid(format!("power cut {cut} of {length} operations")));
        }
        Ok(self.build(cut))
    }

    fn candidates(&self, model: Model, limits: &Limits) -> impl Iterator<Item = PowerCut> + use<> {
        let Limits { states, seed } = *limits;
        let cut = move |after, choice| PowerCut { model, after, choice };
        let (mut plain, mut single, mut moments) = (Vec::new(), Vec::new(), Vec::new());
        for after in sample((0..=self.ops.len()).collect(), states, seed) {
            plain.extend([cut(after, Choice::Kept), cut(after, Choice::Lost)]);
            let promised = self.ledger.promised(model, &self.ops[..after]);
            let open = (0..after).rev().filter(|op| !promised[*op] && self.ops[*op].is_change());
            let before = single.len();
            for op in open.take(SINGLED_OUT) {
                single.extend([cut(after, Choice::Only(op)), cut(after, Choice::Without(op))]);
            }
            if single.len() > before {
                moments.push(after);
            }
        }
        let mut chosen = sample(plain, states, seed);
        chosen.extend(sample(single, (states - chosen.len()) / 2, seed));
        let draws =
            if moments.is_empty() { 0 } else { (states as u64).saturating_mul(PERSISTENCE) };
        chosen.into_iter().chain((0..draws).map(move |draw| {
            // Where and what are drawn apart, or some changes would survive at some moments only.
            let (place, seed) = (mix(!seed, draw), mix(seed, draw));
            let moment = moments[(place % moments.len() as u64) as usize];
            cut(moment, Choice::Mixed(seed))
        }))
    }

    fn build(&self, cut: PowerCut) -> PowerState<'_> {
        let ops = &self.ops[..cut.after];
        let survival = Survival::decide(&self.ledger, ops, cut);
        let mut image = self.base.clone();
        let mut files = HashMap::new();
        for (number, op) in ops.iter().enumerate() {
            image.make(op);
            let fate = survival.fate(number);
            match (op, op.content_of()) {
                (Op::SetAttr { file, mode, owner }, _) if fate == Fate::Whole => {
                    if let Some(node) = image.nodes.get_mut(file) {
                        (node.mode, node.owner) = (*mode, *owner);
                    }
                }
                (_, Some(file)) => {
                    if let Some(content) = image.content(file) {
                        let disk = files.entry(file).or_insert_with(|| Disk::new(content));
                        disk.apply(op, fate);
                    }
                }
                _ if fate == Fate::Whole => image.rename_or_name(op),
                _ => {}
            }
        }
        for (file, disk) in files {
            if let Some(node) = image.nodes.get_mut(&file) {
                node.body = Body::File(Arc::new(disk.left()));
            }
        }
        if cut.choice != Choice::Kept {
            image.forget(BOOT_NOTES);
        }
        PowerState { recording: self, cut, image }
    }
}

impl PowerState<'_> {
    /// Which cut this is.
    pub fn cut(&self) -> PowerCut {
        self.cut
    }

    /// What the scenario had written down by then with `FaultFs::mark`, oldest first.
    pub fn marks(&self) -> impl Iterator<Item = &str> {
        self.recording.ops[..self.cut.after].iter().filter_map(|op| match op {
            Op::Mark { label } => Some(label.as_str()),
            _ => None,
        })
    }

    /// Lays the folder out below `into`, which is made where it is missing and must be empty. Costs a copy.
    ///
    /// # Errors
    /// What the operating system refuses, with the path.
    pub fn materialize(&self, into: &Path) -> Result<()> {
        self.image.write_to(into)
    }

    /// The last operations before the cut, one a line with what became of each, for a person to read.
    pub fn story(&self, lines: usize) -> String {
        let ops = &self.recording.ops[..self.cut.after];
        let survival = Survival::decide(&self.recording.ledger, ops, self.cut);
        ops.iter()
            .enumerate()
            .skip(ops.len().saturating_sub(lines))
            .map(|(number, op)| {
                let word = match survival.fate(number) {
                    _ if !op.is_change() => "",
                    _ if survival.is_promised(number) => "promised",
                    Fate::Whole => "kept",
                    Fate::Lost => "LOST",
                    Fate::Torn(_) => "TORN",
                };
                format!("{number:6} {word:9} {op}\n")
            })
            .collect()
    }
}

/// At most `count` of `all`, drawn from `seed`; all of them where they are fewer, in an order drawn from it.
fn sample<T>(mut all: Vec<T>, count: usize, seed: u64) -> Vec<T> {
    let count = count.min(all.len());
    for chosen in 0..count {
        let left = (all.len() - chosen) as u64;
        all.swap(chosen, chosen + (mix(seed, chosen as u64) % left) as usize);
    }
    all.truncate(count);
    all
}

impl fmt::Display for PowerCut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model = match self.model {
            Model::Posix => "posix",
            Model::Ext4 => "ext4",
        };
        write!(f, "{model}:{}:", self.after)?;
        match self.choice {
            Choice::Kept => write!(f, "kept"),
            Choice::Lost => write!(f, "lost"),
            Choice::Only(op) => write!(f, "only:{op}"),
            Choice::Without(op) => write!(f, "without:{op}"),
            Choice::Mixed(seed) => write!(f, "mixed:{seed}"),
        }
    }
}

impl FromStr for PowerCut {
    type Err = Error;

    fn from_str(text: &str) -> Result<PowerCut> {
        let wrong = || Error::invalid(format!("power cut {text:?}: not like posix:17:without:12"));
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
        let parts: Vec<&str> = text.split(':').collect();
        let (model, after, choice) = match parts[..] {
            [model, after, "kept"] => (model, after, Choice::Kept),
            [model, after, "lost"] => (model, after, Choice::Lost),
            [model, after, "only", op] => (model, after, Choice::Only(number(op)? as usize)),
            [model, after, "without", op] => (model, after, Choice::Without(number(op)? as usize)),
            [model, after, "mixed", seed] => (model, after, Choice::Mixed(number(seed)?)),
            _ => return Err(wrong()),
        };
        let model = match model {
            "posix" => Model::Posix,
            "ext4" => Model::Ext4,
            _ => return Err(wrong()),
        };
        Ok(PowerCut { model, after: number(after)? as usize, choice })
    }
}
