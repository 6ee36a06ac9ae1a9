//! One flipped bit at a time in a copy of a closed database: what does a process that uses it see?
//!
//! Every copy is used by a process of its own, so that a crash, a fatal signal or an endless loop is an
//! outcome and not the end. Look-ups come first, then inserts: both touch every page there is.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::engine::{Engine, Mode, open};
use crate::row::{Key, Row, absent_key, key, mix};
use crate::{Options, Result};

const ROWS: u64 = 20_000;

/// A process that takes longer hangs; it needs well under a second on a sound copy.
const TIME_MAX: Duration = Duration::from_secs(20);

/// Exit codes of the probe beside 0, in order of precedence: the worst thing it saw.
const OUTCOMES: [(i32, &str); 8] = [
    (0, "no effect"),
    (41, "error from the engine"),
    (42, "caught by the row checksum"),
    (43, "row silently absent"),
    (44, "another key's sound row"),
    (45, "wrong row with the right key and checksum"),
    (46, "found only by the row count"),
    (47, "found only by the engine's check"),
];

/// Flips `--flips` bits, in the main file and, for SQLite, in a log left by a killed writer.
pub fn run(options: &Options, engine: &str) -> Result<()> {
    let flips = options.number("flips", 400)?;
    let dir = options.dir().join(format!("flips-{engine}"));
    let (sound, copy) = (dir.join("sound"), dir.join("copy"));
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    std::fs::create_dir_all(&sound)?;
    fill(engine, &sound, true)?;
    flip_each(engine, &sound, &copy, flips, false)?;
    if engine == "sqlite" {
        std::fs::remove_dir_all(&sound)?;
        std::fs::create_dir_all(&sound)?;
        // Leaving without closing keeps the log, as a killed process would.
        let status = Command::new(std::env::current_exe()?)
            .args(["probe", "--fill", "1", "--dir"])
            .arg(&sound)
            .status()?;
        if !status.success() {
            return Err("the process that leaves its log behind failed".into());
        }
        flip_each(engine, &sound, &copy, flips, true)?;
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn fill(engine: &str, dir: &Path, close: bool) -> Result<()> {
    let mut database = open(engine, dir, Mode::Create)?;
    let mut rows: Vec<Row> = (0..ROWS).map(Row::numbered).collect();
    rows.sort_unstable_by_key(|row| row.key);
    rows.chunks(500).try_for_each(|batch| database.insert(batch))?;
    if close {
        database.tidy(true)?;
    } else {
        std::mem::forget(database);
    }
    Ok(())
}

fn flip_each(engine: &str, sound: &Path, copy: &Path, flips: u64, log: bool) -> Result<()> {
    let name = match engine {
        "lmdb" => "data.mdb",
        "redb" => "index.redb",
        _ if log => "index.sqlite-wal",
        _ => "index.sqlite",
    };
    let size = std::fs::metadata(sound.join(name))?.len();
    let mut reads = BTreeMap::<String, u64>::new();
    let mut writes = BTreeMap::<String, u64>::new();
    let mut verifies = BTreeMap::<String, u64>::new();
    let mut missed = 0;
    for number in 0..flips {
        let look = |what: &str, outcomes: &mut BTreeMap<String, u64>| {
            copy_folder(sound, copy)?;
            flip(&copy.join(name), mix(number ^ 0xf11b) % (size * 8))?;
            let seen = outcome(engine, copy, what)?;
            *outcomes.entry(seen.clone()).or_default() += 1;
            Result::Ok(seen)
        };
        let read = look("read", &mut reads)?;
        look("write", &mut writes)?;
        let verified = look("verify", &mut verifies)?;
        missed += u64::from(read != OUTCOMES[0].1 && verified == OUTCOMES[0].1);
    }
    println!("{engine}, {flips} single flipped bits in {name} ({size} bytes)");
    println!("  looking all {ROWS} keys up, and as many absent ones: {}", list(&reads));
    println!("  inserting 5000 rows, then looking all up: {}", list(&writes));
    println!("  scan with row checksums, row count, engine's check: {}", list(&verifies));
    println!("  harmful to look-ups and found by none of the three: {missed}");
    Ok(())
}

fn list(outcomes: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> =
        outcomes.iter().map(|(what, count)| format!("{what} {count}")).collect();
    parts.join(", ")
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to)?;
    }
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

fn flip(file: &Path, bit: u64) -> Result<()> {
    let file = std::fs::File::options().read(true).write(true).open(file)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8)?;
    byte[0] ^= 1 << (bit % 8);
    file.write_all_at(&byte, bit / 8)?;
    Ok(())
}

