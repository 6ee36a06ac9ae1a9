//! What every [`BlockDevice`] has to do, whatever is behind it: held against a model, a `Vec<u8>`.
//!
//! Not here: durability (the fault layer's work) and what a device does with the space it is given back.

#![expect(clippy::panic, reason = "a suite tells what it found as a test does")]

use silt_sys::iobuf::{IoBuf, IoBufMut, PieceMut};
use silt_types::{BLOCK_SIZE_BYTES, ErrorKind, Result};
use silt_volume::{BlockDevice, BlockStatus};
use std::{ops::Range, sync::Arc, thread};

const BLOCK: usize = BLOCK_SIZE_BYTES as usize;

/// A disk of 75 whole blocks: more than four chunks of 64 KiB, and no multiple of one.
const SIZE: usize = 75 * BLOCK;

/// Where each random run starts. Printed with every failure; a failure that was found belongs here.
const SEEDS: [u64; 3] = [0x51_17, 0xb10c_de71, 0x0dd_ba11_cafe];

/// Runs every case. `make` gives a writable disk of a size in bytes (a multiple of 4096) that reads as zero, a new one
/// at every call. Panics, naming the case, where the device and the model part.
pub fn conformance(make: &dyn Fn(u64) -> Arc<dyn BlockDevice>) {
    a_new_disk_has_its_size_and_reads_as_zero(make);
    writes_of_any_alignment_change_exactly_their_bytes(make);
    memory_in_pieces_is_as_good_as_in_one(make);
    zeroes_of_any_alignment_are_exact(make);
    discard_zeroes_whole_blocks_and_keeps_the_edges(make);
    status_covers_the_beginning_of_the_range_and_never_lies(make);
    requests_beyond_the_end_are_refused_and_change_nothing(make);
    requests_for_nothing_do_nothing(make);
    writers_of_neighbouring_bytes_do_not_harm_each_other(make);
    for seed in SEEDS {
        a_random_run_keeps_to_the_model(make, seed);
    }
}

/// `readv_at` of a device that is a client, and takes only memory of its own: [`BlockDevice::read_at`] must be its work.
pub fn read_through_private_memory(
    client: &dyn BlockDevice,
    buf: IoBufMut<'_>,
    offset: u64,
) -> Result<()> {
    let mut memory = vec![0; buf.len()];
    client.read_at(&mut memory, offset)?;
    buf.copy_from(&memory);
    Ok(())
}

/// The same for `writev_at`.
pub fn write_through_private_memory(
    client: &dyn BlockDevice,
    buf: IoBuf<'_>,
    offset: u64,
) -> Result<()> {
    let mut memory = vec![0; buf.len()];
    buf.copy_to(&mut memory);
    client.write_at(&memory, offset)
}

/// Ranges whose ends lie on, before and behind borders of blocks and chunks.
fn ranges() -> Vec<Range<usize>> {
    let chunk = 16 * BLOCK;
    vec![
        0..1,
        0..BLOCK,
        1..BLOCK - 1,
        BLOCK - 1..BLOCK + 1,
        BLOCK..BLOCK,
        2 * BLOCK + 512..2 * BLOCK + 1024,
        3 * BLOCK - 7..6 * BLOCK + 9,
        chunk - 1..chunk + 1,
        chunk - BLOCK..chunk + BLOCK,
        chunk..3 * chunk,
        chunk + 5..4 * chunk - 3,
        SIZE - BLOCK - 1..SIZE,
        SIZE - 1..SIZE,
        0..SIZE,
    ]
}

/// A device and what it should hold.
struct Pair {
    device: Arc<dyn BlockDevice>,
    model: Vec<u8>,
    random: Random,
}

impl Pair {
    fn zero(make: &dyn Fn(u64) -> Arc<dyn BlockDevice>) -> Pair {
        Pair { device: make(SIZE as u64), model: vec![0; SIZE], random: Random(1) }
    }

