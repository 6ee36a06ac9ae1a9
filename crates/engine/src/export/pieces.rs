//! What is exported of a disk, cut into pieces of work: runs of bytes, ascending, gathered by the window they lie in.

use silt_types::{Progress, Result};
use silt_volume::{BlockDevice as _, BlockStatus, Volume};
use std::{ops::Range, vec};

/// A disk is cut into windows of this size, each at a multiple of it: whole clusters of qcow2, and long enough that a chunk
/// seldom lies across a border and is decoded twice.
pub(super) const WINDOW_SIZE_BYTES: u64 = 1 << 20;
/// Runs that are looked up at a time.
const RUNS_AHEAD: usize = 64;

/// What one window holds of the runs.
pub(super) struct Piece {
    /// How many pieces came before.
    pub(super) number: u64,
    /// Offset of the window in bytes.
    pub(super) window: u64,
    /// Parts of the window, ascending: at least one, each beginning with a block.
    pub(super) parts: Vec<Range<u64>>,
}

/// Cuts runs into pieces.
pub(super) struct Pieces<I> {
    runs: I,
    /// What is left of the run that was taken last.
    left: Option<Range<u64>>,
    number: u64,
}

impl<I> Pieces<I> {
    /// `runs` are ranges of bytes, ascending, each beginning with a block.
    pub(super) fn new(runs: I) -> Pieces<I> {
        Pieces { runs, left: None, number: 0 }
    }
}

impl<I: Iterator<Item = Result<Range<u64>>>> Iterator for Pieces<I> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Result<Piece>> {
        let mut parts = Vec::new();
        let mut window = None;
        while let Some(run) = self.left.take().map(Ok).or_else(|| self.runs.next()) {
            let run = match run {
                Ok(run) => run,
                Err(error) => return Some(Err(error)),
            };
            let start = run.start / WINDOW_SIZE_BYTES * WINDOW_SIZE_BYTES;
            let end = *window.get_or_insert(start) + WINDOW_SIZE_BYTES;
            if run.start >= end {
                self.left = Some(run);
                break;
            }
            parts.push(run.start..run.end.min(end));
            if run.end > end {
                self.left = Some(end..run.end);
                break;
            }
        }
        let window = window?;
        self.number += 1;
        Some(Ok(Piece { number: self.number - 1, window, parts }))
    }
}

/// The runs of a disk that some layer of it holds as data; they may hold zeros too. What lies between them is passed over
/// in time that does not depend on its length, and told as done.
pub(super) struct DataRuns<'a> {
    volume: &'a Volume,
    progress: &'a dyn Progress,
    at: u64,
    ahead: vec::IntoIter<BlockStatus>,
}

impl<'a> DataRuns<'a> {
    pub(super) fn new(volume: &'a Volume, progress: &'a dyn Progress) -> DataRuns<'a> {
        DataRuns { volume, progress, at: 0, ahead: Vec::new().into_iter() }
    }
}

impl Iterator for DataRuns<'_> {
    type Item = Result<Range<u64>>;

    fn next(&mut self) -> Option<Result<Range<u64>>> {
        let size = self.volume.geometry().size_bytes;
        loop {
            if let Some(run) = self.ahead.next() {
                let start = self.at;
                self.at += run.len_bytes;
                if !run.zero {
                    return Some(Ok(start..self.at));
                }
                self.progress.advance(run.len_bytes);
            } else if self.at >= size {
                return None;
            } else {
                match self.volume.block_status(self.at, size - self.at, RUNS_AHEAD) {
                    Ok(runs) => self.ahead = runs.into_iter(),
                    Err(error) => {
                        self.at = size;
                        return Some(Err(error));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_cut_at_windows_and_gathered_within_them() {
        const W: u64 = WINDOW_SIZE_BYTES;
        let runs = [0..4096, 8192..3 * W + 10, 3 * W + 4096..4 * W, 9 * W - 4096..9 * W];
        let pieces = Pieces::new(runs.into_iter().map(Ok)).map(|piece| piece.unwrap());
        let ends =
            |parts: Vec<Range<u64>>| parts.iter().map(|p| (p.start, p.end)).collect::<Vec<_>>();
        let pieces = pieces.map(|piece| (piece.number, piece.window, ends(piece.parts)));
        let expected = [
            (0, 0, vec![(0, 4096), (8192, W)]),
            (1, W, vec![(W, 2 * W)]),
            (2, 2 * W, vec![(2 * W, 3 * W)]),
            (3, 3 * W, vec![(3 * W, 3 * W + 10), (3 * W + 4096, 4 * W)]),
            (4, 8 * W, vec![(9 * W - 4096, 9 * W)]),
        ];
        assert_eq!(pieces.collect::<Vec<_>>(), expected);
        assert!(Pieces::new(std::iter::empty()).next().is_none());
    }
}
