//! Exporting: the bytes of a disk as a file, raw or qcow2, or only what changed since another disk (`since`).
//!
//! What of a disk is exported is a sequence of runs of bytes (`pieces`); `copy` reads them with every core and hands what
//! they hold to a `Sink`, one for each kind of file. A file appears under its name once it is whole (`replacement`). Like
//! a copy, nothing is synced.

mod copy;
mod pieces;
mod qcow2;
mod raw;
mod replacement;
mod since;

pub use since::ChangesExported;

use crate::engine::Engine;
use copy::copy;
use pieces::DataRuns;
use qcow2::Qcow2File;
use raw::RawFile;
use replacement::Replacement;
pub(crate) use replacement::is_special;
use silt_types::{Context as _, DiskName, Error, ErrorKind, Progress, Result};
use silt_volume::{BlockDevice, Volume};
use std::{fs, io::Write, path::Path};

/// Bytes read and written at a time by a stream.
const BUFFER_SIZE_BYTES: u64 = 1 << 20;

/// What an exported file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExportFormat {
    /// The bytes of the disk, each at its place; what is zero is a hole.
    #[default]
    Raw,
    /// qcow2, version 3, clusters of 64 KiB, no backing file; clusters that are zero are not allocated. Its length is the
    /// disk's, rounded up to whole sectors of 512 bytes: QEMU knows no others.
    Qcow2,
}

/// What was exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportCounts {
    /// Length of the disk in bytes.
    pub size_bytes: u64,
    /// Bytes of the disk that were written; the others read as zero and take no space.
    pub bytes_written: u64,
}

impl Engine {
    /// Writes the disk to the file `path`, sparse. An existing file is replaced whole; a device or a pipe is written to,
    /// raw: any other format is a `Usage` error there. `Busy` while the disk is being written. Like a copy, the file is
    /// not synced. Costs what the disk holds, not its length.
    pub fn export_file(
        &self,
        name: &DiskName,
        path: &Path,
        format: ExportFormat,
        progress: &dyn Progress,
    ) -> Result<ExportCounts> {
        let disk = self.open_to_read(name)?;
        if is_special(path) {
            if format != ExportFormat::Raw {
                return Err(not_raw(path));
            }
            let failed = || format!("cannot open {}", path.display());
            let mut file = fs::OpenOptions::new().write(true).open(path).context(failed)?;
            return write_stream(&disk.volume, &mut file, progress);
        }
        let size_bytes = disk.volume.geometry().size_bytes;
        let (replacement, file) = Replacement::create(path)?;
        progress.begin("exporting", size_bytes);
        let runs = DataRuns::new(&disk.volume, progress);
        let bytes_written = match format {
            ExportFormat::Raw => {
                let file = RawFile::new(file, size_bytes, path)?;
                copy(&disk.volume, runs, &file, path, progress)?
            }
            ExportFormat::Qcow2 => {
                let file = Qcow2File::new(file, size_bytes, path)?;
                let written = copy(&disk.volume, runs, &file, path, progress)?;
                file.finish().context(|| format!("cannot write {}", path.display()))?;
                written
            }
        };
        replacement.put_in_place()?;
        Ok(ExportCounts { size_bytes, bytes_written })
    }

    /// Writes the disk to a stream, raw, zeros and all.
    pub fn export_stream(
        &self,
        name: &DiskName,
        out: &mut dyn Write,
        progress: &dyn Progress,
    ) -> Result<ExportCounts> {
        write_stream(&self.open_to_read(name)?.volume, out, progress)
    }
}

/// Devices and pipes are written from one end to the other: they take the bytes of a disk and nothing else.
fn not_raw(path: &Path) -> Error {
    let path = path.display();
    let message = format!("{path} is no regular file: only a whole disk can be written to it, raw");
    Error::new(ErrorKind::Usage, message)
}

fn write_stream(
    volume: &Volume,
    out: &mut dyn Write,
    progress: &dyn Progress,
) -> Result<ExportCounts> {
    let size_bytes = volume.geometry().size_bytes;
    progress.begin("exporting", size_bytes);
    let mut buffer = vec![0; BUFFER_SIZE_BYTES as usize];
    let mut at = 0;
    while at < size_bytes {
        let len = (size_bytes - at).min(BUFFER_SIZE_BYTES) as usize;
        volume.read_at(&mut buffer[..len], at)?;
        out.write_all(&buffer[..len]).context(|| "cannot write the exported disk".into())?;
        progress.advance(len as u64);
        at += len as u64;
    }
    out.flush().context(|| "cannot write the exported disk".into())?;
    Ok(ExportCounts { size_bytes, bytes_written: size_bytes })
}
