//! What asking for space costs a write of 4 KiB, where the delta has the block already and where it has not, in nanoseconds:
//! `cargo run --release -p silt-volume --example growth_cost`. With and without bounds in turn, medians of nine.

use silt_store::Store;
use silt_types::{DeltaId, DiskId, Result};
use silt_volume::{BlockDevice as _, Delta, Volume, VolumeParts};
use std::{io::Write as _, path::Path, sync::Arc, time::Instant};

const BLOCKS: u64 = 1 << 14;
const ROUNDS: usize = 9;

/// Nanoseconds for a write, the first time and again.
fn round(store: &Store, dir: &Path, is_bounded: bool) -> Result<[u64; 2]> {
    let (size_bytes, own) = (BLOCKS * 4096, dir.join("delta"));
    drop(Delta::create(&own, DeltaId::from_bytes([1; 16]), size_bytes)?);
    let mut volume = Volume::open(VolumeParts {
        source: Arc::new(store.clone()),
        base: DiskId { root: DiskId::ZERO_ROOT, size_bytes },
        frozen: Vec::new(),
        own: Some(own.clone()),
        size_bytes,
        lease: None,
    })?;
    if is_bounded {
        volume.bound_by(store.allowance(), &store.limits()?, Some(1 << 40))?;
    }
    let write_all = || -> Result<u64> {
        let started = Instant::now();
        for block in 0..BLOCKS {
            // In no order, as a guest does.
            volume.write_at(&[7; 4096], block * 5_003 % BLOCKS * 4096)?;
        }
        Ok(started.elapsed().as_nanos() as u64 / BLOCKS)
    };
    let times = [write_all()?, write_all()?];
    drop(volume);
    std::fs::remove_dir_all(&own)
        .map_err(|error| silt_types::Error::io("cannot remove the delta", error))?;
    Ok(times)
}

fn main() -> Result<()> {
    let dir = tempfile::tempdir().map_err(|error| silt_types::Error::io("no folder", error))?;
    let store = Store::open_or_create(&dir.path().join("store"), 0)?;
    let mut times = [[const { Vec::new() }; 2], [const { Vec::new() }; 2]];
    for _ in 0..ROUNDS {
        for (is_bounded, times) in times.iter_mut().enumerate() {
            let found = round(&store, dir.path(), is_bounded == 1)?;
            times.iter_mut().zip(found).for_each(|(times, found)| times.push(found));
        }
    }
    let median = |times: &mut Vec<u64>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let mut out = std::io::stdout();
    for (what, [first, again]) in ["without bounds", "with bounds"].iter().zip(&mut times) {
        let (first, again) = (median(first), median(again));
        let _ = writeln!(out, "{what:<15} new block {first:>6} ns   again {again:>6} ns");
    }
    Ok(())
}
