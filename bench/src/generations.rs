//! The two hundredth snapshot beside the first, and reads through many snapshots beside reads through none.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

use crate::build::build;
use crate::nbd::{WORKING_SET_BYTES, densest, fio};
use crate::server::Server;
use crate::side::{json, median, number, output, program, remove, settle, silt};
use crate::table::Table;
use crate::{Bench, Result, trees};

const SNAPSHOTS: usize = 200;
/// Blocks of 4 KiB written before each snapshot, at random places of the working set: 4 MiB.
const BLOCKS: u64 = 1024;
/// As many as a volume may have waiting.
const FROZEN: usize = 8;
/// What is compared at the beginning and at the end: one snapshot alone is mostly the disk's mood.
const COMPARED: usize = 10;
const TURN_SECONDS: u64 = 2;
/// The volumes, by what becomes of their snapshots.
const NAMES: [&str; 4] = ["none", "sealed", "behind", "waiting"];
/// The server's own choice, and one that holds the working set and all that other blocks of its chunks take.
const CACHES: [&str; 2] = ["640MiB", "2GiB"];

/// What snapshots took, in milliseconds: inside the engine, and as a command.
#[derive(Default)]
struct Took {
    engine: Vec<f64>,
    command: Vec<f64>,
}

/// Three volumes of one image, snapshotted each in another way, then reads of them in turn.
pub fn run(bench: &Bench) -> Result<Vec<Table>> {
    let tree = trees::debian(bench, 3)?;
    let room = bench.room("generations")?;
    let (store, raw) = (room.join("store"), room.join("raw.img"));
    output(&mut build(bench, &store, &tree, None))?;
    output(silt(bench, &store, ["export", "debian"]).arg(&raw))?;
    let offset = densest(&raw)?;
    let generations = Generations { bench, room, store, offset };
    let mut servers = Vec::new();
    for name in NAMES {
        output(&mut silt(bench, &generations.store, ["clone", "debian", name]))?;
        servers.push(generations.serve(name, &[])?);
    }
    let [_, sealed, behind, waiting] = &servers[..] else { return Err("four volumes".into()) };
    let mut table = Table::new(format!(
        "{SNAPSHOTS} snapshots of a served volume, {} MiB of random blocks written before each",
        BLOCKS * 4 / 1024
    ));
    let took = generations.snapshots("sealed", sealed, 0..SNAPSHOTS, Sealing::Waited)?;
    took.report(&mut table, "sealed before the next", "<= 1.5");
    let (fresh, old) = generations.in_turn(sealed)?;
    let fresh = median(fresh);
    let what = format!("the next {COMPARED}, in the engine");
    table.beside(&what, (median(old), "ms"), "a new volume's first, in turn", fresh, "<= 1.5");
    let took = generations.snapshots("behind", behind, 0..SNAPSHOTS, Sealing::Behind)?;
    took.report(&mut table, "sealed behind, one right after the other", "");
    let took = generations.snapshots("waiting", waiting, 0..FROZEN, Sealing::Manual)?;
    let last = took.engine.last().copied().unwrap_or(f64::NAN);
    table.beside(
        "not sealed: the eighth, in the engine",
        (last, "ms"),
        "the first",
        took.engine[0],
        "",
    );
    table.note("not flushed before, so that each has 4 MiB to write; where it is sealed behind, a ninth waits for the sealer");
    output(&mut silt(bench, &generations.store, ["seal", "behind"]))?;
    drop(servers);
    let mut tables = vec![table];
    for cache in CACHES {
        tables.push(generations.reads(cache)?);
    }
    remove(&generations.room)?;
    Ok(tables)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sealing {
    /// Each snapshot is sealed before the next one is written for.
    Waited,
    /// The commands begin it, and nobody waits.
    Behind,
    /// Nobody seals.
    Manual,
}

struct Generations<'a> {
    bench: &'a Bench,
    room: PathBuf,
    store: PathBuf,
    offset: u64,
}

