//! What is known of the content of files between reading them and laying them out: which chunks each has, and which of
//! its blocks are zero. Beyond some in memory kept in an unnamed file, so
//! that memory stays bounded whatever is read.

use silt_ext4::EntryId;
pub(crate) use silt_format::FileStep as Step;
use silt_types::{
    BLOCK_SIZE_BYTES, BlockRange, CHUNK_BLOCKS_MAX, CHUNK_SIZE_BYTES_MAX, Context as _, Result,
    is_zero, runs_of_bits,
};
use std::{
    fs::File,
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{Mutex, PoisonError},
};

const STEP_LEN: usize = Step::LEN;
/// Bytes of steps that are kept in memory: what 7 GB of file data needs. One call of the system for each file is what a
/// rebuild of many small ones would mostly consist of.
const MEMORY_BYTES_MAX: usize = 4 << 20;
/// Steps read from the spool at a time.
const READ_STEPS: usize = 1024;

/// The runs of non-zero blocks of a step, as blocks of the file.
fn runs_of(step: &Step) -> impl Iterator<Item = BlockRange> + use<> {
    let first = u64::from(step.number) * CHUNK_BLOCKS_MAX;
    runs_of_bits(step.blocks).map(move |run| BlockRange { start: first + run.start, ..run })
}

/// The bits of the blocks of `step` that are not zero.
pub(crate) fn nonzero_blocks(step: &[u8]) -> u16 {
    let blocks = step.chunks(BLOCK_SIZE_BYTES as usize).enumerate();
    blocks.fold(0, |bits, (n, block)| if is_zero(block) { bits } else { bits | 1 << n })
}

/// Steps of one file, together in the spool.
#[derive(Clone, Copy)]
struct Segment {
    entry: EntryId,
    first_step: u32,
    count: u32,
    /// Below [`MEMORY_BYTES_MAX`] in memory; what comes after is in the file.
    at: u64,
}

/// Collects the content of files from many threads.
pub(crate) struct ContentsWriter {
    inner: Mutex<Spool>,
}

struct Spool {
    file: File,
    /// The first [`MEMORY_BYTES_MAX`] bytes, and never a part of a segment.
    memory: Vec<u8>,
    /// What goes to the file next.
    buffer: Vec<u8>,
    /// Bytes in the file.
    written: u64,
    segments: Vec<Segment>,
}

impl ContentsWriter {
    /// Nothing yet; spools to an unnamed file in `dir`.
    pub(crate) fn new(dir: &Path) -> Result<ContentsWriter> {
        let file = tempfile::tempfile_in(dir);
        let file = file.context(|| format!("cannot make a temporary file in {}", dir.display()))?;
        let (memory, buffer, segments) = (Vec::new(), Vec::new(), Vec::new());
        let spool = Spool { file, memory, buffer, written: 0, segments };
        Ok(ContentsWriter { inner: Mutex::new(spool) })
    }

    /// Adds neighbouring steps of a file, in order. Parts of a file may come in any order.
    pub(crate) fn add(&self, entry: EntryId, steps: &[Step]) -> Result<()> {
        let Some(first) = steps.first() else {
            return Ok(());
        };
        let mut spool = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let spool = &mut *spool;
        let fits = spool.memory.len() + steps.len() * STEP_LEN <= MEMORY_BYTES_MAX;
        let (out, before) = match fits {
            true => (&mut spool.memory, 0),
            false => (&mut spool.buffer, MEMORY_BYTES_MAX as u64 + spool.written),
        };
        let at = before + out.len() as u64;
        steps.iter().for_each(|step| step.encode_into(out));
        let (first_step, count) = (first.number, steps.len() as u32);
        spool.segments.push(Segment { entry, first_step, count, at });
        if spool.buffer.len() >= 1 << 20 { spool.write_buffer() } else { Ok(()) }
    }

    /// How much was added so far, for [`ContentsWriter::take_back`].
    pub(crate) fn mark(&self) -> usize {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).segments.len()
    }

    /// Takes back what was added since `mark`. Not for when others add, too.
    pub(crate) fn take_back(&self, mark: usize) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).segments.truncate(mark);
    }

    /// Everything that was added, to be read.
    pub(crate) fn finish(self) -> Result<Contents> {
        let mut spool = self.inner.into_inner().unwrap_or_else(PoisonError::into_inner);
        spool.write_buffer()?;
        spool.segments.sort_unstable_by_key(|segment| (segment.entry, segment.first_step));
        Ok(Contents { file: spool.file, memory: spool.memory, segments: spool.segments })
    }
}

