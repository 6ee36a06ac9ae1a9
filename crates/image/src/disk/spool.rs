//! A stream becomes a file that can be read at any place: unnamed, so that nothing of it is ever left, and sparse.

use crate::stream::fill;
use silt_types::{
    CHUNK_SIZE_BYTES_MAX, Context as _, DISK_SIZE_BYTES_MAX, Error, Progress, Result, is_zero,
};
use std::{fs::File, io::Read, os::unix::fs::FileExt as _, path::Path};

/// Bytes asked for at a time; zeros are left out in pieces of a chunk.
const READ_SIZE_BYTES: usize = 1 << 20;

/// Reads `stream` to its end into an unnamed file in `dir`. `Invalid` if it is longer than a disk can be.
pub(super) fn spool(
    stream: &mut dyn Read,
    name: &str,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<File> {
    let failed = || format!("cannot keep {name} in {}", dir.display());
    let file = tempfile::tempfile_in(dir).context(failed)?;
    let mut buffer = vec![0; READ_SIZE_BYTES];
    let mut at = 0;
    loop {
        let len = fill(stream, &mut buffer).context(|| format!("cannot read {name}"))?;
        for (n, piece) in buffer[..len].chunks(CHUNK_SIZE_BYTES_MAX).enumerate() {
            if !is_zero(piece) {
                let offset = at + (n * CHUNK_SIZE_BYTES_MAX) as u64;
                file.write_all_at(piece, offset).context(failed)?;
            }
        }
        at += len as u64;
        progress.advance(len as u64);
        if at > DISK_SIZE_BYTES_MAX {
            return Err(Error::invalid(format!("{name} is longer than a disk can be: 16 TiB")));
        }
        if len < buffer.len() {
            file.set_len(at).context(failed)?;
            return Ok(file);
        }
    }
}
