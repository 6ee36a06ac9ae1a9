//! `silt clone`: a new writable volume.

use super::Context;
use crate::output::print;
use serde_json::json;
use silt_engine::CloneRequest;
use silt_types::{Result, format_size};
use std::time::Instant;

/// Make a writable volume that begins as another disk is now.
///
/// Takes the same time whatever the size of the disk, and no space until the volume is written. The source may be
/// changed or removed afterwards. A volume that is being served cannot be cloned (exit 5).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt clone debian vm1     a volume on an image
  silt clone vm1 vm2        a volume that begins as vm1 is now")]
pub(crate) struct Args {
    /// Image or volume to begin from.
    source: String,
    /// Name of the new volume.
    volume: String,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let started = Instant::now();
    let request = CloneRequest { source: args.source.parse()?, volume: args.volume.parse()? };
    let record = context.engine()?.clone_volume(&request)?;
    let seconds = started.elapsed().as_secs_f64();
    let document = || {
        json!({
            "volume": record.name.as_str(),
            "source": record.source.as_str(),
            "base": record.base.to_string(),
            "size": record.size_bytes,
            "seconds": seconds,
        })
    };
    let text = || {
        let size = format_size(record.size_bytes);
        format!("cloned {} from {} ({size}) in {:.1} ms", record.name, record.source, seconds * 1e3)
    };
    print(context.json, document, text)
}
