//! A folder built again: nothing changed, one file in a hundred changed, and what `--paranoid` costs, beside the first build.

use std::io::Write as _;

use crate::build::build;
use crate::side::{
    Took, files_below, json, median_run, number, output, program, remove, settle, timed,
};
use crate::table::Table;
use crate::{Bench, Result, trees};

/// One file of so many changes.
const EVERY: usize = 100;

/// Tree 2, copied, as its files are changed.
pub fn run(bench: &Bench) -> Result<Vec<Table>> {
    let (source, room) = (trees::debian(bench, 2)?, bench.room("rebuild")?);
    let (tree, store) = (room.join("tree"), room.join("store"));
    output(program("cp", ["-a"]).arg(source).arg(&tree))?;
    let mut files = Vec::new();
    files_below(&tree, &mut files)?;
    files.sort();
    // What changed a moment ago is read again by the next build.
    let wait = || std::thread::sleep(std::time::Duration::from_millis(2500));
    let again = |options: &[&str]| -> Result<Took> {
        settle()?;
        let mut command = build(bench, &store, &tree, None);
        timed(command.arg("--replace").args(options), None)
    };
    let mut runs = [const { Vec::<Took>::new() }; 4];
    let mut read = 0.0;
    for round in 0..bench.runs {
        wait();
        remove(&store)?;
        runs[0].push(again(&[])?);
        runs[1].push(again(&[])?);
        for file in files.iter().skip(round % EVERY).step_by(EVERY) {
            std::fs::OpenOptions::new().append(true).open(file)?.write_all(b"changed\n")?;
        }
        wait();
        runs[2].push(again(&[])?);
        runs[3].push(again(&["--paranoid"])?);
        let report = json(build(bench, &store, &tree, None).args(["--replace", "--json"]))?;
        read = number(&report, "bytes_read")?;
    }
    let [first, nothing, some, paranoid] = runs.map(median_run);
    let mut table = Table::new("Debian tree 2 built again, wall time, medians in turn, warm cache");
    for (what, took, target) in [
        ("nothing changed", nothing, "<= 0.1"),
        ("1 % of files changed", some, "<= 0.15"),
        ("nothing changed, --paranoid", paranoid, ""),
    ] {
        table.beside(what, (took.seconds, "s"), "first build", first.seconds, target);
        table.beside("  processor time", (took.processor, "s"), "", first.processor, "");
        table.alone("  peak resident", took.resident_mib, "MiB", "<= 256 MiB");
    }
    table.alone("  peak resident, first build", first.resident_mib, "MiB", "<= 256 MiB");
    table.note(format!("an unchanged folder: {read} bytes read"));
    table.note(format!("{} files; a changed one has a line appended", files.len()));
    remove(&room)?;
    Ok(vec![table])
}
