//! `silt clone`: new writable volumes.

use super::{Context, seal_behind};
use crate::output::print;
use serde_json::{Value, json};
use silt_engine::{CloneRequest, VolumeRecord};
use silt_types::{Error, Name, Result, format_size};
use std::time::Instant;

/// Make writable volumes that begin as another disk is now.
///
/// Takes the same time whatever the size of the disk, and no space until a volume is written. The source may be changed
/// or removed afterwards. A volume that is being served is cloned as it is at that moment, through its server.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt clone debian vm1           a volume on an image
  silt clone vm1 vm2              a volume that begins as vm1 is now
  silt clone vm1@before vm3       as vm1 was when that snapshot was taken
  silt clone debian worker -n 20  worker-1 to worker-20, all or none")]
pub(crate) struct Args {
    /// Image, volume or snapshot to begin from.
    source: String,
    /// Name of the new volume; with -n the beginning of all names.
    volume: String,
    /// Make so many, named VOLUME-1 and so on.
    #[arg(short = 'n', long, value_name = "COUNT")]
    count: Option<u32>,
}

/// The most volumes made at a time: they are one transaction, which others wait for.
const COUNT_MAX: u32 = 10_000;

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let started = Instant::now();
    let request =
        CloneRequest { source: args.source.parse()?, volumes: names(&args.volume, args.count)? };
    let records = context.engine()?.clone_disk(&request)?;
    let seconds = started.elapsed().as_secs_f64();
    if records.iter().any(|record| !record.frozen.is_empty()) {
        seal_behind(context, &records[0].name);
    }
    let document = || match args.count {
        None => document(&records[0], seconds),
        Some(_) => json!({
            "volumes": records.iter().map(|record| record.name.as_str()).collect::<Vec<_>>(),
            "source": request.source.to_string(),
            "base": records[0].base.to_string(),
            "size": records[0].size_bytes,
            "seconds": seconds,
        }),
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
