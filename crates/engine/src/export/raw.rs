//! A raw file: the bytes of a disk, each at its place.

use super::copy::Sink;
use silt_types::{Context as _, Result};
use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

/// A raw, sparse file.
pub(super) struct RawFile(File);

impl RawFile {
    /// Makes a new file as long as the disk. An `Io` error where no file can be that long.
    pub(super) fn new(file: File, size_bytes: u64, path: &Path) -> Result<RawFile> {
        let failed = || format!("{} cannot hold a file of {size_bytes} bytes", path.display());
        file.set_len(size_bytes).context(failed)?;
        Ok(RawFile(file))
    }
}

impl Sink for RawFile {
    fn data(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn zeros(&self, _offset: u64, _len_bytes: u64) -> io::Result<()> {
        Ok(())
    }
}
