//! `silt store copy`: names and all that they need, to another store.

use super::Context;
use crate::{output::print, progress::Bar};
use silt_types::{DiskName, Result};
use std::{path::PathBuf, time::Instant};

/// Copy the store, or some names of it, to another store.
///
/// DEST is made where there is no store. Without names: every image, every volume, every snapshot. A volume brings its
/// snapshots; a snapshot by itself is not copied: name its volume, or make an image of it (silt commit). What volumes hold
/// now is sealed first, also while they are served, and the copies hold just that.
///
/// Only what is missing in DEST is written, verified on the way. A copy that was stopped goes on when it is run again; until
/// then each name is there whole or not at all. What DEST has and this store has not stays there.
///
/// A name that stands for something else in DEST is refused (exit 4). With --replace an image gives way to the image that
/// comes, and a volume that was copied before to its present state: what was written to the copy meanwhile is given up, and
/// a copy that is served is refused (exit 5). Another volume of the same name is never replaced.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt store copy /backup/silt
  silt store copy /backup/silt --replace      every day, from cron
  silt store copy /mnt/usb/silt debian vm1
  silt --store /backup/silt store copy ~/.local/share/silt vm1    back again")]
pub(crate) struct Args {
    /// Store to copy to.
    dest: PathBuf,
    /// Images and volumes; everything if none is named.
    #[arg(value_name = "NAME")]
    names: Vec<DiskName>,
    /// Let names in DEST stand for what they stand for here.
    #[arg(long)]
    replace: bool,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let started = Instant::now();
    let engine = context.engine_with_cache(super::CACHE_SIZE_BYTES)?;
    let done = engine.copy_to(&args.dest, &args.names, args.replace, &Bar::new())?;
    let seconds = started.elapsed().as_secs_f64();
    print(
        context.json,
        || super::document(&done, seconds),
        || super::text("copied", &done, seconds),
    )
}
