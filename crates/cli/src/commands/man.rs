//! `silt man`: the manual, from the same source as the help.

use super::Context;
use crate::{cli::Cli, output::print};
use clap::CommandFactory as _;
use serde_json::json;
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

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let written = clap_mangen::generate_to(Cli::command(), &args.dir);
    written.context(|| format!("cannot write man pages into {}", args.dir.display()))?;
    print(context.json, || json!({ "dir": args.dir.to_string_lossy() }), String::new)
}
