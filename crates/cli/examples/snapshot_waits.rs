//! What a writer waits for while its volume is snapshotted, and what the n-th snapshot takes.
//!
//! A volume of 20 GiB is served over NBD; a client writes 4 KiB at random places of 1 GiB of it and flushes every 32 writes,
//! and checks at the end that everything it wrote is there. Meanwhile snapshots are taken one after the other, and another thread seals.
//! Prints, in milliseconds: the longest write and flush that overlapped each snapshot, beside those of no snapshot; the
//! time of the first and of the last snapshots.
//!
//! ```text
//! cargo run --release -p siltstone --example snapshot_waits -- STORE [SNAPSHOTS]
//! ```
//! STORE is made, and may be removed afterwards.

#![allow(clippy::print_stdout)]

use silt_engine::{
    BuildRequest, CloneRequest, Contended, Engine, ExportAddress, Listen, Serving, Source,
    StopSignal,
};
use silt_testkit::nbd_client::NbdClient;
use silt_types::{Error, NoProgress, Result};
use silt_volume::BlockDevice as _;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

const SIZE_BYTES: u64 = 20 << 30;
const BLOCK: u64 = 4096;
/// Blocks that are written, and the first of them.
const WORKING_SET_BLOCKS: u64 = (1 << 30) / BLOCK;
const FIRST_BLOCK: u64 = (4 << 30) / BLOCK;
const WRITES_PER_FLUSH: u64 = 32;
const PAUSE: Duration = Duration::from_millis(100);

/// When an operation began, and how long it took.
type Took = (Instant, Duration);

#[derive(Default)]
struct Written {
    writes: Vec<Took>,
    flushes: Vec<Took>,
    blocks: HashMap<u64, u64>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(store) = arguments.first().map(PathBuf::from) else {
        return Err(Error::invalid("usage: snapshot_waits STORE [SNAPSHOTS]"));
    };
    let count: u32 = arguments.get(1).and_then(|text| text.parse().ok()).unwrap_or(100);
    let engine = furnished(&store)?;
    let socket = store.join("run/nbd");
    let exports = vec![ExportAddress::Nbd(Listen::Unix(socket.clone()))];
    let serving = Serving {
        name: "vm".parse()?,
        exports,
        read_only: false,
        limits: silt_engine::Limits::default(),
        bounds: silt_engine::VolumeBounds::default(),
        expect: None,
    };
    let (stop, over) = (StopSignal::new()?, AtomicBool::new(false));
    let (ready, is_ready) = mpsc::channel();
    thread::scope(|scope| {
        let server = scope
            .spawn(|| engine.serve(&serving, &stop, move |_| ready.send(()).unwrap_or_default()));
        if is_ready.recv().is_err() {
            return Err(Error::internal("the server did not start"));
        }
        let writer = scope.spawn(|| write_until(&socket, &over));
        let sealer = scope.spawn(|| -> Result<()> {
            while !over.load(Relaxed) {
                engine.seal(None, Contended::Wait, &NoProgress)?;
                thread::sleep(PAUSE / 10);
            }
            Ok(())
        });
        let snapshots = (0..count).map(|number| {
            thread::sleep(PAUSE);
            let began = Instant::now();
            engine.snapshot(&format!("vm@s{number}").parse()?)?;
            Ok((began, began.elapsed()))
        });
        // The others end whether or not that went well.
        let snapshots: Result<Vec<Took>> = snapshots.collect();
        over.store(true, Relaxed);
        let written = writer.join().map_err(|_| Error::internal("the writer panicked"))??;
        sealer.join().map_err(|_| Error::internal("the sealer panicked"))??;
        check(&socket, &written)?;
        stop.trigger();
        server.join().map_err(|_| Error::internal("the server panicked"))??;
        report(&snapshots?, &written);
        Ok(())
    })
}

fn furnished(store: &Path) -> Result<Engine> {
    let engine = Engine::open_or_create(store, 256 << 20)?;
    let tree = store.with_extension("tree");
    std::fs::create_dir_all(&tree).map_err(|error| Error::io("cannot make a folder", error))?;
    let request = BuildRequest {
        size_bytes: Some(SIZE_BYTES),
        replace: true,
        ..BuildRequest::new("empty".parse()?)
    };
    engine.build(&Source::Path(tree), &request, &NoProgress)?;
    let volumes = vec!["vm".parse()?];
    engine.clone_disk(&CloneRequest { source: "empty".parse()?, volumes })?;
    Ok(engine)
}

fn write_until(socket: &Path, over: &AtomicBool) -> Result<Written> {
    let client = NbdClient::connect(socket)?;
    let mut written = Written::default();
    let mut state = 1u64;
    for number in 1.. {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let block = FIRST_BLOCK + (state >> 20) % WORKING_SET_BLOCKS;
        let bytes = block_of(number);
        let began = Instant::now();
        client.write_at(&bytes, block * BLOCK)?;
        written.writes.push((began, began.elapsed()));
        written.blocks.insert(block, number);
        if number % WRITES_PER_FLUSH == 0 {
            let began = Instant::now();
            client.flush()?;
            written.flushes.push((began, began.elapsed()));
            if over.load(Relaxed) {
                break;
            }
        }
    }
    Ok(written)
}

fn block_of(number: u64) -> Vec<u8> {
    (0..BLOCK / 8).flat_map(|word| (number.wrapping_mul(word * 2 + 1)).to_le_bytes()).collect()
}

fn check(socket: &Path, written: &Written) -> Result<()> {
    let client = NbdClient::connect(socket)?;
    let mut found = vec![0; BLOCK as usize];
    for (block, number) in &written.blocks {
        client.read_at(&mut found, block * BLOCK)?;
        if found != block_of(*number) {
            return Err(Error::corrupt(format!(
                "block {block} is not what write {number} made it"
            )));
        }
    }
    Ok(())
}

fn report(snapshots: &[Took], written: &Written) {
    let longest = |operations: &[Took], (began, took): &Took| {
        let overlaps = |operation: &&Took| {
            operation.0 <= *began + *took && operation.0 + operation.1 >= *began
        };
        operations.iter().filter(overlaps).map(|operation| operation.1).max().unwrap_or_default()
    };
    let line = |what: &str, mut times: Vec<Duration>| {
        times.sort();
        let at =
            |part: usize| times.get((times.len() * part / 100).min(times.len().saturating_sub(1)));
        let ms = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e3);
        println!(
            "{what:44} median {:8.2}  p99 {:8.2}  max {:8.2}",
            ms(at(50)),
            ms(at(99)),
            ms(times.last())
        );
    };
    println!("{} snapshots, {} writes checked", snapshots.len(), written.blocks.len());
    for (what, operations) in [("write", &written.writes), ("flush", &written.flushes)] {
        let quiet = operations
            .iter()
            .filter(|o| !snapshots.iter().any(|s| o.0 <= s.0 + s.1 && o.0 + o.1 >= s.0));
        line(
            &format!("longest {what} during a snapshot"),
            snapshots.iter().map(|s| longest(operations, s)).collect(),
        );
        line(&format!("every {what} during none"), quiet.map(|o| o.1).collect());
    }
    let tenth = (snapshots.len() / 10).max(1);
    let times = |of: &[Took]| of.iter().map(|snapshot| snapshot.1).collect();
    line("the first tenth of snapshots", times(&snapshots[..tenth.min(snapshots.len())]));
    line("the last tenth", times(&snapshots[snapshots.len().saturating_sub(tenth)..]));
}
