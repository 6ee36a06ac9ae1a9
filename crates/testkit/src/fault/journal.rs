//! The one lock of the layer: the gate that lets changes through in turn, and the recording they go into.
//!
//! Invariant: whoever holds the lock is the only one who changes the backing folder, so the order of a recording
//! is the order in which things happened.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::io::Errno;
use silt_types::Result;

use super::{
    image::Image,
    op::{FileId, Op},
    plan::{Gate, Plan},
    powercut::Recording,
};

/// The gate and the recording behind one lock.
pub(super) struct Journal {
    state: Mutex<State>,
}

/// What the lock guards.
pub(super) struct State {
    pub(super) gate: Gate,
    recorder: Option<Recorder>,
}

struct Recorder {
    base: Image,
    ids: Ids,
    ops: Vec<Op>,
}

/// The ids of one recording by inode number.
pub(super) struct Ids {
    by_inode: HashMap<u64, FileId>,
    next: u64,
}

impl Ids {
    /// Inode 1 is what the mounted folder is called by the kernel.
    fn new() -> Ids {
        Ids { by_inode: HashMap::from([(1, FileId::ROOT)]), next: 1 }
    }

    /// The id of a file that was there before, made up where it was unlinked before the recording began.
    pub(super) fn of(&mut self, inode: u64) -> FileId {
        let known = self.by_inode.get(&inode).copied();
        known.unwrap_or_else(|| self.fresh(inode))
    }

    /// The id of a file that was just made, whoever had the number before.
    pub(super) fn fresh(&mut self, inode: u64) -> FileId {
        let id = FileId(self.next);
        self.next += 1;
        self.by_inode.insert(inode, id);
        id
    }
}

impl Journal {
    pub(super) fn new() -> Journal {
        Journal { state: Mutex::new(State { gate: Gate::new(Plan::None), recorder: None }) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses what only looks, after a crash.
    pub(super) fn look(&self) -> Result<(), Errno> {
        if self.lock().gate.crashed() { Err(Errno::IO) } else { Ok(()) }
    }
}

impl State {
    /// Starts over with the folder as it is now for the base.
    pub(super) fn start_recording(&mut self, backing: &Path) -> Result<()> {
        let mut ids = Ids::new();
        let base = Image::load(backing, &mut |inode| ids.of(inode))?;
        self.recorder = Some(Recorder { base, ids, ops: Vec::new() });
        Ok(())
    }

    pub(super) fn take_recording(&mut self) -> Option<Recording> {
        self.recorder.take().map(|recorder| Recording::new(recorder.base, recorder.ops))
    }

    /// Writes an operation down while recording; otherwise it is not even put together.
    pub(super) fn record(&mut self, op: impl FnOnce(&mut Ids) -> Op) {
        if let Some(recorder) = &mut self.recorder {
            let op = op(&mut recorder.ids);
            recorder.ops.push(op);
        }
    }
}
