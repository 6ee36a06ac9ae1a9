//! How fast: durable inserts under a bounded write lock, warm look-ups, and both at once in two processes.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::engine::{Engine, Mode, open};
use crate::row::{Key, Row, absent_key, key, mix};
use crate::{Options, Result};

/// A write lock is to be held no longer than 10 ms; the batch size steers for this.
const HOLD_AIM: Duration = Duration::from_millis(6);

/// Rows that arrive together, as from a few filled packs; batches are cut from these.
const ARRIVAL_ROWS: u64 = 16_384;

/// Look-ups in one read transaction where they are grouped.
const GROUP_KEYS: usize = 256;

/// How long the second process looks up, first alone, then beside the writer.
const READER_TIME: Duration = Duration::from_secs(4);

/// How a database comes to its rows.
#[derive(Clone, Copy, Debug)]
pub enum Fill {
    /// As ingests bring them: in no order, in durable batches that hold the lock briefly. This is measured.
    Arriving,
    /// In the order of their keys, in large transactions: quick, when only what follows is to be measured.
    Sorted,
}

/// Inserts `rows` rows into a new database and prints every figure.
pub fn run(options: &Options, engine: &str, rows: u64, fill: Fill) -> Result<()> {
    let limit = Duration::from_secs(options.number("limit", 720)?);
    let dir = options.dir().join(format!("{}-{rows}", engine.replace([':', '=', ','], "-")));
    println!("{engine}, {rows} rows, {fill:?}");
    let repeats = if rows <= 100_000 { 5 } else { 1 };
    let mut runs = Vec::new();
    for _ in 0..repeats {
        runs.push(match fill {
            Fill::Arriving => fill_arriving(&dir, engine, rows, limit)?,
            Fill::Sorted => fill_sorted(&dir, engine, rows)?,
        });
    }
    runs.sort_by_key(|run| run.elapsed);
    let filled = runs.swap_remove(runs.len() / 2);
    filled.print("insert");
    let size = size_on_disk(&dir)?;
    println!(
        "  on disk: {:.1} MB, {:.1} bytes a row",
        size as f64 / 1e6,
        size as f64 / filled.rows as f64
    );
    look_ups(&dir, engine, filled.known())?;
    match beside(&dir, engine, &filled) {
        Ok(()) => {}
        Err(error) => println!("  a second process: {error}"),
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// What one insert run took.
#[derive(Default)]
struct Filled {
    rows: u64,
    /// All numbers below this are in, unless the time was over first; see [`Self::known`].
    next: u64,
    elapsed: Duration,
    processor: Duration,
    /// Bytes this process sent towards the disk: what remains of a timing on a busy machine.
    written: u64,
    holds: Vec<Duration>,
    tidies: Vec<Duration>,
}

impl Filled {
    /// Rows that are in for certain: when the time is over, the last arrivals are in only in part.
    fn known(&self) -> u64 {
        if self.rows == self.next { self.rows } else { self.next - ARRIVAL_ROWS }
    }

    fn print(&self, label: &str) {
        let mut holds = self.holds.clone();
        holds.sort();
        let over = holds.iter().filter(|hold| **hold > Duration::from_millis(10)).count();
        println!(
            "  {label}: {} rows in {:.2} s = {:.0} rows/s, processor {:.2} s, {:.1} KB written a row",
            self.rows,
            self.elapsed.as_secs_f64(),
            self.rows as f64 / self.elapsed.as_secs_f64(),
            self.processor.as_secs_f64(),
            self.written as f64 / 1e3 / self.rows as f64,
        );
        println!(
            "    {} batches of {} rows on average; lock held p50 {:.1} p99 {:.1} max {:.1} ms, {over} over 10 ms",
            holds.len(),
            self.rows / (holds.len() as u64).max(1),
            millis(part(&holds, 0.5)),
            millis(part(&holds, 0.99)),
            millis(part(&holds, 1.0)),
        );
        if let Some(longest) = self.tidies.iter().max() {
            let total: Duration = self.tidies.iter().sum();
            let (count, total) = (self.tidies.len(), total.as_secs_f64());
            println!(
                "    {count} checkpoints without the lock, {total:.2} s, longest {:.0} ms",
                millis(*longest)
            );
        }
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The value at `share` of a sorted slice.
fn part(sorted: &[Duration], share: f64) -> Duration {
    let last = sorted.len().saturating_sub(1) as f64;
    sorted.get((last * share) as usize).copied().unwrap_or_default()
}

fn fresh(dir: &Path, engine: &str) -> Result<Box<dyn Engine>> {
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    std::fs::create_dir_all(dir)?;
    open(engine, dir, Mode::Create)
}

fn fill_arriving(dir: &Path, engine: &str, rows: u64, limit: Duration) -> Result<Filled> {
    insert(&mut *fresh(dir, engine)?, engine, 0..rows, limit)
}

/// All rows in the order of their keys in large transactions: the quick way to a large database, when only
/// what follows is to be measured.
fn fill_sorted(dir: &Path, engine: &str, rows: u64) -> Result<Filled> {
    let mut database = fresh(dir, engine)?;
    let mut order: Vec<(Key, u32)> =
        (0..rows as u32).map(|number| (key(number.into()), number)).collect();
    order.sort_unstable();
    let (start, before) = (Instant::now(), processor_time());
    let mut filled = Filled { rows, next: rows, ..Filled::default() };
    for batch in order.chunks(100_000) {
        let batch: Vec<Row> =
            batch.iter().map(|(_, number)| Row::numbered((*number).into())).collect();
        filled.holds.push(timed(|| database.insert(&batch))?);
        database.tidy(false)?;
    }
    database.tidy(true)?;
    filled.elapsed = start.elapsed();
    filled.processor = processor_time().saturating_sub(before);
    Ok(filled)
}

/// Inserts numbered rows until all are in or the time is over; the last checkpoint counts.
fn insert(
    database: &mut dyn Engine,
    engine: &str,
    numbers: std::ops::Range<u64>,
    limit: Duration,
) -> Result<Filled> {
    let sorted = !engine.contains("order=arrival");
    let mut filled =
        Filled { processor: processor_time(), written: bytes_written()?, ..Filled::default() };
    let mut batch_rows = 64;
    let start = Instant::now();
    let mut next = numbers.start;
    while next < numbers.end && start.elapsed() < limit {
        let end = numbers.end.min(next + ARRIVAL_ROWS);
        let mut arrived: Vec<Row> = (next..end).map(Row::numbered).collect();
        if sorted {
            arrived.sort_unstable_by_key(|row| row.key);
        }
        next = end;
        let mut left = &arrived[..];
        while !left.is_empty() && start.elapsed() < limit {
            let (batch, rest) = left.split_at(left.len().min(batch_rows));
            let hold = timed(|| database.insert(batch))?;
            batch_rows = steer(batch.len(), batch_rows, hold);
            filled.holds.push(hold);
            filled.rows += batch.len() as u64;
            left = rest;
            let tidy = timed(|| database.tidy(false))?;
            if tidy > Duration::from_micros(500) {
                filled.tidies.push(tidy);
            }
        }
    }
    filled.tidies.push(timed(|| database.tidy(true))?);
    filled.next = next;
    filled.elapsed = start.elapsed();
    filled.processor = processor_time().saturating_sub(filled.processor);
    filled.written = bytes_written()?.saturating_sub(filled.written);
    Ok(filled)
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

/// The next batch size: grows by at most a quarter, falls as fast as the last lock was too long.
fn steer(batch: usize, batch_rows: usize, hold: Duration) -> usize {
    let ratio = HOLD_AIM.as_secs_f64() / hold.as_secs_f64().max(1e-6);
    let wanted = (batch as f64 * ratio.clamp(0.25, 1.25)) as usize;
    // A last, short batch says little about larger ones.
    if batch < batch_rows && ratio > 1.0 {
        batch_rows
    } else {
        wanted.clamp(16, ARRIVAL_ROWS as usize)
    }
}

/// Processor time of this process so far, user and system.
fn processor_time() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(spent.tv_sec as u64, spent.tv_nsec as u32)
}

/// Bytes that this process has dirtied in the page cache or written so far.
fn bytes_written() -> Result<u64> {
    let counts = std::fs::read_to_string("/proc/self/io")?;
    let line = counts.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(line.ok_or("no write_bytes in /proc/self/io")?.parse()?)
}

fn size_on_disk(dir: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut total = 0;
    for entry in std::fs::read_dir(dir)? {
        total += entry?.metadata()?.blocks() * 512;
    }
    Ok(total)
}

/// Warm look-ups in this process: one to a transaction and in groups, of keys that are and are not there.
fn look_ups(dir: &Path, engine: &str, rows: u64) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        std::io::copy(&mut std::fs::File::open(entry?.path())?, &mut std::io::sink())?;
    }
    let mut database = open(engine, dir, Mode::Read)?;
    let mut draw = 0;
    let mut measure = |label: &str, count: u64, group: usize, present: bool| -> Result<()> {
        let (mut spent, mut worked) = (Duration::ZERO, Duration::ZERO);
        let mut found = 0_u64;
        for _ in 0..count / group as u64 {
            let keys: Vec<Key> = (0..group).map(|_| drawn_key(&mut draw, rows, present)).collect();
            let before = processor_time();
            spent +=
                timed(|| database.look_up(&keys, &mut |_, row| found += u64::from(row.is_some())))?;
            worked += processor_time().saturating_sub(before);
        }
        if found != if present { count / group as u64 * group as u64 } else { 0 } {
            return Err(format!("{label}: {found} keys found").into());
        }
        let each = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
        println!("  look-up, {label}: {:.2} us, processor {:.2} us", each(spent), each(worked));
        Ok(())
    };
    let count = 500_000;
    measure("first touch, present, 256 a transaction", count, GROUP_KEYS, true)?;
    measure("warm, present, 256 a transaction", count, GROUP_KEYS, true)?;
    measure("warm, absent, 256 a transaction", count, GROUP_KEYS, false)?;
    measure("warm, present, 1 a transaction", count, 1, true)
}

fn drawn_key(draw: &mut u64, rows: u64, present: bool) -> Key {
    *draw += 1;
    let number = mix(*draw) % rows;
    if present { key(number) } else { absent_key(number) }
}

/// Look-ups by a second process, alone and while this one inserts.
fn beside(dir: &Path, engine: &str, before: &Filled) -> Result<()> {
    // The writer is there first, as an ingest would be; it starts to insert once the reader's time alone is over.
    let mut database = open(engine, dir, Mode::Write)?;
    let mut child = start_reader(dir, engine, before.known())?;
    std::thread::sleep(READER_TIME);
    let filled = insert(&mut *database, engine, before.next..u64::MAX / 2, READER_TIME);
    let mut report = String::new();
    child.stdout.take().ok_or("no pipe to the reader")?.read_to_string(&mut report)?;
    let status = child.wait()?;
    if !status.success() {
        return Err(format!("the reader ended with {status}").into());
    }
    filled?.print("insert beside a reader");
    print!("{report}");
    Ok(())
}

fn start_reader(dir: &Path, engine: &str, rows: u64) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["reader", "--engine", engine, "--rows", &rows.to_string(), "--dir"]).arg(dir);
    Ok(command.stdout(Stdio::piped()).spawn()?)
}

/// The second process: single look-ups, each row checked, for twice [`READER_TIME`].
pub fn reader(options: &Options) -> Result<()> {
    let rows = options.number("rows", 20_000)?;
    let mut database = open(&options.text("engine", "sqlite"), &options.dir(), Mode::Read)?;
    let mut draw = 1 << 32;
    for label in ["alone", "beside a writer"] {
        let start = Instant::now();
        let mut times = Vec::new();
        let mut wrong = 0_u64;
        while start.elapsed() < READER_TIME {
            let key = drawn_key(&mut draw, rows, true);
            times.push(timed(|| {
                database.look_up(&[key], &mut |_, row| {
                    wrong += u64::from(row.is_none_or(|row| row.sum != row.sum_expected()));
                })
            })?);
        }
        times.sort();
        println!(
            "  second process, {label}: {:.0} look-ups/s, p50 {:.1} p99 {:.1} us, max {:.1} ms, {wrong} wrong",
            times.len() as f64 / start.elapsed().as_secs_f64(),
            millis(part(&times, 0.5)) * 1e3,
            millis(part(&times, 0.99)) * 1e3,
            millis(part(&times, 1.0)),
        );
    }
    Ok(())
}
