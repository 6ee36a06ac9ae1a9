//! Requests of 4 KiB to a file that is in the page cache, in groups of sixteen: one system call each, or one `io_uring_enter` for
//! all. What a delta's reads and writes would gain by it; see `docs/design/0004-plain-system-calls-for-deltas.md`.
//!
//!     uring-peer FOLDER [ROUNDS]

#![allow(clippy::print_stdout, unsafe_code)]

use io_uring::{IoUring, opcode, squeue, types};
use std::{
    error::Error,
    fs::{File, OpenOptions},
    os::{fd::AsRawFd as _, unix::fs::FileExt as _},
    path::Path,
    time::Instant,
};

const LEN: u64 = 512 << 20;
const BLOCK: usize = 4096;
const GROUP: usize = 16;
const REQUESTS: u64 = 400_000;

/// Offsets at random, the same each time.
struct Random(u64);

impl Random {
    fn offset(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % (LEN / BLOCK as u64) * BLOCK as u64
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = arguments.first().ok_or("usage: uring-peer FOLDER [ROUNDS]")?;
    let rounds = arguments.get(1).map_or(Ok(5), |rounds| rounds.parse())?;
    let path = Path::new(folder).join("uring-peer.tmp");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
    std::fs::remove_file(&path)?;
    let filling = vec![7; 64 << 10];
    (0..LEN).step_by(filling.len()).try_for_each(|at| file.write_all_at(&filling, at))?;
    file.sync_all()?;
    for is_write in [false, true] {
        let (mut calls, mut ring) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            calls.push(by_calls(&file, is_write)?);
            ring.push(by_ring(&file, is_write)?);
        }
        let (calls, ring) = (median(calls), median(ring));
        let what = if is_write { "write" } else { "read" };
        println!(
            "{what} 4 KiB: {calls} ns each by a call, {ring} ns by io_uring, {:.2}",
            ring as f64 / calls as f64
        );
    }
    Ok(())
}

fn by_calls(file: &File, is_write: bool) -> Result<u64, Box<dyn Error>> {
    let (mut buf, mut random) = (vec![0; BLOCK], Random(0x5117));
    let began = Instant::now();
    for _ in 0..REQUESTS {
        match is_write {
            true => file.write_all_at(&buf, random.offset())?,
            false => file.read_exact_at(&mut buf, random.offset())?,
        }
    }
    Ok(began.elapsed().as_nanos() as u64 / REQUESTS)
}

fn by_ring(file: &File, is_write: bool) -> Result<u64, Box<dyn Error>> {
    let mut ring: IoUring =
        IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(64)?;
    ring.submitter().register_files(&[file.as_raw_fd()])?;
    let mut bufs = vec![vec![0u8; BLOCK]; GROUP];
    let mut random = Random(0x5117);
    let began = Instant::now();
    for _ in 0..REQUESTS / GROUP as u64 {
        for buf in &mut bufs {
            let entry = entry(buf, random.offset(), is_write);
            // SAFETY: the buffer outlives the wait below, and nobody looks at it before.
            unsafe { ring.submission().push(&entry)? };
        }
        ring.submit_and_wait(GROUP)?;
        if ring.completion().any(|done| done.result() != BLOCK as i32) {
            return Err("a request failed".into());
        }
    }
    Ok(began.elapsed().as_nanos() as u64 / REQUESTS)
}

fn entry(buf: &mut [u8], offset: u64, is_write: bool) -> squeue::Entry {
    let len = buf.len() as u32;
    match is_write {
        true => opcode::Write::new(types::Fixed(0), buf.as_ptr(), len).offset(offset).build(),
        false => opcode::Read::new(types::Fixed(0), buf.as_mut_ptr(), len).offset(offset).build(),
    }
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}
