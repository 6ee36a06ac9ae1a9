//! `map.log`: which blocks are in a delta, durably.
//!
//! The log is appended to, sector by sector, each sector whole in itself; `silt_format::DeltaLogHeader` and
//! `silt_format::DeltaRecord` are its bytes. What it promises: a block recorded by an append that returned is recorded
//! after any crash, and damage is never taken for the trace of a crash. How the two are told apart is at [`Scan`].

use super::data::forget_cached;
use roaring::RoaringBitmap;
use rustix::fs::FallocateFlags;
use silt_format::{DELTA_SECTOR_LEN, DeltaLogHeader, DeltaLogState, DeltaRecord};
use silt_sys::durability;
use silt_types::{BLOCK_SIZE_BYTES, BlockRange, Context as _, DeltaId, Error, Result};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Read as _, Seek as _, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

const NAME: &str = "map.log";
const NEW_NAME: &str = ".map.log.new";
const SECTOR_LEN: u64 = DELTA_SECTOR_LEN as u64;

/// A log shorter than this is never rewritten: it is read in a millisecond.
const REWRITE_LEN_MIN: u64 = 256 * 1024;
/// A log this many times as long as its blocks need is rewritten, so that rewriting stays a small part of all writing.
const REWRITE_FACTOR: u64 = 4;
/// Space kept allocated behind the last record, so that a full disk stops guests' writes before it stops their flushes.
const RESERVE_LEN: u64 = 32 * 1024;

/// What a flush brings to the log.
pub(super) struct LogChange {
    /// Blocks that joined since the last one.
    pub(super) joined: RoaringBitmap,
    /// All blocks, these among them, where [`Log::may_be_rewritten`].
    pub(super) all: Option<RoaringBitmap>,
}

/// A log open for appending.
pub(super) struct Log {
    dir: PathBuf,
    path: PathBuf,
    file: File,
    header: DeltaLogHeader,
    /// Record sectors.
    sectors: u64,
    /// Length of the file; what lies behind the record sectors is zero.
    len_bytes: u64,
    /// Length beyond which rewriting is considered.
    rewrite_above: u64,
}

impl Log {
    /// Makes an empty log, durable but for its name.
    pub(super) fn create(dir: &Path, id: DeltaId, size_bytes: u64) -> Result<Log> {
        let state = DeltaLogState::Closed { sectors: 0 };
        let header = DeltaLogHeader { id, size_bytes, state, write_generation: 0 };
        let path = dir.join(NAME);
        let file = durability::create_file(&path)?;
        let mut log = Log::new(dir, file, header, 0, SECTOR_LEN);
        log.write_header(header.state)?;
        Ok(log)
    }

    /// Opens a log, cuts off what a crash left behind its end, and makes durable what a killed process had appended.
    pub(super) fn open(dir: &Path) -> Result<(Log, RoaringBitmap)> {
        let path = dir.join(NAME);
        let _ = fs::remove_file(dir.join(NEW_NAME));
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.context(|| format!("cannot open {}", path.display()))?;
        let (mut header, mut found) = scan(&path, &file)?;
        if matches!(header.state, DeltaLogState::Open { .. }) {
            // What is cached may not be on the disk, be it not yet, or because a sync failed.
            file.sync_data().context(|| format!("cannot sync {}", path.display()))?;
            forget_cached(&file);
            (header, found) = scan(&path, &file)?;
        }
        let mut log = Log::new(dir, file, header, found.sectors, found.len_bytes);
        if found.torn {
            log.cut()?;
        }
        Ok((log, found.members))
    }

    fn new(dir: &Path, file: File, header: DeltaLogHeader, sectors: u64, len_bytes: u64) -> Log {
        let (dir, path) = (dir.to_owned(), dir.join(NAME));
        Log { dir, path, file, header, sectors, len_bytes, rewrite_above: REWRITE_LEN_MIN }
    }

