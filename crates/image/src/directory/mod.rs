//! Folders as sources: walked and read by all cores, beneath a directory handle, following no link.
//!
//! Nothing is left out in silence: an entry that cannot be read is an error that names it, and so is a file that
//! changes while it is read. Then nothing is published.

mod beneath;
mod cache;
mod problems;
mod read;
mod walk;

pub(crate) use cache::chunks_of;

use crate::{
    assemble::{Files, assemble},
    build::{Building, BuiltImage},
    contents::ContentsWriter,
};
use beneath::Root;
use cache::{FolderCache, Known};
use problems::Problems;
use silt_types::Result;
use std::path::Path;

/// Builds an image from the folder `dir`. Files that the rebuild cache knows are not read, unless the request is paranoid.
/// `Io`, naming up to twenty of them, if entries cannot be read or change meanwhile.
pub(crate) fn build(building: &Building<'_>, dir: &Path) -> Result<BuiltImage> {
    let Building { store, request, progress, .. } = *building;
    let root = Root::open(dir)?;
    let cache = FolderCache::of(store, dir, &root);
    let problems = Problems::new(dir);
    progress.begin("walking", 0);
    let walked = walk::walk(&root, &request.edits, &problems)?;
    problems.check()?;
    let ingest = store.ingest(request.compression)?;
    let removals = ingest.removals();
    let contents = ContentsWriter::new(store.paths().root())?;
    let mut known = Known::default();
    if let Some(cache) = &cache {
        known = cache.files(&walked.hierarchy, &walked.files)?;
        if !request.paranoid {
            cache.take(&mut known, &walked.files, &contents, store, &ingest)?;
        }
    }
    progress.begin("reading", walked.bytes);
    let read = read::read_files(&root, walked, &known, &contents, &ingest, &problems, progress)?;
    problems.check()?;
    let files = Files::edited(read, &request.edits, &ingest, contents)?;
    let draft = cache.as_ref().and_then(|cache| cache.draft(&mut known, &files.contents));
    let (built, laid_out) = assemble(building, ingest, &files, known.laid_out())?;
    if let Some(cache) = cache {
        cache.keep(draft, &known, &files.contents, laid_out, removals, store);
    }
    Ok(built)
}
