//! Free runs of a numbered space (blocks or inodes), and the question "where is the first run of this length from here on".
//!
//! Runs are kept in a tree; above it stands a tree of maxima over stretches of equal length, so that the question
//! costs a logarithm however fragmented the space is. At most 65,536 stretches, so memory follows the number of runs.

use silt_types::BlockRange;
use std::collections::BTreeMap;

/// Stretches are at least this long: below, looking through the runs costs less than the tree.
const STRETCH_LEN_MIN: u64 = 1024;

/// The most stretches.
const STRETCHES_MAX: u64 = 1 << 16;

/// The free runs of the numbers from 0 to a length.
pub(super) struct Space {
    runs: BTreeMap<u64, u64>,
    stretch_len: u64,
    /// A binary heap in shape: leaf `leaves + i` holds the longest run that starts in stretch `i`, an inner node the
    /// maximum of its two children.
    longest: Vec<u64>,
    leaves: usize,
    free: u64,
}

impl Space {
    /// A space of `len` free numbers.
    pub(super) fn new(len: u64) -> Space {
        let stretch_len = len.div_ceil(STRETCHES_MAX).max(STRETCH_LEN_MIN);
        let leaves = (len.div_ceil(stretch_len).max(1) as usize).next_power_of_two();
        let longest = vec![0; leaves * 2];
        let mut space = Space { runs: BTreeMap::new(), stretch_len, longest, leaves, free: len };
        if len > 0 {
            space.runs.insert(0, len);
            space.update_stretch(0);
        }
        space
    }

    /// How many numbers are free.
    pub(super) fn free(&self) -> u64 {
        self.free
    }

    /// Length of the longest free run.
    pub(super) fn longest_run(&self) -> u64 {
        self.longest[1]
    }

    /// The free runs, ascending.
    pub(super) fn runs(&self) -> impl Iterator<Item = BlockRange> + '_ {
        self.runs.iter().map(|(start, len)| BlockRange { start: *start, len: *len })
    }

    /// The first number from which on `len` numbers are free, at `from` or later.
    pub(super) fn find(&self, from: u64, len: u64) -> Option<u64> {
        if let Some((start, run_len)) = self.runs.range(..=from).next_back()
            && start + run_len >= from + len
        {
            return Some(from);
        }
        let stretch = (from / self.stretch_len) as usize;
        let stretch_end = (stretch as u64 + 1) * self.stretch_len;
        if let Some(start) = self.first_in(from + 1, stretch_end, len) {
            return Some(start);
        }
        let next = self.next_stretch(stretch + 1, len)? as u64;
        self.first_in(next * self.stretch_len, (next + 1) * self.stretch_len, len)
    }

    fn first_in(&self, from: u64, end: u64, len: u64) -> Option<u64> {
        if from >= end {
            return None;
        }
        let found = self.runs.range(from..end).find(|(_, run_len)| **run_len >= len);
        found.map(|(start, _)| *start)
    }

    /// The first stretch from `stretch` on in which a run of that length starts.
    fn next_stretch(&self, stretch: usize, len: u64) -> Option<usize> {
        if stretch >= self.leaves {
            return None;
        }
        let mut node = self.leaves + stretch;
        while self.longest[node] < len {
            // To the next subtree on the right: up while this is a right child.
            while node & 1 == 1 {
                node >>= 1;
            }
            if node == 0 {
                return None;
            }
            node += 1;
        }
        while node < self.leaves {
            node *= 2;
            if self.longest[node] < len {
                node += 1;
            }
        }
        Some(node - self.leaves)
    }

    /// Takes free numbers away. They lie in one free run: the caller found them.
    pub(super) fn take(&mut self, taken: BlockRange) {
        if taken.len == 0 {
            return;
        }
        let Some((start, len)) = self.runs.range(..=taken.start).next_back() else {
            return;
        };
        let run = BlockRange { start: *start, len: *len };
        debug_assert!(taken.end() <= run.end(), "taken numbers lie in one free run");
        self.runs.remove(&run.start);
        self.free -= taken.len;
        if taken.start > run.start {
            self.runs.insert(run.start, taken.start - run.start);
        }
        if run.end() > taken.end() {
            self.runs.insert(taken.end(), run.end() - taken.end());
            self.update_stretch(taken.end());
        }
        self.update_stretch(run.start);
    }

    fn update_stretch(&mut self, number: u64) {
        let stretch = number / self.stretch_len;
        let mut node = self.leaves + stretch as usize;
        if node >= self.longest.len() {
            return;
        }
        let runs = self.runs.range(stretch * self.stretch_len..(stretch + 1) * self.stretch_len);
        self.longest[node] = runs.map(|(_, len)| *len).max().unwrap_or(0);
        while node > 1 {
            node /= 2;
            self.longest[node] = self.longest[node * 2].max(self.longest[node * 2 + 1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_what_a_plain_search_finds(
            len in 1u64..9000,
            steps in prop::collection::vec((0u64..9000, 1u64..700), 1..60),
        ) {
            let mut space = Space::new(len);
            let mut plain = vec![true; len as usize];
            for (from, want) in steps {
                let free_at = |at: u64| {
                    at + want <= len && plain[at as usize..(at + want) as usize].iter().all(|f| *f)
                };
                let expected = (from..len).find(|at| free_at(*at));
                prop_assert_eq!(space.find(from, want), expected);
                if let Some(start) = expected {
                    space.take(BlockRange { start, len: want });
                    plain[start as usize..(start + want) as usize].fill(false);
                }
                prop_assert_eq!(space.free(), plain.iter().filter(|f| **f).count() as u64);
                let longest = space.runs().map(|run| run.len).max().unwrap_or(0);
                prop_assert_eq!(space.longest_run(), longest);
            }
        }
    }
}
