//! System calls of a server for each hot request, by export: strace counts, a client asks. Says nothing of time: what is traced
//! is slow. Needs root, or fusermount3.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::build::build;
use crate::nbd::densest;
use crate::side::{number, output, program, remove, silt};
use crate::table::Table;
use crate::{Bench, Result, trees};

/// Seconds of each run.
const RUN_SECONDS: u64 = 2;

/// What is asked about, after one pass over all of it: small, as tracing is slow.
const ASKED_BYTES: u64 = 64 << 20;

/// How long a server may take to be there, and strace to begin.
const PATIENCE: Duration = Duration::from_secs(1);

/// Words, fio's pattern, bytes of a request, queue depth.
type Ask = (&'static str, &'static str, u64, u32);

/// In this order: what is read before the first write lies in the base, and what is read after it in the delta.
const ASKS: [Ask; 7] = [
    ("read 4 KiB, depth 1", "randread", 4096, 1),
    ("read 4 KiB, depth 16", "randread", 4096, 16),
    ("read 1 MiB, depth 1", "read", 1 << 20, 1),
    ("write 1 MiB, depth 1", "write", 1 << 20, 1),
    ("write 4 KiB, depth 1", "randwrite", 4096, 1),
    ("write 4 KiB, depth 16", "randwrite", 4096, 16),
    ("read written 4 KiB, depth 1", "randread", 4096, 1),
];

/// Serves a clone by each export in turn.
pub fn run(bench: &Bench) -> Result<Vec<Table>> {
    let tree = trees::debian(bench, 3)?;
    let room = bench.room("calls")?;
    let (store, raw) = (room.join("store"), room.join("raw.img"));
    output(&mut build(bench, &store, &tree, None))?;
    output(silt(bench, &store, ["export", "debian"]).arg(&raw))?;
    let offset = densest(&raw)?;
    let mut tables = Vec::new();
    for export in ["nbd", "vhost-user", "fuse"] {
        let place = room.join(export);
        output(&mut silt(bench, &store, ["clone", "debian", export]))?;
        let mut serve = silt(bench, &store, ["serve", export, &format!("--{export}")]);
        let server = serve.arg(&place).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let asked = Asked { bench, export, place, offset, server };
        std::thread::sleep(PATIENCE);
        let mut table = Table::new(format!("system calls for each hot request, {export}"));
        // Everything is met once before it is counted.
        asked.ask("read", 1 << 20, 1, None)?;
        for ask in &ASKS {
            asked.count(&mut table, &room, ask)?;
        }
        tables.push(table);
    }
    remove(&room)?;
    Ok(tables)
}

/// A server, and how it is asked. Ended with this value.
struct Asked<'a> {
    bench: &'a Bench,
    export: &'a str,
    place: PathBuf,
    offset: u64,
    server: Child,
}

impl Asked<'_> {
    /// Adds a row with all calls for each request, and says which.
    fn count(
        &self,
        table: &mut Table,
        room: &Path,
        &(what, pattern, block, depth): &Ask,
    ) -> Result<()> {
        // The first write of each block costs more, once.
        if pattern.contains("write") {
            self.ask("write", block, depth, None)?;
        }
        let counts = room.join("counts");
        let pid = self.server.id().to_string();
        let mut trace = program("strace", ["-f", "-c", "-q", "-p", &pid, "-o"]);
        let mut tracing = trace.arg(&counts).stderr(Stdio::null()).spawn()?;
        std::thread::sleep(PATIENCE);
        let asked = self.ask(pattern, block, depth, Some(RUN_SECONDS));
        output(&mut program("kill", ["-INT".to_owned(), tracing.id().to_string()]))?;
        tracing.wait()?;
        let asked = asked?;
        let calls = read_counts(&std::fs::read_to_string(&counts)?);
        let mut each: Vec<(f64, &str)> =
            calls.iter().map(|(name, calls)| (*calls as f64 / asked, name.as_str())).collect();
        each.sort_by(|a, b| b.0.total_cmp(&a.0));
        let all: f64 = each.iter().map(|(calls, _)| calls).sum();
        table.alone(what, all, "calls", "");
        let named = each.iter().filter(|(calls, _)| *calls >= 0.01);
        let named: Vec<String> = named.map(|(calls, name)| format!("{calls:.2} {name}")).collect();
        table.note(format!("{what}: {}", named.join(", ")));
        Ok(())
    }

    /// Answers with how many requests there were; without seconds, all bytes are asked for once.
    fn ask(&self, pattern: &str, block: u64, depth: u32, seconds: Option<u64>) -> Result<f64> {
        if self.export == "vhost-user" {
            let mut command = program(self.bench.peers.join("vhost-load"), [&self.place]);
            let numbers = [block, depth.into(), self.offset, ASKED_BYTES, seconds.unwrap_or(0)];
            let said = output(command.arg(pattern).args(numbers.map(|number| number.to_string())))?;
            let count = said.split_whitespace().next().ok_or("vhost-load said nothing")?;
            return Ok(count.parse()?);
        }
        let said = tempfile::NamedTempFile::new()?;
        let mut command = self.fio();
        command.arg(format!("--rw={pattern}")).arg(format!("--bs={block}"));
        command.arg(format!("--iodepth={depth}")).arg(format!("--offset={}", self.offset));
        command.arg(format!("--size={ASKED_BYTES}")).arg("--output").arg(said.path());
        if let Some(seconds) = seconds {
            command.arg("--time_based").arg(format!("--runtime={seconds}"));
        }
        output(&mut command)?;
        let report: serde_json::Value = serde_json::from_reader(said.as_file())?;
        let kind = if pattern.contains("write") { "write" } else { "read" };
        number(&report["jobs"][0][kind], "total_ios")
    }

    fn fio(&self) -> Command {
        let mut command = program("fio", ["--name=bench", "--output-format=json"]);
        if self.export == "nbd" {
            let uri = format!("--uri=nbd+unix:///?socket={}", self.place.display());
            command.arg("--ioengine=nbd").arg(uri);
        } else {
            command.args(["--ioengine=libaio", "--direct=1", "--allow_file_create=0"]);
            command.arg(format!("--filename={}", self.place.display()));
        }
        command
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let _ = output(&mut program("kill", [self.server.id().to_string()]));
        let _ = self.server.wait();
    }
}

/// Calls by name, out of the table that strace prints.
fn read_counts(text: &str) -> BTreeMap<String, u64> {
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (calls, name) = (words.get(3)?.parse().ok()?, *words.last()?);
        (words.len() >= 5 && name != "total").then(|| (name.to_owned(), calls))
    };
    text.lines().filter_map(row).collect()
}
