//! Printing: results on standard output, everything else on standard error. A reader that went away ends the command
//! quietly.

use serde_json::{Value, json};
use silt_types::{Error, ErrorKind, Result};
use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::{Duration, UNIX_EPOCH},
};

/// Prints `text` as it is, or `document` with `--json`.
pub(crate) fn print(
    json: bool,
    document: impl FnOnce() -> Value,
    text: impl FnOnce() -> String,
) -> Result<()> {
    let mut bytes = if json { format!("{:#}", document()) } else { text() };
    if !bytes.is_empty() && !bytes.ends_with('\n') {
        bytes.push('\n');
    }
    let mut out = io::stdout().lock();
    match out.write_all(bytes.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::io("cannot write the result", error))
        }
        _ => Ok(()),
    }
}

/// Says something to the person at the terminal.
pub(crate) fn warn(message: &str) {
    // If nobody hears it there is nothing left to do.
    let _ = writeln!(io::stderr(), "{message}");
}

/// Reports an error and answers the exit code of its kind.
pub(crate) fn fail(error: &Error, json: bool) -> ExitCode {
    let kind = error.kind();
    warn(&format!("silt: {}", error.chain()));
    if let Some(hint) = hint(kind) {
        warn(&format!("hint: {hint}"));
    }
    if json {
        print_error(kind, &error.chain());
    }
    ExitCode::from(kind.exit_code())
}

/// Prints what clap has to say instead of a command: help that was asked for, or what is wrong with the command line.
pub(crate) fn misused(error: &clap::Error) -> ExitCode {
    // As with every other result, a reader that went away is no failure.
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    if std::env::args_os().any(|argument| argument == "--json") {
        let message = error.to_string();
        let message = message.strip_prefix("error: ").unwrap_or(&message);
        print_error(ErrorKind::Usage, message.trim());
    }
    ExitCode::from(ErrorKind::Usage.exit_code())
}

fn print_error(kind: ErrorKind, message: &str) {
    let document = || json!({ "error": { "kind": kind.as_str(), "message": message } });
    // It is on standard error already.
    let _ = print(true, document, String::new);
}

fn hint(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::Corrupt => Some(
            "'silt verify' finds everything that is damaged; 'silt verify --repair' makes good what can be",
        ),
        ErrorKind::Internal => {
            Some("this is a bug: please report it with the command that led to it")
        }
        _ => None,
    }
}

/// A time for people and for JSON: RFC 3339, in UTC.
pub(crate) fn time(ns: i64) -> String {
    let time = match u64::try_from(ns) {
        Ok(ns) => UNIX_EPOCH.checked_add(Duration::from_nanos(ns)),
        Err(_) => UNIX_EPOCH.checked_sub(Duration::from_nanos(ns.unsigned_abs())),
    };
    time.map_or_else(String::new, |time| humantime::format_rfc3339_seconds(time).to_string())
}

/// Rows under a heading, columns aligned: the first to the left, numbers to the right.
pub(crate) fn table(heading: &[&str], right: &[bool], rows: &[Vec<String>]) -> String {
    let heading: Vec<String> = heading.iter().map(|cell| (*cell).to_owned()).collect();
    let all = || std::iter::once(&heading).chain(rows);
    let width = |column: usize| all().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let mut text = String::new();
    for row in all() {
        let cells = row.iter().zip(&widths).zip(right).map(|((cell, width), right)| match right {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}
