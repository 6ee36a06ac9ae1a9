//! `silt verify`: everything read and checked, and made good.

use super::Context;
use crate::{
    cli::store_path,
    output::{print, warn},
    progress::Bar,
};
use serde_json::{Value, json};
use silt_engine::{Elsewhere, Repaired, Sample, Source, VerifyReport, VerifyRequest, repair_store};
use silt_types::{DiskName, ErrorKind, Result, format_size};
use std::{
    ffi::{OsStr, OsString},
    path::Path,
    process::ExitCode,
    time::Instant,
};

/// Read the whole store and check every byte of it, or what one name needs; and make good what is damaged.
///
/// Hashes every chunk, checks the database and every row of it, walks the map and the tree of every name. Exits with 7
/// if anything is damaged, naming each object and the images and volumes that need it.
///
/// With --repair it makes good what the store says twice, moves what is damaged to the folder quarantine in the store, and exits
/// with 7 if something is still damaged then.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt verify
  silt verify debian               what this name needs, alone
  silt verify --sample 5           a twentieth of the chunks, others each time
  silt verify --files              which files are hurt
  silt verify --repair
  silt verify --repair --from /mnt/backup/store --from ./rootfs")]
pub(crate) struct Args {
    /// Image, volume or snapshot; everything without one.
    name: Option<DiskName>,
    /// Make good what is damaged, as far as what is left allows.
    #[arg(long, conflicts_with_all = ["name", "sample"])]
    repair: bool,
    /// Where lost chunks may be: another store, or what an image was built from (a folder, a tar, a disk, oci:...).
    #[arg(long, value_name = "STORE|SOURCE", requires = "repair")]
    from: Vec<OsString>,
    /// Read about so many per cent of the chunks, others each time; the rest is checked as far as it can be without.
    #[arg(long, value_name = "PERCENT")]
    sample: Option<f64>,
    /// Tell which files have something that is damaged.
    #[arg(long)]
    files: bool,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let started = Instant::now();
    let bar = Bar::new();
    let (done, report) = if args.repair {
        let from = args.from.iter().map(|from| elsewhere(from)).collect::<Result<Vec<_>>>()?;
        let store = store_path(context.store.clone())?;
        let Repaired { done, report } = repair_store(&store, &from, args.files, &bar)?;
        (Some(done), report)
    } else {
        let sample = args.sample.map_or(Ok(Sample::ALL), Sample::percent)?;
        let request = VerifyRequest { name: args.name, sample, files: args.files };
        (None, context.engine()?.verify(&request, &bar)?)
    };
    drop(bar);
    let seconds = started.elapsed().as_secs_f64();
    print(
        context.json,
        || document(&report, done.as_deref(), seconds),
        || text(&report, done.as_deref(), seconds),
    )?;
    if report.damages.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    // The report is the result, and the one document; that it is a bad one is said beside it.
    warn(&format!("silt: the store is damaged: {} findings", report.damages.len()));
    if done.is_none() {
        warn("hint: `silt verify --repair` makes good what can be");
    }
    Ok(ExitCode::from(ErrorKind::Corrupt.exit_code()))
}

/// A folder that is a store is meant as one.
fn elsewhere(text: &OsStr) -> Result<Elsewhere> {
    let path = Path::new(text);
    match path.join("packs").is_dir() && path.join("leases").is_dir() {
        true => Ok(Elsewhere::Store(path.into())),
        false => Source::parse(text).map(Elsewhere::Source),
    }
}

fn document(report: &VerifyReport, done: Option<&[String]>, seconds: f64) -> Value {
    let damages = report.damages.iter().map(|damage| {
        json!({
            "what": damage.what,
            "chunk": damage.chunk.map(|chunk| chunk.to_string()),
            "needed_by": damage.needed_by,
            "files": damage.files,
        })
    });
    json!({
        "ok": report.damages.is_empty(),
        "repaired": done,
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

fn text(report: &VerifyReport, done: Option<&[String]>, seconds: f64) -> String {
    let mut text: String =
        done.unwrap_or_default().iter().map(|line| format!("repaired: {line}\n")).collect();
    text.push_str(&format!(
        "verified {} chunks ({}) in {} packs, {} images, {} volumes, {} snapshots in {seconds:.2} s\n",
        report.chunks,
        format_size(report.bytes),
        report.packs,
        report.images,
        report.volumes,
        report.snapshots
    ));
    for name in &report.volumes_in_use {
        text.push_str(&format!("volume {name} is being written: its delta was left out\n"));
    }
    for damage in &report.damages {
        text.push_str(&format!("damaged: {}\n", damage.what));
        if !damage.needed_by.is_empty() {
            text.push_str(&format!("  needed by {}\n", damage.needed_by.join(", ")));
        }
        for file in &damage.files {
            text.push_str(&format!("  file {file}\n"));
        }
    }
    text
}
