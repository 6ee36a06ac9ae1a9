//! `silt gc`: what nothing needs goes.

use super::Context;
use crate::{
    output::{print, warn},
    progress::Bar,
};
use serde_json::{Value, json};
use silt_engine::{CollectRequest, Collected};
use silt_types::{ErrorKind, Result, format_size, parse_size};
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

/// Give back the space of what nothing needs any more.
///
/// Other commands, and servers, go on beside it. What an image, a volume, a snapshot or work under way needs is never
/// touched. If something that has a name cannot be read whole, nothing is removed (exit 7): `silt rm` of that name lets it go
/// on. It may be interrupted at any time; the next one goes on.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt gc
  silt gc --dry-run              what it would give back
  silt gc --max-rewrite 10G      move at most so much to free the rest of its packs
  silt gc --caches               forget what is known of sources, too")]
pub(crate) struct Args {
    /// Only say what would be done.
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Move at most this much of what is needed out of packs that are mostly empty.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_rewrite: Option<u64>,
    /// Seconds to wait for others that may need what goes; then it is left to the next collection.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
    /// Remove all caches: the next builds read and fetch everything again.
    #[arg(long, conflicts_with = "dry_run")]
    caches: bool,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let started = Instant::now();
    let engine = context.engine()?;
    let request = CollectRequest {
        dry_run: args.dry_run,
        rewrite_bytes_max: args.max_rewrite.unwrap_or(u64::MAX),
        wait: Duration::from_secs(args.wait),
    };
    if args.caches {
        engine.drop_caches()?;
    }
    let done = engine.collect(&request, &Bar::new())?;
    let seconds = started.elapsed().as_secs_f64();
    print(
        context.json,
        || document(&done, args.dry_run, seconds),
        || text(&done, args.dry_run, seconds),
    )?;
    if done.packs_waiting > 0 {
        warn(&format!(
            "silt: {} packs are left to the next collection: {} may need them",
            done.packs_waiting,
            done.waiting_for.join(", ")
        ));
    }
    if done.is_short_of_space {
        warn(
            "silt: there is too little free space to move all that is worth it: once there is more, `silt gc` goes on",
        );
    }
    if done.missing > 0 {
        let missing = done.missing;
        warn(&format!("silt: {missing} chunks that are needed are not there: see `silt verify`"));
    }
    if done.damaged.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    done.damaged.iter().for_each(|what| warn(&format!("silt: {what}: left as it is")));
    Ok(ExitCode::from(ErrorKind::Corrupt.exit_code()))
}

/// What is free afterwards that was not before.
fn bytes_freed(done: &Collected) -> u64 {
    done.bytes_removed.saturating_sub(done.bytes_written)
}

fn document(done: &Collected, dry_run: bool, seconds: f64) -> Value {
    json!({
        "dry_run": dry_run,
        "chunks": done.chunks,
        "chunks_needed": done.chunks_needed,
        "chunks_removed": done.chunks_removed,
        "chunks_moved": done.chunks_moved,
        "chunks_missing": done.missing,
        "packs": done.packs,
        "packs_removed": done.packs_removed,
        "packs_waiting": done.packs_waiting,
        "waiting_for": done.waiting_for,
        "bytes_packs": done.bytes_packs,
        "bytes_moved": done.bytes_moved,
        "bytes_removed": done.bytes_removed,
        "bytes_written": done.bytes_written,
        "bytes_freed": bytes_freed(done),
        "short_of_space": done.is_short_of_space,
        "damaged": done.damaged,
        "seconds": seconds,
    })
}

fn text(done: &Collected, dry_run: bool, seconds: f64) -> String {
    let (freed, removed, moved) = if dry_run {
        ("would free", "would go", "would be moved")
    } else {
        ("freed", "went", "were moved")
    };
    format!(
        "{freed} {} of {}: {} of {} chunks {removed}, {} packs of {}; {} chunks ({}) {moved}; {seconds:.2} s\n",
        format_size(bytes_freed(done)),
        format_size(done.bytes_packs),
        done.chunks_removed,
        done.chunks,
        done.packs_removed,
        done.packs,
        done.chunks_moved,
        format_size(done.bytes_moved),
    )
}
