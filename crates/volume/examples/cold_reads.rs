//! First reads of an image: what fetching, decoding and verifying its chunks costs. Everything stored is in the page cache
//! of the system; what is measured is this program's work.
//!
//! `cargo run --release -p silt-volume --example cold_reads -- STORE IMAGE`

#![allow(clippy::print_stdout)]

use silt_store::{Named, Store};
use silt_types::{BLOCK_SIZE_BYTES, Error, Result};
use silt_volume::{BlockDevice as _, DiskMap, Volume, VolumeParts};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Decoded chunks kept in memory: none to speak of, so that every read is a first one.
const CACHE: u64 = 1 << 20;

/// What a server keeps unless told otherwise.
const CACHE_IN_USE: u64 = 640 << 20;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [store, image] = &arguments[..] else {
        return Err(Error::invalid("give a store and an image"));
    };
    let (_, extents) = open(store, image, CACHE)?;
    let bytes: u64 = extents.iter().map(|(_, len)| len).sum();
    println!("{} MB of content in {} extents", bytes / 1_000_000, extents.len());
    sequential(store, image, &extents, 1)?; // Brings the packs into the page cache.
    for threads in [1, 2] {
        let (time, cpu) = sequential(store, image, &extents, threads)?;
        let rate = |time: Duration| bytes as f64 / 1e6 / time.as_secs_f64();
        println!(
            "sequential, {threads} at a time: {:.0} MB/s, {:.0} MB/s for each second of processor time",
            rate(time),
            rate(cpu)
        );
    }
    for reads_ahead in [false, true] {
        let (time, waited) = in_order(store, image, reads_ahead)?;
        let how = if reads_ahead { "with readahead" } else { "without readahead" };
        println!(
            "one reader, 128 KiB at a time over all of the disk, {how}: {:.0} MB/s of content, waited {waited} times",
            bytes as f64 / 1e6 / time.as_secs_f64()
        );
    }
    random(store, image, &extents)
}

/// A guest that reads the whole disk in order, hot where it can.
fn in_order(store: &str, image: &str, reads_ahead: bool) -> Result<(Duration, u32)> {
    let (mut disk, _) = open(store, image, CACHE_IN_USE)?;
    if reads_ahead {
        disk.read_ahead();
    }
    let mut buf = vec![0; 128 << 10];
    let mut waited = 0;
    let began = Instant::now();
    for at in (0..disk.geometry().size_bytes).step_by(buf.len()) {
        let len = (disk.geometry().size_bytes - at).min(buf.len() as u64) as usize;
        if !disk.read_hot(buf[..len].as_mut().into(), at)? {
            waited += 1;
            disk.read_at(&mut buf[..len], at)?;
        }
    }
    Ok((began.elapsed(), waited))
}

type Extents = Vec<(u64, u64)>;

fn open(store: &str, image: &str, cache: u64) -> Result<(Volume, Extents)> {
    let store = Store::open(Path::new(store), cache)?;
    let Named::Image(record) = store.find(&image.parse()?)? else {
        return Err(Error::invalid("that is no image"));
    };
    let source = Arc::new(store);
    let map = DiskMap::open(source.clone(), record.disk)?;
    let extents: Result<Extents> = map
        .extents()
        .map(|extent| {
            let range = extent?.range;
            Ok((range.start * BLOCK_SIZE_BYTES, range.len * BLOCK_SIZE_BYTES))
        })
        .collect();
    let (base, size_bytes) = (record.disk, record.disk.size_bytes);
    let parts =
        VolumeParts { source, base, size_bytes, frozen: Vec::new(), own: None, lease: None };
    Ok((Volume::open(parts)?, extents?))
}

fn sequential(
    store: &str,
    image: &str,
    extents: &[(u64, u64)],
    threads: usize,
) -> Result<(Duration, Duration)> {
    let (disk, _) = open(store, image, CACHE)?;
    let next = AtomicUsize::new(0);
    let (began, cpu_began) = (Instant::now(), cpu());
    std::thread::scope(|scope| {
        let read = || {
            let mut buf = vec![0; 1 << 20];
            while let Some((offset, len)) = extents.get(next.fetch_add(1, Ordering::Relaxed)) {
                for at in (*offset..offset + len).step_by(buf.len()) {
                    let len = (offset + len - at).min(buf.len() as u64) as usize;
                    disk.read_at(&mut buf[..len], at)?;
                }
            }
            Ok(())
        };
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(read)).collect();
        all.into_iter().try_for_each(|thread| {
            thread.join().map_err(|_| Error::internal("a thread panicked"))?
        })
    })?;
    Ok((began.elapsed(), cpu() - cpu_began))
}

fn random(store: &str, image: &str, extents: &[(u64, u64)]) -> Result<()> {
    let (disk, _) = open(store, image, CACHE)?;
    let mut buf = vec![0; BLOCK_SIZE_BYTES as usize];
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut times: Vec<Duration> = (0..20_000)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let (offset, len) = extents[state as usize % extents.len()];
            let blocks = len / BLOCK_SIZE_BYTES;
            let at = offset + (state >> 32) % blocks * BLOCK_SIZE_BYTES;
            let began = Instant::now();
            disk.read_at(&mut buf, at).map(|()| began.elapsed())
        })
        .collect::<Result<_>>()?;
    times.sort_unstable();
    let at = |part: usize| times[times.len() * part / 100].as_micros();
    println!(
        "random 4 KiB: median {} us, 90 of 100 {} us, 99 of 100 {} us",
        at(50),
        at(90),
        at(99)
    );
    Ok(())
}

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
