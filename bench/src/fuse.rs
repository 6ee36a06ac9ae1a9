//! Hot requests over FUSE: `silt serve --fuse` beside a plain pass-through file, by the same library, of the same raw disk.
//! Needs root, or fusermount3.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::build::build;
use crate::nbd::{WORKING_SET_BYTES, densest};
use crate::server::processor_seconds;
use crate::side::{json, median, number, output, program, remove, silt};
use crate::table::Table;
use crate::{Bench, Result, trees};

/// What `silt serve` keeps of decoded chunks: its default, printed with the figures.
const CACHE: &str = "640MiB";

/// Seconds of each run.
const RUN_SECONDS: u64 = 5;

/// How long a mount may take to be there.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is asked for: words, fio's pattern, block size, queue depth.
type Ask = (&'static str, &'static str, &'static str, u32);

/// With the working set as the image has it, in the base.
const READS: [Ask; 3] = [
    ("read 4 KiB at random, depth 16", "randread", "4k", 16),
    ("read 4 KiB at random, depth 1", "randread", "4k", 1),
    ("read 1 MiB in order, depth 1", "read", "1M", 1),
];

/// With the working set written once, in the delta.
const WRITES: [Ask; 4] = [
    ("write 4 KiB at random, depth 16", "randwrite", "4k", 16),
    ("write 4 KiB at random, depth 1", "randwrite", "4k", 1),
    ("write 1 MiB in order, depth 1", "write", "1M", 1),
    ("read written 4 KiB at random, depth 16", "randread", "4k", 16),
];

/// Mounts the same disk twice and asks each in turn.
pub fn run(bench: &Bench) -> Result<Vec<Table>> {
    let tree = trees::debian(bench, 3)?;
    let room = bench.room("fuse")?;
    let (store, raw) = (room.join("store"), room.join("raw.img"));
    output(&mut build(bench, &store, &tree, None))?;
    output(silt(bench, &store, ["export", "debian"]).arg(&raw))?;
    output(&mut silt(bench, &store, ["clone", "debian", "vm"]))?;
    let (ours, theirs) = (room.join("ours"), room.join("theirs"));
    let mut serve = silt(bench, &store, ["serve", "vm", "--cache", CACHE, "--fuse"]);
    let mut pass = Command::new(bench.peers.join("fuse-passthrough"));
    let files = [
        Mounted::start(serve.arg(&ours), ours)?,
        Mounted::start(pass.arg(&raw).arg(&theirs), theirs)?,
    ];
    let offset = densest(&raw)?;
    let title = "FUSE, O_DIRECT, one job, 512 MiB of Debian tree 3, hot, medians in turn";
    let mut table = Table::new(title);
    for (pattern, asks) in [("read", &READS[..]), ("write", &WRITES[..])] {
        for file in &files {
            file.fio(offset, pattern, "1M", 4, None)?;
        }
        for ask in asks {
            in_turn(bench, &mut table, &files, offset, ask)?;
        }
    }
    table.note(format!(
        "fio's libaio engine, {RUN_SECONDS} s a run; the 512 MiB with most data (from byte {offset}); silt serve --cache {CACHE}"
    ));
    table.note("processor time is the server's, for each request; what the kernel does for the client is not in it");
    drop(files);
    remove(&room)?;
    Ok(vec![table])
}

/// Asks both the same, in turn, and adds a row for how many a second, and one for what each takes of a processor.
fn in_turn(
    bench: &Bench,
    table: &mut Table,
    files: &[Mounted; 2],
    offset: u64,
    &(what, pattern, block, depth): &Ask,
) -> Result<()> {
    let (mut rates, mut costs) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for _ in 0..bench.runs {
        for (place, file) in files.iter().enumerate() {
            let before = processor_seconds(&file.child)?;
            let done = file.fio(offset, pattern, block, depth, Some(RUN_SECONDS))?;
            costs[place].push((processor_seconds(&file.child)? - before) * 1e6 / done.count);
            rates[place].push(done.each_second);
        }
    }
    let [ours, theirs] = rates.map(median);
    table.beside(what, (ours, "/s"), "pass-through, raw", theirs, ">= 0.8");
    let [ours, theirs] = costs.map(median);
    table.beside("  processor time", (ours, "us"), "pass-through, raw", theirs, "");
    Ok(())
}

/// What a run did.
struct Done {
    count: f64,
    each_second: f64,
}

/// A file that a process has mounted. Unmounted and ended with this value.
struct Mounted {
    child: Child,
    file: PathBuf,
}

impl Mounted {
    fn start(command: &mut Command, file: PathBuf) -> Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let mut mounted =
            Self { child: child.map_err(|error| format!("{command:?}: {error}"))?, file };
        let start = Instant::now();
        while !std::fs::metadata(&mounted.file).is_ok_and(|found| found.len() > 0) {
            if start.elapsed() > PATIENCE || mounted.child.try_wait()?.is_some() {
                return Err(format!("{command:?} shows no disk").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(mounted)
    }

    /// One fio run over the working set.
    fn fio(
        &self,
        offset: u64,
        pattern: &str,
        block: &str,
        depth: u32,
        seconds: Option<u64>,
    ) -> Result<Done> {
        let mut command = program("fio", ["--name=bench", "--ioengine=libaio", "--direct=1"]);
        command.args(["--output-format=json", "--allow_file_create=0"]);
        command.arg(format!("--filename={}", self.file.display()));
        command.arg(format!("--rw={pattern}")).arg(format!("--bs={block}"));
        command.arg(format!("--iodepth={depth}")).arg(format!("--offset={offset}"));
        command.arg(format!("--size={WORKING_SET_BYTES}"));
        if let Some(seconds) = seconds {
            command.arg("--time_based").arg(format!("--runtime={seconds}"));
        }
        let report = json(&mut command)?;
        let kind = if pattern.contains("write") { "write" } else { "read" };
        let of = &report["jobs"][0][kind];
        Ok(Done { count: number(of, "total_ios")?, each_second: number(of, "iops")? })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // The peer ends when it is unmounted; ours ends by a signal as well.
        let unmounted = output(&mut program("umount", [&self.file]));
        if unmounted.is_err() {
            let _ = output(program("fusermount3", ["-u", "-z"]).arg(&self.file));
        }
        let _ = self.child.wait();
    }
}