impl Spool {
    fn write_buffer(&mut self) -> Result<()> {
        self.file.write_all(&self.buffer).context(|| "cannot write a temporary file".into())?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// The content of every file that was read.
pub(crate) struct Contents {
    file: File,
    memory: Vec<u8>,
    segments: Vec<Segment>,
}

impl Contents {
    /// Visits the steps of a file in order, from `first_step` on, for as long as `visit` answers true.
    pub(crate) fn for_each_step(
        &self,
        entry: EntryId,
        first_step: u32,
        mut visit: impl FnMut(&Step) -> Result<bool>,
    ) -> Result<()> {
        let from =
            self.segments.partition_point(|s| (s.entry, s.first_step) <= (entry, first_step));
        let mut from = from.saturating_sub(1);
        let mut buffer = Vec::new();
        while let Some(segment) = self.segments.get(from).filter(|segment| segment.entry <= entry) {
            from += 1;
            if segment.entry < entry {
                continue;
            }
            for batch in (0..segment.count as usize).step_by(READ_STEPS) {
                let count = READ_STEPS.min(segment.count as usize - batch);
                let encoded = self.read(segment, batch, count, &mut buffer)?;
                let steps = encoded.as_chunks::<STEP_LEN>().0.iter().map(Step::decode);
                for step in steps.filter(|step| step.number >= first_step) {
                    if !visit(&step)? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Steps of a segment, encoded.
    fn read<'a>(
        &'a self,
        segment: &Segment,
        first: usize,
        count: usize,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8]> {
        let (at, len) = (segment.at + (first * STEP_LEN) as u64, count * STEP_LEN);
        let Some(at) = at.checked_sub(MEMORY_BYTES_MAX as u64) else {
            return Ok(&self.memory[at as usize..at as usize + len]);
        };
        buffer.resize(len, 0);
        let read = self.file.read_exact_at(buffer, at);
        read.context(|| "cannot read a temporary file".into())?;
        Ok(buffer)
    }

    /// The runs of blocks of a file that are not zero, as long as they can be.
    pub(crate) fn runs(&self, entry: EntryId) -> Result<Vec<BlockRange>> {
        let mut runs: Vec<BlockRange> = Vec::new();
        self.for_each_step(entry, 0, |step| {
            for run in runs_of(step) {
                match runs.last_mut() {
                    Some(last) if last.end() == run.start => last.len += run.len,
                    _ => runs.push(run),
                }
            }
            Ok(true)
        })?;
        Ok(runs)
    }
}

/// The step that holds a block of a file.
pub(crate) fn step_of_block(block: u64) -> u32 {
    (block * BLOCK_SIZE_BYTES / CHUNK_SIZE_BYTES_MAX as u64) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use silt_types::ChunkId;

    #[test]
    fn steps_come_back_from_memory_and_from_the_file() {
        let mut hierarchy = silt_ext4::Hierarchy::new(silt_ext4::Metadata::default()).unwrap();
        let mut add = |name: &str| {
            let kind = silt_ext4::EntryKind::File;
            let metadata = silt_ext4::Metadata::default();
            hierarchy.add(EntryId::ROOT, name.as_bytes(), kind, metadata).unwrap()
        };
        let (files, gone) = ([add("a"), add("b"), add("c")], add("gone"));
        let step = |file: u32, number| Step {
            number,
            blocks: 1 + file as u16,
            chunk: ChunkId::from_bytes([number as u8; 32]),
        };
        let writer = ContentsWriter::new(&std::env::temp_dir()).unwrap();
        // More than memory takes, of each file in turn, and one that is taken back.
        let rounds = MEMORY_BYTES_MAX as u32 / STEP_LEN as u32 / 1500;
        for round in 0..rounds {
            for (file, entry) in (0..).zip(files) {
                let numbers = round * 1500..(round + 1) * 1500;
                writer.add(entry, &numbers.map(|n| step(file, n)).collect::<Vec<_>>()).unwrap();
            }
            let mark = writer.mark();
            writer.add(gone, &[step(9, round)]).unwrap();
            writer.take_back(mark);
        }
        let contents = writer.finish().unwrap();
        for (file, entry) in (0..).zip(files) {
            let mut next = 1700;
            contents
                .for_each_step(entry, next, |found| {
                    assert_eq!(*found, step(file, next));
                    next += 1;
                    Ok(true)
                })
                .unwrap();
            assert_eq!(next, rounds * 1500);
        }
        contents.for_each_step(gone, 0, |_| panic!("it was taken back")).unwrap();
    }

    #[test]
    fn zero_blocks_are_found_wherever_they_are() {
        let mut step = vec![0; CHUNK_SIZE_BYTES_MAX];
        assert_eq!(nonzero_blocks(&step), 0);
        step[4095] = 1;
        step[15 * 4096] = 1;
        assert_eq!(nonzero_blocks(&step), 1 | 1 << 15);
        assert_eq!(nonzero_blocks(&[0, 0, 1]), 1);
        let step =
            Step { number: 2, blocks: 0b1000_0000_0011_0110, chunk: ChunkId::from_bytes([0; 32]) };
        let runs: Vec<_> = runs_of(&step).map(|run| (run.start, run.len)).collect();
        assert_eq!(runs, [(33, 2), (36, 2), (47, 1)]);
        assert_eq!(runs_of(&Step { blocks: u16::MAX, ..step }).count(), 1);
    }
}
