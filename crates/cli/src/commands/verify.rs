//! `silt verify`: everything read and checked.

use super::Context;
use crate::{
    output::{print, warn},
    progress::Bar,
};
use serde_json::{Value, json};
use silt_engine::VerifyReport;
use silt_types::{ErrorKind, Result, format_size};
use std::{process::ExitCode, time::Instant};

/// Read the whole store and check every byte of it.
///
/// Hashes every chunk, checks the database and every row of it, walks the map and the tree of every name. Exits with 7
/// if anything is damaged, naming each object and the images and volumes that need it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt verify
  silt verify --json")]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, _args: Args) -> Result<ExitCode> {
    let started = Instant::now();
    let report = context.engine()?.verify(&Bar::new())?;
    let seconds = started.elapsed().as_secs_f64();
    print(context.json, || document(&report, seconds), || text(&report, seconds))?;
    if report.damages.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    // The report is the result, and the one document; that it is a bad one is said beside it.
    warn(&format!("silt: the store is damaged: {} findings", report.damages.len()));
    Ok(ExitCode::from(ErrorKind::Corrupt.exit_code()))
}

fn document(report: &VerifyReport, seconds: f64) -> Value {
    let damages = report.damages.iter();
    let damages =
        damages.map(|damage| json!({ "what": damage.what, "needed_by": damage.needed_by }));
    json!({
        "ok": report.damages.is_empty(),
        "packs": report.packs,
        "chunks": report.chunks,
        "bytes": report.bytes,
        "images": report.images,
        "volumes": report.volumes,
        "snapshots": report.snapshots,
        "volumes_in_use": report.volumes_in_use,
        "damages": damages.collect::<Vec<_>>(),
        "seconds": seconds,
    })
}

fn text(report: &VerifyReport, seconds: f64) -> String {
    let mut text = format!(
        "verified {} chunks ({}) in {} packs, {} images, {} volumes, {} snapshots in {seconds:.2} s\n",
        report.chunks,
        format_size(report.bytes),
        report.packs,
        report.images,
        report.volumes,
        report.snapshots
    );
    for name in &report.volumes_in_use {
        text.push_str(&format!("volume {name} is being written: its delta was left out\n"));
    }
    for damage in &report.damages {
        text.push_str(&format!("damaged: {}\n", damage.what));
        if !damage.needed_by.is_empty() {
            text.push_str(&format!("  needed by {}\n", damage.needed_by.join(", ")));
        }
    }
    text
}
