//! Hot requests over NBD: `silt serve` beside `qemu-nbd` over a qcow2 overlay and `nbdkit file` on a raw disk; and our first reads.

use std::path::Path;

use crate::build::build;
use crate::server::Server;
use crate::side::{json, median, number, output, program, remove, silt, timed};
use crate::table::Table;
use crate::{Bench, Result, trees};

/// The working set, read through once before anything is timed.
pub const WORKING_SET_BYTES: u64 = 512 << 20;

/// What `silt serve` keeps of decoded chunks: its default, printed with the figures.
const CACHE: &str = "640MiB";

/// Seconds of each run of random requests.
const RUN_SECONDS: u64 = 5;

/// What is asked: fio's pattern, block size, queue depth; and whether all of the working set is asked for once, not for a time.
struct Ask {
    what: &'static str,
    pattern: &'static str,
    block: &'static str,
    depth: u32,
    once: bool,
}

const fn ask(
    what: &'static str,
    pattern: &'static str,
    block: &'static str,
    depth: u32,
    once: bool,
) -> Ask {
    Ask { what, pattern, block, depth, once }
}

/// With the working set as the image has it, in the base.
const READS: [Ask; 3] = [
    ask("read 4 KiB at random, depth 16", "randread", "4k", 16, false),
    ask("read 4 KiB at random, depth 1", "randread", "4k", 1, false),
    ask("read 1 MiB in order, depth 1", "read", "1M", 1, true),
];

/// With the working set written once, in the delta.
const WRITES: [Ask; 5] = [
    ask("write 4 KiB at random, depth 16", "randwrite", "4k", 16, false),
    ask("write 4 KiB at random, depth 1", "randwrite", "4k", 1, false),
    ask("write 1 MiB in order, depth 1", "write", "1M", 1, true),
    ask("read written 4 KiB at random, depth 16", "randread", "4k", 16, false),
    ask("read written 4 KiB at random, depth 1", "randread", "4k", 1, false),
];

