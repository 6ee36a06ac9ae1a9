//! `silt rollback`: a volume goes on from one of its snapshots.

use super::{Context, seal_behind};
use crate::output::print;
use serde_json::json;
use silt_engine::RollbackRequest;
use silt_types::Result;
use std::time::Instant;

/// Let a volume go on from one of its snapshots.
///
/// What it holds now is kept as a snapshot of its own, unless that is given up with --discard. A volume that is served is
/// refused (exit 5): a guest's disk does not change under it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt rollback vm1@before
  silt rollback vm1@before --discard    give up what was written since")]
pub(crate) struct Args {
    /// The snapshot: VOLUME@NAME.
    snapshot: String,
    /// Give up the present state instead of keeping it.
    #[arg(long)]
    discard: bool,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let started = Instant::now();
    let request = RollbackRequest { snapshot: args.snapshot.parse()?, discard: args.discard };
    let done = context.engine()?.rollback(&request)?;
    let seconds = started.elapsed().as_secs_f64();
    let (volume, kept) = (&done.volume.name, &done.kept);
    if kept.as_ref().is_some_and(|kept| !kept.frozen.is_empty()) {
        seal_behind(context, volume);
    }
    let kept = kept.as_ref().map(|kept| format!("{volume}@{}", kept.name));
    let document = || {
        json!({
            "volume": volume.as_str(),
            "snapshot": request.snapshot.to_string(),
            "kept": kept,
            "size": done.volume.size_bytes,
            "seconds": seconds,
        })
    };
    let text = || {
        let before =
            kept.as_ref().map_or(String::new(), |kept| format!("; before is kept as {kept}"));
        format!("{volume} goes on from {} ({:.1} ms){before}", request.snapshot, seconds * 1e3)
    };
    print(context.json, document, text)
}
