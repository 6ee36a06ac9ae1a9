//! What reads and writes of a volume cost when everything is in memory. Prints one line each, in time that the processor
//! spent, so that other work on the machine disturbs less; run it in release:
//! `cargo run --release -p silt-volume --example hot_reads`.

#![allow(clippy::print_stdout)]

use silt_store::{Chunk, ChunkKind, ChunkSink as _, ChunkSource, KeyContext, MemoryChunks};
use silt_types::{ChunkId, DeltaId, DiskId, Result};
use silt_volume::{BlockDevice as _, Delta, DiskMap, MapBuilder, Volume, VolumeParts};
use std::{collections::HashMap, hint::black_box, sync::Arc, thread};

const BLOCK: u64 = 4096;
const DISK_LEN: u64 = 512 << 20;
const BLOCKS: u64 = DISK_LEN / BLOCK;
const ROUNDS: u64 = 2_000_000;

/// Chunks without a lock, so that only this crate is measured.
struct Frozen(HashMap<(KeyContext, ChunkId), Chunk>);

impl ChunkSource for Frozen {
    fn get(&self, context: KeyContext, id: &ChunkId) -> Result<Chunk> {
        Ok(self.0[&(context, *id)].clone())
    }

    fn get_hot(&self, context: KeyContext, id: &ChunkId) -> Option<Chunk> {
        self.0.get(&(context, *id)).cloned()
    }
}

/// 512 MiB of chunks of 4 to 16 blocks, as of files.
fn build() -> Result<(Arc<Frozen>, DiskId)> {
    let memory = MemoryChunks::new();
    let mut map = MapBuilder::new(&memory, DISK_LEN)?;
    let mut ids = Vec::new();
    let (mut block, mut number) = (0, 0u64);
    while block < BLOCKS {
        number += 1;
        let len = (4 + random(number) % 13).min(BLOCKS - block);
        let content =
            vec![(number % 250) as u8 + 1; (len * BLOCK) as usize - number as usize % 4000];
        let id = memory.put(ChunkKind::FileData, &content)?;
        map.map(block, len, id, 0)?;
        ids.push((KeyContext::Content, id));
        block += len;
    }
    let disk = map.finish()?;
    let memory = Arc::new(memory);
    let mut nodes = Nodes(vec![]);
    DiskMap::open(memory.clone(), disk)?.walk(&mut nodes)?;
    ids.extend(nodes.0.into_iter().map(|id| (KeyContext::MapNode, id)));
    let chunks = ids.into_iter().map(|key| Ok((key, memory.get(key.0, &key.1)?)));
    Ok((Arc::new(Frozen(chunks.collect::<Result<_>>()?)), disk))
}

struct Nodes(Vec<ChunkId>);

impl silt_volume::MapVisitor for Nodes {
    fn enter(&mut self, node: &ChunkId) -> bool {
        self.0.push(*node);
        true
    }
    fn node(&mut self, _node: &ChunkId, _len_bytes: u64) {}
    fn content(&mut self, _chunk: &ChunkId) {}
    fn unreadable(&mut self, _node: &ChunkId, error: silt_types::Error) -> Result<()> {
        Err(error)
    }
}

/// A fixed sequence that looks random (splitmix64).
fn random(n: u64) -> u64 {
    let n = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ n >> 31
}

/// Time that this thread ran, in nanoseconds.
fn ran() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ran| ran.parse().ok()).unwrap_or(f64::NAN)
}

fn time(what: &str, rounds: u64, mut work: impl FnMut(u64) -> Result<()>) -> Result<()> {
    let start = ran();
    for n in 0..rounds {
        work(n)?;
    }
    println!("{what:<58} {:>8.0} ns", (ran() - start) / rounds as f64);
    Ok(())
}

/// A block of the first 4 MiB, which fit the processor's cache with all that leads to them.
fn near(n: u64) -> u64 {
    random(n) % 1024 * BLOCK
}

fn at(n: u64) -> u64 {
    random(n) % BLOCKS * BLOCK
}