    fn full(make: &dyn Fn(u64) -> Arc<dyn BlockDevice>) -> Pair {
        let mut pair = Pair::zero(make);
        pair.write(0..SIZE, "the first fill");
        pair
    }

    fn write(&mut self, range: Range<usize>, case: &str) {
        let bytes = self.random.bytes(range.len());
        self.device
            .write_at(&bytes, range.start as u64)
            .unwrap_or_else(|error| panic!("{case}: write {range:?}: {error:?}"));
        self.model[range].copy_from_slice(&bytes);
    }

    fn write_zeroes(&mut self, range: Range<usize>, may_unmap: bool, case: &str) {
        self.device
            .write_zeroes(range.start as u64, range.len() as u64, may_unmap)
            .unwrap_or_else(|error| panic!("{case}: zero {range:?}: {error:?}"));
        self.model[range].fill(0);
    }

    fn discard(&mut self, range: Range<usize>, case: &str) {
        self.device
            .discard(range.start as u64, range.len() as u64)
            .unwrap_or_else(|error| panic!("{case}: discard {range:?}: {error:?}"));
        let start = range.start.next_multiple_of(BLOCK);
        let end = range.end / BLOCK * BLOCK;
        if start < end {
            self.model[start..end].fill(0);
        }
    }

    fn check(&self, range: Range<usize>, case: &str) {
        let mut buf = vec![0xaa; range.len()];
        let offset = range.start as u64;
        self.device
            .read_at(&mut buf, offset)
            .unwrap_or_else(|error| panic!("{case}: read {range:?}: {error:?}"));
        self.compare(&buf, &range, case);
        buf.fill(0x55);
        let hot = self.device.read_hot(buf.as_mut_slice().into(), offset);
        if hot.unwrap_or_else(|error| panic!("{case}: hot read {range:?}: {error:?}")) {
            self.compare(&buf, &range, case);
        }
    }

    fn check_all(&self, case: &str) {
        self.check(0..self.model.len(), case);
    }

    fn compare(&self, read: &[u8], range: &Range<usize>, case: &str) {
        let differ = read.iter().zip(&self.model[range.clone()]).position(|(a, b)| a != b);
        if let Some(at) = differ {
            let at = range.start + at;
            panic!("{case}: byte {at} (block {}, {} in it) is wrong", at / BLOCK, at % BLOCK);
        }
    }

    fn check_status(&self, range: Range<usize>, runs_max: usize, case: &str) -> Vec<BlockStatus> {
        let runs = self
            .device
            .block_status(range.start as u64, range.len() as u64, runs_max)
            .unwrap_or_else(|error| panic!("{case}: status of {range:?}: {error:?}"));
        assert!(!runs.is_empty(), "{case}: no run for {range:?}");
        assert!(runs.len() <= runs_max, "{case}: {} runs for {range:?}", runs.len());
        let mut at = range.start;
        for run in &runs {
            assert!(run.len_bytes > 0, "{case}: an empty run at {at}");
            let end = at + run.len_bytes as usize;
            assert!(end <= range.end, "{case}: the run at {at} leaves {range:?}");
            let is_zero = self.model[at..end].iter().all(|byte| *byte == 0);
            assert!(is_zero || !run.zero, "{case}: {at}..{end} is said to be zero");
            at = end;
        }
        runs
    }
}

fn a_new_disk_has_its_size_and_reads_as_zero(make: &dyn Fn(u64) -> Arc<dyn BlockDevice>) {
    for size in [BLOCK, SIZE] {
        let device = make(size as u64);
        let geometry = device.geometry();
        assert_eq!((geometry.size_bytes, geometry.read_only), (size as u64, false));
        let pair = Pair { device, model: vec![0; size], random: Random(1) };
        pair.check_all("a new disk");
    }
}

fn writes_of_any_alignment_change_exactly_their_bytes(make: &dyn Fn(u64) -> Arc<dyn BlockDevice>) {
    for mut pair in [Pair::zero(make), Pair::full(make)] {
        for range in ranges() {
            pair.write(range.clone(), "any alignment");
            pair.check(range.clone(), "what was written");
            pair.check_all("all after a write");
        }
        pair.device.flush().unwrap_or_else(|error| panic!("flush: {error:?}"));
        pair.check_all("after a flush");
    }
}

