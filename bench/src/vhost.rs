//! Hot requests over vhost-user-blk: `silt serve --vhost-user` beside qemu-storage-daemon's export of the same bytes as a raw file.
//!
//! The client is `vhost-load`, for both: a guest's driver without the guest. It sleeps until it is told, by eventfd and event index,
//! and does not look at the data; what it takes of a processor is printed, and what it gets out of a device that does nothing.

use std::path::Path;

use crate::build::build;
use crate::nbd::{WORKING_SET_BYTES, densest};
use crate::server::Server;
use crate::side::{median, output, program, remove, silt};
use crate::table::Table;
use crate::{Bench, Result, trees};

/// What `silt serve` keeps of decoded chunks: its default, printed with the figures.
const CACHE: &str = "640MiB";

/// Seconds of each run.
const RUN_SECONDS: u64 = 2;

/// What is asked for: words, the client's pattern, block size, queue depth.
type Ask = (&'static str, &'static str, u64, u32);

/// With the working set as the image has it, in the base.
const READS: [Ask; 3] = [
    ("read 4 KiB at random, depth 16", "randread", 4096, 16),
    ("read 4 KiB at random, depth 1", "randread", 4096, 1),
    ("read 1 MiB in order, depth 1", "read", 1 << 20, 1),
];

/// With the working set written once, in the delta.
const WRITES: [Ask; 6] = [
    ("write 4 KiB at random, depth 16", "randwrite", 4096, 16),
    ("write 4 KiB at random, depth 1", "randwrite", 4096, 1),
    ("write 1 MiB in order, depth 1", "write", 1 << 20, 1),
    ("read written 4 KiB at random, depth 16", "randread", 4096, 16),
    ("read written 4 KiB at random, depth 1", "randread", 4096, 1),
    ("read written 1 MiB in order, depth 1", "read", 1 << 20, 1),
];

/// qemu-storage-daemon, its ways to do I/O through the page cache. Both with a thread for the export.
const PEERS: [&str; 2] = ["threads", "io_uring"];

/// Serves the same bytes three ways at once and asks each in turn.
pub fn run(bench: &Bench) -> Result<Vec<Table>> {
    let tree = trees::debian(bench, 3)?;
    let room = bench.room("vhost")?;
    let (store, raw) = (room.join("store"), room.join("raw.img"));
    output(&mut build(bench, &store, &tree, None))?;
    output(silt(bench, &store, ["export", "debian"]).arg(&raw))?;
    output(&mut silt(bench, &store, ["clone", "debian", "vm"]))?;
    let socket = room.join("silt.socket");
    let mut ours = silt(bench, &store, ["serve", "vm", "--cache", CACHE, "--vhost-user"]);
    let mut servers = vec![Server::start_listening(ours.arg(&socket), socket)?];
    for aio in PEERS {
        // One after the other writes to the same file: none is locked.
        let file = format!("driver=file,node-name=disk,locking=off,aio={aio},filename=");
        servers.push(daemon(&room, aio, &format!("{file}{}", raw.display()))?);
    }
    let asked = Asked { bench, offset: densest(&raw)? };
    let title = "vhost-user-blk, one queue, 512 MiB of Debian tree 3, hot, medians in turn";
    let mut table = Table::new(title);
    asked.all_serve_the_same(&servers)?;
    READS.iter().try_for_each(|ask| asked.in_turn(&mut table, &servers, ask))?;
    for server in &servers {
        asked.ask(server, "write", 1 << 20, 1, 0)?;
    }
    asked.all_serve_the_same(&servers)?;
    WRITES.iter().try_for_each(|ask| asked.in_turn(&mut table, &servers, ask))?;
    let size = std::fs::metadata(&raw)?.len();
    let null = daemon(&room, "null", &format!("driver=null-co,node-name=disk,size={size}"))?;
    for (what, depth) in [("no device: 4 KiB, depth 16", 16), ("no device: 4 KiB, depth 1", 1)] {
        let runs = (0..bench.runs).map(|_| asked.ask(&null, "randwrite", 4096, depth, RUN_SECONDS));
        let runs = runs.collect::<Result<Vec<_>>>()?;
        table.alone(what, median(runs.iter().map(|done| done.each_second).collect()), "/s", "");
    }
    table.note(format!(
        "{RUN_SECONDS} s a run; the 512 MiB with most data (from byte {}); silt serve --cache {CACHE}; the better of qemu-storage-daemon's two ways to do I/O, with an iothread, through the page cache",
        asked.offset
    ));
    table.note("the client's own time is its thread's, of each second; the rest of it, it waits for the server");
    table.note(
        "\"no device\" is qemu-storage-daemon with null-co: what the client can ask for at least",
    );
    drop((servers, null));
    remove(&room)?;
    Ok(vec![table])
}

