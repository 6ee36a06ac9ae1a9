//! A thousand clones: as processes and inside the engine, of a 1 GiB and of a 1 TiB disk, beside one fdatasync.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use crate::side::{disk_usage, median, output, program, remove, settle, silt};
use crate::table::Table;
use crate::{Bench, Result};

const CLONES: usize = 1000;

/// The same small tree on disks of two sizes.
pub fn run(bench: &Bench) -> Result<Vec<Table>> {
    let room = bench.room("clone")?;
    let tree = room.join("tree");
    std::fs::create_dir(&tree)?;
    std::fs::write(tree.join("file"), "content\n")?;
    let store = room.join("store");
    let mut table = Table::new(format!("Clone, medians of {CLONES}, in one store"));
    for size in ["1GiB", "1TiB"] {
        output(silt(bench, &store, ["build", "--size", size]).arg(&tree).arg(size))?;
    }
    for size in ["1GiB", "1TiB"] {
        let before = disk_usage(&store)?;
        let (process, sync) = as_processes(bench, &store, &room, size)?;
        table.alone(&format!("{size}, as a process"), process, "ms", "<= 15 ms");
        let grown = (disk_usage(&store)? - before) as f64 / CLONES as f64 / 1024.0;
        table.alone("  added to the store by one", grown, "KiB", "<= 64 KiB");
        table.alone("  one fdatasync of 4 KiB in the same run", sync, "ms", "");
        let said = output(
            program(bench.peers.join("engine-clone"), [&store]).arg(size).arg(CLONES.to_string()),
        )?;
        let mut words = said.split_whitespace().map(str::parse::<f64>);
        let (Some(Ok(engine)), Some(Ok(sync))) = (words.next(), words.next()) else {
            return Err(format!("engine-clone said {said:?}").into());
        };
        table.alone(&format!("{size}, in the engine"), engine, "ms", "");
        table.alone("  one fdatasync of 4 KiB in the same run", sync, "ms", "");
        table.alone("  beyond it", engine - sync, "ms", "<= 2 ms");
    }
    table.note(
        "an fdatasync of an appended 4 KiB block precedes each clone, in the store's file system",
    );
    remove(&room)?;
    Ok(vec![table])
}

/// Medians of `silt clone` and of the fdatasync before it, in milliseconds.
fn as_processes(bench: &Bench, store: &Path, room: &Path, image: &str) -> Result<(f64, f64)> {
    settle()?;
    let mut file = File::create(room.join("fdatasync"))?;
    let (mut clones, mut syncs) = (Vec::new(), Vec::new());
    for number in 0..CLONES {
        let start = Instant::now();
        file.write_all(&[1; 4096])?;
        file.sync_data()?;
        syncs.push(start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        output(silt(bench, store, ["clone", image]).arg(format!("process-{image}-{number}")))?;
        clones.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok((median(clones), median(syncs)))
}
