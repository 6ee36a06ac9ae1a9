//! `silt store import`: the names of an archive, and all that they need.

use super::Context;
use crate::{output::print, progress::Bar};
use silt_engine::ArchiveSource;
use silt_types::{Context as _, Result};
use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
    time::Instant,
};

/// Take everything that an archive holds into the store.
///
/// The store is made where there is none. Only what is missing is stored, and all of it is verified. The names come at the
/// end, all of them or none. An archive that is damaged, ends early, or lacks what a name of it needs is refused (exit 7).
///
/// A name that stands for something else in the store is refused (exit 4). With --replace an image gives way to the image
/// that comes, and a volume to another state of itself, unless it is served (exit 5). Another volume of the same name is
/// never replaced.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt store import backup.silt
  silt store export - | ssh host silt store import -")]
pub(crate) struct Args {
    /// Archive to read; `-` for standard input.
    file: PathBuf,
    /// Let names in the store stand for what they stand for in the archive.
    #[arg(long)]
    replace: bool,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let started = Instant::now();
    // Before a store is made for it.
    let (file, len) = open(&args.file)?;
    let archive = ArchiveSource::open(file, len)
        .context(|| format!("{} cannot be imported", args.file.display()))?;
    let done = context.engine_or_new()?.import_archive(archive, args.replace, &Bar::new())?;
    let seconds = started.elapsed().as_secs_f64();
    print(
        context.json,
        || super::document(&done, seconds),
        || super::text("imported", &done, seconds),
    )
}

/// The archive, and its length in bytes where that is known.
fn open(path: &Path) -> Result<(Box<dyn Read + Send>, u64)> {
    if path.as_os_str() == "-" {
        return Ok((Box::new(BufReader::new(io::stdin())), 0));
    }
    let failed = || format!("cannot open {}", path.display());
    let file = File::open(path).context(failed)?;
    let len = file.metadata().context(failed)?.len();
    Ok((Box::new(BufReader::with_capacity(1 << 20, file)), len))
}
