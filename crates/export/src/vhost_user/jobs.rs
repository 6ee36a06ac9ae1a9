//! What workers do: the requests that may wait for a disk or decode something.

use super::{
    pending::{Pending, Shared},
    request::{HowToZero, Status, ZeroRange},
};
use silt_sys::iobuf::PieceMut;
use silt_types::Result;
use silt_volume::BlockDevice;

/// A request that a worker is to do and to answer.
pub(super) struct Job<'q, 'm> {
    pub(super) pending: Pending<'q, 'm>,
    pub(super) task: Task<'m>,
    /// Flush the device before answering.
    pub(super) then_flush: bool,
}

/// What is to be done.
pub(super) enum Task<'m> {
    Read { pieces: Vec<PieceMut<'m>>, offset: u64 },
    Write { pieces: Vec<PieceMut<'m>>, offset: u64 },
    Zero(Vec<ZeroRange>),
    Flush,
}

impl Task<'_> {
    /// Whether it may have to wait for space on the disk.
    pub(super) fn is_write(&self) -> bool {
        match self {
            Task::Write { .. } => true,
            Task::Zero(ranges) => ranges.iter().any(|range| range.how != HowToZero::Discard),
            Task::Read { .. } | Task::Flush => false,
        }
    }
}

/// Does a job, or any number of flushes as one, and answers.
pub(super) fn perform(jobs: Vec<Job<'_, '_>>, shared: &Shared<'_>) {
    let Some(first) = jobs.first() else { return };
    let mut done = change(&first.task, shared.device);
    if first.then_flush && done.is_ok() {
        done = shared.device.flush();
    }
    for job in jobs {
        job.pending.answer(Status::from(&done));
    }
    shared.tell();
}

fn change(task: &Task<'_>, device: &dyn BlockDevice) -> Result<()> {
    match task {
        Task::Read { pieces, offset } => device.readv_at(pieces.as_slice().into(), *offset),
        Task::Write { pieces, offset } => device.writev_at(pieces.as_slice().into(), *offset),
        Task::Flush => device.flush(),
        Task::Zero(ranges) => ranges.iter().try_for_each(|range| match range.how {
            HowToZero::Discard => device.discard(range.offset, range.len_bytes),
            HowToZero::Write { may_unmap } => {
                device.write_zeroes(range.offset, range.len_bytes, may_unmap)
            }
        }),
    }
}
