//! `silt stop`: the end of servers.

use super::{Context, ps};
use crate::output::print;
use serde_json::{Value, json};
use silt_engine::{ServerStatus, StopWhich};
use silt_types::{DiskName, Result};
use std::time::Duration;

/// End the servers of a disk, and wait until they have ended.
///
/// As SIGTERM does: what clients have sent is done and answered, everything is made durable. Afterwards the disk can be served,
/// resized or removed at once. Exit 3 if nobody serves it, 5 if a server has not ended in time; it goes on ending then.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt stop vm1
  silt stop debian --pid 4711    one of several that serve it read-only")]
pub(crate) struct Args {
    /// Volume, image or snapshot.
    name: String,
    /// Only the server with this process number.
    #[arg(long)]
    pid: Option<u32>,
    /// Seconds to wait for the end.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout: u64,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let name: DiskName = args.name.parse()?;
    let which = args.pid.map_or(StopWhich::All, StopWhich::Process);
    let time_max = Duration::from_secs(args.timeout);
    let stopped = context.engine()?.stop_servers(&name, which, time_max)?;
    let document = || {
        let servers: Vec<Value> = stopped.iter().map(ps::document).collect();
        json!({ "name": name.to_string(), "stopped": servers })
    };
    let line = |server: &ServerStatus| format!("stopped {name}, process {}\n", server.pid);
    print(context.json, document, || stopped.iter().map(line).collect())
}
