//! Folders as sources: walked and read by all cores, beneath a directory handle, following no link.
//!
//! Nothing is left out in silence: an entry that cannot be read is an error that names it, and so is a file that
//! changes while it is read. Then nothing is published.

mod beneath;
mod problems;
mod read;
mod walk;

use crate::{
    assemble,
    build::{BuildRequest, BuiltImage},
};
use beneath::Root;
use problems::Problems;
use silt_store::Store;
use silt_types::{Progress, Result};
use std::path::Path;

/// Builds an image from the folder `dir`. `Io`, naming up to twenty of them, if entries cannot be read or change meanwhile.
pub(crate) fn build(
    store: &Store,
    dir: &Path,
    request: &BuildRequest,
    created_ns: i64,
    progress: &dyn Progress,
) -> Result<BuiltImage> {
    let root = Root::open(dir)?;
    let problems = Problems::new(dir);
    progress.begin("walking", 0);
    let walked = walk::walk(&root, request.owner, &problems)?;
    problems.check()?;
    let ingest = store.ingest(request.compression)?;
    progress.begin("reading", walked.bytes);
    let files = read::read_files(store, &root, walked, &ingest, &problems, progress)?;
    problems.check()?;
    assemble::assemble(ingest, files, request, created_ns, progress)
}
