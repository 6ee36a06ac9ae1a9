//! The `silt` command: parses, calls the engine, prints. One file per command in `commands`.

mod cli;
mod commands;
mod output;
mod progress;

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let json = cli.json;
    match commands::run(cli) {
        Ok(code) => code,
        Err(error) => output::fail(&error, json),
    }
}
