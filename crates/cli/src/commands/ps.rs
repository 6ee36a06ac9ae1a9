//! `silt ps`: what is served.

use super::Context;
use crate::output::{print, table, time, warn};
use serde_json::{Map, Value, json};
use silt_engine::{
    CountsStatus, ExportStatus, RateStatus, RecentStatus, ServerStatus, SpaceStatus,
};
use silt_types::{Result, format_size};

/// List what is served: by which process, where, to how many clients, and how much they do.
///
/// Each server is asked; one that was killed is not listed. Rates are of the last five to ten seconds: operations are reads,
/// writes, discards and zeroes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt ps
  silt ps --json       with counters since the start, limits and states
  silt metrics         the same for Prometheus
  silt stop vm1")]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, _args: Args) -> Result<()> {
    let served = context.engine()?.servers()?;
    for silent in &served.silent {
        warn(&format!("silt: {}", silent.chain()));
    }
    let document = || Value::Array(served.servers.iter().map(document).collect());
    let text = || {
        let rows: Vec<_> = served.servers.iter().flat_map(rows).collect();
        let heading =
            ["NAME", "MODE", "PID", "EXPORT", "ADDRESS", "CLIENTS", "OPS/S", "BYTES/S", "SINCE"];
        let right = [false, false, true, false, false, true, true, true, false];
        table(&heading, &right, &rows)
    };
    print(context.json, document, text)
}

/// A line for each export; what is counted for all of them together stands in the first.
fn rows(server: &ServerStatus) -> Vec<Vec<String>> {
    let row = |(number, export): (usize, &ExportStatus)| {
        let once = |cell: String| if number == 0 { cell } else { String::new() };
        let recent = &server.recent;
        let bytes = recent.counts.read.bytes + recent.counts.write.bytes;
        vec![
            once(server.name.clone()),
            once(mode(server)),
            once(server.pid.to_string()),
            export.protocol.clone(),
            export.address.clone(),
            export.clients.to_string(),
            once(format!("{:.0}", recent.operations_per_second())),
            once(format_size(recent.per_second(bytes) as u64)),
            once(time(server.started_ns)),
        ]
    };
    server.exports.iter().enumerate().map(row).collect()
}

fn mode(server: &ServerStatus) -> String {
    match &server.space {
        None if server.read_only => "read-only".to_owned(),
        Some(space) if space.waiting > 0 => format!("full, {} wait", space.waiting),
        Some(space) if space.is_full => "full".to_owned(),
        _ => "writable".to_owned(),
    }
}

/// How a volume stands with its space, as JSON has it.
pub(crate) fn space(space: &SpaceStatus) -> Value {
    json!({
        "delta_bytes": space.delta_bytes,
        "delta_bytes_max": space.delta_bytes_max,
        "when_full": space.when_full,
        "is_full": space.is_full,
        "waiting": space.waiting,
    })
}

/// A server as JSON has it.
pub(crate) fn document(server: &ServerStatus) -> Value {
    let export = |export: &ExportStatus| {
        json!({
            "protocol": export.protocol,
            "address": export.address,
            "clients": export.clients,
        })
    };
    let limit = |rate: Option<RateStatus>| {
        rate.map(|rate| json!({ "per_second": rate.per_second, "burst": rate.burst }))
    };
    json!({
        "name": server.name,
        "kind": server.kind,
        "id": server.id,
        "read_only": server.read_only,
        "pid": server.pid,
        "started": time(server.started_ns),
        "size": server.size_bytes,
        "cache_bytes": server.cache_bytes,
        "exports": server.exports.iter().map(export).collect::<Vec<_>>(),
        "clients": server.exports.iter().map(|export| export.clients).sum::<usize>(),
        "limits": {
            "iops": limit(server.limits.iops),
            "bandwidth": limit(server.limits.bandwidth),
        },
        "counts": counts(&server.counts),
        "flush_seconds": server.counts.flush_ns as f64 / 1e9,
        "waited_seconds": server.waited_ns as f64 / 1e9,
        "rates": rates(&server.recent),
        "rates_since_start": rates(&server.since_start()),
        "space": server.space.as_ref().map(space),
        "frozen_deltas": server.frozen_deltas,
        "generation": server.generation,
        "state_id": server.state_id,
    })
}

fn counts(counts: &CountsStatus) -> Value {
    let kinds = counts.kinds().map(|(kind, op)| {
        let count = json!({ "operations": op.operations, "bytes": op.bytes, "errors": op.errors });
        (kind.to_owned(), count)
    });
    Value::Object(kinds.into_iter().collect())
}

fn rates(recent: &RecentStatus) -> Value {
    let kinds = recent.counts.kinds().map(|(kind, op)| {
        let rate = json!({
            "operations_per_second": recent.per_second(op.operations),
            "bytes_per_second": recent.per_second(op.bytes),
        });
        (kind.to_owned(), rate)
    });
    let seconds = ("seconds".to_owned(), json!(recent.ns as f64 / 1e9));
    Value::Object([seconds].into_iter().chain(kinds).collect::<Map<_, _>>())
}
