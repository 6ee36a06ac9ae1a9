//! Hot reads over NBD: `silt serve` beside `qemu-nbd` over a qcow2 overlay and `nbdkit file` on a raw disk.

use std::path::Path;

use crate::build::build;
use crate::server::Server;
use crate::side::{json, median, output, program, remove, silt, timed};
use crate::table::Table;
use crate::{Bench, Result, trees};

/// The working set, read through once before anything is timed.
pub const WORKING_SET_BYTES: u64 = 512 << 20;

/// Seconds of each random read run.
const RUN_SECONDS: u64 = 5;

/// Serves the same disk three ways at once and asks each in turn.
pub fn run(bench: &Bench) -> Result<Vec<Table>> {
    let tree = trees::debian(bench, 3)?;
    let room = bench.room("nbd")?;
    let (store, raw, overlay) =
        (room.join("store"), room.join("raw.img"), room.join("overlay.qcow2"));
    output(&mut build(bench, &store, &tree, None))?;
    output(silt(bench, &store, ["export", "debian"]).arg(&raw))?;
    output(&mut silt(bench, &store, ["clone", "debian", "vm"]))?;
    output(
        program("qemu-img", ["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .arg(&raw)
            .arg(&overlay),
    )?;

    let socket = |name: &str| room.join(name);
    let peers = ["silt", "qemu-nbd, qcow2 overlay", "nbdkit file, raw"];
    let servers = [
        Server::start(silt(bench, &store, ["serve", "vm", "--nbd"]).arg(socket("a")), socket("a"))?,
        Server::start(
            program("qemu-nbd", ["--persistent", "--shared=4", "-f", "qcow2", "-k"])
                .arg(socket("b"))
                .arg(&overlay),
            socket("b"),
        )?,
        Server::start(
            program("nbdkit", ["--foreground", "-U"]).arg(socket("c")).arg("file").arg(&raw),
            socket("c"),
        )?,
    ];
    let offset = densest(&raw)?;
    let mut random = vec![Vec::new(); servers.len()];
    let mut copy = vec![Vec::new(); servers.len()];
    for server in &servers {
        fio(server, offset, "read", "1M", 4, None)?;
    }
    for _ in 0..bench.runs {
        for (server, runs) in servers.iter().zip(&mut random) {
            runs.push(fio(server, offset, "randread", "4k", 16, Some(RUN_SECONDS))?);
        }
    }
    for _ in 0..bench.runs {
        for (server, runs) in servers.iter().zip(&mut copy) {
            let took =
                timed(&program("nbdcopy", ["--connections=1", &server.uri(), "null:"]), None)?;
            runs.push(std::fs::metadata(&raw)?.len() as f64 / (1 << 30) as f64 / took.seconds);
        }
    }
    let random: Vec<f64> = random.into_iter().map(median).collect();
    let copy: Vec<f64> = copy.into_iter().map(median).collect();
    let mut table = Table::new("NBD, one connection, Debian tree 3, medians in turn");
    for (peer, target) in [(1, ">= 2"), (2, ">= 0.8")] {
        table.beside(
            "4 KiB random reads, queue depth 16",
            (random[0], "IOPS"),
            peers[peer],
            random[peer],
            target,
        );
    }
    for peer in [1, 2] {
        table.beside("nbdcopy of the whole disk", (copy[0], "GiB/s"), peers[peer], copy[peer], "");
    }
    table.note(format!("fio's nbd engine, {RUN_SECONDS} s a run, the 512 MiB with most data (from byte {offset}), read through once before"));
    drop(servers);
    remove(&room)?;
    Ok(vec![table])
}

/// One fio run over the working set; answers with its I/O operations per second.
pub fn fio(
    server: &Server,
    offset: u64,
    pattern: &str,
    block: &str,
    depth: u32,
    seconds: Option<u64>,
) -> Result<f64> {
    let mut command = program("fio", ["--name=bench", "--ioengine=nbd", "--output-format=json"]);
    command
        .arg(format!("--uri={}", server.uri()))
        .arg(format!("--rw={pattern}"))
        .arg(format!("--bs={block}"));
    command.arg(format!("--iodepth={depth}")).arg(format!("--offset={offset}"));
    command.arg(format!("--size={WORKING_SET_BYTES}"));
    if let Some(seconds) = seconds {
        command.arg("--time_based").arg(format!("--runtime={seconds}"));
    }
    // The engine greets on standard output.
    let said = tempfile::NamedTempFile::new()?;
    output(command.arg("--output").arg(said.path()))?;
    let report: serde_json::Value = serde_json::from_reader(said.as_file())?;
    report["jobs"][0]["read"]["iops"].as_f64().ok_or_else(|| "fio said nothing of reads".into())
}

/// Where the working set holds most data, to 64 MiB: holes would be read for nothing.
pub fn densest(raw: &Path) -> Result<u64> {
    const STEP_BYTES: u64 = 64 << 20;
    let size = std::fs::metadata(raw)?.len();
    let steps = size.div_ceil(STEP_BYTES) as usize;
    let mut data = vec![0_u64; steps];
    let map = json(program("qemu-img", ["map", "--output=json", "-f", "raw"]).arg(raw))?;
    for extent in map.as_array().ok_or("qemu-img map said something else")? {
        if extent["data"].as_bool() != Some(true) {
            continue;
        }
        let (mut at, length) =
            (extent["start"].as_u64().unwrap_or(0), extent["length"].as_u64().unwrap_or(0));
        let end = at + length;
        while at < end {
            let step = at / STEP_BYTES;
            let upto = end.min((step + 1) * STEP_BYTES);
            data[step as usize] += upto - at;
            at = upto;
        }
    }
    let window = (WORKING_SET_BYTES / STEP_BYTES) as usize;
    let last = (size.saturating_sub(WORKING_SET_BYTES) / STEP_BYTES) as usize;
    let best = (0..=last).max_by_key(|start| data.iter().skip(*start).take(window).sum::<u64>());
    Ok(best.unwrap_or(0) as u64 * STEP_BYTES)
}
