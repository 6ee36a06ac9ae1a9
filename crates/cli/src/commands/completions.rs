//! `silt completions`: what a shell needs to complete commands and options.

use crate::{cli::Cli, output::print};
use clap::CommandFactory as _;
use clap_complete::Shell;
use silt_types::Result;

/// Print the completions for a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt completions bash > /etc/bash_completion.d/silt
  silt completions zsh > ~/.zfunc/_silt")]
pub(crate) struct Args {
    /// The shell.
    shell: Shell,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "silt", &mut script);
    print(false, || serde_json::Value::Null, || String::from_utf8_lossy(&script).into_owned())
}