/// Runs a probe on the copy and names what it saw.
fn outcome(engine: &str, copy: &Path, what: &str) -> Result<String> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["probe", "--engine", engine, "--what", what, "--dir"]).arg(copy);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            let named = OUTCOMES.iter().find(|(code, _)| status.code() == Some(*code));
            return Ok(match (named, status.signal()) {
                (Some((_, name)), _) => (*name).to_owned(),
                (None, Some(signal)) => format!("CRASH by signal {signal}"),
                (None, None) => format!("PANIC or exit {:?}", status.code()),
            });
        }
        if start.elapsed() > TIME_MAX {
            child.kill()?;
            child.wait()?;
            return Ok("HANG".to_owned());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The process that uses a damaged copy. Its exit code is the worst of [`OUTCOMES`] it saw.
pub fn probe(options: &Options) -> Result<()> {
    let engine = options.text("engine", "sqlite");
    if options.number("fill", 0)? == 1 {
        return fill(&engine, &options.dir(), false);
    }
    let writes = options.text("what", "read") == "write";
    let may_write = options.text("what", "read") != "read";
    let mut seen = 0;
    let mut note = |code: i32| seen = seen.max(code);
    match open(&engine, &options.dir(), if may_write { Mode::Write } else { Mode::Read }) {
        Err(_) => note(41),
        Ok(mut database) => {
            let mut rows = ROWS;
            if options.text("what", "") == "verify" {
                verify(&mut *database, &mut note);
                std::process::exit(seen);
            }
            if writes {
                rows += insert_more(&mut *database, &mut note);
            }
            look_all_up(&mut *database, rows, &mut note);
        }
    }
    std::process::exit(seen);
}

/// What a full check finds, by the cheapest means that finds it.
fn verify(database: &mut dyn Engine, note: &mut dyn FnMut(i32)) {
    let (mut rows, mut bad) = (0, 0_u64);
    let scanned = database.scan(&mut |row| {
        rows += 1;
        bad += u64::from(row.sum != row.sum_expected());
    });
    match (scanned, bad, rows) {
        (Err(_), _, _) => note(41),
        (Ok(()), 1.., _) => note(42),
        (Ok(()), 0, ROWS) if database.check().is_ok_and(|sound| sound) => {}
        (Ok(()), 0, ROWS) => note(47),
        (Ok(()), 0, _) => note(46),
    }
}

/// Inserts up to 5,000 more rows, in transactions of 500, and says how many came back as durable.
fn insert_more(database: &mut dyn Engine, note: &mut dyn FnMut(i32)) -> u64 {
    let mut done = 0;
    while done < 5_000 {
        let mut rows: Vec<Row> = (ROWS + done..ROWS + done + 500).map(Row::numbered).collect();
        rows.sort_unstable_by_key(|row| row.key);
        if database.insert(&rows).is_err() {
            note(41);
            break;
        }
        done += 500;
    }
    if database.tidy(true).is_err() {
        note(41);
    }
    done
}

fn look_all_up(database: &mut dyn Engine, rows: u64, note: &mut dyn FnMut(i32)) {
    for number in 0..rows {
        let wanted = Row::numbered(number);
        let pair: [Key; 2] = [key(number), absent_key(number)];
        let looked = database.look_up(&pair, &mut |key, row| match row {
            None if *key == wanted.key => note(43),
            None => {}
            Some(row) if row.sum != row.sum_expected() => note(42),
            Some(row) if row == wanted => {}
            Some(row) if row.key != *key => note(44),
            Some(_) => note(45),
        });
        if looked.is_err() {
            note(41);
        }
    }
}
