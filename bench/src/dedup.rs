//! Three Debian trees in one store: unique bytes beside the theory, size on disk beside restic's.

use std::path::{Path, PathBuf};

use crate::side::{disk_usage, json, number, output, program, remove, settle, silt};
use crate::table::Table;
use crate::theory::Distinct;
use crate::{Bench, Result, trees};

/// Builds all three, exports all three, and gives the exports to restic.
pub fn run(bench: &Bench) -> Result<Vec<Table>> {
    let room = bench.room("dedup")?;
    let store = room.join("store");
    let mut theory = Distinct::default();
    for number in 1..=3 {
        let tree = trees::debian(bench, number)?;
        theory.add(&tree, &mut |_| Ok(()))?;
        let name = format!("debian-{number}");
        output(silt(bench, &store, ["build"]).arg(&tree).arg(name))?;
    }
    let info = json(&mut silt(bench, &store, ["info", "--json"]))?;
    let mut raws = Vec::new();
    for number in 1..=3 {
        let raw = room.join(format!("debian-{number}.img"));
        output(silt(bench, &store, ["export", &format!("debian-{number}")]).arg(&raw))?;
        raws.push(raw);
    }
    settle()?;
    let ours = disk_usage(&store)? as f64;

    let megabytes = |bytes: f64| bytes / 1e6;
    let unique = number(&info, "bytes_unique_file_data")?;
    let expected = theory.bytes as f64;
    let mut table = Table::new("Dedup of Debian trees 1, 2, 3 in one store");
    table.beside(
        "unique file data",
        (megabytes(unique), "MB"),
        "theory",
        megabytes(expected),
        "0.99 to 1.01",
    );
    let else_ = number(&info, "bytes_unique")? - unique;
    table.beside(
        "everything else",
        (megabytes(else_), "MB"),
        "theory, file data",
        megabytes(expected),
        "<= 0.04",
    );
    table.alone("  of which bytes_metadata", megabytes(number(&info, "bytes_metadata")?), "MB", "");
    table.alone("bytes_stored, in packs", megabytes(number(&info, "bytes_stored")?), "MB", "");
    for (compression, target) in [("auto", "<= 0.9"), ("max", "")] {
        let theirs = restic(&room, &raws, compression)? as f64;
        let peer = format!("restic, compression {compression}");
        table.beside("store on disk", (megabytes(ours), "MB"), &peer, megabytes(theirs), target);
    }
    table.alone(
        "chunks",
        number(&info, "chunks")?,
        "",
        &format!("theory {} of files", theory.steps()),
    );
    table.note(format!("theory: distinct 64 KiB steps of unpadded file bytes, zero steps left out; all files hold {:.0} MB", megabytes(theory.bytes_all as f64)));
    table.note("restic backs up the three raw exports, one after the other, into one repository; du of both");
    remove(&room)?;
    Ok(vec![table])
}

/// The size on disk of a new repository that holds the raw images.
fn restic(room: &Path, raws: &[PathBuf], compression: &str) -> Result<u64> {
    let repository = room.join(format!("restic-{compression}"));
    let run = |arguments: &[&str]| {
        let mut command = program("restic", ["--quiet", "--compression", compression, "--repo"]);
        command.arg(&repository).args(arguments);
        command.env("RESTIC_PASSWORD", "bench").env("RESTIC_CACHE_DIR", room.join("restic-cache"));
        output(&mut command)
    };
    run(&["init", "--repository-version", "2"])?;
    for raw in raws {
        run(&["backup", raw.to_str().ok_or("a path that is not UTF-8")?])?;
    }
    disk_usage(&repository)
}
