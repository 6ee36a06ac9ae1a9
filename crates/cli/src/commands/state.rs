//! `silt state`: the id of what a disk holds now.

use super::{Context, seal};
use crate::output::print;
use serde_json::json;
use silt_types::{DiskName, Result};

/// Make what a disk holds durable, and print the id of just that state.
///
/// To be asked once a virtual machine is paused, and kept with its memory: 'silt serve --expect ID' serves the disk only in
/// that state. The first write after this makes it another state, whatever happens; without one it stays the same through
/// stops, kills, snapshots and sealing. A clone of a snapshot, or a volume rolled back to it, is in the snapshot's state.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt state vm1                                     served or not
  silt serve vm1 --nbd vm1.sock --expect \"$(cat state)\"")]
pub(crate) struct Args {
    /// Volume, image or snapshot.
    name: String,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let name: DiskName = args.name.parse()?;
    let state = context.engine_with_cache(seal::CACHE_SIZE_BYTES)?.state(&name)?;
    let document = || json!({ "name": name.to_string(), "state_id": state.to_string() });
    print(context.json, document, || state.to_string())
}
