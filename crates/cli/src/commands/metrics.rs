//! `silt metrics`: what is served, for Prometheus.

use super::Context;
use crate::output::{print, warn};
use silt_engine::{Engine, ServerStatus};
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
    let text = || exposition(&served.servers, served.silent.len());
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

fn each(server: &ServerStatus, value: fn(&silt_engine::OpStatus) -> u64) -> Vec<(String, f64)> {
    let kinds = server.counts.kinds();
    kinds.map(|(kind, op)| (format!(",operation=\"{kind}\""), value(&op) as f64)).into()
}

const FAMILIES: [Family; 11] = [
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

/// A label's value as the format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
