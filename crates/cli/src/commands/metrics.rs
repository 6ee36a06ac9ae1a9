//! `silt metrics`: what is served, for Prometheus.

use super::Context;
use crate::output::{print, warn};
use silt_engine::{Engine, ServerStatus, SpaceStatus, StoreBounds};
use silt_types::Result;
use std::fmt::Write as _;

/// Print what is served in the text format of Prometheus (0.0.4), all disks of the store at once.
///
/// For the textfile collector of node_exporter, or whatever runs a command and serves what it prints: so no server opens a
/// port, and a thousand of them are one target.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt metrics
  silt metrics > silt.prom.tmp && mv silt.prom.tmp /var/lib/prometheus/node-exporter/silt.prom")]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, _args: Args) -> Result<()> {
    let engine: Engine = context.engine()?;
    let served = engine.servers()?;
    for silent in &served.silent {
        warn(&format!("silt: {}", silent.chain()));
    }
    let bounds = engine.bounds(&served.servers)?;
    let text = || exposition(&served.servers, served.silent.len()) + &store_exposition(&bounds);
    print(context.json, || serde_json::json!({ "metrics": text() }), text)
}

/// A family of metrics, and where its values come from.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    /// Labels beside `disk` and `pid`, and the value that goes with them.
    values: fn(&ServerStatus) -> Vec<(String, f64)>,
}

fn one(value: f64) -> Vec<(String, f64)> {
    vec![(String::new(), value)]
}

/// A number of a disk that is written; none where there is none.
fn of_space(server: &ServerStatus, value: fn(&SpaceStatus) -> Option<u64>) -> Vec<(String, f64)> {
    let value = server.space.as_ref().and_then(value);
    value.map(|value| (String::new(), value as f64)).into_iter().collect()
}

fn each(server: &ServerStatus, value: fn(&silt_engine::OpStatus) -> u64) -> Vec<(String, f64)> {
    let kinds = server.counts.kinds();
    kinds.map(|(kind, op)| (format!(",operation=\"{kind}\""), value(&op) as f64)).into()
}

const FAMILIES: [Family; 15] = [
    Family {
        name: "siltstone_disk_operations_total",
        kind: "counter",
        help: "Operations that succeeded.",
        values: |server| each(server, |op| op.operations),
    },
    Family {
        name: "siltstone_disk_bytes_total",
        kind: "counter",
        help: "Bytes of the operations that succeeded.",
        values: |server| each(server, |op| op.bytes),
    },
    Family {
        name: "siltstone_disk_errors_total",
        kind: "counter",
        help: "Operations that failed.",
        values: |server| each(server, |op| op.errors),
    },
    Family {
        name: "siltstone_disk_flush_seconds_total",
        kind: "counter",
        help: "Time that flushes took.",
        values: |server| one(server.counts.flush_ns as f64 / 1e9),
    },
    Family {
        name: "siltstone_disk_wait_seconds_total",
        kind: "counter",
        help: "Time that requests waited because of a limit.",
        values: |server| one(server.waited_ns as f64 / 1e9),
    },
    Family {
        name: "siltstone_disk_clients",
        kind: "gauge",
        help: "Clients that are connected.",
        values: |server| {
            let exports = server.exports.iter();
            let labels = exports.map(|export| {
                let address = escaped(&export.address);
                let labels = format!(",protocol=\"{}\",address=\"{address}\"", export.protocol);
                (labels, export.clients as f64)
            });
            labels.collect()
        },
    },
    Family {
        name: "siltstone_disk_size_bytes",
        kind: "gauge",
        help: "Length of the disk.",
        values: |server| one(server.size_bytes as f64),
    },
    Family {
        name: "siltstone_disk_read_only",
        kind: "gauge",
        help: "Whether writes are refused.",
        values: |server| one(f64::from(u8::from(server.read_only))),
    },
    Family {
        name: "siltstone_disk_full",
        kind: "gauge",
        help: "Whether the last write that needed space was refused.",
        values: |server| of_space(server, |space| Some(space.is_full.into())),
    },
    Family {
        name: "siltstone_disk_writes_waiting",
        kind: "gauge",
        help: "Writes that wait for space.",
        values: |server| of_space(server, |space| Some(space.waiting)),
    },
    Family {
        name: "siltstone_disk_delta_bytes",
        kind: "gauge",
        help: "Space that the deltas take.",
        values: |server| of_space(server, |space| Some(space.delta_bytes)),
    },
    Family {
        name: "siltstone_disk_delta_limit_bytes",
        kind: "gauge",
        help: "Space that the deltas may take.",
        values: |server| of_space(server, |space| space.delta_bytes_max),
    },
    Family {
        name: "siltstone_disk_frozen_deltas",
        kind: "gauge",
        help: "Frozen deltas that are read through.",
        values: |server| one(server.frozen_deltas as f64),
    },
    Family {
        name: "siltstone_server_cache_limit_bytes",
        kind: "gauge",
        help: "Decoded chunks that the server may keep in memory.",
        values: |server| one(server.cache_bytes as f64),
    },
    Family {
        name: "siltstone_server_start_time_seconds",
        kind: "gauge",
        help: "When the server began, since 1970.",
        values: |server| one(server.started_ns as f64 / 1e9),
    },
];

fn exposition(servers: &[ServerStatus], silent: usize) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let mut line = |line: std::fmt::Arguments<'_>| {
        let _ = writeln!(text, "{line}");
    };
    for Family { name, kind, help, values } in &FAMILIES {
        line(format_args!("# HELP {name} {help}"));
        line(format_args!("# TYPE {name} {kind}"));
        for server in servers {
            let (disk, pid) = (escaped(&server.name), server.pid);
            for (labels, value) in values(server) {
                line(format_args!("{name}{{disk=\"{disk}\",pid=\"{pid}\"{labels}}} {value}"));
            }
        }
    }
    line(format_args!("# HELP siltstone_servers_silent Servers that live and do not answer."));
    line(format_args!("# TYPE siltstone_servers_silent gauge"));
    line(format_args!("siltstone_servers_silent {silent}"));
    text
}

/// What there is to tell of the store as a whole. What has no value has no line.
fn store_exposition(bounds: &StoreBounds) -> String {
    let space = &bounds.space;
    let file_system = space.file_system;
    let gauges = [
        ("bytes", "Space that the store takes.", Some(space.bytes_on_disk)),
        ("quota_bytes", "Space that it may take.", space.limits.quota),
        ("reserve_bytes", "What is to stay free on its file system.", Some(space.reserve())),
        ("free_bytes", "What is free there.", file_system.map(|all| all.bytes_free)),
        ("file_system_bytes", "Length of that file system.", file_system.map(|all| all.bytes)),
    ];
    let mut text = String::new();
    let mut line = |line: std::fmt::Arguments<'_>| {
        let _ = writeln!(text, "{line}");
    };
    for (name, help, value) in gauges {
        line(format_args!("# HELP siltstone_store_{name} {help}"));
        line(format_args!("# TYPE siltstone_store_{name} gauge"));
        if let Some(value) = value {
            line(format_args!("siltstone_store_{name} {value}"));
        }
    }
    line(format_args!("# HELP siltstone_store_warning Something to look after."));
    line(format_args!("# TYPE siltstone_store_warning gauge"));
    for warning in &bounds.warnings {
        let (about, severity) = (warning.about, warning.severity.as_str());
        let volume = escaped(warning.volume.as_deref().unwrap_or_default());
        line(format_args!(
            "siltstone_store_warning{{about=\"{about}\",severity=\"{severity}\",volume=\"{volume}\"}} 1"
        ));
    }
    text
}

/// A label's value as the format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
