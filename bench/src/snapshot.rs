//! What a writer waits for while its volume is snapshotted: fio writes at random places and verifies, `silt snapshot`
//! is run a hundred times meanwhile, sealing goes on behind.
//!
//! The writer has one request under way, so between two completions in fio's log it waits for a write, or for a flush and
//! a write. Waits that overlap a snapshot are compared with those that overlap none. The log has milliseconds.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::server::Server;
use crate::side::{json, median, number, output, percentile, program, remove, silt};
use crate::table::Table;
use crate::{Bench, Result};

const SNAPSHOTS: usize = 100;
const PAUSE: Duration = Duration::from_millis(200);
/// How long before each snapshot the span begins that it is compared with: within the pause.
const CONTROL_MS: f64 = 100.0;
/// Every block of these is written once: what a snapshot lost reads as zero afterwards, and does not verify.
const WRITTEN_BYTES: u64 = 1 << 30;
const OFFSET_BYTES: u64 = 4 << 30;
const WRITES_PER_FLUSH: usize = 32;

/// Milliseconds since 1970, from and to.
type Span = (f64, f64);

/// Serves, writes, snapshots, verifies.
pub fn run(bench: &Bench) -> Result<Vec<Table>> {
    let room = bench.room("snapshot")?;
    let (store, tree, socket) = (room.join("store"), room.join("tree"), room.join("socket"));
    std::fs::create_dir(&tree)?;
    output(silt(bench, &store, ["build", "--size", "20GiB"]).arg(&tree).arg("empty"))?;
    output(&mut silt(bench, &store, ["clone", "empty", "vm"]))?;
    let server =
        Server::start(silt(bench, &store, ["serve", "vm", "--nbd"]).arg(&socket), socket.clone())?;
    let mut writer = Ending(write(&server, &room)?);
    let (mut spans, mut engine) = (Vec::new(), Vec::new());
    while spans.len() < SNAPSHOTS {
        std::thread::sleep(PAUSE);
        if writer.0.try_wait()?.is_some() {
            break;
        }
        let from = now()?;
        let name = format!("vm@s{}", spans.len());
        let taken = json(&mut silt(bench, &store, ["snapshot", &name, "--json"]))?;
        spans.push((from, now()?));
        engine.push(number(&taken, "seconds")? * 1e3);
    }
    if !writer.0.wait()?.success() {
        return Err("fio's writes failed".into());
    }
    verify(&server)?;
    output(&mut silt(bench, &store, ["seal"]))?;
    verify(&server)?;
    let mut table = report(&waits(&room)?, &spans);
    let took: Vec<f64> = spans.iter().map(|(from, to)| to - from).collect();
    let tenth = (took.len() / 10).max(1);
    table.alone(
        "the first tenth of snapshots, as a command, median",
        median(took[..tenth].to_vec()),
        "ms",
        "",
    );
    let last = took[took.len() - tenth..].to_vec();
    table.alone("the last tenth", median(last), "ms", "");
    table.alone("all, inside the command", median(engine), "ms", "");
    table.note(format!(
        "{} MiB verified by crc32c after the writes, and again once sealed",
        WRITTEN_BYTES >> 20
    ));
    drop(server);
    remove(&room)?;
    Ok(vec![table])
}

/// A fio that does not outlive an error.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() * 1e3)
}

fn fio(server: &Server) -> std::process::Command {
    let mut command = program("fio", ["--name=bench", "--ioengine=nbd", "--bs=4k", "--iodepth=1"]);
    command
        .arg(format!("--uri={}", server.uri()))
        .args(["--verify=crc32c", "--verify_state_save=0"]);
    command.arg(format!("--offset={OFFSET_BYTES}")).arg(format!("--size={WRITTEN_BYTES}"));
    command
}

/// Every block once, in random order, as fast as one request after the other is answered.
fn write(server: &Server, room: &Path) -> Result<Child> {
    let mut command = fio(server);
    command.args(["--rw=randwrite", "--do_verify=0", "--log_unix_epoch=1"]);
    command.arg(format!("--fsync={WRITES_PER_FLUSH}"));
    command.arg(format!("--write_lat_log={}", room.join("log").display()));
    let (said, complained) = (room.join("fio.out"), room.join("fio.err"));
    let child = command
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(said)?)
        .stderr(std::fs::File::create(complained)?)
        .spawn();
    Ok(child?)
}

