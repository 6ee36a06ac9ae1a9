//! Siltstone beside its peers: builds, dedup, export, clones and served disks, on the same input, in turn.
//!
//! `bench/run.sh [SECTION]...` installs the peers, builds both programs and starts this. Every figure is a
//! median of runs that took turns (ours, theirs, ours, theirs), with a warm page cache. Nothing here
//! asserts on a clock: a slow figure is printed, and only a program that fails makes this fail.
//!
//! Where next: one module per section; `side` runs and times programs, `table` prints.

mod boot;
mod build;
mod calls;
mod clone;
mod codecs;
mod collection;
mod dedup;
mod export;
mod fork;
mod fuse;
mod generations;
mod nbd;
mod rebuild;
mod sealing;
mod server;
mod servers;
mod sharing;
mod side;
mod smallfiles;
mod snapshot;
mod sources;
mod table;
mod theory;
mod trees;
mod vhost;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// A section stops at the first error; the others still run.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A section measures and returns its tables.
type Section = fn(&Bench) -> Result<Vec<table::Table>>;

const SECTIONS: [(&str, Section); 22] = [
    ("build", build::against_mke2fs),
    ("rebuild", rebuild::run),
    ("sources", sources::run),
    ("compression", build::compression_levels),
    ("noise", build::incompressible),
    ("codecs", codecs::run),
    ("dedup", dedup::run),
    ("smallfiles", smallfiles::run),
    ("export", export::run),
    ("clone", clone::run),
    ("nbd", nbd::run),
    ("fuse", fuse::run),
    ("vhost", vhost::run),
    ("calls", calls::run),
    ("boot", boot::run),
    ("servers", servers::run),
    ("fork", fork::run),
    ("snapshot", snapshot::run),
    ("generations", generations::run),
    ("sealing", sealing::run),
    ("collection", collection::beside_peers),
    ("scale", collection::at_scale),
];

/// Left out of `all`: what they need of the disk, or of time, is more than the others together.
const HEAVY: [&str; 2] = ["sealing", "scale"];

/// What every section needs: the program under test, where the peers of our own are, and room.
struct Bench {
    silt: PathBuf,
    peers: PathBuf,
    scratch: PathBuf,
    repository: PathBuf,
    runs: usize,
}

impl Bench {
    fn from_environment() -> Result<Self> {
        let own = std::env::current_exe()?;
        let peers = own.parent().ok_or("a program without a folder")?.to_owned();
        let repository =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no repository")?.to_owned();
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let silt = variable("SILT").unwrap_or_else(|| repository.join("target/release/silt"));
        let scratch = variable("SILT_BENCH_DIR").unwrap_or_else(|| repository.join("target/bench"));
        let runs = std::env::var("SILT_BENCH_RUNS").map_or(Ok(5), |runs| runs.parse())?;
        std::fs::create_dir_all(&scratch)?;
        Ok(Self { silt, peers, scratch, repository, runs })
    }

    /// An empty folder for one section, emptied of what an earlier run left.
    fn room(&self, name: &str) -> Result<PathBuf> {
        let room = self.scratch.join(name);
        side::remove(&room)?;
        std::fs::create_dir_all(&room)?;
        Ok(room)
    }
}

/// What the figures were taken on; others' load is why a ratio may be off.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let information = read("/proc/cpuinfo");
    let model = information.lines().find_map(|line| line.strip_prefix("model name\t: "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load: Vec<String> = read("/proc/loadavg").split(' ').take(3).map(str::to_owned).collect();
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{cores} cores ({}), Linux {}, load before: {}",
        model.unwrap_or("unknown"),
        kernel.trim(),
        load.join(" ")
    )
}

fn main() -> ExitCode {
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted.is_empty() || wanted.iter().any(|name| name == "all") {
        let names = SECTIONS.iter().map(|(name, _)| *name);
        wanted = names.filter(|name| !HEAVY.contains(name)).map(str::to_owned).collect();
    }
    println!("{}", machine());
    let mut failed = false;
    for name in &wanted {
        let Some((_, section)) = SECTIONS.iter().find(|(known, _)| known == name) else {
            let known: Vec<&str> = SECTIONS.iter().map(|(known, _)| *known).collect();
            eprintln!("no section is called {name}; there are {} and all", known.join(", "));
            return ExitCode::from(2);
        };
        match Bench::from_environment().and_then(|bench| section(&bench)) {
            Ok(tables) => tables.iter().for_each(|table| println!("{table}")),
            Err(error) => {
                eprintln!("{name}: {error}");
                failed = true;
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
