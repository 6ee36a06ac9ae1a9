//! `silt flatten`: a volume without deltas.

use super::{Context, seal};
use crate::{output::print, progress::Bar};
use silt_types::{Name, Result};
use std::time::Instant;

/// Seal everything that a volume has written, so that it has no delta left.
///
/// Served or not; what a guest writes meanwhile stays in its delta.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt flatten vm1")]
pub(crate) struct Args {
    /// The volume.
    volume: String,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let started = Instant::now();
    let volume: Name = args.volume.parse()?;
    let engine = context.engine_with_cache(seal::CACHE_SIZE_BYTES)?;
    let report = engine.flatten(&volume, &Bar::new())?;
    let seconds = started.elapsed().as_secs_f64();
    let document = || {
        let mut document = seal::document(&report, seconds);
        document["volume"] = volume.as_str().into();
        document
    };
    print(context.json, document, || seal::text(&report, seconds))
}