/// Reads every block, which must be what was written there.
fn verify(server: &Server) -> Result<()> {
    output(fio(server).args(["--rw=read", "--verify_fatal=1"])).map(drop)
}

/// From each completion to the next.
fn waits(room: &Path) -> Result<Vec<Span>> {
    let log = std::fs::read_to_string(room.join("log_clat.1.log"))?;
    let ends = log.lines().map(|line| line.split(',').next().unwrap_or_default().trim().parse());
    let ends: Vec<f64> = ends.collect::<std::result::Result<_, _>>()?;
    Ok(ends.windows(2).map(|pair| (pair[0], pair[1])).collect())
}

fn report(waits: &[Span], snapshots: &[Span]) -> Table {
    let overlaps = |a: &Span, b: &Span| a.0 <= b.1 && a.1 >= b.0;
    let longest = |snapshot: &Span| {
        let start = waits.partition_point(|wait| wait.1 < snapshot.0);
        let during = waits[start..].iter().take_while(|wait| wait.0 <= snapshot.1);
        during.map(|wait| wait.1 - wait.0).fold(0.0, f64::max)
    };
    let during: Vec<f64> = snapshots.iter().map(longest).collect();
    // What the same writer waits for in a span as long, shortly before: what else the machine does is in both.
    let before = |snapshot: &Span| {
        let (from, to) = (snapshot.0 - CONTROL_MS, snapshot.1 - CONTROL_MS);
        longest(&(from, to.min(snapshot.0 - 1.0)))
    };
    let control: Vec<f64> = snapshots.iter().map(before).collect();
    let is_quiet = |wait: &&Span| {
        let next = snapshots.partition_point(|snapshot| snapshot.1 < wait.0);
        !snapshots.get(next).is_some_and(|snapshot| overlaps(wait, snapshot))
    };
    // The wait for the write after a flush has the flush in it.
    let flushes = waits.iter().skip(WRITES_PER_FLUSH - 1).step_by(WRITES_PER_FLUSH);
    let flushes: Vec<f64> = flushes.filter(is_quiet).map(|wait| wait.1 - wait.0).collect();
    let quiet = waits.iter().filter(is_quiet).map(|wait| wait.1 - wait.0).collect::<Vec<_>>();
    let mut table = Table::new(format!(
        "{} snapshots of a served volume of 20 GiB under fio: random writes of 4 KiB, a flush every {WRITES_PER_FLUSH}",
        snapshots.len()
    ));
    let flush = median(flushes.clone());
    let longest = percentile(during.clone(), 99);
    table.alone("longest wait around each snapshot, median", median(during.clone()), "ms", "");
    table.alone("  99 of 100", longest, "ms", "");
    table.alone("  longest", percentile(during, 100), "ms", "");
    table.alone("longest in a span as long before each, median", median(control.clone()), "ms", "");
    table.alone("  99 of 100", percentile(control, 99), "ms", "");
    table.alone("flush during none, median", flush, "ms", "");
    table.alone("  99 of 100", percentile(flushes, 99), "ms", "");
    table.alone("any wait during none, longest", percentile(quiet.clone(), 100), "ms", "");
    table.alone("99 of 100 beyond the median flush", longest - flush, "ms", "<= 20 ms");
    let limit = flush + 20.0;
    let is_long = |wait: &&Span| wait.1 - wait.0 > limit;
    let (long, elsewhere) =
        (waits.iter().filter(is_long).count(), quiet.iter().filter(|wait| **wait > limit).count());
    table.alone("waits of more than that, around snapshots", (long - elsewhere) as f64, "", "");
    table.alone("  at other times", elsewhere as f64, "", "");
    let around: f64 = snapshots.iter().map(|snapshot| snapshot.1 - snapshot.0).sum();
    let all = waits.last().map_or(f64::NAN, |last| last.1 - waits[0].0);
    table.alone("part of the time that is around snapshots", around / all, "", "");
    table.alone("writes meanwhile", waits.len() as f64 / all * 1e3, "IOPS", "");
    table.note("a wait lasts from one completion in fio's log to the next, to a millisecond");
    table
}