fn main() -> Result<()> {
    let (source, base) = build()?;
    let folder = std::env::temp_dir().join(format!("silt-hot-reads-{}", std::process::id()));
    Delta::create(&folder, DeltaId::from_bytes([1; 16]), DISK_LEN)?;
    let image = Volume::open(VolumeParts {
        source: source.clone(),
        base,
        frozen: vec![],
        own: None,
        size_bytes: DISK_LEN,
        lease: None,
    })?;
    let volume = Volume::open(VolumeParts {
        source: source.clone(),
        base,
        frozen: vec![],
        own: Some(folder.clone()),
        size_bytes: DISK_LEN,
        lease: None,
    })?;
    let map = DiskMap::open(source, base)?;
    let mut buf = vec![0; 65_536];
    let source_4k = vec![7; 4096];

    time("memcpy of 4 KiB between random places of 512 MiB", ROUNDS, {
        let memory = vec![1u8; DISK_LEN as usize];
        let mut buf = vec![0; 4096];
        move |n| {
            buf.copy_from_slice(&memory[at(n) as usize..][..4096]);
            black_box(&buf);
            Ok(())
        }
    })?;
    time("memcpy of 4 KiB between random places of 4 MiB", ROUNDS, {
        let memory = vec![1u8; 4 << 20];
        let mut buf = vec![0; 4096];
        move |n| {
            buf.copy_from_slice(&memory[near(n) as usize..][..4096]);
            black_box(&buf);
            Ok(())
        }
    })?;
    time("map look-up, first", BLOCKS / 256, |n| {
        map.lookup(n * 256).map(|found| _ = black_box(found))
    })?;
    time("map look-up, hot", ROUNDS, |n| {
        map.lookup(at(n) / BLOCK).map(|found| _ = black_box(found))
    })?;
    image.read_at(&mut vec![0; DISK_LEN as usize], 0)?;
    volume.read_at(&mut vec![0; DISK_LEN as usize], 0)?;
    time("image: random 4 KiB", ROUNDS, |n| image.read_at(&mut buf[..4096], at(n)))?;
    time("image: random 4 KiB, read_hot", ROUNDS, |n| {
        image.read_hot((&mut buf[..4096]).into(), at(n)).map(|hot| assert!(hot))
    })?;
    time("volume: random 4 KiB of 4 MiB, all in the base", ROUNDS, |n| {
        volume.read_hot((&mut buf[..4096]).into(), near(n)).map(|hot| assert!(hot))
    })?;
    time("volume: random 4 KiB, all of it in the base", ROUNDS, |n| {
        volume.read_hot((&mut buf[..4096]).into(), at(n)).map(|hot| assert!(hot))
    })?;
    time("image: 64 KiB", ROUNDS / 16, |n| image.read_at(&mut buf, at(n).min(DISK_LEN - 65_536)))?;
    thread::scope(|scope| {
        for number in 0..2 {
            let volume = &volume;
            scope.spawn(move || {
                let mut buf = [0; 4096];
                time("volume: random 4 KiB of 4 MiB, one of two threads", ROUNDS, |n| {
                    volume
                        .read_hot(buf.as_mut_slice().into(), near(n + number * ROUNDS))
                        .map(|hot| assert!(hot))
                })
            });
        }
    });
    time("volume: first write of 4 KiB", BLOCKS / 4, |n| {
        volume.write_at(&source_4k, n * 2 * BLOCK)
    })?;
    time("volume: write of 4 KiB again", BLOCKS / 4, |n| {
        volume.write_at(&source_4k, n * 2 * BLOCK)
    })?;
    time("volume: first write of 512 bytes", BLOCKS / 8, |n| {
        volume.write_at(&source_4k[..512], (n * 2 + 1) * BLOCK)
    })?;
    time("volume: random 4 KiB, five eighths in the delta", ROUNDS, |n| {
        volume.read_hot((&mut buf[..4096]).into(), at(n)).map(|hot| assert!(hot))
    })?;
    drop(volume);
    std::fs::remove_dir_all(&folder)
        .map_err(|error| silt_types::Error::io("cannot clean up", error))
}
