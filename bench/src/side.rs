//! Running and timing programs, ours and peers, and the folders they leave.

use std::ffi::OsStr;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::{Bench, Result};

/// What one run took.
#[derive(Clone, Copy, Default)]
pub struct Took {
    /// Wall time, in seconds.
    pub seconds: f64,
    /// User and system time, in seconds.
    pub processor: f64,
    /// Maximum resident set, in MiB.
    pub resident_mib: f64,
}

/// A command line of `silt` on a store.
pub fn silt<A: AsRef<OsStr>>(
    bench: &Bench,
    store: &Path,
    arguments: impl IntoIterator<Item = A>,
) -> Command {
    let mut command = Command::new(&bench.silt);
    command.arg("--store").arg(store).args(arguments);
    command
}

/// `program` with arguments, in words.
pub fn program<A: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = A>,
) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Runs to the end and returns standard output; a failure carries the last of standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let end: Vec<&str> = said.lines().rev().take(5).collect();
        let end: Vec<&str> = end.into_iter().rev().collect();
        return Err(format!("{command:?}: {}: {}", output.status, end.join(" | ")).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs under `/usr/bin/time`, then fsyncs `image` inside the timed span where one is given.
pub fn timed(command: &Command, image: Option<&Path>) -> Result<Took> {
    Ok(timed_output(command, image)?.0)
}

/// The same, with what it printed.
pub fn timed_output(command: &Command, image: Option<&Path>) -> Result<(Took, String)> {
    let report = tempfile::NamedTempFile::new()?;
    let mut timer = program("/usr/bin/time", ["-f", "%U %S %M", "-o"]);
    timer.arg(report.path()).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        timer.env(name, value.unwrap_or_default());
    }
    let start = Instant::now();
    let printed = output(&mut timer)?;
    if let Some(image) = image {
        std::fs::File::open(image)?.sync_all()?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let said = std::fs::read_to_string(report.path())?;
    let numbers: Vec<f64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [user, system, kib] = numbers[..] else {
        return Err(format!("/usr/bin/time said {said:?}").into());
    };
    Ok((Took { seconds, processor: user + system, resident_mib: kib / 1024.0 }, printed))
}

/// A file with 1 GiB that does not compress, a MiB in every `stride` of them; the rest are holes.
pub fn noise(path: &Path, stride: u64) -> Result<()> {
    let file = std::fs::File::create(path)?;
    file.set_len(stride << 30)?;
    let mut state = 1_u64;
    for mib in 0..1024 {
        let words = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        file.write_all_at(
            &words.take(1 << 17).flatten().collect::<Vec<u8>>(),
            (mib * stride) << 20,
        )?;
    }
    Ok(())
}

/// Writes out what earlier steps left dirty, so that nobody's fsync pays for another's writes.
pub fn settle() -> Result<()> {
    output(&mut program("sync", [""; 0])).map(drop)
}

/// Adds every regular file below a folder.
pub fn files_below(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => files_below(&entry.path(), files)?,
            kind if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    Ok(())
}

/// Removes a file or folder, if it is there.
pub fn remove(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(std::fs::remove_dir_all(path)?),
        Ok(_) => Ok(std::fs::remove_file(path)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Reads every file below `path` once, so that all runs find it in the page cache.
pub fn warm(path: &Path) -> Result<()> {
    let metadata = std::fs::symlink_metadata(path)?;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path)? {
            warm(&entry?.path())?;
        }
    } else if metadata.is_file() {
        std::io::copy(&mut std::fs::File::open(path)?, &mut std::io::sink())?;
    }
    Ok(())
}

/// Allocated bytes of a folder, as `du` counts them.
pub fn disk_usage(path: &Path) -> Result<u64> {
    let said = output(program("du", ["-s", "--block-size=1"]).arg(path))?;
    Ok(said.split_whitespace().next().ok_or("du said nothing")?.parse()?)
}

/// Allocated bytes of one file.
pub fn allocated(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path)?.blocks() * 512)
}

/// The middle one (the lower of two).
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// The value that `part` of a hundred are not above.
pub fn percentile(mut values: Vec<f64>, part: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() * part).div_ceil(100);
    values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// The run with the middle wall time.
pub fn median_run(mut runs: Vec<Took>) -> Took {
    runs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    runs.get(runs.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

/// The JSON a command prints.
pub fn json(command: &mut Command) -> Result<serde_json::Value> {
    let said = output(command)?;
    serde_json::from_str(&said).map_err(|error| {
        let start: String = said.chars().take(200).collect();
        format!("{command:?}: {error} in {start:?}").into()
    })
}

/// What `silt seal --json` says that it took, in seconds, and what its process took. Between the two, the file system frees
/// what the delta had, at the last close of its file.
pub fn timed_seal(command: &mut Command) -> Result<(f64, Took)> {
    let (took, printed) = timed_output(command.arg("--json"), None)?;
    Ok((number(&serde_json::from_str(&printed)?, "seconds")?, took))
}

/// A number out of a JSON document.
pub fn number(document: &serde_json::Value, key: &str) -> Result<f64> {
    document[key].as_f64().ok_or_else(|| format!("no number {key} in {document}").into())
}
