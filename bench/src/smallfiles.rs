//! 120,000 small files in one folder: `silt build` beside the `mkext4` crate's writer alone.

use std::path::Path;

use crate::build::build;
use crate::side::{median, median_run, output, program, remove, settle, timed, warm};
use crate::table::Table;
use crate::{Bench, Result};

const FILES: u64 = 120_000;

/// Room for every file's block, the inodes and the folder itself.
const IMAGE_SIZE_BYTES: u64 = 1 << 30;

/// Builds both in turn.
pub fn run(bench: &Bench) -> Result<Vec<Table>> {
    let tree = bench.scratch.join("small-files");
    if !tree.join("complete").exists() {
        make(&tree)?;
    }
    warm(&tree)?;
    let room = bench.room("smallfiles")?;
    let (store, image) = (room.join("store"), room.join("mkext4.img"));
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    let mut writer = Vec::new();
    for _ in 0..bench.runs {
        remove(&store)?;
        settle()?;
        ours.push(timed(&build(bench, &store, &tree, None), None)?);
        remove(&image)?;
        settle()?;
        let size = IMAGE_SIZE_BYTES.to_string();
        let said = output(program(bench.peers.join("mkext4-peer"), [&tree, &image]).arg(size))?;
        let words: Vec<&str> = said.split_whitespace().collect();
        let part = |name: &str| -> Result<f64> {
            let at = words
                .iter()
                .position(|word| *word == name)
                .ok_or("the peer said something else")?;
            Ok(words.get(at + 1).ok_or("the peer said too little")?.parse()?)
        };
        theirs.push(part("total")?);
        writer.push(part("seal")? + part("write")? + part("sync")?);
    }
    let ours = median_run(ours);
    let mut table = Table::new(format!(
        "{FILES} small files in one folder, wall time, medians in turn, warm cache"
    ));
    let peer = "mkext4: read folder, write image, fsync";
    table.beside(
        "silt build, default compression",
        (ours.seconds, "s"),
        peer,
        median(theirs),
        "<= 1.5",
    );
    table.beside(
        "",
        (ours.seconds, "s"),
        "mkext4: of that, without reading the folder",
        median(writer),
        "",
    );
    table.alone("peak resident", ours.resident_mib, "MiB", "<= 256 MiB");
    table.note("files of 32 to 512 bytes, all different; mkext4 neither hashes nor compresses, silt does both");
    remove(&room)?;
    Ok(vec![table])
}

/// Files whose content and length follow from their number.
fn make(tree: &Path) -> Result<()> {
    eprintln!("making {FILES} files in {}", tree.display());
    remove(tree)?;
    let folder = tree.join("folder");
    std::fs::create_dir_all(&folder)?;
    for number in 0..FILES {
        let line =
            format!("module.exports = {{ id: {number}, next: './{:06}.js' }};\n", number + 1);
        let length = 32 + (number * 7919 % 480) as usize;
        let content = line.repeat(1 + length / line.len());
        std::fs::write(folder.join(format!("package-{number:06}.js")), &content[..length])?;
    }
    std::fs::write(tree.join("complete"), "")?;
    Ok(())
}
