//! Where the content of a sparse member belongs in its file.

use super::pax::decimal;
use silt_types::{Error, Result};
use std::ops::Range;

/// Runs of one member: 64 MiB of memory. A file of a terabyte that has a hole in every 256 KiB stays below.
pub(super) const RUNS_MAX: usize = 1 << 22;

/// Runs of bytes that hold data, ascending and apart.
#[derive(Debug, Default)]
pub(super) struct SparseMap {
    runs: Vec<Range<u64>>,
    len_bytes: u64,
}

impl SparseMap {
    /// One run: the whole file.
    pub(super) fn whole(size_bytes: u64) -> SparseMap {
        let mut map = SparseMap { runs: Vec::new(), len_bytes: size_bytes };
        if size_bytes > 0 {
            map.runs.push(0..size_bytes);
        }
        map
    }

    /// Adds a run behind the others. One of no length, with which some mark the end of the file, is left out.
    pub(super) fn push(&mut self, offset: u64, len: u64) -> Result<()> {
        let end = offset.checked_add(len).ok_or_else(bad)?;
        if self.runs.last().is_some_and(|last| last.end > offset) || self.runs.len() == RUNS_MAX {
            return Err(bad());
        }
        if len > 0 {
            self.runs.push(offset..end);
            self.len_bytes += len; // Apart, so no more than 64 bits hold.
        }
        Ok(())
    }

    /// Adds offsets and lengths in turn.
    pub(super) fn push_pairs(&mut self, numbers: &[u64]) -> Result<()> {
        let (pairs, rest) = numbers.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(bad());
        }
        pairs.iter().try_for_each(|[offset, len]| self.push(*offset, *len))
    }

    /// The runs of a file so long, whose data takes so many bytes in the archive.
    pub(super) fn finish(self, size_bytes: u64, stored_bytes: u64) -> Result<Vec<Range<u64>>> {
        let end = self.runs.last().map_or(0, |last| last.end);
        if end > size_bytes || self.len_bytes != stored_bytes {
            return Err(bad());
        }
        Ok(self.runs)
    }
}

/// Reads a map of version 1.0, which stands before the content in blocks of 512 bytes: the number of runs, then offset and
/// length of each, a line each. `next` gives the next block. Answers the map and the bytes that it took.
pub(super) fn read_map(
    mut next: impl FnMut() -> Result<[u8; 512]>,
    stored_bytes: u64,
) -> Result<(SparseMap, u64)> {
    let (mut block, mut at, mut taken) = ([0; 512], 512, 0);
    let mut number = || {
        let mut digits = Vec::new();
        loop {
            if at == block.len() {
                taken += 512;
                if taken > stored_bytes {
                    return Err(bad());
                }
                (block, at) = (next()?, 0);
            }
            let byte = block[at];
            at += 1;
            match byte {
                b'\n' => return decimal(&digits),
                // Longer than any number there is.
                _ if digits.len() == 20 => return Err(bad()),
                _ => digits.push(byte),
            }
        }
    };
    let mut map = SparseMap::default();
    let runs = number()?;
    for _ in 0..runs {
        let (offset, len) = (number()?, number()?);
        map.push(offset, len)?;
    }
    Ok((map, taken))
}

fn bad() -> Error {
    Error::invalid("its map of holes is impossible")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_maps_are_refused() {
        let map = |numbers: &[u64]| {
            let mut map = SparseMap::default();
            map.push_pairs(numbers).map(|()| map)
        };
        assert_eq!(map(&[0, 5, 9, 1, 20, 0]).unwrap().finish(20, 6).unwrap(), [0..5, 9..10]);
        assert!(map(&[0, 5, 4, 1]).is_err());
        assert!(map(&[9, 5, 4, 1]).is_err());
        assert!(map(&[u64::MAX, 5]).is_err());
        assert!(map(&[1]).is_err());
        assert!(map(&[0, 5]).unwrap().finish(4, 5).is_err());
        assert!(map(&[0, 5]).unwrap().finish(5, 6).is_err());
    }

    #[test]
    fn a_map_before_the_content_is_read_up_to_its_block() {
        let block = |text: &[u8]| {
            let mut block = [0; 512];
            block[..text.len()].copy_from_slice(text);
            move || Ok(block)
        };
        let (map, taken) = read_map(block(b"2\n0\n512\n4096\n10\n"), 1 << 20).unwrap();
        assert_eq!((map.finish(5000, 522).unwrap(), taken), (vec![0..512, 4096..4106], 512));
        for bad in [&b"2\n0\n512\n"[..], b"x\n", b"", b"9999999999\n1\n1\n"] {
            assert!(read_map(block(bad), 2048).is_err());
        }
    }
}
