//! `silt rename`: another name.

use super::Context;
use crate::output::print;
use serde_json::json;
use silt_types::{DiskName, Result};

/// Give an image, a volume or a snapshot another name.
///
/// Nothing else changes; a volume that is served is served on. A snapshot stays with its volume.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt rename vm1 web
  silt rename web@before web@broken")]
pub(crate) struct Args {
    /// What it is called now.
    from: String,
    /// What it is to be called.
    to: String,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let (from, to): (DiskName, DiskName) = (args.from.parse()?, args.to.parse()?);
    context.engine()?.rename(&from, &to)?;
    let document = || json!({ "from": from.to_string(), "to": to.to_string() });
    print(context.json, document, String::new)
}
