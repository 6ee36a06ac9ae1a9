//! `silt seal`: what snapshots and clones froze becomes chunks.

use super::Context;
use crate::{output::print, progress::Bar};
use serde_json::{Value, json};
use silt_engine::{Contended, SealReport};
use silt_types::{BLOCK_SIZE_BYTES, Name, Result, format_size};
use std::time::Instant;

/// Decoded chunks kept while sealing: what lies below neighbouring blocks.
pub(crate) const CACHE_SIZE_BYTES: u64 = 64 << 20;

/// Seal what snapshots and clones froze: cut it along files, store what is new.
///
/// Commands that freeze something begin this in the background, unless SILT_SEAL is set to `manual`. Everything reads the
/// same before, during and after; afterwards reads are faster, equal files are stored once, and the deltas' space is free.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt seal            everything there is to seal
  silt seal vm1        one volume and its snapshots")]
pub(crate) struct Args {
    /// Volume; all of them without one.
    volume: Option<String>,
    /// Leave what other processes are sealing to them.
    #[arg(long, hide = true)]
    leave_contended: bool,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let started = Instant::now();
    let volume = args.volume.map(|name| name.parse::<Name>()).transpose()?;
    let engine = context.engine_with_cache(CACHE_SIZE_BYTES)?;
    let contended = if args.leave_contended { Contended::Leave } else { Contended::Wait };
    let report = engine.seal(volume.as_ref(), contended, &Bar::new())?;
    let seconds = started.elapsed().as_secs_f64();
    print(context.json, || document(&report, seconds), || text(&report, seconds))
}

/// A report as JSON.
pub(crate) fn document(report: &SealReport, seconds: f64) -> Value {
    let counts = &report.counts;
    json!({
        "deltas": report.deltas,
        "blocks_dirty": counts.blocks_dirty,
        "blocks_zero": counts.blocks_zero,
        "blocks_unchanged": counts.blocks_unchanged,
        "blocks_along_files": counts.blocks_along_files,
        "blocks_on_grid": counts.blocks_on_grid,
        "chunks": counts.chunks,
        "bytes_new": report.bytes_new,
        "seconds": seconds,
    })
}

/// A report for people.
pub(crate) fn text(report: &SealReport, seconds: f64) -> String {
    let dirty = format_size(report.counts.blocks_dirty * BLOCK_SIZE_BYTES);
    let (deltas, new) = (report.deltas, format_size(report.bytes_new));
    format!("sealed {deltas} deltas of {dirty}, of which {new} new to the store, in {seconds:.2} s")
}
