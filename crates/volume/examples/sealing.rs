//! How fast a delta is sealed into a new store, and in how much memory. Run it in release:
//! `cargo run --release -p silt-volume --example sealing -- files FOLDER [MIB]` seals a disk of MIB MiB (4096) on which
//! mke2fs has laid out the folder; `… -- scattered BLOCKS` seals single blocks all over a disk of 1 TiB.

#![allow(clippy::print_stdout)]

use silt_store::{Compression, Store};
use silt_types::{BLOCK_SIZE_BYTES, Context as _, DeltaId, DiskId, Error, NoProgress, Result};
use silt_volume::{
    BlockDevice as _, Delta, DeltaReader, SealParts, Sealed, Volume, VolumeParts, seal,
};
use std::{fs, io::Read as _, path::Path, process::Command, sync::Arc, time::Instant};

const PIECE: usize = 1 << 20;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let folder = std::env::temp_dir().join(format!("silt-sealing-{}", std::process::id()));
    fs::create_dir(&folder).context(|| format!("cannot make {}", folder.display()))?;
    let number = |text: &str| text.parse().map_err(|_| Error::invalid(format!("{text}: a number")));
    let done = match arguments.as_slice() {
        ["files", source] => files(&folder, source, 4096),
        ["files", source, mib] => number(mib).and_then(|mib| files(&folder, source, mib)),
        ["scattered", blocks] => number(blocks).and_then(|blocks| scattered(&folder, blocks)),
        _ => Err(Error::invalid("say: files FOLDER [MIB], or scattered BLOCKS")),
    };
    fs::remove_dir_all(&folder).context(|| format!("cannot remove {}", folder.display()))?;
    done
}

fn files(folder: &Path, source: &str, mib: u64) -> Result<()> {
    let image = folder.join("image");
    let status = Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-d", source])
        .arg(&image)
        .arg(format!("{mib}M"))
        .status();
    if !status.context(|| "cannot run mke2fs".into())?.success() {
        return Err(Error::invalid("mke2fs failed"));
    }
    let size_bytes = mib << 20;
    let store = Store::open_or_create(&folder.join("store"), 64 << 20)?;
    let write = |volume: &Volume| {
        let mut file = fs::File::open(&image).context(|| "cannot open the image".into())?;
        let mut piece = vec![0; PIECE];
        for at in (0..size_bytes).step_by(PIECE) {
            file.read_exact(&mut piece).context(|| "cannot read the image".into())?;
            for (n, block) in piece.chunks(BLOCK_SIZE_BYTES as usize).enumerate() {
                if block.iter().any(|byte| *byte != 0) {
                    volume.write_at(block, at + n as u64 * BLOCK_SIZE_BYTES)?;
                }
            }
        }
        Ok(())
    };
    let base = DiskId { root: DiskId::ZERO_ROOT, size_bytes };
    let delta = make_delta(&store, folder, base, write)?;
    let sealed = timed("everything new", &store, base, &delta)?;
    println!("{:?}", sealed.counts);
    Ok(())
}

fn scattered(folder: &Path, blocks: u64) -> Result<()> {
    let size_bytes = 1 << 40;
    let store = Store::open_or_create(&folder.join("store"), 64 << 20)?;
    let base = DiskId { root: DiskId::ZERO_ROOT, size_bytes };
    let step = size_bytes / BLOCK_SIZE_BYTES / blocks.max(1);
    let delta = make_delta(&store, folder, base, |volume| {
        let mut block = [7; BLOCK_SIZE_BYTES as usize];
        (0..blocks).try_for_each(|n| {
            block[..8].copy_from_slice(&n.to_le_bytes());
            volume.write_at(&block, n * step * BLOCK_SIZE_BYTES)
        })
    })?;
    println!("before the seal: {} KiB at most", memory_peak_kib());
    let sealed = timed("scattered blocks", &store, base, &delta)?;
    println!("{:?}", sealed.counts);
    Ok(())
}

fn make_delta(
    store: &Store,
    folder: &Path,
    base: DiskId,
    write: impl FnOnce(&Volume) -> Result<()>,
) -> Result<DeltaReader> {
    let dir = folder.join("delta");
    Delta::create(&dir, DeltaId::from_bytes([1; 16]), base.size_bytes)?;
    let volume = Volume::open(VolumeParts {
        source: Arc::new(store.clone()),
        base,
        frozen: vec![],
        own: Some(dir.clone()),
        size_bytes: base.size_bytes,
        lease: None,
    })?;
    write(&volume)?;
    volume.close()?;
    DeltaReader::open(&dir)
}

fn timed(what: &str, store: &Store, base: DiskId, delta: &DeltaReader) -> Result<Sealed> {
    let ingest = store.ingest(Compression::Zstd(1))?;
    let parts = SealParts { source: Arc::new(store.clone()), domain: store.domain(), base, delta };
    let start = Instant::now();
    let sealed = seal(parts, &ingest, &NoProgress)?;
    let seconds = start.elapsed().as_secs_f64();
    let megabytes = (delta.blocks_modified() * BLOCK_SIZE_BYTES) as f64 / 1e6;
    println!(
        "{what}: {megabytes:.0} MB dirty in {seconds:.2} s, {:.0} MB/s; {} KiB of memory at most; {:?}",
        megabytes / seconds,
        memory_peak_kib(),
        ingest.counts(),
    );
    Ok(sealed)
}

/// The most memory that the process has had so far.
fn memory_peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
