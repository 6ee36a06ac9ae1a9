//! The rebuild cache: what the files of a folder consisted of when they were last read, so that what did not change is
//! neither opened nor read. One file for each folder and store, found by the folder's path; see `docs/internals/rebuild.md`.
//!
//! A file is taken from the cache when path, device, inode, length, mtime and ctime are what they were. Nobody can set a
//! ctime, so a change shows in it, unless it comes within one tick of the clock: a file whose ctime is not two seconds
//! older than the build is not kept. That its chunks are still there, [`Ingest::removals`] says.
//!
//! A file that is taken needs no second look at the end of the build: what it was at the moment of the walk is known, and
//! that is what a file that is read has to be, too.
//!
//! Nothing here can fail a build. A cache that is missing, damaged or cannot be written means reading, no more.

use super::walk::{FileSeen, Stamp};
use crate::{
    caches::trim,
    contents::{Contents, ContentsWriter, Step},
    paths::for_each_path,
};
use rustix::fs::{fstat, fstatfs};
use silt_ext4::{EntryId, EntryKind, Hierarchy};
use silt_format::{
    FOLDER_CACHE_FRAME_LEN_MAX, FOLDER_CACHE_STEPS_MAX, FolderCache as Statement, FolderCacheFrame,
    FolderCacheKeys, FolderCacheRecord, LaidOut, folder_cache_id,
};
use silt_store::{Ingest, Store};
use silt_sys::durability;
use silt_types::{BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES_MAX, ChunkId, Context as _, Result};
use std::{
    cmp::Ordering,
    fs::{self, File},
    io::{BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    os::{fd::AsFd, unix::ffi::OsStrExt as _, unix::fs::FileExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The most that all caches of a store take on disk; the oldest go first. Enough for four million small files.
const SIZE_BYTES_MAX: u64 = 256 << 20;

/// How much older than the build a change must be to be sure to differ from a later one: more than any tick of a clock by
/// which a file system stamps.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// File systems of which it is known that inode numbers stay, and that every change gives a new ctime: ext4, XFS, Btrfs,
/// tmpfs, overlayfs, F2FS, ZFS, Bcachefs. Network file systems answer from memory, FUSE says what it likes, and FAT has
/// neither.
const TRUSTED: [u64; 8] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x0102_1994,
    0x794c_7630,
    0xf2f5_2010,
    0x2fc1_2fc1,
    0xca45_1a4e,
];

/// The cache of one folder in one store.
pub(crate) struct FolderCache {
    dir: PathBuf,
    id: [u8; 16],
    /// Files on other file systems, mounted somewhere in the folder, are not kept.
    device: u64,
    /// Files that changed later are not kept.
    settled: Duration,
}

/// A file that may be kept, by its key.
struct Keyed {
    key: [u8; 16],
    entry: EntryId,
}

/// The files of a folder that may be kept, and which of them were taken from the cache.
#[derive(Default)]
pub(crate) struct Known {
    /// Ascending by key.
    files: Vec<Keyed>,
    /// By number of entry.
    taken: Vec<bool>,
    /// Whether the cache holds just these files, and holds them as it would be written now.
    is_current: bool,
    laid_out: Option<LaidOut>,
}

impl Known {
    /// Whether a file needs no reading.
    pub(crate) fn is_taken(&self, entry: EntryId) -> bool {
        self.taken.get(entry.index()).is_some_and(|taken| *taken)
    }

    /// The disk that the folder became before, if all of that is in the store.
    pub(crate) fn laid_out(&self) -> Option<&LaidOut> {
        self.laid_out.as_ref()
    }
}

impl FolderCache {
    /// The cache of `dir`, open as `root`; to be asked for before the walk. `None` where changes might not show.
    pub(crate) fn of(store: &Store, dir: &Path, root: impl AsFd) -> Option<FolderCache> {
        let kind = fstatfs(root.as_fd()).ok()?.f_type as u64;
        if !TRUSTED.contains(&kind) {
            return None;
        }
        let path = fs::canonicalize(dir).ok()?;
        Some(FolderCache {
            dir: store.paths().folder_caches(),
            id: folder_cache_id(&store.id(), path.as_os_str().as_bytes()),
            device: fstat(root).ok()?.st_dev,
            settled: SystemTime::now().duration_since(UNIX_EPOCH).ok()? - SETTLED_AFTER,
        })
    }

    fn path(&self) -> PathBuf {
        self.dir.join(format!("{:032x}", u128::from_be_bytes(self.id)))
    }

    /// Which files may be kept. `files` are sorted by entry.
    pub(crate) fn files(&self, hierarchy: &Hierarchy, files: &[FileSeen]) -> Result<Known> {
        let (keys, mut keyed) = (FolderCacheKeys::new(), Vec::with_capacity(files.len()));
        for_each_path(hierarchy, |name, path| {
            let is_file = || hierarchy.kind(name.entry) == EntryKind::File;
            if name.is_primary
                && is_file()
                && let Some(stamp) = stamp_of(files, name.entry)
                && self.may_keep(stamp)
            {
                keyed.push(Keyed { key: keys.key(stamp.numbers(), path), entry: name.entry });
            }
            Ok(())
        })?;
        keyed.sort_unstable_by_key(|file| file.key);
        let taken = Vec::new();
        Ok(Known { files: keyed, taken, is_current: false, laid_out: None })
    }

    fn may_keep(&self, stamp: &Stamp) -> bool {
        let settled = (self.settled.as_secs() as i64, self.settled.subsec_nanos());
        stamp.device == self.device && stamp.ctime() <= settled
    }

    /// Takes what the cache has of `known` into `contents`, and counts it. `seen` are the files, sorted by entry.
    pub(crate) fn take(
        &self,
        known: &mut Known,
        seen: &[FileSeen],
        contents: &ContentsWriter,
        store: &Store,
        ingest: &Ingest,
    ) -> Result<()> {
        let Ok((statement, frames)) = self.open() else {
            return Ok(());
        };
        // A catalog that was put back to an earlier state may never have had these chunks.
        if statement.transaction > store.last_change()? {
            return Ok(());
        }
        let are_sure = statement.removals == ingest.removals();
        known.laid_out = are_sure.then_some(statement.laid_out);
        known.taken = vec![false; seen.last().map_or(0, |file| file.entry.index() + 1)];
        let mut taking = Taking {
            known,
            seen,
            contents,
            ingest,
            are_sure,
            at: 0,
            file: None,
            taken: 0,
            in_cache: 0,
        };
        taking.take_all(frames)?;
        let (taken, in_cache) = (taking.taken, taking.in_cache);
        known.is_current = are_sure && taken == in_cache && taken == known.files.len();
        Ok(())
    }

    fn open(&self) -> Result<(Statement, Frames)> {
        let (statement, frames) = open(&self.path())?;
        if statement.folder != self.id {
            return Err(silt_types::Error::corrupt("the rebuild cache is another's"));
        }
        Ok((statement, frames))
    }

    /// Writes down what is known now, for [`FolderCache::keep`], and forgets it: what comes next needs the memory. `None` if
    /// the cache says just this already, or cannot be written.
    pub(crate) fn draft(&self, known: &mut Known, contents: &Contents) -> Option<Draft> {
        if known.is_current {
            return None;
        }
        self.write_draft(&std::mem::take(&mut known.files), contents).ok()
    }

    fn write_draft(&self, files: &[Keyed], contents: &Contents) -> Result<Draft> {
        if let Some(caches) = self.dir.parent() {
            durability::create_dir(caches)?;
        }
        durability::create_dir(&self.dir)?;
        let mut draft = Draft::create(&self.path())?;
        files.iter().try_for_each(|file| draft.add(file, contents))?;
        draft.end_frame()?;
        Ok(draft)
    }

    /// Keeps what is known, after all of it was published under this count of removals.
    pub(crate) fn keep(
        &self,
        draft: Option<Draft>,
        known: &Known,
        contents: &Contents,
        laid_out: LaidOut,
        removals: u64,
        store: &Store,
    ) {
        let draft = match draft {
            None if known.is_current && known.laid_out == Some(laid_out) => {
                // As used now, by which the oldest are told.
                let file = File::open(self.path());
                let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
                return;
            }
            None if known.is_current => self.write_draft(&known.files, contents).ok(),
            draft => draft,
        };
        // Whatever fails here, the next build reads more.
        let _ = draft.map(|draft| self.publish(draft, laid_out, removals, store));
    }

    fn publish(&self, draft: Draft, laid_out: LaidOut, removals: u64, store: &Store) -> Result<()> {
        let statement = Statement {
            folder: self.id,
            nonce: draft.nonce,
            removals,
            transaction: store.last_change()?,
            frames_len: draft.len - Statement::LEN as u64,
            laid_out,
        };
        draft.publish(&statement, &self.path())?;
        remove_dead_drafts(&self.dir);
        trim(&self.dir, SIZE_BYTES_MAX);
        Ok(())
    }
}

fn open(path: &Path) -> Result<(Statement, Frames)> {
    let failed = || "cannot read the rebuild cache".to_owned();
    let mut file = File::open(path).context(failed)?;
    let mut head = [0; Statement::LEN];
    file.read_exact(&mut head).context(failed)?;
    let statement = Statement::decode(&head)?;
    let len = file.metadata().context(failed)?.len();
    if len != Statement::LEN as u64 + statement.frames_len {
        return Err(silt_types::Error::corrupt("the rebuild cache is cut off"));
    }
    let (file, records) = (BufReader::with_capacity(256 << 10, file), Vec::new());
    Ok((statement, Frames { file, nonce: statement.nonce, number: 0, records }))
}

/// Visits the chunks that a rebuild cache tells of, until `visit` answers false.
pub(crate) fn chunks_of(path: &Path, visit: &mut dyn FnMut(&ChunkId) -> bool) -> Result<()> {
    let (_, mut frames) = open(path)?;
    while let Some(mut records) = frames.next() {
        while !records.is_empty() {
            let record = FolderCacheRecord::take(&mut records)?;
            if !record.steps().all(|step| visit(&step.chunk)) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The stamp of a file that the walk saw.
fn stamp_of(files: &[FileSeen], entry: EntryId) -> Option<&Stamp> {
    let at = files.binary_search_by_key(&entry, |file| file.entry).ok()?;
    Some(&files[at].stamp)
}

/// Frames of a cache, one in memory.
struct Frames {
    file: BufReader<File>,
    nonce: [u8; 16],
    number: u64,
    records: Vec<u8>,
}

impl Frames {
    /// The records of the next frame; `None` at the end, or where it is damaged: nothing after that is believed.
    fn next(&mut self) -> Option<&[u8]> {
        let mut header = [0; FolderCacheFrame::LEN];
        self.file.read_exact(&mut header).ok()?;
        let frame = FolderCacheFrame::decode(&header).ok()?;
        self.records.resize(frame.len, 0);
        self.file.read_exact(&mut self.records).ok()?;
        let is_whole = frame.is_of(&self.nonce, self.number, &self.records);
        self.number += 1;
        is_whole.then_some(&self.records)
    }
}

/// Merges the records of a cache with the files that may be taken: both ascend by key.
struct Taking<'a> {
    known: &'a mut Known,
    seen: &'a [FileSeen],
    contents: &'a ContentsWriter,
    ingest: &'a Ingest,
    are_sure: bool,
    /// The first file whose key was not passed yet.
    at: usize,
    /// The file whose records are being taken.
    file: Option<Partial>,
    taken: usize,
    in_cache: usize,
}

/// A file of which some records were taken.
struct Partial {
    key: [u8; 16],
    entry: EntryId,
    size_bytes: u64,
    /// No step of a lower number may follow.
    next_step: u64,
    chunks: u64,
    bytes: u64,
    /// Where to go back to if the rest is not there.
    mark: usize,
}

impl Taking<'_> {
    fn take_all(&mut self, mut frames: Frames) -> Result<()> {
        while let Some(mut records) = frames.next() {
            while !records.is_empty() {
                // The checksum was right, so this is as it was written, or of no version that this build knows.
                let Ok(record) = FolderCacheRecord::take(&mut records) else {
                    self.give_up_partial();
                    return Ok(());
                };
                self.take_record(&record)?;
            }
        }
        self.give_up_partial();
        Ok(())
    }

    fn take_record(&mut self, record: &FolderCacheRecord<'_>) -> Result<()> {
        self.in_cache += usize::from(!record.goes_on);
        if self.file.as_ref().is_none_or(|file| file.key != record.key) {
            self.give_up_partial();
            self.file = self.begin(record.key);
        }
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let steps: Vec<Step> = record.steps().collect();
        let fits = file.count(&steps);
        let are_there = || -> Result<bool> {
            let missing = steps.iter().map(|step| self.ingest.has(&step.chunk));
            Ok(missing.collect::<Result<Vec<_>>>()?.into_iter().all(|has| has))
        };
        if !fits || !self.are_sure && !are_there()? {
            self.give_up_partial();
            return Ok(());
        }
        self.contents.add(file.entry, &steps)?;
        if !record.goes_on
            && let Some(file) = self.file.take()
        {
            self.ingest.count_known(file.chunks, file.bytes);
            self.known.taken[file.entry.index()] = true;
            self.taken += 1;
        }
        Ok(())
    }

    /// The file with this key, if there is one still.
    fn begin(&mut self, key: [u8; 16]) -> Option<Partial> {
        while let Some(file) = self.known.files.get(self.at) {
            match file.key.cmp(&key) {
                Ordering::Less => self.at += 1,
                Ordering::Greater => return None,
                Ordering::Equal => {
                    self.at += 1;
                    let size_bytes = stamp_of(self.seen, file.entry)?.size_bytes;
                    let (entry, mark) = (file.entry, self.contents.mark());
                    return Some(Partial {
                        key,
                        entry,
                        size_bytes,
                        next_step: 0,
                        chunks: 0,
                        bytes: 0,
                        mark,
                    });
                }
            }
        }
        None
    }

    fn give_up_partial(&mut self) {
        if let Some(file) = self.file.take() {
            self.contents.take_back(file.mark);
        }
    }
}

impl Partial {
    /// Counts steps that follow. False if the file cannot have them.
    fn count(&mut self, steps: &[Step]) -> bool {
        steps.iter().all(|step| {
            let number = u64::from(step.number);
            let start = number * CHUNK_SIZE_BYTES_MAX as u64;
            if number < self.next_step || start >= self.size_bytes {
                return false;
            }
            let len = (self.size_bytes - start).min(CHUNK_SIZE_BYTES_MAX as u64);
            self.next_step = number + 1;
            self.chunks += 1;
            self.bytes += len;
            step.blocks != 0 && u64::from(step.blocks) >> len.div_ceil(BLOCK_SIZE_BYTES) == 0
        })
    }
}

/// A cache being written, under a name of its own and a lock that tells others that it is. Goes when dropped before
/// [`Draft::publish`].
pub(crate) struct Draft {
    path: PathBuf,
    file: File,
    nonce: [u8; 16],
    len: u64,
    number: u64,
    records: Vec<u8>,
    record: Vec<u8>,
}

impl Draft {
    fn create(beside: &Path) -> Result<Draft> {
        let nonce = durability::random_bytes()?;
        let path = beside.with_extension(format!("{:032x}.draft", u128::from_be_bytes(nonce)));
        let mut file = durability::create_file(&path)?;
        let begun = file.lock().and_then(|()| file.seek(SeekFrom::Start(Statement::LEN as u64)));
        let len = begun.context(|| format!("cannot write {}", path.display()))?;
        let (records, record) = (Vec::with_capacity(FOLDER_CACHE_FRAME_LEN_MAX), Vec::new());
        Ok(Draft { path, file, nonce, len, number: 0, records, record })
    }

    fn add(&mut self, file: &Keyed, contents: &Contents) -> Result<()> {
        let mut steps: Vec<Step> = Vec::new();
        contents.for_each_step(file.entry, 0, |step| {
            if steps.len() == FOLDER_CACHE_STEPS_MAX {
                self.add_record(&file.key, true, &steps)?;
                steps.clear();
            }
            steps.push(*step);
            Ok(true)
        })?;
        self.add_record(&file.key, false, &steps)
    }

    fn add_record(&mut self, key: &[u8; 16], goes_on: bool, steps: &[Step]) -> Result<()> {
        self.record.clear();
        FolderCacheRecord::encode_into(key, goes_on, steps, &mut self.record);
        if self.records.len() + self.record.len() > FOLDER_CACHE_FRAME_LEN_MAX {
            self.end_frame()?;
        }
        self.records.extend_from_slice(&self.record);
        Ok(())
    }

    fn end_frame(&mut self) -> Result<()> {
        if self.records.is_empty() {
            return Ok(());
        }
        let header = FolderCacheFrame::of(&self.nonce, self.number, &self.records).encode();
        self.len += (header.len() + self.records.len()) as u64;
        if self.len > SIZE_BYTES_MAX {
            return Err(silt_types::Error::invalid("the rebuild cache would be too large"));
        }
        let written =
            self.file.write_all(&header).and_then(|()| self.file.write_all(&self.records));
        written.context(|| format!("cannot write {}", self.path.display()))?;
        self.records.clear();
        self.number += 1;
        Ok(())
    }

    fn publish(mut self, statement: &Statement, path: &Path) -> Result<()> {
        let written = self.file.write_all_at(&statement.encode(), 0);
        let named = written.and_then(|()| fs::rename(&self.path, path));
        named.context(|| format!("cannot make {}", path.display()))?;
        self.path.clear();
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // What stays is removed by the next one that is published.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes drafts that nobody writes any more.
fn remove_dead_drafts(dir: &Path) {
    let paths = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in paths.filter(|path| path.extension().is_some_and(|kind| kind == "draft")) {
        if File::open(&path).is_ok_and(|draft| draft.try_lock().is_ok()) {
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(device: u64, settled: Duration) -> FolderCache {
        FolderCache { dir: PathBuf::new(), id: [0; 16], device, settled }
    }

    #[test]
    fn what_changed_a_moment_ago_or_in_the_future_is_not_kept() {
        let mut stat = rustix::fs::stat("/proc/self/exe").unwrap();
        let cache = cache(stat.st_dev, Duration::new(1_700_000_000, 500));
        for (seconds, nanoseconds, kept) in [
            (1_700_000_000, 499, true),
            (1_700_000_000, 500, true),
            (1_700_000_000, 501, false),
            (1_699_999_999, 999_999_999, true),
            (1_700_000_001, 0, false),
            (9_999_999_999, 0, false),
            (-1, 5, true),
        ] {
            (stat.st_ctime, stat.st_ctime_nsec) = (seconds, nanoseconds);
            assert_eq!(cache.may_keep(&Stamp::of(&stat)), kept, "{seconds}.{nanoseconds}");
        }
        stat.st_ctime = 0;
        stat.st_dev += 1;
        assert!(!cache.may_keep(&Stamp::of(&stat)), "on another file system");
    }

    #[test]
    fn steps_that_a_file_cannot_have_are_refused() {
        let step = |number, blocks| Step { number, blocks, chunk: silt_types::DiskId::ZERO_ROOT };
        for (size_bytes, steps, fits) in [
            (65_536, vec![step(0, u16::MAX)], true),
            (65_537, vec![step(0, 1), step(1, 1)], true),
            (65_537, vec![step(1, 2)], false),
            (65_536, vec![step(1, 1)], false),
            (200_000, vec![step(1, 1), step(1, 1)], false),
            (200_000, vec![step(1, 1), step(0, 1)], false),
            (200_000, vec![step(0, 0)], false),
        ] {
            let (key, entry) = ([0; 16], EntryId::ROOT);
            let (next_step, chunks, bytes, mark) = (0, 0, 0, 0);
            let mut file = Partial { key, entry, size_bytes, next_step, chunks, bytes, mark };
            assert_eq!(file.count(&steps), fits, "{size_bytes} {steps:?}");
        }
    }

    #[test]
    fn the_oldest_caches_go_first_and_so_do_drafts_that_nobody_writes() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for (name, age) in [("oldest", 300), ("older", 200), ("new", 100)] {
            let file = File::create(path(name)).unwrap();
            file.set_len(SIZE_BYTES_MAX / 2).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        fs::write(path("dead.draft"), "half").unwrap();
        let alive = Draft::create(&path("alive")).unwrap();
        remove_dead_drafts(dir.path());
        trim(dir.path(), SIZE_BYTES_MAX);
        let left = |name: &str| path(name).exists();
        assert!(!left("oldest") && left("older") && left("new") && !left("dead.draft"));
        assert!(alive.path.exists());
        let draft = alive.path.clone();
        drop(alive);
        assert!(!draft.exists());
    }
}