    /// Whether the delta was left in good order when it was last used.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.header.state, DeltaLogState::Closed { .. })
    }

    pub(super) fn header(&self) -> &DeltaLogHeader {
        &self.header
    }

    /// Whether the log is so long that it should be rewritten, unless its blocks need that length.
    pub(super) fn may_be_rewritten(&self) -> bool {
        self.end() > self.rewrite_above
    }

    /// Makes the change durable. After an error the log is in doubt and must not be changed any more.
    pub(super) fn apply(&mut self, change: LogChange) -> Result<()> {
        if change.joined.is_empty() {
            return Ok(());
        }
        if let Some(all) = change.all {
            let needed = (1 + sectors_of(&all)) * SECTOR_LEN;
            self.rewrite_above = REWRITE_LEN_MIN.max(REWRITE_FACTOR * needed);
            if self.may_be_rewritten() {
                return self.rewrite(&all);
            }
        }
        self.append(&change.joined)
    }

    /// States durably where the log ends.
    pub(super) fn close(&mut self) -> Result<()> {
        if self.len_bytes > self.end() {
            self.cut()?;
        }
        match self.header.state {
            DeltaLogState::Closed { sectors } if sectors == self.sectors => Ok(()),
            _ => self.write_header(DeltaLogState::Closed { sectors: self.sectors }),
        }
    }

    /// Begins the next write generation, durably once the log is synced; a log that was closed is open again. After an error
    /// the log is as it was, or says what it will say when this is done again.
    pub(super) fn begin_generation(&mut self) -> Result<()> {
        let state = match self.header.state {
            DeltaLogState::Closed { sectors } => DeltaLogState::Open { sectors_min: sectors },
            open @ DeltaLogState::Open { .. } => open,
        };
        let write_generation = self.header.write_generation + 1;
        let header = DeltaLogHeader { state, write_generation, ..self.header };
        self.write_at(&header.encode(), 0)?;
        self.header = header;
        Ok(())
    }

    fn append(&mut self, joined: &RoaringBitmap) -> Result<()> {
        if self.is_closed() {
            // Before the first record behind the stated end: else a crash would leave a log that seems damaged.
            self.write_header(DeltaLogState::Open { sectors_min: self.sectors })?;
        }
        self.reserve(sectors_of(joined) * SECTOR_LEN);
        let batch_first = self.sectors + 1;
        let mut out = Vec::new();
        let mut at = self.end();
        let mut sequence = self.sectors;
        let mut runs = Runs::of(joined);
        while let Some(runs) = runs.next_sector() {
            sequence += 1;
            out.extend_from_slice(&DeltaRecord { sequence, batch_first, runs }.encode());
            if out.len() >= 128 * DELTA_SECTOR_LEN {
                self.write_at(&out, at)?;
                at += out.len() as u64;
                out.clear();
            }
        }
        self.write_at(&out, at)?;
        self.sync()?;
        self.sectors = sequence;
        self.len_bytes = self.len_bytes.max(self.end());
        Ok(())
    }

    /// Replaces the log by one that holds just these blocks.
    fn rewrite(&mut self, members: &RoaringBitmap) -> Result<()> {
        let path = self.dir.join(NEW_NAME);
        let _ = fs::remove_file(&path);
        let file = durability::create_file(&path)?;
        let name = || format!("cannot write {}", path.display());
        let sectors = sectors_of(members);
        let header =
            DeltaLogHeader { state: DeltaLogState::Open { sectors_min: sectors }, ..self.header };
        let mut out = BufWriter::with_capacity(64 * 1024, &file);
        out.write_all(&header.encode()).context(name)?;
        let mut runs = Runs::of(members);
        let mut sequence = 0;
        while let Some(runs) = runs.next_sector() {
            sequence += 1;
            let record = DeltaRecord { sequence, batch_first: sequence, runs };
            out.write_all(&record.encode()).context(name)?;
        }
        out.flush().context(name)?;
        drop(out);
        file.sync_all().context(|| format!("cannot sync {}", path.display()))?;
        fs::rename(&path, &self.path)
            .context(|| format!("cannot replace {}", self.path.display()))?;
        durability::sync_dir(&self.dir)?;
        (self.file, self.header, self.sectors) = (file, header, sectors);
        self.len_bytes = self.end();
        Ok(())
    }

    /// Allocates space for the next records and some more. Failing to is no error: then writing them may be one.
    fn reserve(&mut self, len: u64) {
        let needed = self.end() + len;
        if needed + RESERVE_LEN / 2 <= self.len_bytes {
            return;
        }
        let reserve = needed + RESERVE_LEN - self.len_bytes;
        let done =
            rustix::fs::fallocate(&self.file, FallocateFlags::empty(), self.len_bytes, reserve);
        if done.is_ok() {
            self.len_bytes += reserve;
        }
    }

    /// Shortens the file to its records.
    fn cut(&mut self) -> Result<()> {
        let end = self.end();
        self.file.set_len(end).context(|| format!("cannot cut {}", self.path.display()))?;
        self.len_bytes = end;
        self.sync()
    }

    fn end(&self) -> u64 {
        (1 + self.sectors) * SECTOR_LEN
    }

    fn write_header(&mut self, state: DeltaLogState) -> Result<()> {
        self.header.state = state;
        self.write_at(&self.header.encode(), 0)?;
        self.sync()
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let written = self.file.write_all_at(bytes, offset);
        written.context(|| format!("cannot write {}", self.path.display()))
    }

    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_data().context(|| format!("cannot sync {}", self.path.display()))
    }
}

/// Reads a log and changes nothing.
pub(super) fn load(dir: &Path) -> Result<(DeltaLogHeader, RoaringBitmap)> {
    let path = dir.join(NAME);
    let file = File::open(&path).context(|| format!("cannot open {}", path.display()))?;
    let (header, scan) = scan(&path, &file)?;
    Ok((header, scan.members))
}

/// What reading a log finds.
///
/// A crash can leave of the last append any of its sectors and not others, each as written or never written, that is
/// zero or beyond the end of the file. Everything before it was durable. So the log ends before the first zero sector,
/// and behind that may be only zeros and sectors of that same append, which say so in `batch_first`. Anything else is
/// damage: a sector that is neither valid nor zero, one out of sequence, one of a later append behind a gap, or a log
/// shorter than its header says.
struct Scan {
    members: RoaringBitmap,
    /// Blocks of the disk.
    blocks: u64,
    /// Record sectors before the first gap.
    sectors: u64,
    /// The first sector that is zero.
    gap: Option<u64>,
    /// Something but zeros lies behind the end.
    torn: bool,
    len_bytes: u64,
}

