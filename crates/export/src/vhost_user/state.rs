//! The device's state, as it is handed over with a virtual machine: the id of what the disk holds, and nothing else. So
//! that memory is never paired with another disk, a monitor that brings another id is refused.

use super::limits::{MESSAGE_TIME_MAX, STATE_BYTES_MAX};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    fs::File,
    io::{Error, ErrorKind, Read as _, Result, Write as _},
    time::Instant,
};

/// Writes the state for the monitor to read.
pub(super) fn save(id: &str, to: &mut File) -> Result<()> {
    if id.len() > STATE_BYTES_MAX {
        return Err(ErrorKind::InvalidData.into());
    }
    // So few bytes go into a pipe at once or not at all.
    wait(to, PollFlags::OUT, Instant::now() + MESSAGE_TIME_MAX)?;
    to.write_all(id.as_bytes())
}

/// Reads what the monitor brought, to its end, and holds it against the disk's own id.
pub(super) fn check(id: &str, from: &mut File) -> Result<()> {
    let deadline = Instant::now() + MESSAGE_TIME_MAX;
    let mut found = Vec::new();
    loop {
        wait(from, PollFlags::IN, deadline)?;
        let mut part = [0; STATE_BYTES_MAX];
        match from.read(&mut part)? {
            0 => break,
            len => found.extend_from_slice(&part[..len]),
        }
        if found.len() > STATE_BYTES_MAX {
            return Err(ErrorKind::InvalidData.into());
        }
    }
    if found == id.as_bytes() { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}

fn wait(file: &File, what: PollFlags, deadline: Instant) -> Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let limit = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    match poll(&mut [PollFd::new(file, what)], Some(&limit))? {
        0 => Err(Error::from(ErrorKind::TimedOut)),
        _ => Ok(()),
    }
}
