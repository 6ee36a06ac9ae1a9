//! Sealing millions of blocks that are scattered over a disk: how fast, and in how much memory. Heavy: 5 million blocks are
//! 20 GB of delta; `SILT_BENCH_BLOCKS` says another number, `SILT_BENCH_COMPRESSIBLE` how many percent of them zstd leaves out.

use crate::server::Server;
use crate::side::{json, number, output, program, remove, settle, silt, timed_seal};
use crate::table::Table;
use crate::{Bench, Result};

const BLOCKS: u64 = 5_000_000;
const COMPRESSIBLE_PERCENT: u64 = 70;
const DISK_BYTES: u64 = 1 << 40;

/// fio writes them, `silt seal` seals them.
pub fn run(bench: &Bench) -> Result<Vec<Table>> {
    let given = |name, default| std::env::var(name).map_or(Ok(default), |given| given.parse());
    let blocks: u64 = given("SILT_BENCH_BLOCKS", BLOCKS)?;
    let compressible = given("SILT_BENCH_COMPRESSIBLE", COMPRESSIBLE_PERCENT)?;
    let room = bench.room("sealing")?;
    let (store, tree, socket) = (room.join("store"), room.join("tree"), room.join("socket"));
    std::fs::create_dir(&tree)?;
    output(silt(bench, &store, ["build", "--size", "1TiB"]).arg(&tree).arg("empty"))?;
    output(&mut silt(bench, &store, ["clone", "empty", "vm"]))?;
    let server =
        Server::start(silt(bench, &store, ["serve", "vm", "--nbd"]).arg(&socket), socket.clone())?;
    // Ascending with gaps, for a file system that takes blocks at random makes 20 MB/s of them. Each is unlike all others,
    // and compresses.
    let gap_blocks = DISK_BYTES / 4096 / blocks - 1;
    let mut fio = program("fio", ["--name=scatter", "--ioengine=nbd", "--bs=4k", "--size=1T"]);
    fio.arg(format!("--uri={}", server.uri())).arg(format!("--number_ios={blocks}"));
    fio.arg(format!("--rw=write:{}k", gap_blocks * 4));
    fio.args(["--iodepth=16", "--refill_buffers"]);
    fio.arg(format!("--buffer_compress_percentage={compressible}"));
    output(fio.args(["--buffer_compress_chunk=4k", "--end_fsync=1"]))?;
    drop(server);
    let mut snapshot = silt(bench, &store, ["snapshot", "vm@all"]);
    output(snapshot.env("SILT_SEAL", "manual"))?;
    let info = json(&mut silt(bench, &store, ["info", "vm@all", "--json"]))?;
    let dirty = number(&info, "blocks_modified")? * 4096.0 / 1e6;
    settle()?;
    let (seconds, took) = timed_seal(&mut silt(bench, &store, ["seal", "vm"]))?;
    let mut table = Table::new(format!("Sealing {blocks} blocks scattered over 1 TiB"));
    table.alone("dirty", dirty, "MB", "");
    table.alone("silt seal, as it says", seconds, "s", "");
    table.alone("  of dirty data", dirty / seconds, "MB/s", "");
    table.alone("  until its process has ended", took.seconds, "s", "");
    table.alone("  processor time", took.processor, "s", "");
    table.alone("  peak resident", took.resident_mib, "MiB", "<= 256 MiB");
    table.note(format!(
        "blocks unlike one another, {compressible} % of each to be compressed away; a chunk and an extent for each"
    ));
    table.note("until its process has ended: the file system frees the delta at the last close of its file");
    remove(&room)?;
    Ok(vec![table])
}
