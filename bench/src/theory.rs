//! What 64 KiB chunks that follow files give in theory, computed from the trees and nothing of ours.

use std::collections::HashSet;
use std::io::Read as _;
use std::path::Path;

use crate::Result;

/// The most one chunk holds.
const STEP_BYTES: usize = 64 * 1024;

/// Distinct content of the files of some trees.
#[derive(Default)]
pub struct Distinct {
    seen: HashSet<[u8; 32]>,
    /// Unpadded bytes of all distinct steps, all-zero ones left out.
    pub bytes: u64,
    /// Bytes of all files, repeated content counted as often as it is there (hard links too).
    pub bytes_all: u64,
}

impl Distinct {
    /// Adds every regular file below `folder`, in 64 KiB steps from each file's start; `new` sees each step
    /// that was not there before.
    pub fn add(&mut self, folder: &Path, new: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let kind = std::fs::symlink_metadata(&path)?.file_type();
            if kind.is_dir() {
                self.add(&path, new)?;
            } else if kind.is_file() {
                self.add_file(&path, new)?;
            }
        }
        Ok(())
    }

    fn add_file(&mut self, path: &Path, new: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut file = std::fs::File::open(path)?;
        let mut step = Vec::with_capacity(STEP_BYTES);
        loop {
            step.clear();
            if (&mut file).take(STEP_BYTES as u64).read_to_end(&mut step)? == 0 {
                return Ok(());
            }
            self.bytes_all += step.len() as u64;
            let zero = step.iter().all(|byte| *byte == 0);
            if !zero && self.seen.insert(*blake3::hash(&step).as_bytes()) {
                self.bytes += step.len() as u64;
                new(&step)?;
            }
        }
    }

    /// How many distinct steps there are.
    pub fn steps(&self) -> usize {
        self.seen.len()
    }
}
