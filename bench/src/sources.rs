//! Sources other than folders beside what people do today: a tar beside `tar x` and `mke2fs -d`; a raw disk beside
//! `casync make` and `restic backup`; a disk that is nearly all hole; and what raw disks share with built images.

use std::path::Path;
use std::process::Command;

use crate::build::mke2fs;
use crate::side::{
    Took, json, median_run, noise, number, output, program, remove, settle, silt, timed,
};
use crate::table::Table;
use crate::{Bench, Result, trees};

/// The four comparisons.
pub fn run(bench: &Bench) -> Result<Vec<Table>> {
    Ok(vec![tar(bench)?, raw(bench)?, sparse(bench)?, sharing(bench)?])
}

/// `silt build FILE.tar` beside `tar x` followed by `mke2fs -d`.
fn tar(bench: &Bench) -> Result<Table> {
    let (tree, room) = (trees::debian(bench, 2)?, bench.room("sources-tar")?);
    let [store, tar, unpacked, image] =
        ["store", "tree.tar", "unpacked", "mke2fs.img"].map(|name| room.join(name));
    let mut pack = program("tar", ["--xattrs", "--xattrs-include=*", "--numeric-owner"]);
    output(pack.arg("--format=pax").arg("-cf").arg(&tar).arg("-C").arg(&tree).arg("."))?;
    let size = number(&json(import(bench, &store, &tar).arg("--json"))?, "size")? as u64;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..bench.runs {
        remove(&store)?;
        settle()?;
        ours.push(timed(&import(bench, &store, &tar), None)?);
        remove(&unpacked)?;
        remove(&image)?;
        std::fs::create_dir(&unpacked)?;
        settle()?;
        let mut unpack =
            program("tar", ["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf"]);
        unpack.arg(&tar).arg("-C").arg(&unpacked);
        let unpack = timed(&unpack, None)?;
        theirs.push(after(unpack, timed(&mke2fs(&unpacked, &image, size)?, Some(&image))?));
    }
    let mut table = Table::new("Tar of Debian tree 2, wall time, medians in turn, warm cache");
    beside(&mut table, "silt build FILE.tar", ours, "tar x, mke2fs -d", theirs, "<= 0.6");
    remove(&room)?;
    Ok(table)
}

/// `silt build FILE.img` beside `casync make` and `restic backup`.
fn raw(bench: &Bench) -> Result<Table> {
    let room = bench.room("sources-raw")?;
    let (store, raw) = (room.join("store"), room.join("raw.img"));
    raw_image(bench, 2, &raw)?;
    let mut runs = [const { Vec::<Took>::new() }; 3];
    for _ in 0..bench.runs {
        remove(&store)?;
        settle()?;
        runs[0].push(timed(&import(bench, &store, &raw), None)?);
        let (chunks, index) = (room.join("casync"), room.join("raw.caibx"));
        remove(&chunks)?;
        settle()?;
        let mut casync = program("casync", ["make"]);
        runs[1].push(timed(casync.arg("--store").arg(&chunks).arg(&index).arg(&raw), None)?);
        let repository = room.join("restic");
        remove(&repository)?;
        output(&mut restic(&room, &["init", "--repository-version", "2"]))?;
        settle()?;
        runs[2].push(timed(restic(&room, &["backup"]).arg(&raw), None)?);
    }
    let mut table =
        Table::new("Raw ext4 disk of Debian tree 2, wall time, medians in turn, warm cache");
    let [ours, casync, restic] = runs;
    beside(&mut table, "silt build FILE.img", ours.clone(), "casync make", casync, "<= 0.33");
    beside(&mut table, "silt build FILE.img", ours, "restic backup", restic, "<= 0.33");
    table.note("each into an empty store; restic's is made before its time begins");
    remove(&room)?;
    Ok(table)
}

