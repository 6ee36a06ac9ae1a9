//! `silt store`: the store as a whole, each thing to do in the file of its name.

mod stats;
mod upgrade;

use super::Context;
pub(super) use stats::work_document;

use silt_types::Result;

/// Look after the store as a whole.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, clap::Subcommand)]
enum StoreCommand {
    Stats(stats::Args),
    Upgrade(upgrade::Args),
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    match args.command {
        StoreCommand::Stats(args) => stats::run(context, args),
        StoreCommand::Upgrade(args) => upgrade::run(context, args),
    }
}
