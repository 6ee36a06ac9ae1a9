//! `silt build` into an empty store beside `mke2fs -d`, and what each compression costs and saves.

use std::path::Path;
use std::process::Command;

use crate::side::{
    Took, disk_usage, json, median_run, noise, number, program, remove, settle, silt, timed,
};
use crate::table::Table;
use crate::{Bench, Result, trees};

/// Compressions tried unless `SILT_BENCH_LEVELS` names others.
const LEVELS: &str = "none lz4 zstd:1 zstd:2 zstd:3 zstd:6";

/// Tree 2: wall time of both, ending durable, and peak memory of ours.
pub fn against_mke2fs(bench: &Bench) -> Result<Vec<Table>> {
    let tree = trees::debian(bench, 2)?;
    let room = bench.room("build")?;
    let (store, image) = (room.join("store"), room.join("mke2fs.img"));
    let report = json(build(bench, &store, &tree, None).arg("--json"))?;
    let size = number(&report, "size")? as u64;

    let variants = [None, Some("none")];
    let mut ours = vec![Vec::new(); variants.len()];
    let mut theirs = Vec::new();
    for _ in 0..bench.runs {
        for (runs, compression) in ours.iter_mut().zip(variants) {
            remove(&store)?;
            settle()?;
            runs.push(timed(&build(bench, &store, &tree, compression), None)?);
        }
        remove(&image)?;
        settle()?;
        theirs.push(timed(&mke2fs(&tree, &image, size)?, Some(&image))?);
    }
    let theirs = median_run(theirs);
    let mut table = Table::new("Build of Debian tree 2, wall time, medians in turn, warm cache");
    for ((runs, compression), target) in ours.into_iter().zip(variants).zip(["<= 0.7", "<= 0.5"]) {
        let took = median_run(runs);
        let name = compression.unwrap_or("default");
        table.beside(
            &format!("compression {name}"),
            (took.seconds, "s"),
            "mke2fs -d",
            theirs.seconds,
            target,
        );
        table.beside("  processor time", (took.processor, "s"), "", theirs.processor, "");
        table.alone("  peak resident", took.resident_mib, "MiB", "<= 256 MiB");
    }
    table.note("silt ends durable (it fsyncs packs, index and catalog); mke2fs -d is followed by fsync of the image");
    table.note(format!("both make a disk of {size} bytes; stores and images removed and the machine synced before each run"));
    remove(&room)?;
    Ok(vec![table])
}

/// Tree 2 at every compression that might be the default, beside `mke2fs -d` in the same turns.
pub fn compression_levels(bench: &Bench) -> Result<Vec<Table>> {
    let levels = std::env::var("SILT_BENCH_LEVELS").unwrap_or_else(|_| LEVELS.to_owned());
    let levels: Vec<&str> = levels.split(' ').collect();
    let tree = trees::debian(bench, 2)?;
    let room = bench.room("compression")?;
    let (store, image) = (room.join("store"), room.join("mke2fs.img"));
    let report = json(build(bench, &store, &tree, None).arg("--json"))?;
    let size = number(&report, "size")? as u64;
    let mut runs = vec![Vec::<Took>::new(); levels.len()];
    let mut sizes = vec![0; levels.len()];
    let mut theirs = Vec::new();
    for _ in 0..bench.runs {
        for ((level, runs), size) in levels.iter().zip(&mut runs).zip(&mut sizes) {
            remove(&store)?;
            settle()?;
            runs.push(timed(&build(bench, &store, &tree, Some(level)), None)?);
            *size = disk_usage(&store)?;
        }
        remove(&image)?;
        settle()?;
        theirs.push(timed(&mke2fs(&tree, &image, size)?, Some(&image))?);
    }
    let theirs = median_run(theirs);
    let mut table =
        Table::new("Build of Debian tree 2 by compression, medians in turn, warm cache");
    for ((level, runs), size) in levels.iter().zip(runs).zip(sizes) {
        let took = median_run(runs);
        table.beside(
            &format!("{level}: wall"),
            (took.seconds, "s"),
            "mke2fs -d",
            theirs.seconds,
            "",
        );
        table.beside("  processor", (took.processor, "s"), "", theirs.processor, "");
        table.alone("  store on disk", size as f64 / 1e6, "MB", "");
        table.alone("  peak resident", took.resident_mib, "MiB", "");
    }
    remove(&room)?;
    Ok(vec![table])
}

/// What compression costs where there is nothing to be had.
pub fn incompressible(bench: &Bench) -> Result<Vec<Table>> {
    let room = bench.room("noise")?;
    let (store, tree) = (room.join("store"), room.join("tree"));
    std::fs::create_dir(&tree)?;
    noise(&tree.join("noise"), 1)?;
    let codecs = ["none", "lz4", "zstd"];
    let mut runs = [const { Vec::<Took>::new() }; 3];
    for _ in 0..bench.runs {
        for (codec, runs) in codecs.iter().zip(&mut runs) {
            remove(&store)?;
            settle()?;
            runs.push(timed(&build(bench, &store, &tree, Some(codec)), None)?);
        }
    }
    let [none, lz4, zstd] = runs.map(median_run);
    let mut table =
        Table::new("Build of 1 GiB of noise by compression, medians in turn, warm cache");
    for (codec, took) in [("lz4", lz4), ("zstd", zstd)] {
        table.beside(codec, (took.seconds, "s"), "none", none.seconds, "");
        table.beside("  processor time", (took.processor, "s"), "", none.processor, "");
    }
    remove(&room)?;
    Ok(vec![table])
}

/// `silt build TREE debian` with a compression, or the default.
pub fn build(bench: &Bench, store: &Path, tree: &Path, compression: Option<&str>) -> Command {
    let mut command = silt(bench, store, ["build"]);
    command.arg(tree).arg("debian");
    if let Some(compression) = compression {
        command.args(["--compression", compression]);
    }
    command
}

/// `mke2fs -d` into a fresh sparse file of the same size.
pub fn mke2fs(tree: &Path, image: &Path, size: u64) -> Result<Command> {
    std::fs::File::create(image)?.set_len(size)?;
    let mut command = program("mke2fs", ["-q", "-F", "-t", "ext4", "-d"]);
    command.arg(tree).arg(image);
    command.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
    Ok(command)
}