fn memory_in_pieces_is_as_good_as_in_one(make: &dyn Fn(u64) -> Arc<dyn BlockDevice>) {
    let mut pair = Pair::full(make);
    for (range, piece_len) in [(5..700, 1), (BLOCK - 512..3 * BLOCK, 512), (17..SIZE - 9, BLOCK)] {
        let case = format!("pieces of {piece_len} bytes");
        let (mut bytes, offset) = (pair.random.bytes(range.len()), range.start as u64);
        pair.model[range.clone()].copy_from_slice(&bytes);
        let pieces: Vec<_> = bytes.chunks_mut(piece_len).map(PieceMut::from).collect();
        let written = pair.device.writev_at(pieces.as_slice().into(), offset);
        written.unwrap_or_else(|error| panic!("{case}: write {range:?}: {error:?}"));
        pair.check_all(&case);
        let mut found = vec![0xaa; range.len()];
        let pieces: Vec<_> = found.chunks_mut(piece_len).map(PieceMut::from).collect();
        let read = pair.device.readv_at(pieces.as_slice().into(), offset);
        read.unwrap_or_else(|error| panic!("{case}: read {range:?}: {error:?}"));
        pair.compare(&found, &range, &case);
    }
}

fn zeroes_of_any_alignment_are_exact(make: &dyn Fn(u64) -> Arc<dyn BlockDevice>) {
    for may_unmap in [false, true] {
        let case = if may_unmap { "zeroes that unmap" } else { "zeroes that stay allocated" };
        for range in ranges() {
            let mut pair = Pair::full(make);
            pair.write_zeroes(range.clone(), may_unmap, case);
            pair.check_all(case);
            pair.write(range, case);
            pair.check_all(case);
        }
    }
}

fn discard_zeroes_whole_blocks_and_keeps_the_edges(make: &dyn Fn(u64) -> Arc<dyn BlockDevice>) {
    for range in ranges() {
        let mut pair = Pair::full(make);
        pair.discard(range.clone(), "discard");
        pair.check_all("discard");
        pair.write(range, "a write over what was discarded");
        pair.check_all("a write over what was discarded");
    }
}

fn status_covers_the_beginning_of_the_range_and_never_lies(
    make: &dyn Fn(u64) -> Arc<dyn BlockDevice>,
) {
    let mut pair = Pair::zero(make);
    for step in 0..4 {
        let case = format!("status after step {step}");
        for range in ranges().into_iter().filter(|range| !range.is_empty()) {
            for runs_max in [1, 2, 1000] {
                pair.check_status(range.clone(), runs_max, &case);
            }
        }
        // Asked again where an answer ended, it gets to the end of the disk.
        let mut at = 0;
        while at < SIZE {
            let runs = pair.check_status(at..SIZE, 2, &case);
            at += runs.iter().map(|run| run.len_bytes as usize).sum::<usize>();
        }
        match step {
            0 => (1..SIZE / BLOCK).step_by(3).for_each(|block| {
                pair.write(block * BLOCK..(block + 1) * BLOCK, &case);
            }),
            1 => pair.discard(5 * BLOCK..30 * BLOCK, &case),
            _ => pair.write_zeroes(28 * BLOCK + 1..60 * BLOCK + 1, true, &case),
        }
    }
}

