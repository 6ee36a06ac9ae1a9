//! `silt mount`: images and snapshots as files, in the foreground.

use super::Context;
use crate::output::{fail, print};
use serde_json::json;
use silt_engine::{Access, CACHE_SIZE_BYTES_DEFAULT, Mounting, StopSignal};
use silt_types::{Result, parse_size};
use std::{path::PathBuf, process::ExitCode};

/// Show images and snapshots as read-only raw files in a folder, until SIGTERM or Ctrl-C.
///
/// Each is a file DIR/IMAGE or DIR/VOLUME@SNAPSHOT of exactly its disk's length. Those made or removed later appear and
/// disappear; who has one open keeps it. Needs fusermount3 (package fuse3), unless run by root. `fusermount3 -u DIR` ends it too.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt mount ./disks &
  mount -o loop,ro ./disks/debian /mnt       as root, with --allow-other where silt is not root's
  qemu-img compare ./disks/vm1@before ./disks/vm1@after
  cp --sparse=always ./disks/vm1@before ./before.img")]
pub(crate) struct Args {
    /// The folder: an empty one, or made and removed at the end.
    dir: PathBuf,
    /// Let other users use the files. Needs root, or user_allow_other in /etc/fuse.conf.
    #[arg(long)]
    allow_other: bool,
    /// Decoded chunks to keep in memory.
    #[arg(long, value_name = "SIZE")]
    cache: Option<String>,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let access = if args.allow_other { Access::AllowOther } else { Access::Owner };
    let mounting = Mounting { folder: args.dir, access };
    let cache = args.cache.as_deref().map_or(Ok(CACHE_SIZE_BYTES_DEFAULT), parse_size)?;
    // From here on the signals end the mount, not the process.
    let stop = StopSignal::new()?;
    stop.trigger_on_termination()?;
    let engine = context.engine_with_cache(cache)?;
    let folder = mounting.folder.display().to_string();
    let mut told = None;
    let ended = engine.mount(&mounting, &stop, |shown| {
        let document = || json!({ "folder": folder, "disks": shown.disks });
        let text = || format!("showing {} images and snapshots in {folder}", shown.disks);
        told = Some(print(context.json, document, text));
    });
    match (ended, told) {
        // The one document is out by then.
        (Err(error), Some(_)) => Ok(fail(&error, false)),
        (Err(error), None) => Err(error),
        (Ok(()), told) => told.unwrap_or(Ok(())).map(|()| ExitCode::SUCCESS),
    }
}
