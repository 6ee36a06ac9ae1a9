//! `silt store`: the store as a whole, each thing to do in the file of its name.

mod copy;
mod export;
mod import;
pub(crate) mod limits;
mod stats;
mod upgrade;

use super::Context;
use serde_json::{Value, json};
use silt_engine::Transferred;
use silt_types::{Result, format_size};
pub(super) use stats::work_document;

/// Decoded chunks kept by those who read each but once: what sealing looks at again.
const CACHE_SIZE_BYTES: u64 = 64 << 20;

/// Look after the store as a whole.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, clap::Subcommand)]
enum StoreCommand {
    Copy(copy::Args),
    Export(export::Args),
    Import(import::Args),
    Limits(limits::Args),
    Stats(stats::Args),
    Upgrade(upgrade::Args),
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    match args.command {
        StoreCommand::Copy(args) => copy::run(context, args),
        StoreCommand::Export(args) => export::run(context, args),
        StoreCommand::Import(args) => import::run(context, args),
        StoreCommand::Stats(args) => stats::run(context, args),
        StoreCommand::Limits(args) => limits::run(context, args),
        StoreCommand::Upgrade(args) => upgrade::run(context, args),
    }
}

fn document(done: &Transferred, seconds: f64) -> Value {
    json!({
        "images": done.images,
        "volumes": done.volumes,
        "snapshots": done.snapshots,
        "unchanged": done.unchanged,
        "chunks": done.chunks,
        "chunks_copied": done.chunks_copied,
        "bytes_copied": done.bytes_copied,
        "seconds": seconds,
    })
}

fn text(did: &str, done: &Transferred, seconds: f64) -> String {
    format!(
        "{did} {} images, {} volumes, {} snapshots; {} were there already; {} of {} chunks ({}); {seconds:.2} s\n",
        done.images,
        done.volumes,
        done.snapshots,
        done.unchanged,
        done.chunks_copied,
        done.chunks,
        format_size(done.bytes_copied),
    )
}