fn requests_beyond_the_end_are_refused_and_change_nothing(
    make: &dyn Fn(u64) -> Arc<dyn BlockDevice>,
) {
    let pair = Pair::full(make);
    let (device, size) = (&pair.device, SIZE as u64);
    let beyond =
        [(size, BLOCK), (size - 1, 2), (0, SIZE + BLOCK), (u64::MAX - 1, 1), (u64::MAX, 2)];
    for (offset, len) in beyond {
        let mut buf = vec![0xee; len];
        let mut refused = vec![
            ("read", device.read_at(&mut buf, offset)),
            ("write", device.write_at(&buf, offset)),
            ("zero", device.write_zeroes(offset, len as u64, true)),
            ("status", device.block_status(offset, len as u64, 8).map(drop)),
        ];
        if offset.is_multiple_of(BLOCK_SIZE_BYTES) && len.is_multiple_of(BLOCK) {
            refused.push(("discard", device.discard(offset, len as u64)));
        }
        for (what, outcome) in refused {
            match outcome {
                Err(error) if error.kind() == ErrorKind::Invalid => (),
                other => panic!("{what} of {len} bytes at {offset} beyond the end: {other:?}"),
            }
        }
    }
    pair.check_all("after requests beyond the end");
}

fn requests_for_nothing_do_nothing(make: &dyn Fn(u64) -> Arc<dyn BlockDevice>) {
    let mut pair = Pair::full(make);
    for at in [0, 1, BLOCK, SIZE] {
        pair.write(at..at, "nothing");
        pair.write_zeroes(at..at, true, "nothing");
        pair.discard(at..at, "nothing");
        pair.check(at..at, "nothing");
    }
    pair.check_all("nothing");
}

/// Writers take turns by 1000 bytes, so that each block has pieces of all of them, and nobody may undo another's when
/// it fills in the rest of a block.
fn writers_of_neighbouring_bytes_do_not_harm_each_other(
    make: &dyn Fn(u64) -> Arc<dyn BlockDevice>,
) {
    const WRITERS: usize = 4;
    const PIECE: usize = 1000;
    for mut pair in [Pair::zero(make), Pair::full(make)] {
        let pieces: Vec<(usize, Vec<u8>)> =
            (0..SIZE / PIECE).map(|piece| (piece * PIECE, pair.random.bytes(PIECE))).collect();
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (device, pieces) = (&pair.device, &pieces);
                scope.spawn(move || {
                    for (offset, bytes) in pieces.iter().skip(writer).step_by(WRITERS) {
                        device
                            .write_at(bytes, *offset as u64)
                            .unwrap_or_else(|error| panic!("concurrent write: {error:?}"));
                    }
                });
            }
        });
        for (offset, bytes) in pieces {
            pair.model[offset..offset + PIECE].copy_from_slice(&bytes);
        }
        pair.check_all("concurrent writers");
    }
}

fn a_random_run_keeps_to_the_model(make: &dyn Fn(u64) -> Arc<dyn BlockDevice>, seed: u64) {
    let mut pair = Pair { random: Random(seed), ..Pair::zero(make) };
    for step in 0..400 {
        let case = format!("random run with seed {seed:#x}, step {step}");
        let range = pair.random.range(SIZE);
        match pair.random.below(10) {
            0..=3 => pair.write(range, &case),
            4 => pair.write_zeroes(range, true, &case),
            5 => pair.write_zeroes(range, false, &case),
            6 => pair.discard(range, &case),
            7 if !range.is_empty() => drop(pair.check_status(range, 3, &case)),
            8 => pair.device.flush().unwrap_or_else(|error| panic!("{case}: flush: {error:?}")),
            _ => pair.check(range, &case),
        }
    }
    pair.check_all(&format!("the end of the random run with seed {seed:#x}"));
}

/// Numbers that are the same in every run (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        for word in bytes.chunks_mut(8) {
            let random = self.next().to_le_bytes();
            word.copy_from_slice(&random[..word.len()]);
        }
        bytes
    }

    /// A range of a disk: short ones more often than long ones, half of them of whole blocks.
    fn range(&mut self, size: usize) -> Range<usize> {
        let len_max = [BLOCK, 4 * BLOCK, 20 * BLOCK, size][self.below(4)];
        let start = self.below(size);
        let end = (start + self.below(len_max + 1)).min(size);
        if self.below(2) == 0 { start..end } else { start / BLOCK * BLOCK..end / BLOCK * BLOCK }
    }
}
