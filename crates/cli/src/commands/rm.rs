//! `silt rm`: removing names.

use super::Context;
use crate::output::print;
use serde_json::json;
use silt_types::Result;

/// Remove images and volumes.
///
/// A volume that is served is refused (exit 5). Nobody else is harmed: volumes keep the base they were cloned from, and
/// clones keep what they share, whatever becomes of the names.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt rm vm1
  silt rm vm1 vm2 old-debian")]
pub(crate) struct Args {
    /// Images and volumes.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let names = args.names.iter().map(|name| name.parse()).collect::<Result<Vec<_>>>()?;
    let engine = context.engine()?;
    // Before the first is removed, all must be there.
    names.iter().try_for_each(|name| engine.find(name).map(drop))?;
    let removed = names.iter().map(|name| engine.remove(name)).collect::<Result<Vec<_>>>()?;
    let document = || {
        let removed = removed.iter().zip(&names);
        let removed =
            removed.map(|(named, name)| json!({ "name": name.as_str(), "kind": named.kind() }));
        json!({ "removed": removed.collect::<Vec<_>>() })
    };
    print(context.json, document, String::new)
}
