//! Exporting what changed: the blocks of a disk that differ from another one, and a list of them.
//!
//! The file is raw, sparse, as long as the disk; what did not change is a hole in it. The list lies beside it, as text: a
//! line `OFFSET LENGTH data` or `OFFSET LENGTH zero` for each run of bytes that changed, ascending, none adjoining one of
//! its kind. So a block that changed to zero is in the list, though a hole in the file.
//!
//! Whoever has the other disk gets this one by copying the ranges of the list out of the file and giving the result the
//! length of the file.

use super::{
    copy::{Sink, copy},
    not_raw,
    raw::RawFile,
    replacement::{Replacement, is_special},
};
use crate::engine::Engine;
use silt_types::{
    BLOCK_SIZE_BYTES, BlockRange, Context as _, DiskName, Error, ErrorKind, Progress, Result,
};
use silt_volume::{BlockDevice as _, VolumePair};
use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    ops::Range,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// What was exported of a disk because it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangesExported {
    /// Length of the disk, and of the file, in bytes.
    pub size_bytes: u64,
    /// Blocks that changed.
    pub blocks_differing: u64,
    /// Length of what changed in bytes: the sum of the list. Less than 4096 a block only where the disk ends within one.
    pub bytes_differing: u64,
    /// Of these, bytes that were written to the file; the others are zero now.
    pub bytes_written: u64,
    /// The list.
    pub list: PathBuf,
}

impl Engine {
    /// Writes the blocks of `name` that differ from those of `since`, any other disk, to the file `path`, and a list of
    /// them to `path` with `.blocks` behind it. Where `since` is shorter, it counts as zero behind its end; where it is
    /// longer, what is behind the end of `name` is not told. Takes time proportional to the difference, and to what deltas
    /// hold that are not sealed.
    ///
    /// Existing files are replaced whole, and never does the file of one export stand beside the list of another: an old
    /// file goes first, then the list takes its place, then the file. Not synced. `Busy` while one of the disks is being
    /// written; `Usage` where `path` or the list is something other than a regular file.
    pub fn export_changes(
        &self,
        name: &DiskName,
        since: &DiskName,
        path: &Path,
        progress: &dyn Progress,
    ) -> Result<ChangesExported> {
        let (disk, before) = (self.open_to_read(name)?, self.open_to_read(since)?);
        let list_path = list_beside(path);
        if is_special(path) {
            return Err(not_raw(path));
        }
        if is_special(&list_path) {
            let message = format!("{} is no regular file to be replaced", list_path.display());
            return Err(Error::new(ErrorKind::Usage, message));
        }
        let size_bytes = disk.volume.geometry().size_bytes;
        let differing = VolumePair::new(&before.volume, &disk.volume)?;
        let differing = differing.differing_blocks(progress)?;
        let runs = || differing.ranges().filter_map(|range| bytes_of(range, size_bytes));
        let bytes_differing = runs().map(|run| run.end - run.start).sum();
        let blocks_differing =
            runs().map(|run| (run.end - run.start).div_ceil(BLOCK_SIZE_BYTES)).sum();

        let (replacement, file) = Replacement::create(path)?;
        let (list_replacement, list) = Replacement::create(&list_path)?;
        let changes = Changes {
            file: RawFile::new(file, size_bytes, path)?,
            list: Mutex::new(List { out: BufWriter::new(list), last: None }),
        };
        progress.begin("exporting", bytes_differing);
        let bytes_written = copy(&disk.volume, runs().map(Ok), &changes, path, progress)?;
        changes.finish().context(|| format!("cannot write {}", list_path.display()))?;
        replacement.remove_old()?;
        list_replacement.put_in_place()?;
        replacement.put_in_place()?;
        let list = list_path;
        Ok(ChangesExported { size_bytes, blocks_differing, bytes_differing, bytes_written, list })
    }
}

fn list_beside(path: &Path) -> PathBuf {
    let mut list = path.as_os_str().to_owned();
    list.push(".blocks");
    list.into()
}

/// The bytes of blocks, as far as they are on the disk.
fn bytes_of(range: BlockRange, size_bytes: u64) -> Option<Range<u64>> {
    let (start, end) = (range.start * BLOCK_SIZE_BYTES, range.end() * BLOCK_SIZE_BYTES);
    (start < size_bytes).then(|| start..end.min(size_bytes))
}

/// The file and the list.
struct Changes {
    file: RawFile,
    list: Mutex<List>,
}

impl Changes {
    fn finish(self) -> io::Result<()> {
        let mut list = self.list.into_inner().unwrap_or_else(PoisonError::into_inner);
        list.write_last()?;
        list.out.flush()
    }

    fn note(&self, kind: Kind, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).note(kind, offset, len_bytes)
    }
}

impl Sink for Changes {
    fn data(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.note(Kind::Data, offset, bytes.len() as u64)?;
        self.file.data(bytes, offset)
    }

    fn zeros(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.note(Kind::Zero, offset, len_bytes)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Zero,
}

/// Writes a line for each run; runs of a kind that adjoin become one.
struct List {
    out: BufWriter<File>,
    last: Option<(Kind, Range<u64>)>,
}

impl List {
    fn note(&mut self, kind: Kind, offset: u64, len_bytes: u64) -> io::Result<()> {
        match &mut self.last {
            Some((last, run)) if *last == kind && run.end == offset => run.end += len_bytes,
            _ => {
                self.write_last()?;
                self.last = Some((kind, offset..offset + len_bytes));
            }
        }
        Ok(())
    }

    fn write_last(&mut self) -> io::Result<()> {
        let Some((kind, run)) = self.last.take() else { return Ok(()) };
        let kind = match kind {
            Kind::Data => "data",
            Kind::Zero => "zero",
        };
        writeln!(self.out, "{} {} {kind}", run.start, run.end - run.start)
    }
}
