//! `silt commit`: an image of what a volume holds.

use super::{Context, seal};
use crate::{output::print, progress::Bar};
use serde_json::json;
use silt_engine::CommitRequest;
use silt_types::{Result, format_size};
use std::time::Instant;

/// Make an image of what a volume holds now, or of a snapshot.
///
/// The volume goes on, served or not. Only what was written since its base is read.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt commit vm1 debian-with-git
  silt commit vm1@before debian --replace")]
pub(crate) struct Args {
    /// Volume or snapshot.
    source: String,
    /// Name of the image.
    image: String,
    /// Take the place of an image of that name, in one step.
    #[arg(long)]
    replace: bool,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let started = Instant::now();
    let request = CommitRequest {
        source: args.source.parse()?,
        image: args.image.parse()?,
        replace: args.replace,
    };
    let engine = context.engine_with_cache(seal::CACHE_SIZE_BYTES)?;
    let image = engine.commit(&request, &Bar::new())?;
    let seconds = started.elapsed().as_secs_f64();
    let document = || {
        json!({
            "image": image.name.as_str(),
            "source": request.source.to_string(),
            "disk_id": image.disk.to_string(),
            "size": image.disk.size_bytes,
            "seconds": seconds,
        })
    };
    let text = || {
        let size = format_size(image.disk.size_bytes);
        let (name, source, disk) = (&image.name, &request.source, image.disk);
        format!("made image {name} of {source} ({size}) in {seconds:.2} s\ndisk id {disk}")
    };
    print(context.json, document, text)
}
