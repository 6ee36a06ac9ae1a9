//! The `silt` command: parses, calls the engine, prints. One file per command in `commands`.

mod cli;
mod commands;
mod credential_files;
mod graph;
mod lineage;
mod output;
mod progress;
mod shares;

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return output::misused(&error),
    };
    let json = cli.json;
    match commands::run(cli) {
        Ok(code) => code,
        Err(error) => output::fail(&error, json),
    }
}
