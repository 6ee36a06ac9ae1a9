//! `silt store limits`: how large the store may become, and what its guests meet when it is full.

use super::Context;
use crate::output::print;
use serde_json::{Value, json};
use silt_engine::{StoreSpace, WhenFull};
use silt_types::{Error, ErrorKind, Result, format_size, parse_size};

/// Show the bounds of the store, or set those that are given. Who is at work with it keeps to them within a second.
///
/// What makes the store grow is refused beyond them (exit 8; a guest's write by ENOSPC, or it waits). What removes is not:
/// 'silt rm' and 'silt gc' always work, unless others have filled the file system to its last byte.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt store limits
  silt store limits --quota 200G                     the whole store, as du counts it
  silt store limits --reserve 20G                    so much stays free on its file system
  silt store limits --delta 10G --when-full pause    each volume, and its guest waits instead of failing")]
pub(crate) struct Args {
    /// What the store may take on its file system, or 'none'.
    #[arg(long, value_name = "SIZE")]
    quota: Option<String>,
    /// What is to stay free there, or 'default': a fiftieth of the file system, 1 GiB at most.
    #[arg(long, value_name = "SIZE")]
    reserve: Option<String>,
    /// What the deltas of one volume may take together, or 'none'.
    #[arg(long, value_name = "SIZE")]
    delta: Option<String>,
    /// What a guest meets whose write needs space that there is not: 'error' or 'pause'.
    #[arg(long, value_name = "HOW", value_parser = parse_when_full)]
    when_full: Option<WhenFull>,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let quota = args.quota.as_deref().map(|text| size_or(text, "none")).transpose()?;
    let reserve = args.reserve.as_deref().map(|text| size_or(text, "default")).transpose()?;
    let delta = args.delta.as_deref().map(|text| size_or(text, "none")).transpose()?;
    let sets = quota.is_some() || reserve.is_some() || delta.is_some() || args.when_full.is_some();
    let engine = if sets { context.engine_or_new()? } else { context.engine()? };
    if sets {
        engine.change_limits(|limits| {
            limits.quota = quota.unwrap_or(limits.quota);
            limits.reserve = reserve.unwrap_or(limits.reserve);
            limits.delta = delta.unwrap_or(limits.delta);
            limits.when_full = args.when_full.unwrap_or(limits.when_full);
        })?;
    }
    let space = engine.space()?;
    print(context.json, || document(&space), || text(&space))
}

/// A size, or none for the word that says so.
fn size_or(text: &str, none: &str) -> Result<Option<u64>> {
    if text == none {
        return Ok(None);
    }
    let size = parse_size(text)?;
    // The last number stands for none.
    let is_too_large = || Error::new(ErrorKind::Invalid, format!("bad size {text:?}: too large"));
    if size < u64::MAX { Ok(Some(size)) } else { Err(is_too_large()) }
}

/// What a guest meets, as the command line has it.
pub(crate) fn parse_when_full(word: &str) -> std::result::Result<WhenFull, String> {
    WhenFull::from_word(word).ok_or_else(|| "it is 'error' or 'pause'".to_owned())
}

/// Space and bounds as JSON has them.
pub(crate) fn document(space: &StoreSpace) -> Value {
    json!({
        "quota": space.limits.quota,
        "reserve": space.reserve(),
        "reserve_is_default": space.limits.reserve.is_none(),
        "delta": space.limits.delta,
        "when_full": space.limits.when_full.as_str(),
        "bytes_on_disk": space.bytes_on_disk,
        "file_system_bytes": space.file_system.map(|all| all.bytes),
        "file_system_bytes_free": space.file_system.map(|all| all.bytes_free),
    })
}

fn text(space: &StoreSpace) -> String {
    let or_none = |size: Option<u64>| size.map_or("none".to_owned(), format_size);
    let usual = if space.limits.reserve.is_none() { " (default)" } else { "" };
    let free = space
        .file_system
        .map(|all| format!("{} of {}", format_size(all.bytes_free), format_size(all.bytes)));
    let rows = [
        ("quota", or_none(space.limits.quota)),
        ("reserve", format!("{}{usual}", format_size(space.reserve()))),
        ("delta", or_none(space.limits.delta)),
        ("when full", space.limits.when_full.as_str().to_owned()),
        ("on disk", format_size(space.bytes_on_disk)),
        ("free", free.unwrap_or_else(|| "the file system does not say".to_owned())),
    ];
    rows.iter().map(|(key, value)| format!("{key:<12} {value}\n")).collect()
}
