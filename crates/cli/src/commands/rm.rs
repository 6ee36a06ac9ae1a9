//! `silt rm`: removing names.

use super::{
    Context,
    why::{would_free, would_free_text},
};
use crate::{output::print, progress::Bar};
use serde_json::json;
use silt_engine::Named;
use silt_types::{DiskName, Result};

/// Remove images, volumes and snapshots: all that are named, or none.
///
/// What is served is refused (exit 5), and so is a volume that has snapshots, unless they go too. Nobody else is harmed:
/// volumes keep the base they were cloned from, and clones keep what they share, whatever becomes of the names.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt rm vm1
  silt rm vm1 vm2 old-debian
  silt rm vm1@before
  silt rm vm1 --recursive    with all its snapshots
  silt rm vm1 vm2 --dry-run  what would go")]
pub(crate) struct Args {
    /// Images, volumes and snapshots.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Remove the snapshots of volumes too.
    #[arg(short, long)]
    recursive: bool,
    /// Remove nothing; say what would go with all of them together. What others share is not counted.
    #[arg(short = 'n', long)]
    dry_run: bool,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let names = args.names.iter().map(|name| name.parse()).collect::<Result<Vec<_>>>()?;
    let engine = context.engine()?;
    let listed = |named: &[(DiskName, Named)]| {
        let named = named.iter();
        let named =
            named.map(|(name, named)| json!({ "name": name.to_string(), "kind": named.kind() }));
        named.collect::<Vec<_>>()
    };
    if args.dry_run {
        let (going, freed) = engine.would_remove(&names, args.recursive, &Bar::new())?;
        let document =
            || json!({ "would_remove": listed(&going), "would_free": would_free(&freed) });
        return print(context.json, document, || format!("{}\n", would_free_text(&freed)));
    }
    let removed = engine.remove(&names, args.recursive)?;
    print(context.json, || json!({ "removed": listed(&removed) }), String::new)
}
