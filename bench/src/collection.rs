//! Collection: beside `restic prune` and `borg compact` after half of many versions were deleted, and in stores as large as they
//! become.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use crate::side::{
    Took, files_below, json, median_run, output, program, remove, settle, silt, timed,
};
use crate::table::Table;
use crate::{Bench, Result, trees};

const VERSIONS: usize = 20;
/// One file of so many changes from a version to the next.
const EVERY: usize = 30;
/// A file that is all new in every version: what people add to a base.
const NEW_BYTES: usize = 8 << 20;

/// Debian tree 1 in twenty versions, every other one deleted.
pub fn beside_peers(bench: &Bench) -> Result<Vec<Table>> {
    let (source, room) = (trees::debian(bench, 1)?, bench.room("collection")?);
    let tree = room.join("tree");
    let at = |name: &str| room.join(name);
    output(program("cp", ["-a"]).arg(source).arg(&tree))?;
    let mut files = Vec::new();
    files_below(&tree, &mut files)?;
    files.sort();
    output(&mut restic(&at("restic"), &["init"]))?;
    output(&mut borg(&at("borg"), &["init", "--encryption", "none"]))?;
    for version in 0..VERSIONS {
        for file in files.iter().skip(version % EVERY).step_by(EVERY) {
            let line = format!("changed in version {version}\n");
            std::fs::OpenOptions::new().append(true).open(file)?.write_all(line.as_bytes())?;
        }
        std::fs::write(tree.join("new"), noise(NEW_BYTES, version as u64))?;
        let image = format!("version-{version}");
        let folder = tree.to_str().ok_or("an odd path")?;
        output(&mut silt(bench, &at("silt"), ["build", folder, &image]))?;
        if version % 2 == 1 {
            output(&mut silt(bench, &at("fresh"), ["build", folder, &image]))?;
        }
        output(&mut restic(&at("restic"), &["backup", "--tag", &image, folder]))?;
        let archive = format!("{}::{image}", at("borg").display());
        output(borg(&at("borg"), &["create", "--compression", "zstd,1", &archive]).arg(&tree))?;
    }
    for version in (0..VERSIONS).step_by(2) {
        let image = format!("version-{version}");
        output(&mut silt(bench, &at("silt"), ["rm", &image]))?;
        let found = json(&mut restic(&at("restic"), &["snapshots", "--tag", &image, "--json"]))?;
        let id = found[0]["id"].as_str().ok_or("restic knows no such snapshot")?;
        output(&mut restic(&at("restic"), &["forget", id]))?;
        let archive = format!("{}::{image}", at("borg").display());
        output(&mut borg(&at("borg"), &["delete", &archive]))?;
    }
    let mut runs = [const { Vec::<Took>::new() }; 3];
    let mut held = [0; 3];
    for _ in 0..bench.runs {
        for (at_program, name) in ["silt", "restic", "borg"].into_iter().enumerate() {
            let copy = room.join("copy");
            remove(&copy)?;
            output(program("cp", ["-a"]).arg(at(name)).arg(&copy))?;
            settle()?;
            let command = match name {
                "silt" => silt(bench, &copy, ["gc"]),
                "restic" => restic(&copy, &["prune", "--max-unused", "5%"]),
                _ => borg(&copy, &["compact", copy.to_str().ok_or("an odd path")?]),
            };
            runs[at_program].push(timed(&command, None)?);
            held[at_program] = allocated(&copy)?;
        }
    }
    let [ours, restic_took, borg_took] = runs.map(median_run);
    let mut table =
        Table::new("Debian tree 1 in 20 versions, 10 deleted: collection, medians in turn");
    for (peer, took) in [("restic prune", restic_took), ("borg compact", borg_took)] {
        table.beside("wall time", (ours.seconds, "s"), peer, took.seconds, "<= 1/3 of the faster");
        table.beside(
            "  peak resident",
            (ours.resident_mib, "MiB"),
            peer,
            took.resident_mib,
            "<= 1/3 of the smaller",
        );
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let fresh = allocated(&at("fresh"))?;
    table.beside(
        "held afterwards",
        (mib(held[0]), "MiB"),
        "a store that never held the rest",
        mib(fresh),
        "<= 1.1",
    );
    table.beside("held afterwards", (mib(held[0]), "MiB"), "restic", mib(held[1]), "");
    table.beside("held afterwards", (mib(held[0]), "MiB"), "borg", mib(held[2]), "");
    table.note(format!("before: {:.1} MiB", mib(allocated(&at("silt"))?)));
    table.note(format!("a version changes one file in {EVERY} and adds {NEW_BYTES} new bytes"));
    remove(&room)?;
    Ok(vec![table])
}

/// Sixteen million chunks in 4,000 packs, 4,000 images and 6,000 volumes. Made once, and kept: that takes a quarter of an hour.
pub fn at_scale(bench: &Bench) -> Result<Vec<Table>> {
    let variable = std::env::var("SILT_BENCH_CHUNKS").unwrap_or_else(|_| "16000000".into());
    let chunks: u64 = variable.parse()?;
    let images = (chunks / 4000).max(1);
    let store = bench.scratch.join(format!("large-{chunks}"));
    if !store.join("made").exists() {
        remove(&store)?;
        let words = [chunks, images, images * 3 / 2].map(|number| number.to_string());
        output(large(bench, "make").arg(store.join("store")).args(words))?;
        std::fs::write(store.join("made"), "")?;
    }
    let store = store.join("store");
    let mut table = Table::new(format!(
        "a store of {chunks} chunks, {images} images, {} volumes",
        images * 3 / 2
    ));
    let looked = output(large(bench, "look").arg(&store))?;
    let figures: Vec<f64> =
        looked.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?;
    let [open, bytes, look_up] = figures[..] else {
        return Err("large-store printed something else".into());
    };
    table.alone("open", open, "ms", "<= 50 ms");
    table.alone("database, a chunk", bytes, "B", "<= 100 B");
    table.alone("look-up, warm, median", look_up, "us", "<= 8 us");
    let empty = bench.room("scale-empty")?.join("store");
    output(large(bench, "make").arg(&empty).args(["100", "1", "0"]))?;
    let mut clones = [Vec::new(), Vec::new()];
    for round in 0..2 {
        for (times, store) in clones.iter_mut().zip([&store, &empty]) {
            let program = bench.peers.join("engine-clone");
            let mut command = Command::new(program);
            let count = if round == 0 { "5" } else { "100" };
            let printed = output(command.arg(store).args(["image-0", count]))?;
            times.push(printed.split_whitespace().next().ok_or("no figure")?.parse::<f64>()?);
            let names = (0..count.parse()?).map(|number: u32| format!("engine-image-0-{number}"));
            output(silt(bench, store, ["rm"]).args(names))?;
        }
    }
    let [large_ms, empty_ms] = clones.map(|times| times[1]);
    table.beside("clone, in process", (large_ms, "ms"), "in an empty store", empty_ms, "<= 1.5");
    let runs = (0..bench.runs.min(3)).map(|_| timed(&silt(bench, &store, ["gc"]), None));
    let took = median_run(runs.collect::<Result<_>>()?);
    table.alone("gc with nothing to do", took.seconds, "s", "<= 20 s");
    table.alone("  processor time", took.processor, "s", "");
    table.alone("  peak resident", took.resident_mib, "MiB", "<= 256 MiB");
    Ok(vec![table])
}

fn large(bench: &Bench, what: &str) -> Command {
    let mut command = Command::new(bench.peers.join("large-store"));
    command.arg(what);
    command
}

fn restic(repository: &Path, words: &[&str]) -> Command {
    let mut command = program("restic", ["--quiet", "--no-cache", "--repo"]);
    command.arg(repository).args(words).env("RESTIC_PASSWORD", "none");
    command
}

fn borg(repository: &Path, words: &[&str]) -> Command {
    let mut command = program("borg", words);
    command.env("BORG_REPO", repository).env("BORG_RELOCATED_REPO_ACCESS_IS_OK", "yes");
    command.env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
    command.env("BORG_DELETE_I_KNOW_WHAT_I_AM_DOING", "YES");
    command
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// What a folder takes on the disk.
fn allocated(dir: &Path) -> Result<u64> {
    let mut sum = std::fs::symlink_metadata(dir)?.blocks() * 512;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        sum += match entry.file_type()?.is_dir() {
            true => allocated(&entry.path())?,
            false => entry.metadata()?.blocks() * 512,
        };
    }
    Ok(sum)
}
