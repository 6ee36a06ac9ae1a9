//! Exporting: the bytes of a disk as a raw, sparse file.

use crate::engine::Engine;
use silt_sys::durability::random_bytes;
use silt_types::{
    BLOCK_SIZE_BYTES, Context as _, DiskName, Error, ErrorKind, Progress, Result, is_zero,
};
use silt_volume::{BlockDevice, Volume};
use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// A disk is cut into pieces of this size for the threads that read it.
const PIECE_SIZE_BYTES: u64 = 8 << 20;
/// Bytes read and written at a time.
const BUFFER_SIZE_BYTES: u64 = 1 << 20;

/// What was exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportCounts {
    /// Length of the disk in bytes.
    pub size_bytes: u64,
    /// Bytes written; the others are a hole.
    pub bytes_written: u64,
}

impl Engine {
    /// Writes the disk to the file `path`, sparse, exactly as long as the disk. An existing file is replaced whole; a
    /// device or pipe is written to. `Busy` while the disk is being written. Like a copy, the file is not synced.
    pub fn export_file(
        &self,
        name: &DiskName,
        path: &Path,
        progress: &dyn Progress,
    ) -> Result<ExportCounts> {
        let disk = self.open_to_read(name)?;
        let is_special = fs::metadata(path).is_ok_and(|there| !there.is_file());
        if is_special {
            let failed = || format!("cannot open {}", path.display());
            let mut file = fs::OpenOptions::new().write(true).open(path).context(failed)?;
            return write_stream(&disk.volume, &mut file, progress);
        }
        // A link stays, and what it leads to is replaced.
        let target = fs::canonicalize(path);
        let path = target.as_deref().unwrap_or(path);
        let temp = temp_beside(path)?;
        let written = (|| {
            let file =
                File::create_new(&temp).context(|| format!("cannot make {}", temp.display()))?;
            let size = disk.volume.geometry().size_bytes;
            let failed = || format!("{} cannot hold a file of {size} bytes", path.display());
            file.set_len(size).context(failed)?;
            let counts = write_sparse(&disk.volume, &file, path, progress)?;
            fs::rename(&temp, path)
                .context(|| format!("cannot rename {} into place", temp.display()))?;
            Ok(counts)
        })();
        if written.is_err() {
            let _ = fs::remove_file(&temp);
        }
        written
    }

    /// Writes the disk to a stream, zeros and all.
    pub fn export_stream(
        &self,
        name: &DiskName,
        out: &mut dyn Write,
        progress: &dyn Progress,
    ) -> Result<ExportCounts> {
        write_stream(&self.open_to_read(name)?.volume, out, progress)
    }
}

fn temp_beside(path: &Path) -> Result<PathBuf> {
    let name = path.file_name();
    let name = name
        .ok_or_else(|| Error::invalid(format!("{} is not the name of a file", path.display())))?;
    let mut temp = std::ffi::OsString::from(".");
    temp.push(name);
    temp.push(format!(".{:08x}.tmp", u32::from_le_bytes(random_bytes()?)));
    Ok(path.with_file_name(temp))
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

/// What the threads of one export share.
struct Export<'a> {
    volume: &'a Volume,
    file: &'a File,
    path: &'a Path,
    size: u64,
    next: AtomicU64,
    written: AtomicU64,
    progress: &'a dyn Progress,
    failed: Mutex<Option<Error>>,
}

fn write_sparse(
    volume: &Volume,
    file: &File,
    path: &Path,
    progress: &dyn Progress,
) -> Result<ExportCounts> {
    let size = volume.geometry().size_bytes;
    progress.begin("exporting", size);
    let (next, written) = (AtomicU64::new(0), AtomicU64::new(0));
    let export =
        Export { volume, file, path, size, next, written, progress, failed: Mutex::default() };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(|| export.work())));
    });
    match export.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(ExportCounts { size_bytes: size, bytes_written: export.written.into_inner() }),
    }
}

impl Export<'_> {
    fn work(&self) {
        let mut buffer = vec![0; BUFFER_SIZE_BYTES as usize];
        loop {
            let at = self.next.fetch_add(PIECE_SIZE_BYTES, Relaxed);
            if at >= self.size
                || self.failed.lock().unwrap_or_else(PoisonError::into_inner).is_some()
            {
                return;
            }
            let end = self.size.min(at + PIECE_SIZE_BYTES);
            if let Err(error) = self.piece(at, end, &mut buffer) {
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                return;
            }
            self.progress.advance(end - at);
        }
    }

    fn piece(&self, mut at: u64, end: u64, buffer: &mut [u8]) -> Result<()> {
        while at < end {
            for run in self.volume.block_status(at, end - at, 64)? {
                if !run.zero {
                    self.data(at, at + run.len_bytes, buffer)?;
                }
                at += run.len_bytes;
            }
        }
        Ok(())
    }

    fn data(&self, mut at: u64, end: u64, buffer: &mut [u8]) -> Result<()> {
        while at < end {
            let len = (end - at).min(buffer.len() as u64) as usize;
            self.volume.read_at(&mut buffer[..len], at)?;
            self.write(&buffer[..len], at)?;
            at += len as u64;
        }
        Ok(())
    }

    /// Writes what is not zero of `bytes`, in as few calls as that takes.
    fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        let block = BLOCK_SIZE_BYTES as usize;
        let mut from = 0;
        while from < bytes.len() {
            let rest = &bytes[from..];
            let zeros =
                rest.chunks(block).take_while(|b| is_zero(b)).map(<[u8]>::len).sum::<usize>();
            let data = rest[zeros..]
                .chunks(block)
                .take_while(|b| !is_zero(b))
                .map(<[u8]>::len)
                .sum::<usize>();
            if data > 0 {
                let start = from + zeros;
                let wrote = self.file.write_all_at(&bytes[start..start + data], at + start as u64);
                wrote.map_err(|error| {
                    Error::with_source(
                        ErrorKind::of_io(&error),
                        format!("cannot write {}", self.path.display()),
                        error,
                    )
                })?;
                self.written.fetch_add(data as u64, Relaxed);
            }
            from += zeros + data;
        }
        Ok(())
    }
}
