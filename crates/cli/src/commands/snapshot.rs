//! `silt snapshot`: a kept state of a volume.

use super::{Context, seal, seal_behind};
use crate::{output::print, progress::Bar};
use serde_json::json;
use silt_engine::{Contended, Named};
use silt_types::{DiskName, Result};
use std::time::Instant;

/// Keep what a volume holds now, served or not.
///
/// A guest goes on meanwhile: it waits for a flush, no longer. What it had written and not flushed is in the snapshot too.
/// The snapshot can be used at once; what was written since the last one becomes chunks in the background.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt snapshot vm1@before
  silt snapshot vm1@before --wait    until it is sealed and has a disk id
  silt clone vm1@before vm2
  silt rollback vm1@before")]
pub(crate) struct Args {
    /// The volume and the name of its snapshot: VOLUME@NAME.
    snapshot: String,
    /// Wait until it is sealed.
    #[arg(long)]
    wait: bool,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let started = Instant::now();
    let name: DiskName = args.snapshot.parse()?;
    let engine = context.engine_with_cache(seal::CACHE_SIZE_BYTES)?;
    let mut record = engine.snapshot(&name)?;
    let seconds = started.elapsed().as_secs_f64();
    if args.wait {
        engine.seal(Some(&name.name), Contended::Wait, &Bar::new())?;
        if let Named::Snapshot(now) = engine.find(&name)? {
            record = now;
        }
    } else if !record.frozen.is_empty() {
        seal_behind(context, &name.name);
    }
    let document = || {
        json!({
            "snapshot": name.to_string(),
            "disk_id": record.disk_id().map(|id| id.to_string()),
            "state_id": record.state.to_string(),
            "size": record.size_bytes,
            "frozen_deltas": record.frozen.len(),
            "seconds": seconds,
        })
    };
    let text = || {
        let sealed = record.disk_id().map_or("not sealed yet".into(), |id| format!("disk id {id}"));
        let (ms, state) = (seconds * 1e3, record.state);
        format!("kept {name} in {ms:.1} ms, {sealed}\nstate id {state}")
    };
    print(context.json, document, text)
}
