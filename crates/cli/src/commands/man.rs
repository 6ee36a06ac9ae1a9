//! `silt man`: the manual, from the same source as the help.

use crate::cli::Cli;
use clap::CommandFactory as _;
use silt_types::{Context as _, Result};
use std::path::PathBuf;

/// Write the man pages into a folder.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt man /usr/local/share/man/man1")]
pub(crate) struct Args {
    /// An existing folder.
    dir: PathBuf,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let written = clap_mangen::generate_to(Cli::command(), &args.dir);
    written.context(|| format!("cannot write man pages into {}", args.dir.display()))
}