/// Starts qemu-storage-daemon on a device.
fn daemon(room: &Path, name: &str, device: &str) -> Result<Server> {
    let socket = room.join(format!("{name}.socket"));
    let mut command = program("qemu-storage-daemon", ["--object", "iothread,id=thread"]);
    command.args(["--blockdev", device]).arg("--export").arg(format!(
        "type=vhost-user-blk,id=export,node-name=disk,iothread=thread,writable=on,addr.type=unix,addr.path={}",
        socket.display()
    ));
    Server::start_listening(&mut command, socket)
}

/// What a run did.
struct Done {
    each_second: f64,
    /// Of the client, in percent of the time.
    client: f64,
}

/// Who asks, and where.
struct Asked<'a> {
    bench: &'a Bench,
    offset: u64,
}

impl Asked<'_> {
    /// Asks every server the same, in turn, and adds a row for how many a second, and one for the client's part in it.
    fn in_turn(
        &self,
        table: &mut Table,
        servers: &[Server],
        &(what, pattern, block, depth): &Ask,
    ) -> Result<()> {
        let mut all: Vec<[Vec<f64>; 2]> = servers.iter().map(|_| Default::default()).collect();
        for _ in 0..self.bench.runs {
            for (server, [rates, clients]) in servers.iter().zip(&mut all) {
                let done = self.ask(server, pattern, block, depth, RUN_SECONDS)?;
                rates.push(done.each_second);
                clients.push(done.client);
            }
        }
        let all: Vec<[f64; 2]> = all.into_iter().map(|runs| runs.map(median)).collect();
        let better = if all[1][0] > all[2][0] { 1 } else { 2 };
        let name = format!("qemu-storage-daemon, {}", PEERS[better - 1]);
        table.beside(what, (all[0][0], "/s"), &name, all[better][0], ">= 1.0");
        table.beside("  the client's own time", (all[0][1], "%"), "", all[better][1], "");
        Ok(())
    }

    /// Reads all of the working set from each, which makes it hot, and holds the sums against each other.
    fn all_serve_the_same(&self, servers: &[Server]) -> Result<()> {
        let sums: Result<Vec<String>> =
            servers.iter().map(|server| self.client(server, "sum", 1 << 20, 1, 0)).collect();
        let sums = sums?;
        match sums.iter().all(|sum| *sum == sums[0]) {
            true => Ok(()),
            false => Err(format!("the servers do not serve the same bytes: {sums:?}").into()),
        }
    }

    /// For so many seconds; for none, all of the working set once.
    fn ask(
        &self,
        server: &Server,
        pattern: &str,
        block: u64,
        depth: u32,
        seconds: u64,
    ) -> Result<Done> {
        let said = self.client(server, pattern, block, depth, seconds)?;
        let numbers: Vec<f64> =
            said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [count, took, own] = numbers[..] else {
            return Err(format!("vhost-load said {said:?}").into());
        };
        Ok(Done { each_second: count / took, client: own / took * 100.0 })
    }

    fn client(
        &self,
        server: &Server,
        pattern: &str,
        block: u64,
        depth: u32,
        seconds: u64,
    ) -> Result<String> {
        let mut command = program(self.bench.peers.join("vhost-load"), [server.socket()]);
        command.arg(pattern);
        let numbers = [block, depth.into(), self.offset, WORKING_SET_BYTES, seconds];
        output(command.args(numbers.map(|number| number.to_string())))
    }
}
