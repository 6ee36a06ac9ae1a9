//! What went wrong with the entries of a folder: all of it is counted, some of it is told.

use silt_types::{Error, ErrorKind, Result};
use std::{
    io,
    path::Path,
    sync::{Mutex, PoisonError},
};

/// Problems told by name; a folder of a million unreadable files needs no message of a million lines.
const TOLD_MAX: usize = 20;

/// Collects problems from many threads.
pub(crate) struct Problems {
    dir: String,
    told: Mutex<(Vec<String>, u64)>,
}

impl Problems {
    pub(crate) fn new(dir: &Path) -> Problems {
        Problems { dir: dir.display().to_string(), told: Mutex::default() }
    }

    /// An entry could not be read.
    pub(crate) fn unreadable(&self, path: &[u8], what: &str, error: impl Into<io::Error>) {
        self.add(format!("{}: {what}: {}", show(path), error.into()));
    }

    /// An entry changed while it was read.
    pub(crate) fn changed(&self, path: &[u8]) {
        self.add(format!("{}: it changed while it was read", show(path)));
    }

    fn add(&self, line: String) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.1 += 1;
        if told.0.len() < TOLD_MAX {
            told.0.push(line);
        }
    }

    /// `Io`, if there was any problem.
    pub(crate) fn check(&self) -> Result<()> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let count = told.1;
        if count == 0 {
            return Ok(());
        }
        told.0.sort();
        let more = count - told.0.len() as u64;
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        let entries = if count == 1 { "entry" } else { "entries" };
        let message =
            format!("cannot read {count} {entries} of {}: {}{more}", self.dir, told.0.join("; "));
        Err(Error::new(ErrorKind::Io, message))
    }
}

/// A path for people: quoted, with what is not printable escaped.
pub(crate) fn show(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(if path.is_empty() { b"." } else { path }))
}
