//! Checks of the repository itself: what neither the compiler nor clippy looks at. Run by `make check`.

mod licences;
mod tidy;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() != Some("check") {
        say("usage: cargo run -p xtask -- check");
        return ExitCode::from(2);
    }
    let problems = match (tidy::problems(), licences::problems()) {
        (Ok(tidy), Ok(licences)) => [tidy, licences].concat(),
        (Err(error), _) | (_, Err(error)) => vec![error],
    };
    problems.iter().for_each(|problem| say(problem));
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[allow(clippy::print_stderr)] // A tool for developers; this is its one voice.
fn say(line: &str) {
    eprintln!("{line}");
}