fn scan(path: &Path, file: &File) -> Result<(DeltaLogHeader, Scan)> {
    let read = || format!("cannot read {}", path.display());
    let damaged = |sector: u64| format!("{} is damaged at sector {sector}", path.display());
    let len_bytes = file.metadata().context(read)?.len();
    if len_bytes < SECTOR_LEN {
        return Err(Error::corrupt("it is too short").context(damaged(0)));
    }
    let mut reader = io::BufReader::with_capacity(128 * DELTA_SECTOR_LEN, file);
    reader.rewind().context(read)?;
    let mut sector = [0; DELTA_SECTOR_LEN];
    reader.read_exact(&mut sector).context(read)?;
    let header = DeltaLogHeader::decode(&sector).context(|| damaged(0))?;
    let blocks = header.size_bytes.div_ceil(BLOCK_SIZE_BYTES);
    if len_bytes > len_max(blocks) {
        let error = Error::corrupt("no disk of this size needs a log so long");
        return Err(error.context(damaged(len_max(blocks) / SECTOR_LEN)));
    }
    let members = RoaringBitmap::new();
    let mut scan = Scan { members, blocks, sectors: 0, gap: None, torn: false, len_bytes };
    for number in 1..len_bytes.div_ceil(SECTOR_LEN) {
        sector.fill(0);
        let len = (len_bytes - number * SECTOR_LEN).min(SECTOR_LEN) as usize;
        reader.read_exact(&mut sector[..len]).context(read)?;
        scan.take(number, &sector, len).context(|| damaged(number))?;
    }
    if !scan.ends_as(header.state) {
        let error = Error::corrupt("the log does not end where its header says");
        return Err(error.context(damaged(scan.sectors + 1)));
    }
    scan.torn |= !len_bytes.is_multiple_of(SECTOR_LEN);
    Ok((header, scan))
}

impl Scan {
    /// Takes the next sector, of which the file has `len` bytes.
    fn take(&mut self, number: u64, sector: &[u8; DELTA_SECTOR_LEN], len: usize) -> Result<()> {
        if sector.iter().all(|byte| *byte == 0) {
            self.gap.get_or_insert(number);
            return Ok(());
        }
        if len < DELTA_SECTOR_LEN {
            return Err(Error::corrupt("it is cut short"));
        }
        let record = DeltaRecord::decode(sector)?;
        if record.sequence != number {
            return Err(Error::corrupt("it is out of sequence"));
        }
        match self.gap {
            Some(gap) if record.batch_first > gap => {
                let message = format!("sector {gap} was durable before it and is gone");
                Err(Error::corrupt(message))
            }
            Some(_) => {
                self.torn = true;
                Ok(())
            }
            None => {
                self.sectors = number;
                self.insert(&record.runs)
            }
        }
    }

    fn insert(&mut self, runs: &[BlockRange]) -> Result<()> {
        for run in runs {
            if run.end() > self.blocks {
                return Err(Error::corrupt("it names blocks beyond the disk"));
            }
            self.members.insert_range(run.start as u32..=(run.end() - 1) as u32);
        }
        Ok(())
    }

    fn ends_as(&self, state: DeltaLogState) -> bool {
        match state {
            DeltaLogState::Open { sectors_min } => self.sectors >= sectors_min,
            DeltaLogState::Closed { sectors } => self.sectors == sectors && !self.torn,
        }
    }
}

/// The longest log that a disk of so many blocks can have: one that is about to be rewritten, while one append takes
/// every second block.
fn len_max(blocks: u64) -> u64 {
    let needed_max = (2 + blocks.div_ceil(2) / DeltaRecord::RUNS_MAX as u64) * SECTOR_LEN;
    REWRITE_LEN_MIN + (REWRITE_FACTOR + 1) * needed_max + 2 * RESERVE_LEN
}

/// Record sectors that blocks need.
fn sectors_of(members: &RoaringBitmap) -> u64 {
    let mut runs = Runs::of(members);
    let mut count = 0;
    while runs.next().is_some() {
        count += 1u64;
    }
    count.div_ceil(DeltaRecord::RUNS_MAX as u64)
}

/// The runs of a set of blocks.
struct Runs<'a>(roaring::bitmap::Iter<'a>);

impl Runs<'_> {
    fn of(members: &RoaringBitmap) -> Runs<'_> {
        Runs(members.iter())
    }

    fn next_sector(&mut self) -> Option<Vec<BlockRange>> {
        let runs: Vec<_> = self.by_ref().take(DeltaRecord::RUNS_MAX).collect();
        (!runs.is_empty()).then_some(runs)
    }
}

impl Iterator for Runs<'_> {
    type Item = BlockRange;

    fn next(&mut self) -> Option<BlockRange> {
        let run = self.0.next_range()?;
        let (start, last) = (u64::from(*run.start()), u64::from(*run.end()));
        Some(BlockRange { start, len: last + 1 - start })
    }
}
