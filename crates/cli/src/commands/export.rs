//! `silt export`: the bytes of a disk.

use super::Context;
use crate::{output::print, progress::Bar};
use serde_json::json;
use silt_types::{Error, ErrorKind, Result, format_size};
use std::{io, path::PathBuf, time::Instant};

/// Decoded chunks kept while exporting: those whose blocks lie apart.
const CACHE_SIZE_BYTES: u64 = 64 << 20;

/// Write a disk to a raw, sparse file.
///
/// The file is exactly as long as the disk. An existing file is replaced whole; a device or a pipe is written to. A
/// volume that is being written cannot be exported (exit 5).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt export debian debian.img
  silt export vm1 - | zstd > vm1.img.zst")]
pub(crate) struct Args {
    /// Image, volume or snapshot.
    name: String,
    /// File to write; `-` for standard output.
    file: PathBuf,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let name = args.name.parse()?;
    let started = Instant::now();
    let engine = context.engine_with_cache(CACHE_SIZE_BYTES)?;
    if args.file.as_os_str() == "-" {
        if context.json {
            return Err(Error::new(
                ErrorKind::Usage,
                "--json and a disk cannot both go to standard output",
            ));
        }
        return engine.export_stream(&name, &mut io::stdout().lock(), &Bar::new()).map(drop);
    }
    let counts = engine.export_file(&name, &args.file, &Bar::new())?;
    let seconds = started.elapsed().as_secs_f64();
    let document = || {
        json!({
            "name": name.to_string(),
            "file": args.file.to_string_lossy(),
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
