//! Tidiness of the files that git tracks.

use std::{fs, process::Command};

/// The longest file that may be tracked, in bytes: test images are made, not kept.
const FILE_LEN_MAX: u64 = 1 << 20;
/// The longest function, in lines: what fits a screen can be trusted.
const FUNCTION_LINES_MAX: usize = 100;
/// Where fuzz targets are.
const FUZZ_TARGETS: &str = "fuzz/fuzz_targets/";
/// Names of modules that say nothing.
const EMPTY_NAMES: [&str; 4] = ["utils.rs", "common.rs", "helpers.rs", "misc.rs"];

/// A line for each thing that is not tidy.
pub(crate) fn problems() -> Result<Vec<String>, String> {
    let output = Command::new("git").args(["ls-files", "-z"]).output();
    let output = output.map_err(|error| format!("cannot run git: {error}"))?;
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    let fuzz_manifest = fs::read_to_string("fuzz/Cargo.toml").unwrap_or_default();
    let mut problems = Vec::new();
    for path in names.split('\0').filter(|name| !name.is_empty()) {
        let Ok(metadata) = fs::metadata(path) else {
            continue; // Removed, and not committed yet.
        };
        if metadata.len() > FILE_LEN_MAX {
            problems.push(format!("{path}: longer than 1 MiB"));
            continue;
        }
        let Ok(text) = fs::read_to_string(path) else {
            problems.push(format!("{path}: not text"));
            continue;
        };
        if path.ends_with(".rs") {
            problems.extend(
                rust_problems(path, &text).into_iter().map(|what| format!("{path}: {what}")),
            );
        }
        if let Some(target) =
            path.strip_prefix(FUZZ_TARGETS).and_then(|name| name.strip_suffix(".rs"))
            && !fuzz_manifest.contains(&format!("name = \"{target}\""))
        {
            problems.push(format!("{path}: not a binary of fuzz/Cargo.toml, so never built"));
        }
        if text.lines().any(|line| line.ends_with([' ', '\t'])) && !path.ends_with(".md") {
            problems.push(format!("{path}: white space at the end of a line"));
        }
    }
    Ok(problems)
}

fn rust_problems(path: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    // The tests beside a module speak for that module.
    if !text.starts_with("//!") && !path.ends_with("/tests.rs") {
        problems.push("does not open with what it is for (`//!`)".to_owned());
    }
    if EMPTY_NAMES.iter().any(|name| path.ends_with(&format!("/{name}"))) {
        problems.push("its name says nothing".to_owned());
    }
    let marker = ["TO", "DO"].concat();
    if text.contains(&marker) {
        problems.push(format!("holds a {marker}"));
    }
    problems.extend(long_functions(text));
    problems
}

/// Functions longer than the limit, found by their indentation, which rustfmt keeps.
fn long_functions(text: &str) -> Vec<String> {
    let mut open: Option<(usize, String, usize)> = None;
    let mut long = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let is_fn = code.starts_with("fn ") || code.starts_with("pub") && code.contains(" fn ");
        if open.is_none() && is_fn && !line.ends_with(';') {
            open = Some((indent, code.chars().take(60).collect(), number));
        } else if let Some((at, name, start)) = &open
            && indent == *at
            && code.starts_with('}')
        {
            if number - start >= FUNCTION_LINES_MAX {
                long.push(format!("line {}: {} lines: {name}", start + 1, number - start + 1));
            }
            open = None;
        }
    }
    long
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_functions_and_missing_headers_are_found() {
        let long = format!("//! For a test.\nfn f() {{\n{}}}\n", "    g();\n".repeat(100));
        assert_eq!(rust_problems("src/a.rs", &long).len(), 1);
        let short = format!("//! For a test.\nfn f() {{\n{}}}\n", "    g();\n".repeat(90));
        assert_eq!(rust_problems("src/a.rs", &short), Vec::<String>::new());
        assert_eq!(rust_problems("src/a.rs", "fn f() {}\n").len(), 1);
        assert_eq!(rust_problems("src/utils.rs", "//! X.\n").len(), 1);
    }
}
