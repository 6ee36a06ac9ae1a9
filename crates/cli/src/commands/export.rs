//! `silt export`: the bytes of a disk as a file, or those that changed.

use super::Context;
use crate::{output::print, progress::Bar};
use serde_json::json;
use silt_engine::ExportFormat;
use silt_types::{DiskName, Error, ErrorKind, Result, format_size};
use std::{io, path::PathBuf, time::Instant};

/// Decoded chunks kept while exporting: those whose blocks lie apart.
const CACHE_SIZE_BYTES: u64 = 64 << 20;

/// Write a disk to a raw, sparse file, or to a qcow2 file; or only the blocks that changed.
///
/// A raw file is exactly as long as the disk. An existing file is replaced whole; a device or a pipe is written to, raw. A
/// volume that is being written cannot be exported (exit 5).
///
/// With --since: a raw file as long as the disk that holds only the blocks that differ from another disk, a snapshot for
/// instance, each at its place. FILE.blocks lists them, a line for each run of bytes: "OFFSET LENGTH data", or
/// "OFFSET LENGTH zero" for what is zero now, and a hole in the file.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt export debian debian.img
  silt export debian debian.qcow2 --format qcow2
  silt export vm1 - | zstd > vm1.img.zst
  silt export vm1 changes.img --since vm1@before")]
pub(crate) struct Args {
    /// Image, volume or snapshot.
    name: String,
    /// File to write; `-` for standard output.
    file: PathBuf,
    /// What the file becomes. qcow2: version 3, clusters that are zero not allocated.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Write only what differs from this disk: any image, volume or snapshot.
    #[arg(long, value_name = "DISK")]
    since: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    #[default]
    Raw,
    Qcow2,
}

impl Format {
    fn as_str(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        }
    }
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let name = args.name.parse()?;
    let to_stdout = args.file.as_os_str() == "-";
    if to_stdout && (args.format != Format::Raw || args.since.is_some()) {
        return Err(usage("only a whole disk can go to standard output, raw"));
    }
    if let Some(since) = &args.since {
        if args.format != Format::Raw {
            return Err(usage("--since writes raw files: no qcow2 tells unchanged from zero"));
        }
        return changes(context, &name, &since.parse()?, &args);
    }
    let started = Instant::now();
    if to_stdout {
        if context.json {
            return Err(usage("--json and a disk cannot both go to standard output"));
        }
        let engine = context.engine_with_cache(CACHE_SIZE_BYTES)?;
        return engine.export_stream(&name, &mut io::stdout().lock(), &Bar::new()).map(drop);
    }
    let format = match args.format {
        Format::Raw => ExportFormat::Raw,
        Format::Qcow2 => ExportFormat::Qcow2,
    };
    let engine = context.engine_with_cache(CACHE_SIZE_BYTES)?;
    let counts = engine.export_file(&name, &args.file, format, &Bar::new())?;
    let seconds = started.elapsed().as_secs_f64();
    let document = || {
        json!({
            "name": name.to_string(),
            "file": args.file.to_string_lossy(),
            "format": args.format.as_str(),
            "size": counts.size_bytes,
            "bytes_written": counts.bytes_written,
            "seconds": seconds,
        })
    };
    let text = || {
        let (size, written) = (format_size(counts.size_bytes), format_size(counts.bytes_written));
        format!(
            "exported {name} to {} ({size}, {written} written) in {seconds:.2} s",
            args.file.display()
        )
    };
    print(context.json, document, text)
}

fn changes(context: &Context, name: &DiskName, since: &DiskName, args: &Args) -> Result<()> {
    let started = Instant::now();
    let engine = context.engine_with_cache(CACHE_SIZE_BYTES)?;
    let exported = engine.export_changes(name, since, &args.file, &Bar::new())?;
    let seconds = started.elapsed().as_secs_f64();
    let document = || {
        json!({
            "name": name.to_string(),
            "since": since.to_string(),
            "file": args.file.to_string_lossy(),
            "list": exported.list.to_string_lossy(),
            "format": args.format.as_str(),
            "size": exported.size_bytes,
            "blocks_differing": exported.blocks_differing,
            "bytes_differing": exported.bytes_differing,
            "bytes_written": exported.bytes_written,
            "seconds": seconds,
        })
    };
    let text = || {
        format!(
            "exported {} blocks of {name} that differ from {since} to {} ({}, {} written) in {seconds:.2} s, listed in {}",
            exported.blocks_differing,
            args.file.display(),
            format_size(exported.bytes_differing),
            format_size(exported.bytes_written),
            exported.list.display(),
        )
    };
    print(context.json, document, text)
}

fn usage(message: &str) -> Error {
    Error::new(ErrorKind::Usage, message)
}
