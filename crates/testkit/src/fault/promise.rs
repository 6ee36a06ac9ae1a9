//! What survives for certain: which changes an answered fsync has promised by a given moment, and which
//! changes cannot survive without others.
//!
//! Two models of the file system under the store. [`Model::Posix`] promises only what was asked for: bytes and
//! size by an fsync of the file, a name by an fsync of its folder. [`Model::Ext4`] has a journal: changes of
//! names, sizes by truncation and attributes survive in order, and an fsync of a file also carries the
//! journal up to the last such change of that file, so a new file's name survives with its own fsync. Neither
//! models the flush that ext4 adds on replace-by-rename: nothing may lean on it.
//!
//! In both a rename is one step: never both names, never none. Changes of one name survive in order, and so do
//! truncations, allocations and attributes of one file, which share its inode.

use std::collections::HashMap;

use super::{
    image::Image,
    op::{FileId, Op},
};

/// The promises of the file system under the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// Only what POSIX says.
    Posix,
    /// POSIX, and metadata in the order of a journal.
    Ext4,
}

/// How much of a file a later fsync covers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Cover {
    Data,
    All,
}

/// What the promises of one recording are worked out from.
pub(super) struct Ledger {
    /// The files whose fsync carries each operation in [`Model::Ext4`].
    touched: Vec<Vec<FileId>>,
    /// The earlier operations that each one needs in [`Model::Posix`].
    needs_posix: Vec<Vec<usize>>,
    /// The same in [`Model::Ext4`].
    needs_ext4: Vec<Vec<usize>>,
}

impl Ledger {
    /// Reads a recording once. `base` is the folder as it was before.
    pub(super) fn new(base: &Image, ops: &[Op]) -> Ledger {
        let mut image = base.clone();
        let mut by_slot = HashMap::new();
        let mut by_file = HashMap::new();
        let mut last = None;
        let mut ledger =
            Ledger { touched: Vec::new(), needs_posix: Vec::new(), needs_ext4: Vec::new() };
        for (number, op) in ops.iter().enumerate() {
            ledger.touched.push(touched(&image, op));
            let mut posix = Vec::new();
            let mut ext4 = Vec::new();
            if is_step(op) {
                posix.extend(op.slots().iter().filter_map(|slot| by_slot.get(*slot).copied()));
                posix.extend(op.content_of().and_then(|file| by_file.get(&file).copied()));
                ext4.extend(last.replace(number));
                by_slot.extend(op.slots().into_iter().map(|slot| (slot, number)));
                by_file.extend(op.content_of().map(|file| (file, number)));
            }
            ledger.needs_posix.push(posix);
            ledger.needs_ext4.push(ext4);
            image.make(op);
            image.rename_or_name(op);
        }
        ledger
    }

    /// The earlier operations that operation `number` needs.
    pub(super) fn needs(&self, model: Model, number: usize) -> &[usize] {
        match model {
            Model::Posix => &self.needs_posix[number],
            Model::Ext4 => &self.needs_ext4[number],
        }
    }

    /// For each of `ops`, which end at the power cut, whether it survives for certain.
    pub(super) fn promised(&self, model: Model, ops: &[Op]) -> Vec<bool> {
        let mut promised = vec![false; ops.len()];
        let mut covered: HashMap<FileId, Cover> = HashMap::new();
        for (number, op) in ops.iter().enumerate().rev() {
            match op {
                Op::Fsync { file, data_only } => {
                    let cover = if *data_only { Cover::Data } else { Cover::All };
                    let known = covered.entry(*file).or_insert(cover);
                    *known = cover.max(*known);
                }
                Op::FsyncDir { dir } => {
                    covered.insert(*dir, Cover::All);
                }
                // What was unsynced here no later fsync saves; earlier ones are still to come in this walk.
                Op::FsyncFailed { file } => {
                    covered.remove(file);
                }
                _ => promised[number] |= self.is_covered(model, number, op, &covered),
            }
            if promised[number] {
                for need in self.needs(model, number) {
                    promised[*need] = true;
                }
            }
        }
        promised
    }

    fn is_covered(
        &self,
        model: Model,
        number: usize,
        op: &Op,
        covered: &HashMap<FileId, Cover>,
    ) -> bool {
        let has = |file: FileId, least: Cover| covered.get(&file).is_some_and(|had| *had >= least);
        match (op, model) {
            (
                Op::Write { file, .. } | Op::Truncate { file, .. } | Op::Fallocate { file, .. },
                _,
            ) => has(*file, Cover::Data),
            (Op::Create { file, .. }, Model::Ext4) if has(*file, Cover::Data) => true,
            (Op::SetAttr { .. }, Model::Posix) | (_, Model::Ext4) => {
                self.touched[number].iter().any(|file| has(*file, Cover::All))
            }
            (_, Model::Posix) => op.guarantor().is_some_and(|dir| has(dir, Cover::All)),
        }
    }
}

/// Whether a change survives as a whole or not at all: everything but writes.
pub(super) fn is_step(op: &Op) -> bool {
    op.is_change() && !matches!(op, Op::Write { .. })
}

/// The files and folders whose inodes an operation changes.
fn touched(image: &Image, op: &Op) -> Vec<FileId> {
    let mut files: Vec<FileId> = op.content_of().into_iter().collect();
    for slot in op.slots() {
        files.push(slot.dir);
        files.extend(image.get(slot));
    }
    if let Op::Create { file, .. } | Op::Link { file, .. } = op {
        files.push(*file);
    }
    files
}
