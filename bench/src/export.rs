//! `silt export` beside `cp --sparse=always` of the same raw disk.

use crate::build::build;
use crate::side::{allocated, median_run, output, program, remove, settle, silt, timed, warm};
use crate::table::Table;
use crate::{Bench, Result, trees};

/// Both write the same bytes to a new file and end with its fsync.
pub fn run(bench: &Bench) -> Result<Vec<Table>> {
    let tree = trees::debian(bench, 2)?;
    let room = bench.room("export")?;
    let (store, raw) = (room.join("store"), room.join("raw.img"));
    output(&mut build(bench, &store, &tree, None))?;
    output(silt(bench, &store, ["export", "debian"]).arg(&raw))?;
    warm(&store)?;
    warm(&raw)?;
    let (ours_to, theirs_to) = (room.join("silt.img"), room.join("cp.img"));
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..bench.runs {
        remove(&ours_to)?;
        settle()?;
        ours.push(timed(silt(bench, &store, ["export", "debian"]).arg(&ours_to), Some(&ours_to))?);
        remove(&theirs_to)?;
        settle()?;
        theirs.push(timed(
            program("cp", ["--sparse=always"]).arg(&raw).arg(&theirs_to),
            Some(&theirs_to),
        )?);
    }
    output(program("cmp", [&ours_to, &theirs_to].map(|path| path.as_os_str())).arg("--quiet"))?;
    let (ours, theirs) = (median_run(ours), median_run(theirs));
    let mut table = Table::new("Export of Debian tree 2, wall time, medians in turn, warm cache");
    table.beside("silt export", (ours.seconds, "s"), "cp --sparse=always", theirs.seconds, "<= 2");
    table.beside("  processor time", (ours.processor, "s"), "", theirs.processor, "");
    table.alone("  peak resident", ours.resident_mib, "MiB", "");
    let allocated = |path| Ok::<f64, Box<dyn std::error::Error>>(allocated(path)? as f64 / 1e6);
    table.beside("  allocated", (allocated(&ours_to)?, "MB"), "", allocated(&theirs_to)?, "");
    table.note("both end with fsync of the file; the results are equal byte for byte (cmp)");
    remove(&room)?;
    Ok(vec![table])
}
