//! `silt clone`: new writable volumes.

use super::{Context, seal, seal_behind};
use crate::{
    output::{print, warn},
    progress::Bar,
};
use serde_json::{Value, json};
use silt_engine::{CloneRequest, FileSystem, LongerClones, VolumeRecord};
use silt_types::{BLOCK_SIZE_BYTES, Error, Name, Result, format_size, parse_size};
use std::time::Instant;

/// Make writable volumes that begin as another disk is now.
///
/// Takes the same time whatever the size of the disk, and no space until a volume is written. The source may be changed
/// or removed afterwards. A volume that is being served is cloned as it is at that moment, through its server.
///
/// With --size the disk is longer than the source's, and an ext4 on it is grown to it: one that silt made, at rest. It
/// can grow to 1,024 times its length, at most 8 TiB. Any other file system stays as it is, and the output says why.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt clone debian vm1           a volume on an image
  silt clone vm1 vm2              a volume that begins as vm1 is now
  silt clone vm1@before vm3       as vm1 was when that snapshot was taken
  silt clone debian worker -n 20  worker-1 to worker-20, all or none
  silt clone debian vm4 --size 20G  on a disk of 20 GiB, its file system grown to it")]
pub(crate) struct Args {
    /// Image, volume or snapshot to begin from.
    source: String,
    /// Name of the new volume; with -n the beginning of all names.
    volume: String,
    /// Make so many, named VOLUME-1 and so on.
    #[arg(short = 'n', long, value_name = "COUNT")]
    count: Option<u32>,
    /// Length of the new disk: bytes, or a number with K, M, G or T.
    #[arg(long, value_name = "SIZE")]
    size: Option<String>,
}

/// The most volumes made at a time: they are one transaction, which others wait for.
const COUNT_MAX: u32 = 10_000;

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let started = Instant::now();
    let request =
        CloneRequest { source: args.source.parse()?, volumes: names(&args.volume, args.count)? };
    let size_bytes = args.size.as_deref().map(parse_size).transpose()?;
    let (records, file_system) = match size_bytes {
        None => (context.engine()?.clone_disk(&request)?, None),
        Some(size_bytes) => {
            let engine = context.engine_with_cache(seal::CACHE_SIZE_BYTES)?;
            let LongerClones { volumes, file_system } =
                engine.clone_longer(&request, size_bytes, &Bar::new())?;
            (volumes, Some(file_system))
        }
    };
    let seconds = started.elapsed().as_secs_f64();
    if records.iter().any(|record| !record.frozen.is_empty()) {
        seal_behind(context, &records[0].name);
    }
    if let Some(FileSystem::Left(reason)) = &file_system {
        warn(&format!("note: the file system was not grown: {}", reason.chain()));
    }
    let document = || {
        let mut document = match args.count {
            None => document(&records[0], seconds),
            Some(_) => json!({
                "volumes": records.iter().map(|record| record.name.as_str()).collect::<Vec<_>>(),
                "source": request.source.to_string(),
                "base": records[0].base.to_string(),
                "size": records[0].size_bytes,
                "seconds": seconds,
            }),
        };
        if let Some(file_system) = &file_system {
            document["file_system"] = file_system_document(file_system);
        }
        document
    };
    let text = || {
        let (size, ms) = (format_size(records[0].size_bytes), seconds * 1e3);
        let made = match &records[..] {
            [one] => one.name.to_string(),
            [first, .., last] => format!("{} to {}", first.name, last.name),
            [] => String::new(),
        };
        format!("cloned {made} from {} ({size}) in {ms:.1} ms", request.source)
    };
    print(context.json, document, text)
}

fn names(volume: &str, count: Option<u32>) -> Result<Vec<Name>> {
    match count {
        None => Ok(vec![volume.parse()?]),
        Some(count @ 1..=COUNT_MAX) => {
            (1..=count).map(|number| format!("{volume}-{number}").parse()).collect()
        }
        Some(count) => Err(Error::invalid(format!(
            "{count} clones cannot be made at a time: 1 to {COUNT_MAX}"
        ))),
    }
}

fn document(record: &VolumeRecord, seconds: f64) -> Value {
    json!({
        "volume": record.name.as_str(),
        "source": record.source.to_string(),
        "base": record.base.to_string(),
        "size": record.size_bytes,
        "seconds": seconds,
    })
}

fn file_system_document(file_system: &FileSystem) -> Value {
    match file_system {
        FileSystem::Grown(growth) => json!({
            "grown": true,
            "size": growth.blocks * BLOCK_SIZE_BYTES,
            "blocks_written": growth.blocks_written,
        }),
        FileSystem::Left(reason) => json!({ "grown": false, "reason": reason.chain() }),
    }
}
