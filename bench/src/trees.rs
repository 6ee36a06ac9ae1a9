//! The inputs: three Debian trees, each holding the one before, made once by `e2e/debian-tree.sh`.

use std::path::PathBuf;

use crate::side::{output, program, warm};
use crate::{Bench, Result};

/// Tree `number` (1 to 3), made if it is missing, its files in the page cache.
pub fn debian(bench: &Bench, number: u32) -> Result<PathBuf> {
    let tree = bench.scratch.join(format!("debian-{number}"));
    if !tree.join("etc/debian_version").exists() {
        eprintln!("making Debian tree {number} in {}", tree.display());
        let script = bench.repository.join("e2e/debian-tree.sh");
        output(program(script, [number.to_string()]).arg(&tree))?;
    }
    warm(&tree)?;
    Ok(tree)
}
