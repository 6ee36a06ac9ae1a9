//! `silt store upgrade`: to the format of this build.

use super::Context;
use crate::{cli::store_path, output::print};
use serde_json::json;
use silt_engine::{STORE_VERSION, upgrade_store};
use silt_types::Result;

/// Bring a store that an earlier silt made to the format of this one.
///
/// Nobody may be working with it, and nothing of it be served (exit 5). Whatever happens before the last step, the
/// earlier silt can go on with it; afterwards it cannot.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt store upgrade
  silt --store /srv/silt store upgrade")]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, _args: Args) -> Result<()> {
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
