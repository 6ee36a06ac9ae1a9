//! `silt scrub`: verification in the background.

use super::Context;
use crate::output::{print, time, warn};
use serde_json::{Value, json};
use silt_engine::{ScrubRequest, Scrubbed, StopSignal};
use silt_types::{ErrorKind, Result, format_size, parse_size};
use std::process::ExitCode;

/// Verify the store in the background, slowly, over and over.
///
/// Reads pack after pack at a set rate, then checks the database and every name, rests a minute, and begins again, until it is
/// ended (SIGTERM, Ctrl-C). It remembers where it was. Everything else goes on beside it; a collection waits for one pack. What is
/// damaged is told on standard error at once, and by `silt info`. It repairs nothing: `silt verify --repair` does.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt scrub                   for ever, 20 MiB a second
  silt scrub --rate 100M
  silt scrub --once            to the end of this pass; exits with 7 if it found damage")]
pub(crate) struct Args {
    /// Read at most so much in a second.
    #[arg(long, value_name = "SIZE", default_value = "20M", value_parser = parse_size)]
    rate: u64,
    /// End with the pass that is under way, or with a new one.
    #[arg(long)]
    once: bool,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<ExitCode> {
    // From here on the signals end the pass, not the process.
    let stop = StopSignal::new()?;
    stop.trigger_on_termination()?;
    // What is read once need not be kept.
    let engine = context.engine_with_cache(0)?;
    let request = ScrubRequest { rate_bytes: args.rate, once: args.once };
    let mut damaged = false;
    let place = engine.scrub(&request, &stop, |what| {
        damaged = true;
        warn(&format!("damaged: {what}"));
    })?;
    print(context.json, || document(&place), || text(&place))?;
    match damaged {
        true => Ok(ExitCode::from(ErrorKind::Corrupt.exit_code())),
        false => Ok(ExitCode::SUCCESS),
    }
}

/// How far scrubbing has come, as a document.
pub(crate) fn document(place: &Scrubbed) -> Value {
    let when = |ns: i64| (ns != 0).then(|| time(ns));
    json!({
        "passes": place.passes,
        "bytes": place.bytes,
        "damages": place.damages,
        "started": when(place.started_ns),
        "finished": when(place.finished_ns),
        "damages_before": place.damages_before,
    })
}

/// The same as lines.
pub(crate) fn text(place: &Scrubbed) -> String {
    let mut text = match place.finished_ns {
        0 => String::new(),
        ns => {
            format!("pass {} ended {}: {} damaged\n", place.passes, time(ns), place.damages_before)
        }
    };
    if place.started_ns != 0 {
        text.push_str(&format!(
            "pass {} began {}: {} read, {} damaged\n",
            place.passes + 1,
            time(place.started_ns),
            format_size(place.bytes),
            place.damages
        ));
    }
    text
}
