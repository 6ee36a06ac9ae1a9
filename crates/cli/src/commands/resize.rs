//! `silt resize`: another length of a volume's disk.

use super::{Context, seal};
use crate::{output::print, progress::Bar};
use serde_json::json;
use silt_engine::ResizeRequest;
use silt_types::{Result, format_size, parse_size};

/// Give a volume another length.
///
/// What is added reads as zero; the file system on it is grown in the guest, by resize2fs. A volume becomes shorter only
/// with --shrink, and only if what goes is empty or behind the end of its ext4. A volume that is served becomes
/// longer under its clients where they can be told; by NBD they cannot, and it is refused (exit 5).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt resize vm1 20G
  silt resize vm1 2G --shrink")]
pub(crate) struct Args {
    /// The volume.
    volume: String,
    /// Its length: bytes, or a number with K, M, G or T.
    size: String,
    /// Allow it to become shorter.
    #[arg(long)]
    shrink: bool,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let request = ResizeRequest {
        volume: args.volume.parse()?,
        size_bytes: parse_size(&args.size)?,
        shrink: args.shrink,
    };
    let engine = context.engine_with_cache(seal::CACHE_SIZE_BYTES)?;
    let volume = engine.resize(&request, &Bar::new())?;
    let document = || json!({ "volume": volume.name.as_str(), "size": volume.size_bytes });
    print(context.json, document, || {
        format!("{} has {}", volume.name, format_size(volume.size_bytes))
    })
}
