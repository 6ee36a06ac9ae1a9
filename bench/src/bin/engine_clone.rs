//! Clones inside the engine: `engine-clone STORE IMAGE COUNT` makes that many volumes in one process.
//!
//! Prints two medians in milliseconds: one clone, and one fdatasync of an appended 4 KiB block beside the
//! store, taken before each clone. Both end in the same file system's journal, so they move together.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use silt_engine::{CloneRequest, Engine};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [store, image, count] = &arguments[..] else {
        return Err("usage: engine-clone STORE IMAGE COUNT".into());
    };
    let engine = Engine::open(Path::new(store), 16 << 20)?;
    let beside = Path::new(store).with_extension("fdatasync");
    let mut file = File::create(&beside)?;
    let (mut clones, mut syncs) = (Vec::new(), Vec::new());
    for number in 0..count.parse::<u32>()? {
        let start = Instant::now();
        file.write_all(&[1; 4096])?;
        file.sync_data()?;
        syncs.push(start.elapsed());
        let volumes = vec![format!("engine-{image}-{number}").parse()?];
        let request = CloneRequest { source: image.parse()?, volumes };
        let start = Instant::now();
        engine.clone_disk(&request)?;
        clones.push(start.elapsed());
    }
    std::fs::remove_file(&beside)?;
    for mut times in [clones, syncs] {
        times.sort();
        let median = times.get(times.len().saturating_sub(1) / 2).copied().unwrap_or_default();
        print!("{:.4} ", median.as_secs_f64() * 1e3);
    }
    println!();
    Ok(())
}
