//! `silt store export`: names and all that they need, as one archive.

use super::Context;
use crate::{
    output::{print, warn},
    progress::Bar,
};
use serde_json::json;
use silt_engine::ArchiveTarget;
use silt_types::{DiskName, Error, ErrorKind, Result};
use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    time::Instant,
};

/// Write the store, or some names of it, into one archive.
///
/// Without names: every image, every volume, every snapshot. A volume brings its snapshots; a snapshot by itself is not
/// exported: name its volume, or make an image of it (silt commit). What volumes hold now is sealed first, also while they
/// are served, and the archive holds just that.
///
/// FILE is there once it is whole and durable; until then it is FILE.part. An export that was stopped goes on with that when
/// it is run again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt store export backup.silt
  silt store export vm1.silt vm1
  silt store export - | ssh host silt store import -")]
pub(crate) struct Args {
    /// File to write; `-` for standard output.
    file: PathBuf,
    /// Images and volumes; everything if none is named.
    #[arg(value_name = "NAME")]
    names: Vec<DiskName>,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let started = Instant::now();
    let engine = context.engine_with_cache(super::CACHE_SIZE_BYTES)?;
    if args.file.as_os_str() == "-" {
        let mut out = io::stdout();
        if out.is_terminal() {
            let message = "an archive is not for a terminal: name a file, or redirect it";
            return Err(Error::new(ErrorKind::Usage, message));
        }
        let target = ArchiveTarget::Stream(&mut out);
        return engine.export_archive(target, &args.names, &Bar::new()).map(drop);
    }
    let target = ArchiveTarget::File(&args.file);
    let done = engine.export_archive(target, &args.names, &Bar::new())?;
    let seconds = started.elapsed().as_secs_f64();
    if done.chunks_resumed > 0 {
        let chunks = done.chunks_resumed;
        warn(&format!("silt: went on with {chunks} chunks that an earlier export had written"));
    }
    print(
        context.json,
        || {
            let mut document = super::document(&done, seconds);
            document["chunks_resumed"] = json!(done.chunks_resumed);
            document
        },
        || super::text("exported", &done, seconds),
    )
}
