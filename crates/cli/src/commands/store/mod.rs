//! `silt store`: the store as a whole, each thing to do in the file of its name.

pub(crate) mod limits;
mod upgrade;

use super::Context;
use silt_types::Result;

/// Look after the store as a whole.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, clap::Subcommand)]
enum StoreCommand {
    Limits(limits::Args),
    Upgrade(upgrade::Args),
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    match args.command {
        StoreCommand::Limits(args) => limits::run(context, args),
        StoreCommand::Upgrade(args) => upgrade::run(context, args),
    }
}
