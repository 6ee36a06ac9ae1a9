//! `silt store`: the store as a whole.

use super::Context;
use crate::{cli::store_path, output::print};
use serde_json::json;
use silt_engine::{STORE_VERSION, upgrade_store};
use silt_types::Result;

/// Look after the store as a whole.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, clap::Subcommand)]
enum StoreCommand {
    /// Bring a store that an earlier silt made to the format of this one.
    ///
    /// Nobody may be working with it, and nothing of it be served (exit 5). Whatever happens before the last step, the
    /// earlier silt can go on with it; afterwards it cannot.
    #[command(after_help = "Examples:
  silt store upgrade
  silt --store /srv/silt store upgrade")]
    Upgrade,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    match args.command {
        StoreCommand::Upgrade => upgrade(context),
    }
}

fn upgrade(context: &Context) -> Result<()> {
    let version = upgrade_store(&store_path(context.store.clone())?)?;
    let document = || json!({ "version_before": version, "version": STORE_VERSION });
    let text = || match version {
        STORE_VERSION => format!("the store has format version {STORE_VERSION} already\n"),
        _ => {
            format!("the store had format version {version} and has version {STORE_VERSION} now\n")
        }
    };
    print(context.json, document, text)
}