impl Generations<'_> {
    fn serve(&self, name: &str, options: &[&str]) -> Result<Server> {
        let socket = self.room.join(name);
        let mut command = silt(self.bench, &self.store, ["serve", name, "--nbd"]);
        Server::start(command.arg(&socket).args(options), socket.clone())
    }

    /// Snapshots of the volume that has many, and the first ones of new volumes, by turns: whatever else the machine does,
    /// it does to both. Milliseconds in the engine, the new volumes' before.
    fn in_turn(&self, old: &Server) -> Result<(Vec<f64>, Vec<f64>)> {
        let (mut firsts, mut others) = (Vec::new(), Vec::new());
        for turn in SNAPSHOTS..SNAPSHOTS + COMPARED {
            let name = format!("new-{turn}");
            output(&mut silt(self.bench, &self.store, ["clone", "debian", &name]))?;
            let new = self.serve(&name, &[])?;
            firsts.extend(self.snapshots(&name, &new, turn..turn + 1, Sealing::Waited)?.engine);
            others.extend(self.snapshots("sealed", old, turn..turn + 1, Sealing::Waited)?.engine);
        }
        Ok((firsts, others))
    }

    fn snapshots(
        &self,
        name: &str,
        server: &Server,
        numbers: Range<usize>,
        sealing: Sealing,
    ) -> Result<Took> {
        let mut took = Took::default();
        settle()?;
        for turn in numbers {
            scatter(server, self.offset, turn)?;
            let snapshot = format!("{name}@{turn}");
            let mut command = silt(self.bench, &self.store, ["snapshot", &snapshot, "--json"]);
            if sealing != Sealing::Behind {
                command.env("SILT_SEAL", "manual");
            }
            let start = Instant::now();
            let taken = json(&mut command)?;
            took.command.push(start.elapsed().as_secs_f64() * 1e3);
            took.engine.push(number(&taken, "seconds")? * 1e3);
            if sealing == Sealing::Waited {
                output(&mut silt(self.bench, &self.store, ["seal", name]))?;
            }
        }
        Ok(took)
    }

    /// Random reads of all volumes in turn, each working set read through before. The servers are new, so that no cache
    /// holds what an earlier generation had.
    fn reads(&self, cache: &str) -> Result<Table> {
        let servers = NAMES.map(|name| self.serve(name, &["--cache", cache]));
        let servers = servers.into_iter().collect::<Result<Vec<_>>>()?;
        let mut reads = [const { (Vec::new(), Vec::new()) }; NAMES.len()];
        for server in &servers {
            fio(server, self.offset, "read", "1M", 4, None)?;
        }
        // Many short turns, and each the other way round: what else the machine does comes and goes.
        for turn in 0..3 * self.bench.runs {
            for place in 0..servers.len() {
                let place = if turn % 2 == 0 { place } else { servers.len() - 1 - place };
                let (server, (rates, costs)) = (&servers[place], &mut reads[place]);
                let before = server.processor_seconds()?;
                let rate = fio(server, self.offset, "randread", "4k", 16, Some(TURN_SECONDS))?;
                let spent = server.processor_seconds()? - before;
                rates.push(rate);
                costs.push(spent * 1e6 / (rate * TURN_SECONDS as f64));
            }
        }
        let [none, sealed, behind, waiting] =
            reads.map(|(rates, costs)| (median(rates), median(costs)));
        let mut table = Table::new(format!(
            "4 KiB random reads over NBD, queue depth 16, medians in turn, cache of {cache}"
        ));
        let mut rows = |what: &str, reads: (f64, f64), target: &str| {
            table.beside(what, (reads.0, "IOPS"), "no snapshot", none.0, target);
            table.beside("  processor time of the server for one", (reads.1, "us"), "", none.1, "");
        };
        rows("200 snapshots, sealed one by one", sealed, ">= 0.95");
        rows("200 snapshots, sealed behind", behind, ">= 0.95");
        rows("eight frozen deltas", waiting, ">= 0.8");
        table.note(format!(
            "the {} MiB of Debian tree 3 with most data, in which the blocks were written; {TURN_SECONDS} s a turn",
            WORKING_SET_BYTES >> 20
        ));
        Ok(table)
    }
}

impl Took {
    fn report(&self, table: &mut Table, how: &str, target: &str) {
        for (what, times) in [("in the engine", &self.engine), ("as a command", &self.command)] {
            let (first, last) = (&times[..COMPARED], &times[times.len() - COMPARED..]);
            let what = format!("{how}: the last {COMPARED}, {what}");
            table.beside(
                &what,
                (median(last.to_vec()), "ms"),
                "the first",
                median(first.to_vec()),
                target,
            );
        }
    }
}

/// Writes blocks that are nowhere else at random places, without a flush.
fn scatter(server: &Server, offset: u64, seed: usize) -> Result<()> {
    let mut command =
        program("fio", ["--name=scatter", "--ioengine=nbd", "--rw=randwrite", "--bs=4k"]);
    command.arg(format!("--uri={}", server.uri())).arg(format!("--randseed={}", seed + 1));
    command.arg(format!("--offset={offset}")).arg(format!("--size={WORKING_SET_BYTES}"));
    command.arg(format!("--number_ios={BLOCKS}")).args(["--iodepth=16", "--refill_buffers"]);
    output(&mut command).map(drop)
}
