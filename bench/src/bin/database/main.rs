//! Which embedded database carries the chunk index: SQLite, LMDB and redb side by side.
//!
//! It measures durable bulk insert under a bounded write lock, warm look-ups, size on disk, look-ups by a
//! second process during inserts, and what single flipped bits do. The decision drawn from it is
//! `docs/design/0001-index-and-catalog-database.md`. No part of the product.
//!
//! Where next: `engine` is the seam, `speed` and `flips` are the two measurements.

mod engine;
mod flips;
mod lmdb;
mod redb;
mod row;
mod speed;
mod sqlite;

use std::path::PathBuf;
use std::process::ExitCode;

use speed::Fill;

/// A measurement stops at the first error and names it; nobody handles kinds here.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "usage: database COMMAND [--KEY VALUE]...
  speed     --engine NAME --rows N   insert, look up, and look up beside a writer
              [--limit SECONDS] time limit of the insert (default 720)
              [--fill sorted]   fill quickly, in the order of keys; measure what follows
  flips     --engine NAME --flips N  one flipped bit at a time in a copy of a 20,000 row database
  all       [--flips N] [--large N]  everything the note's tables show
Engines: lmdb, redb, sqlite, and sqlite with settings, such as
  sqlite:page=8192,cache=64,mmap=256,wal=16,sync=normal,rowid=1,order=arrival
All: --dir DIR, a folder for scratch files (default target/bench/database)";

fn main() -> ExitCode {
    match Options::from_arguments().and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("database: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    match options.command.as_str() {
        "speed" => {
            let sorted = options.text("fill", "arriving") == "sorted";
            let fill = if sorted { Fill::Sorted } else { Fill::Arriving };
            speed::run(
                options,
                &options.text("engine", "sqlite"),
                options.number("rows", 20_000)?,
                fill,
            )
        }
        "flips" => flips::run(options, &options.text("engine", "sqlite")),
        "all" => all(options),
        // The next two are started by the first two, as processes of their own.
        "reader" => speed::reader(options),
        "probe" => flips::probe(options),
        _ => Err(USAGE.into()),
    }
}

fn all(options: &Options) -> Result<()> {
    let engines = ["sqlite", "lmdb", "redb"];
    let large = options.number("large", 16_000_000)?;
    for (rows, fill) in [(20_000, Fill::Arriving), (large, Fill::Arriving), (large, Fill::Sorted)] {
        for engine in engines {
            speed::run(options, engine, rows, fill)?;
        }
    }
    engines.iter().try_for_each(|engine| flips::run(options, engine))
}

/// The command and its `--key value` pairs.
struct Options {
    command: String,
    pairs: Vec<(String, String)>,
}

impl Options {
    fn from_arguments() -> Result<Self> {
        let mut arguments = std::env::args().skip(1);
        let command = arguments.next().ok_or(USAGE)?;
        let mut pairs = Vec::new();
        while let Some(key) = arguments.next() {
            let key = key.strip_prefix("--").ok_or(USAGE)?.to_owned();
            pairs.push((key, arguments.next().ok_or(USAGE)?));
        }
        Ok(Self { command, pairs })
    }

    fn text(&self, key: &str, default: &str) -> String {
        let found = self.pairs.iter().find(|(name, _)| name == key);
        found.map_or(default, |(_, value)| value).to_owned()
    }

    fn number(&self, key: &str, default: u64) -> Result<u64> {
        Ok(self.text(key, &default.to_string()).replace(['_', ','], "").parse()?)
    }

    fn dir(&self) -> PathBuf {
        PathBuf::from(self.text("dir", "target/bench/database"))
    }
}
