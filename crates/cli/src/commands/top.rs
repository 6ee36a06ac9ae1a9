//! `silt top`: what is served and what is under way, live.

use super::{Context, store::work_document};
use crate::{
    commands::{ps, scrub},
    output::{print, table},
};
use rustix::termios::tcgetwinsize;
use serde_json::{Value, json};
use silt_engine::{CountsStatus, Engine, Scrubbed, ServerStatus, StopSignal, WorkUnderWay};
use silt_types::{Result, format_size};
use std::{
    collections::HashMap,
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

/// Watch what is served and what is under way in the store, busiest disk first.
///
/// Ends with Ctrl-C. Where standard output is no terminal, or with --json, it prints once what it would show.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt top
  silt top --every 5
  silt top | head")]
pub(crate) struct Args {
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
}

/// What is shown of one moment.
struct Frame {
    taken: Instant,
    servers: Vec<ServerStatus>,
    silent: usize,
    work: Vec<WorkUnderWay>,
    scrubbed: Option<Scrubbed>,
}

impl Frame {
    fn take(engine: &Engine) -> Result<Frame> {
        let served = engine.servers()?;
        Ok(Frame {
            taken: Instant::now(),
            servers: served.servers,
            silent: served.silent.len(),
            work: engine.work_under_way()?,
            scrubbed: engine.scrubbed(),
        })
    }
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let engine = context.engine_with_cache(0)?;
    let mut frame = Frame::take(&engine)?;
    if context.json || !io::stdout().is_terminal() {
        return print(context.json, || document(&frame), || lines(&frame, None).join("\n"));
    }
    let stop = StopSignal::new()?;
    stop.trigger_on_termination()?;
    let _screen = Screen::enter();
    let mut before = None;
    loop {
        draw(&lines(&frame, before.as_ref()));
        if stop.wait(Duration::from_secs(args.every)) {
            return Ok(());
        }
        before = Some(std::mem::replace(&mut frame, Frame::take(&engine)?));
    }
}

fn document(frame: &Frame) -> Value {
    json!({
        "servers": frame.servers.iter().map(ps::document).collect::<Vec<_>>(),
        "silent": frame.silent,
        "work": frame.work.iter().map(work_document).collect::<Vec<_>>(),
        "scrub": frame.scrubbed.as_ref().map(scrub::document),
    })
}

/// What a disk does in a second.
#[derive(Clone, Copy, Default)]
struct Rates {
    reads: f64,
    writes: f64,
    read_bytes: f64,
    write_bytes: f64,
    flush_ms: f64,
}

impl Rates {
    fn of(counts: &CountsStatus, seconds: f64) -> Rates {
        let per_second = |value: u64| value as f64 / seconds.max(0.001);
        let flushes = counts.flush.operations.max(1) as f64;
        Rates {
            reads: per_second(counts.read.operations),
            writes: per_second(counts.write.operations),
            read_bytes: per_second(counts.read.bytes),
            write_bytes: per_second(counts.write.bytes),
            flush_ms: counts.flush_ns as f64 / 1e6 / flushes,
        }
    }

    /// Since the look before; of the last seconds, as the server tells, at the first look.
    fn now(server: &ServerStatus, before: Option<(&ServerStatus, f64)>) -> Rates {
        match before {
            Some((before, seconds)) => Rates::of(&server.counts.since(&before.counts), seconds),
            None => Rates::of(&server.recent.counts, server.recent.ns as f64 / 1e9),
        }
    }

    fn operations(&self) -> f64 {
        self.reads + self.writes
    }
}

fn lines(frame: &Frame, before: Option<&Frame>) -> Vec<String> {
    let known: HashMap<_, _> = before
        .iter()
        .flat_map(|before| before.servers.iter().map(|server| ((server.pid, &server.id), server)))
        .collect();
    let seconds = before.map_or(0.0, |before| (frame.taken - before.taken).as_secs_f64());
    let mut rates: Vec<_> = frame
        .servers
        .iter()
        .map(|server| {
            let before = known.get(&(server.pid, &server.id)).map(|before| (*before, seconds));
            (server, Rates::now(server, before))
        })
        .collect();
    rates.sort_by(|a, b| b.1.operations().total_cmp(&a.1.operations()));
    let all = rates.iter().fold(Rates::default(), |sum, (_, rates)| Rates {
        reads: sum.reads + rates.reads,
        writes: sum.writes + rates.writes,
        read_bytes: sum.read_bytes + rates.read_bytes,
        write_bytes: sum.write_bytes + rates.write_bytes,
        flush_ms: 0.0,
    });
    let adding = frame.work.iter().filter(|work| !work.only_reads);
    let mut lines = vec![format!(
        "{} disks served, {} silent; {:.0} reads/s {}/s, {:.0} writes/s {}/s",
        frame.servers.len(),
        frame.silent,
        all.reads,
        format_size(all.read_bytes as u64),
        all.writes,
        format_size(all.write_bytes as u64),
    )];
    if let Some(place) = &frame.scrubbed {
        lines.extend(scrub::text(place).lines().map(|line| format!("scrub: {line}")));
    }
    lines.extend(adding.map(|work| {
        let pid = work.pid.map_or("?".to_owned(), |pid| pid.to_string());
        format!("process {pid}: {}", work.command.as_deref().unwrap_or("work under way"))
    }));
    lines.push(String::new());
    let heading = [
        "NAME",
        "PID",
        "CLIENTS",
        "READS/S",
        "READ/S",
        "WRITES/S",
        "WRITTEN/S",
        "FLUSH MS",
        "FROZEN",
    ];
    let right = [false, true, true, true, true, true, true, true, true];
    let rows: Vec<_> = rates.iter().map(|(server, rates)| row(server, rates)).collect();
    lines.extend(table(&heading, &right, &rows).lines().map(str::to_owned));
    lines
}

fn row(server: &ServerStatus, rates: &Rates) -> Vec<String> {
    vec![
        server.name.clone(),
        server.pid.to_string(),
        server.exports.iter().map(|export| export.clients).sum::<usize>().to_string(),
        format!("{:.0}", rates.reads),
        format_size(rates.read_bytes as u64),
        format!("{:.0}", rates.writes),
        format_size(rates.write_bytes as u64),
        format!("{:.1}", rates.flush_ms),
        server.frozen_deltas.to_string(),
    ]
}

/// The other screen of the terminal, for as long as this lives.
struct Screen;

impl Screen {
    fn enter() -> Screen {
        write("\x1b[?1049h\x1b[?25l");
        Screen
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        write("\x1b[?25h\x1b[?1049l");
    }
}

fn write(text: &str) {
    let mut out = io::stdout().lock();
    // A terminal that went away ends this with a signal soon.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// As much as the terminal has room for.
fn draw(lines: &[String]) {
    let (rows, columns) = match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 => (usize::from(size.ws_row), usize::from(size.ws_col)),
        _ => (24, 80),
    };
    let shown = lines.iter().take(rows.saturating_sub(1));
    let cut = shown.map(|line| line.chars().take(columns).collect::<String>() + "\x1b[K\r\n");
    write(&format!("\x1b[H{}\x1b[J", cut.collect::<String>()));
}
