//! Folders as sources: walked and read by all cores, beneath a directory handle, following no link.
//!
//! Nothing is left out in silence: an entry that cannot be read is an error that names it, and so is a file that
//! changes while it is read. Then nothing is published.

mod beneath;
mod problems;
mod read;
mod walk;

use crate::assemble::{self, BuildOptions, BuiltImage};
use beneath::Root;
use problems::Problems;
use silt_store::Store;
use silt_types::{Progress, Result};
use std::path::Path;

/// An owner to give to every entry instead of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Builds an image from the folder `dir` and publishes it. `owner` replaces every owner. `Io`, naming up to twenty of
/// them, if entries cannot be read or change meanwhile.
pub fn build_from_directory(
    store: &Store,
    dir: &Path,
    owner: Option<Owner>,
    options: &BuildOptions,
    progress: &dyn Progress,
) -> Result<BuiltImage> {
    let root = Root::open(dir)?;
    assemble::refuse_taken_name(store, &options.name, options.replace)?;
    let problems = Problems::new(dir);
    progress.begin("walking", 0);
    let walked = walk::walk(&root, owner, &problems)?;
    problems.check()?;
    let ingest = store.ingest(options.compression)?;
    progress.begin("reading", walked.bytes);
    let read = read::read_files(store, &root, walked, &ingest, &problems, progress)?;
    problems.check()?;
    assemble::assemble(ingest, read, options, progress)
}