/// 100 GiB with 1 GiB of data, beside 1 GiB.
fn sparse(bench: &Bench) -> Result<Table> {
    let (room, mut runs) = (bench.room("sources-sparse")?, [const { Vec::<Took>::new() }; 2]);
    let (store, raws) = (room.join("store"), ["dense.img", "sparse.img"].map(|n| room.join(n)));
    for (raw, stride) in raws.iter().zip([1, 100]) {
        noise(raw, stride)?;
    }
    for _ in 0..bench.runs {
        for (raw, runs) in raws.iter().zip(&mut runs) {
            remove(&store)?;
            settle()?;
            runs.push(timed(&import(bench, &store, raw), None)?);
        }
    }
    let mut table =
        Table::new("Raw disks with 1 GiB of noise, wall time, medians in turn, warm cache");
    let [dense, sparse] = runs;
    beside(&mut table, "100 GiB, sparse", sparse, "1 GiB", dense, "<= 1.2");
    remove(&room)?;
    Ok(table)
}

/// Raw disks of the three trees imported where the trees were built.
fn sharing(bench: &Bench) -> Result<Table> {
    let room = bench.room("sources-sharing")?;
    let (store, raw) = (room.join("store"), room.join("raw.img"));
    let file_data = || -> Result<(f64, f64)> {
        let info = json(&mut silt(bench, &store, ["info", "--json"]))?;
        Ok((number(&info, "bytes_unique_file_data")?, number(&info, "bytes_unique")?))
    };
    for number in 1..=3 {
        let tree = trees::debian(bench, number)?;
        output(silt(bench, &store, ["build"]).arg(&tree).arg(format!("built-{number}")))?;
    }
    let mut table = Table::new("Raw mke2fs -d disks imported beside the built trees");
    for number in 1..=3 {
        let before = file_data()?;
        raw_image(bench, number, &raw)?;
        output(silt(bench, &store, ["build"]).arg(&raw).arg(format!("raw-{number}")))?;
        let after = file_data()?;
        let shared = 1.0 - (after.0 - before.0) / before.0;
        table.alone(&format!("tree {number}: file data shared"), shared, "", ">= 0.97");
        let added = (after.1 - before.1) / before.1;
        table.alone("  bytes_unique added", added, "of what was there", "<= 0.05");
    }
    remove(&room)?;
    Ok(table)
}

/// `silt build FILE image`.
fn import(bench: &Bench, store: &Path, file: &Path) -> Command {
    let mut command = silt(bench, store, ["build"]);
    command.arg(file).arg("image");
    command
}

/// The raw ext4 disk that `mke2fs -d` makes of a tree.
fn raw_image(bench: &Bench, number: u32, raw: &Path) -> Result<()> {
    let tree = trees::debian(bench, number)?;
    remove(raw)?;
    output(&mut mke2fs(&tree, raw, u64::from(number) << 30)?).map(drop)
}

fn restic(room: &Path, arguments: &[&str]) -> Command {
    let mut command = program("restic", ["--quiet", "--repo"]);
    command.arg(room.join("restic")).args(arguments);
    command.env("RESTIC_PASSWORD", "bench").env("RESTIC_CACHE_DIR", room.join("restic-cache"));
    command
}

/// What two steps took, one after the other.
fn after(first: Took, second: Took) -> Took {
    Took {
        seconds: first.seconds + second.seconds,
        processor: first.processor + second.processor,
        resident_mib: first.resident_mib.max(second.resident_mib),
    }
}

fn beside(
    table: &mut Table,
    what: &str,
    ours: Vec<Took>,
    peer: &str,
    theirs: Vec<Took>,
    target: &str,
) {
    let (ours, theirs) = (median_run(ours), median_run(theirs));
    table.beside(what, (ours.seconds, "s"), peer, theirs.seconds, target);
    table.beside("  processor time", (ours.processor, "s"), "", theirs.processor, "");
    table.beside(
        "  peak resident",
        (ours.resident_mib, "MiB"),
        "",
        theirs.resident_mib,
        "<= 256 MiB",
    );
}
