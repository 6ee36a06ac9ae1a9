//! `silt completions`: what a shell needs to complete commands and options.

use super::Context;
use crate::{cli::Cli, output::print};
use clap::CommandFactory as _;
use clap_complete::Shell;
use serde_json::json;
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

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "silt", &mut script);
    let script = String::from_utf8_lossy(&script);
    let document = || json!({ "shell": args.shell.to_string(), "script": script });
    print(context.json, document, || script.to_string())
}