/// Serves the same disk three ways at once and asks each in turn.
pub fn run(bench: &Bench) -> Result<Vec<Table>> {
    let tree = trees::debian(bench, 3)?;
    let room = bench.room("nbd")?;
    let (store, raw, overlay) =
        (room.join("store"), room.join("raw.img"), room.join("overlay.qcow2"));
    output(&mut build(bench, &store, &tree, None))?;
    output(silt(bench, &store, ["export", "debian"]).arg(&raw))?;
    output(&mut silt(bench, &store, ["clone", "debian", "vm"]))?;
    let mut create = program("qemu-img", ["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]);
    output(create.arg(&raw).arg(&overlay))?;

    let socket = |name: &str| room.join(name);
    let peers = ["silt", "qemu-nbd, qcow2 overlay", "nbdkit file, raw"];
    let mut ours = silt(bench, &store, ["serve", "vm", "--cache", CACHE, "--nbd"]);
    let mut qemu = program("qemu-nbd", ["--persistent", "--shared=4", "-f", "qcow2", "-k"]);
    let mut nbdkit = program("nbdkit", ["--foreground", "-U"]);
    let servers = [
        Server::start(ours.arg(socket("a")), socket("a"))?,
        Server::start(qemu.arg(socket("b")).arg(&overlay), socket("b"))?,
        Server::start(nbdkit.arg(socket("c")).arg("file").arg(&raw), socket("c"))?,
    ];
    let offset = densest(&raw)?;
    let title = "NBD, one connection, one job, 512 MiB of Debian tree 3, hot, medians in turn";
    let mut table = Table::new(title);
    for server in &servers {
        fio(server, offset, "read", "1M", 4, None)?;
    }
    for ask in &READS {
        in_turn(bench, &mut table, &servers, &peers, offset, ask)?;
    }
    for server in &servers {
        fio(server, offset, "write", "1M", 4, None)?;
    }
    for ask in &WRITES {
        in_turn(bench, &mut table, &servers, &peers, offset, ask)?;
    }
    copies(bench, &mut table, &servers, &peers, &raw)?;
    table.note(format!(
        "fio's nbd engine, {RUN_SECONDS} s a run or all of it once; the 512 MiB with most data (from byte {offset}); silt serve --cache {CACHE}"
    ));
    drop(servers);
    let first = first_reads(bench, &store, &room, &raw)?;
    remove(&room)?;
    Ok(vec![table, first])
}

/// Asks every server the same, in turn, and adds a row for each peer that it is to be held against.
fn in_turn(
    bench: &Bench,
    table: &mut Table,
    servers: &[Server],
    peers: &[&str],
    offset: u64,
    ask: &Ask,
) -> Result<()> {
    let mut all = vec![Vec::new(); servers.len()];
    let seconds = if ask.once { None } else { Some(RUN_SECONDS) };
    for _ in 0..bench.runs {
        for (server, runs) in servers.iter().zip(&mut all) {
            runs.push(fio(server, offset, ask.pattern, ask.block, ask.depth, seconds)?);
        }
    }
    let all: Vec<f64> = all.into_iter().map(median).collect();
    for (peer, name) in peers.iter().enumerate().skip(1) {
        let target = match (peer, ask.pattern) {
            (1, "randread") => ">= 2.5",
            (1, _) => "",
            _ => ">= 0.95",
        };
        table.beside(ask.what, (all[0], "/s"), name, all[peer], target);
    }
    Ok(())
}

/// The whole disk, by a client that asks for as much as it can.
fn copies(
    bench: &Bench,
    table: &mut Table,
    servers: &[Server],
    peers: &[&str],
    raw: &Path,
) -> Result<()> {
    let mut all = vec![Vec::new(); servers.len()];
    for _ in 0..bench.runs {
        for (server, runs) in servers.iter().zip(&mut all) {
            let took =
                timed(&program("nbdcopy", ["--connections=1", &server.uri(), "null:"]), None)?;
            runs.push(std::fs::metadata(raw)?.len() as f64 / (1 << 30) as f64 / took.seconds);
        }
    }
    let all: Vec<f64> = all.into_iter().map(median).collect();
    for peer in [1, 2] {
        let ours = (all[0], "GiB/s");
        table.beside("nbdcopy of the whole disk", ours, peers[peer], all[peer], "");
    }
    Ok(())
}

/// First touch of every chunk: a new server for each run, the packs in the page cache.
fn first_reads(bench: &Bench, store: &Path, room: &Path, raw: &Path) -> Result<Table> {
    let mut table = Table::new("First reads over NBD, zstd level 1, packs in the page cache");
    let (mut wall, mut per_core, mut latency) = (Vec::new(), Vec::new(), Vec::new());
    let data = data_bytes(raw)? as f64 / 1e6;
    for run in 0..bench.runs {
        let at = |name: &str| room.join(format!("{name}{run}"));
        let start = |socket: &Path| {
            let mut serve = silt(bench, store, ["serve", "debian", "--read-only", "--nbd"]);
            Server::start(serve.arg(socket), socket.to_owned())
        };
        let server = start(&at("d"))?;
        let before = server.processor_seconds()?;
        let took = timed(&program("nbdcopy", ["--connections=1", &server.uri(), "null:"]), None)?;
        wall.push(data / took.seconds);
        per_core.push(data / (server.processor_seconds()? - before));
        drop(server);
        let server = start(&at("e"))?;
        let report = fio_report(&server, densest(raw)?, "randread", "4k", 1, Some(2))?;
        let median_ns = &report["jobs"][0]["read"]["clat_ns"]["percentile"];
        latency.push(number(median_ns, "50.000000")? / 1000.0);
    }
    table.alone("in order, nbdcopy", median(wall), "MB/s", "");
    let per_core = median(per_core);
    table.alone("in order, for each second of the server", per_core, "MB/s", ">= 800");
    table.alone("4 KiB at random, depth 1, median", median(latency), "us", "<= 150");
    table.note("MB of content, holes not counted; random reads for two seconds each, of which the first touch a chunk");
    Ok(table)
}

/// Bytes of a raw disk that are not holes.
fn data_bytes(raw: &Path) -> Result<u64> {
    let map = json(program("qemu-img", ["map", "--output=json", "-f", "raw"]).arg(raw))?;
    let extents = map.as_array().ok_or("qemu-img map said something else")?;
    let data = extents.iter().filter(|extent| extent["data"].as_bool() == Some(true));
    Ok(data.filter_map(|extent| extent["length"].as_u64()).sum())
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
    let report = fio_report(server, offset, pattern, block, depth, seconds)?;
    let kind = if pattern.contains("write") { "write" } else { "read" };
    number(&report["jobs"][0][kind], "iops")
}

fn fio_report(
    server: &Server,
    offset: u64,
    pattern: &str,
    block: &str,
    depth: u32,
    seconds: Option<u64>,
) -> Result<serde_json::Value> {
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
    Ok(serde_json::from_reader(said.as_file())?)
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
