//! `silt store stats`: what the store holds, takes and does, in numbers.

use super::Context;
use crate::{commands::scrub, output::print};
use serde_json::{Value, json};
use silt_engine::{StoreStats, WorkUnderWay};
use silt_types::{Result, format_size};

/// Show what the store holds, what it takes on disk, and what is going on in it.
///
/// Looks at every file of the store, so it takes longer than `silt info`. `bytes_on_disk` is what `du` says.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt store stats
  silt store stats --json | jq .bytes_on_disk.total")]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, _args: Args) -> Result<()> {
    let stats = context.engine()?.stats()?;
    print(context.json, || document(&stats), || text(&stats))
}

/// Work under way as JSON has it.
pub(crate) fn work_document(work: &WorkUnderWay) -> Value {
    json!({ "pid": work.pid, "only_reads": work.only_reads, "command": work.command })
}

fn document(stats: &StoreStats) -> Value {
    let (info, space) = (&stats.info, &stats.space);
    json!({
        "images": info.images,
        "volumes": info.volumes,
        "snapshots": info.snapshots,
        "chunks": info.chunks,
        "packs": info.packs,
        "packs_condemned": stats.packs_condemned,
        "bytes_logical": info.bytes_logical,
        "bytes_nonzero": info.bytes_nonzero,
        "bytes_unique": info.bytes_unique,
        "bytes_stored": info.bytes_stored,
        "bytes_on_disk": {
            "total": space.total(),
            "packs": space.packs,
            "database": space.database,
            "volumes": space.volumes,
            "caches": space.caches,
            "quarantine": space.quarantine,
            "other": space.other,
        },
        "frozen_deltas": stats.frozen_deltas,
        "servers": stats.servers,
        "work": stats.work.iter().map(work_document).collect::<Vec<_>>(),
        "scrub": stats.scrubbed.as_ref().map(scrub::document),
    })
}

fn text(stats: &StoreStats) -> String {
    let (info, space) = (&stats.info, &stats.space);
    let names =
        format!("{} images, {} volumes, {} snapshots", info.images, info.volumes, info.snapshots);
    let condemned = match stats.packs_condemned {
        0 => String::new(),
        packs => format!(", {packs} of them condemned"),
    };
    let writing = stats.work.iter().filter(|work| !work.only_reads).count();
    let rows = [
        ("names", names),
        ("chunks", format!("{} in {} packs{condemned}", info.chunks, info.packs)),
        ("on disk", format_size(space.total())),
        ("  packs", format_size(space.packs)),
        ("  database", format_size(space.database)),
        ("  volumes", format_size(space.volumes)),
        ("  caches", format_size(space.caches)),
        ("  quarantine", format_size(space.quarantine)),
        ("  other", format_size(space.other)),
        ("not sealed", format!("{} frozen deltas", stats.frozen_deltas)),
        ("served", format!("{} disks", stats.servers)),
        ("under way", format!("{writing} that add, {} that read", stats.work.len() - writing)),
    ];
    let rows: String = rows.iter().map(|(key, value)| format!("{key:<12} {value}\n")).collect();
    let scrubbed = stats.scrubbed.as_ref().map_or("never\n".to_owned(), scrub::text);
    scrubbed.lines().fold(rows, |text, line| text + &format!("{:<12} {line}\n", "scrub"))
}
