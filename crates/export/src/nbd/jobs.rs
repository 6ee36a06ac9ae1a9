//! What workers do: the requests that may wait for a disk or decode something.

use super::{
    limits::{EXTENTS_MAX, PREFETCH_BYTES_MAX, READ_PIECE_BYTES_MAX},
    link::Link,
    reply::{Piece, Replies},
    wire::{Asked, Headers, simple_reply},
};
use silt_types::{Error, ErrorKind, Result};
use silt_volume::BlockStatus;
use std::io;

/// A checked request that a worker is to do and to answer.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) asked: Asked,
    pub(super) len: u64,
    /// Flush the device before answering.
    pub(super) fua: bool,
    pub(super) task: Task,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Task {
    Read,
    /// What is left of the request, from this offset on.
    Write {
        bytes: Box<[u8]>,
        offset: u64,
    },
    Flush,
    Trim,
    Cache,
    WriteZeroes {
        may_unmap: bool,
    },
    BlockStatus {
        one_extent: bool,
    },
}

impl Job {
    /// Bytes that it keeps in memory, if it is one of those that may wait for space on the disk.
    pub(super) fn bytes_held(&self) -> Option<usize> {
        match &self.task {
            Task::Write { bytes, .. } => Some(bytes.len()),
            Task::WriteZeroes { .. } => Some(0),
            _ => None,
        }
    }
}

/// Does a job, or any number of flushes as one, and answers. Errors of the device go to the client; errors of the
/// connection have broken the link, which its own thread notices.
pub(super) fn perform(jobs: &[Job], link: &Link, replies: &mut Replies) {
    let Some(job) = jobs.first() else { return };
    replies.clear();
    let _ = match &job.task {
        Task::Read
            if link.session.headers == Headers::Simple
                && job.len > u64::from(READ_PIECE_BYTES_MAX) =>
        {
            read_streamed(job, link)
        }
        Task::Read => read_in_pieces(job, link, replies),
        Task::BlockStatus { one_extent } => {
            match block_status(job, *one_extent, link) {
                Ok(runs) => replies.extents(job.asked, &runs),
                Err(error) => replies.failed(job.asked, &error),
            }
            link.send(replies.pending())
        }
        _ => {
            let done = change(job, link);
            for job in jobs {
                match &done {
                    Ok(()) => replies.done(job.asked),
                    Err(error) => replies.failed(job.asked, error),
                }
            }
            link.send(replies.pending())
        }
    };
}

fn change(job: &Job, link: &Link) -> Result<()> {
    let (device, len) = (&link.device, job.len);
    match &job.task {
        Task::Write { bytes, offset } => device.write_at(bytes, *offset)?,
        Task::Trim => device.discard(job.asked.offset, len)?,
        Task::Cache => device.prefetch(job.asked.offset, len.min(PREFETCH_BYTES_MAX))?,
        Task::WriteZeroes { may_unmap } => {
            device.write_zeroes(job.asked.offset, len, *may_unmap)?
        }
        Task::Flush => return device.flush(),
        Task::Read | Task::BlockStatus { .. } => (),
    }
    if job.fua { device.flush() } else { Ok(()) }
}

/// Answers with one chunk for each piece. An error in a later piece is still an error of the whole.
fn read_in_pieces(job: &Job, link: &Link, replies: &mut Replies) -> io::Result<()> {
    for piece in pieces(job) {
        let read = replies.data(piece, |buf| {
            link.device.read_at(buf, piece.offset)?;
            Ok(true)
        });
        if let Err(error) = &read {
            replies.failed(job.asked, error);
        }
        link.send(replies.pending())?;
        replies.clear();
        if read.is_err() {
            break;
        }
    }
    Ok(())
}

/// A long read for a client without structured replies: the header promises all of it before the last piece is read.
/// So an error behind the first piece can only be told by cutting the connection, as the specification has it.
fn read_streamed(job: &Job, link: &Link) -> io::Result<()> {
    let mut buf = vec![0; READ_PIECE_BYTES_MAX as usize];
    let mut sender = link.exclusively();
    for piece in pieces(job) {
        let buf = &mut buf[..piece.len];
        let read = link.device.read_at(buf, piece.offset);
        match read {
            Ok(()) if piece.offset == job.asked.offset => {
                sender.send(&simple_reply(job.asked.cookie, 0))?
            }
            Ok(()) => (),
            Err(error) if piece.offset == job.asked.offset => {
                let mut replies = Replies::new(Headers::Simple);
                replies.failed(job.asked, &error);
                return sender.send(replies.pending());
            }
            Err(_) => {
                link.hang_up();
                return Ok(());
            }
        }
        sender.send(buf)?;
    }
    Ok(())
}

fn pieces(job: &Job) -> impl Iterator<Item = Piece> {
    let (asked, end) = (job.asked, job.asked.offset + job.len);
    (asked.offset..end).step_by(READ_PIECE_BYTES_MAX as usize).map(move |offset| {
        let len = (end - offset).min(u64::from(READ_PIECE_BYTES_MAX)) as usize;
        Piece { asked, offset, len, is_last: offset + len as u64 == end }
    })
}

fn block_status(job: &Job, one_extent: bool, link: &Link) -> Result<Vec<BlockStatus>> {
    let runs_max = if one_extent { 1 } else { EXTENTS_MAX };
    let len = job.len;
    let runs = link.device.block_status(job.asked.offset, len, runs_max)?;
    let sum = runs.iter().try_fold(0u64, |sum, run| sum.checked_add(run.len_bytes));
    let kept = !runs.is_empty()
        && runs.len() <= runs_max
        && runs.iter().all(|run| run.len_bytes > 0)
        && sum.is_some_and(|sum| sum <= len);
    if kept {
        Ok(runs)
    } else {
        let range = format!("{len} bytes at {}", job.asked.offset);
        let message = format!("the device answered the status of {range} with impossible runs");
        Err(Error::new(ErrorKind::Internal, message))
    }
}
