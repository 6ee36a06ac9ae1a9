//! `map.boot`: blocks that joined and are not in the log yet, noted where the end of a process leaves it: in the page cache,
//! as their data is.
//!
//! A guest that lives on when its server is killed never learns that what it was answered is not what the disk has. So whoever
//! opens the delta next in the same boot lets the noted blocks join. After a crash of the machine they do not: notes are written
//! in no order with data, and count in their boot only ([`DeltaNotes`]). Nothing here is ever synced.
//!
//! Invariants: every block that is in and not in the log is noted, after its data was written; what is noted is in, or will
//! be when the delta is opened again. So notes of blocks that the log has are harmless, and the file is written over from its
//! beginning whenever the log has all, however long it is.

use super::inclusive;
use roaring::RoaringBitmap;
use rustix::fs::FallocateFlags;
use silt_format::DeltaNotes;
use silt_sys::{boot::boot_id, durability};
use silt_types::{BLOCK_SIZE_BYTES, BlockRange, Context as _, DeltaId, Error, Result};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

/// Name of the file, in the folder of its delta.
pub const BOOT_NOTES: &str = "map.boot";
/// Space that is kept allocated for notes, so that on a full disk blocks can join that take none themselves.
const RESERVE_LEN: u64 = 32 * 1024;

/// The notes of a delta that is being written.
pub(super) struct Notes {
    path: PathBuf,
    /// `None` where nothing is noted: the kernel has no boot id, or a sync failed.
    notes: Option<DeltaNotes>,
    /// Made for the first note.
    file: Option<File>,
    /// Where the next one goes.
    at: u64,
}

impl Notes {
    /// Of a delta whose log has all.
    pub(super) fn begin(dir: &Path, id: DeltaId) -> Notes {
        let notes = boot_id().map(|boot| DeltaNotes::new(&boot, &id));
        Notes { path: dir.join(BOOT_NOTES), notes, file: None, at: 0 }
    }

    /// Of a delta that was not closed, with the blocks that were noted in this boot.
    pub(super) fn go_on(
        dir: &Path,
        id: DeltaId,
        size_bytes: u64,
    ) -> Result<(Notes, RoaringBitmap)> {
        let noted = load(dir, id, size_bytes)?;
        let mut notes = Notes::begin(dir, id);
        if !noted.is_empty() {
            let failed = || format!("cannot read {}", notes.path.display());
            let len = fs::metadata(&notes.path).context(failed)?.len();
            notes.at = len.next_multiple_of(DeltaNotes::NOTE_LEN as u64);
        }
        Ok((notes, noted))
    }

    /// Notes blocks whose data is written; one write into the page cache. After an error, `NoSpace` for one, they may count as
    /// noted or not.
    pub(super) fn note(&mut self, run: BlockRange) -> Result<()> {
        let Some(notes) = &self.notes else { return Ok(()) };
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(open(&self.path)?),
        };
        let written = file.write_all_at(&notes.encode(run), self.at);
        written.context(|| format!("cannot write {}", self.path.display()))?;
        self.at += DeltaNotes::NOTE_LEN as u64;
        Ok(())
    }

    /// The log has all now.
    pub(super) fn begin_anew(&mut self) {
        self.at = 0;
    }

    /// Removes the file: the log has all, and the delta is closed.
    pub(super) fn end(&mut self) {
        // Left behind, it says what the log says.
        let _ = fs::remove_file(&self.path);
        (self.file, self.at) = (None, 0);
    }

    /// Removes what was noted, and notes nothing any more: after a failed sync, what the page cache has of the data is in doubt.
    pub(super) fn give_up(&mut self) {
        self.notes = None;
        self.end();
    }
}

fn open(path: &Path) -> Result<File> {
    let file = match OpenOptions::new().write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => durability::create_file(path)?,
        other => other.context(|| format!("cannot open {}", path.display()))?,
    };
    // Failing to is no error: then writing notes may be one.
    let _ = rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, RESERVE_LEN);
    Ok(file)
}

/// The blocks that are noted in this boot; without the log's, which may be among them.
pub(super) fn load(dir: &Path, id: DeltaId, size_bytes: u64) -> Result<RoaringBitmap> {
    let mut noted = RoaringBitmap::new();
    let Some(boot) = boot_id() else { return Ok(noted) };
    let notes = DeltaNotes::new(&boot, &id);
    let path = dir.join(BOOT_NOTES);
    let failed = |error| Error::io(format!("cannot read {}", path.display()), error);
    let mut file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(noted),
        other => BufReader::with_capacity(64 << 10, other.map_err(failed)?),
    };
    let blocks = size_bytes.div_ceil(BLOCK_SIZE_BYTES);
    let mut note = [0; DeltaNotes::NOTE_LEN];
    loop {
        match file.read_exact(&mut note) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(noted),
            other => other.map_err(failed)?,
        }
        let run = notes.decode(&note).filter(|run| run.end() <= blocks);
        if let Some(range) = run.and_then(inclusive) {
            noted.insert_range(range);
        }
    }
}
