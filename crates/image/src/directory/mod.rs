//! Folders as sources: walked and read by all cores, beneath a directory handle, following no link.
//!
//! Nothing is left out in silence: an entry that cannot be read is an error that names it, and so is a file that
//! changes while it is read. Then nothing is published.

mod beneath;
mod problems;
mod read;
mod walk;

use crate::{contents::ContentsWriter, edits::Edits};
use beneath::Root;
use problems::Problems;
use silt_ext4::Hierarchy;
use silt_store::ChunkSink;
use silt_types::{Progress, Result};
use std::path::Path;

/// Reads the folder `dir`, without what `edits` leaves out: its files go to `sink`, and which chunks they have to `contents`.
/// Answers the bytes read, too. `Io`, naming up to twenty of them, if entries cannot be read or change meanwhile.
pub(crate) fn read(
    dir: &Path,
    edits: &Edits,
    sink: &dyn ChunkSink,
    contents: &ContentsWriter,
    progress: &dyn Progress,
) -> Result<(Hierarchy, u64)> {
    let root = Root::open(dir)?;
    let problems = Problems::new(dir);
    progress.begin("walking", 0);
    let walked = walk::walk(&root, edits, &problems)?;
    problems.check()?;
    progress.begin("reading", walked.bytes);
    let read = read::read_files(&root, walked, sink, contents, &problems, progress)?;
    problems.check()?;
    Ok(read)
}
