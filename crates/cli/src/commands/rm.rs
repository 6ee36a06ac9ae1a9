//! `silt rm`: removing names.

use super::Context;
use crate::output::print;
use serde_json::json;
use silt_types::Result;

/// Remove images, volumes and snapshots: all that are named, or none.
///
/// What is served is refused (exit 5), and so is a volume that has snapshots, unless they go too. Nobody else is harmed:
/// volumes keep the base they were cloned from, and clones keep what they share, whatever becomes of the names.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt rm vm1
  silt rm vm1 vm2 old-debian
  silt rm vm1@before
  silt rm vm1 --recursive    with all its snapshots")]
pub(crate) struct Args {
    /// Images, volumes and snapshots.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Remove the snapshots of volumes too.
    #[arg(short, long)]
    recursive: bool,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let names = args.names.iter().map(|name| name.parse()).collect::<Result<Vec<_>>>()?;
    let removed = context.engine()?.remove(&names, args.recursive)?;
    let document = || {
        let removed = removed.iter();
        let removed =
            removed.map(|(name, named)| json!({ "name": name.to_string(), "kind": named.kind() }));
        json!({ "removed": removed.collect::<Vec<_>>() })
    };
    print(context.json, document, String::new)
}
