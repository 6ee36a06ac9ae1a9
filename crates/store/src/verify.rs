//! Verification of everything that the store itself holds: database, packs, index, every chunk.
//!
//! Which images and volumes need what was found bad is for who knows maps and trees: see `silt-engine`.

use crate::{
    catalog,
    chunk::ChunkKind,
    index::{self, PackRow, PackState, Place},
    pack::read_footer,
    reader::PackPlace,
    store::{Shared, Store},
};
use rustix::io::Errno;
use silt_sys::durability;
use silt_types::{ChunkId, Error, ErrorKind, PackId, Progress, Result};
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// What of a store is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damaged {
    /// The database, or a row of it.
    Database,
    /// The bounds of the store.
    Limits,
    /// What a pack says of itself, or all of it.
    Pack(PackId),
    /// A chunk in a pack.
    Chunk(PackId, ChunkId),
}

/// Something that is wrong.
#[derive(Debug)]
pub struct Finding {
    /// With what.
    pub damaged: Damaged,
    /// What is wrong, naming it.
    pub error: Error,
}

/// Which chunks are read.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Of 2^32 chunks, so many.
    part: u64,
    /// Makes one choice unlike the next.
    seed: u64,
}

impl Sample {
    /// Every chunk.
    pub const ALL: Sample = Sample { part: 1 << 32, seed: 0 };

    /// About so many per cent, others each time. `Invalid` unless that is more than 0 and at most 100.
    pub fn percent(percent: f64) -> Result<Sample> {
        if !(percent > 0.0 && percent <= 100.0) {
            return Err(Error::invalid(format!("a sample of {percent} % is none: say 0.1 to 100")));
        }
        let seed = u64::from_le_bytes(durability::random_bytes()?);
        Ok(Sample { part: ((1u64 << 32) as f64 * percent / 100.0) as u64, seed })
    }

    /// Whether a chunk is in it.
    pub fn has(&self, chunk: &ChunkId) -> bool {
        // Ids are hashes already; the product of one with an odd number is spread as well in its upper half.
        let head = chunk.as_bytes().first_chunk().map_or(0, |head| u64::from_le_bytes(*head));
        (head ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 < self.part
    }
}

/// What a verification found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Packs read.
    pub packs: u64,
    /// Chunks read, decoded and hashed.
    pub chunks: u64,
    /// Their uncompressed length.
    pub bytes: u64,
    /// Chunks that cannot be read as what they were.
    pub bad_chunks: HashSet<ChunkId>,
    /// Everything wrong.
    pub found: Vec<Finding>,
}

impl Findings {
    fn add(&mut self, damaged: Damaged, error: Error) {
        self.found.push(Finding { damaged, error });
    }

    fn add_chunk(&mut self, pack: PackId, chunk: ChunkId, error: Error) {
        self.bad_chunks.insert(chunk);
        self.add(Damaged::Chunk(pack, chunk), error);
    }

    /// The findings, unless one of them is about this process and its moment: then that is the error that it is.
    fn of_the_store(mut self) -> Result<Findings> {
        match self.found.iter().position(|finding| is_of_the_moment(&finding.error)) {
            Some(at) => Err(self.found.swap_remove(at).error),
            None => Ok(self),
        }
    }

    /// The packs of which something is damaged.
    pub fn damaged_packs(&self) -> HashSet<PackId> {
        let packs = self.found.iter().filter_map(|finding| match finding.damaged {
            Damaged::Database | Damaged::Limits => None,
            Damaged::Pack(pack) | Damaged::Chunk(pack, _) => Some(pack),
        });
        packs.collect()
    }
}

impl Store {
    /// Checks the database and what every pack says of itself, and hashes the chunks of a sample, on all cores. The store is not
    /// to be collected meanwhile: see [`Store::hold_collection`]. `progress` hears of bytes of packs. Damage is among the
    /// findings, not an error; an error means that verification could not go on.
    pub fn verify(&self, sample: &Sample, progress: &dyn Progress) -> Result<Findings> {
        let shared = self.shared();
        let mut findings = Findings::default();
        check_database(shared, &mut findings)?;
        let packs = match index::packs(&shared.database) {
            Ok(packs) => packs,
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                findings.add(Damaged::Database, error);
                return Ok(findings);
            }
            Err(error) => return Err(error),
        };
        progress.begin("verifying packs", packs.iter().map(|pack| pack.size).sum());
        let next = AtomicUsize::new(0);
        let (all, rows_found) = (Mutex::new(findings), Mutex::new(HashMap::new()));
        let worker = || {
            while let Some(pack) = packs.get(next.fetch_add(1, Relaxed)) {
                let (found, rows) = check_pack(shared, pack, sample, progress);
                merge(&mut all.lock().unwrap_or_else(PoisonError::into_inner), found);
                rows_found.lock().unwrap_or_else(PoisonError::into_inner).insert(pack.number, rows);
            }
        };
        std::thread::scope(|scope| {
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            (0..threads).for_each(|_| drop(scope.spawn(worker)));
        });
        let mut findings = all.into_inner().unwrap_or_else(PoisonError::into_inner);
        let rows_found = rows_found.into_inner().unwrap_or_else(PoisonError::into_inner);
        check_rows(shared, &packs, &rows_found, &mut findings)?;
        findings.of_the_store()
    }

    /// The number and the length of the pack that comes after the one of this number, if there is one.
    pub fn pack_after(&self, number: u64) -> Result<Option<(u64, u64)>> {
        let packs = index::packs(&self.shared().database)?.into_iter();
        let mut after = packs.map(|pack| (pack.number as u64, pack.size));
        Ok(after.find(|(there, _)| *there > number))
    }

    /// Checks one pack, by its number; nothing if it is gone. As in [`Store::verify`].
    pub fn verify_pack(&self, number: u64, progress: &dyn Progress) -> Result<Findings> {
        let packs = index::packs(&self.shared().database)?;
        let Some(pack) = packs.iter().find(|pack| pack.number as u64 == number) else {
            return Ok(Findings::default());
        };
        let (mut findings, rows) = check_pack(self.shared(), pack, &Sample::ALL, progress);
        if let Some(rows) = rows.filter(|rows| *rows != pack.totals.chunks)
            && pack.state == PackState::Complete
            && index::pack(&self.shared().database, pack.number).is_ok_and(|now| now == *pack)
        {
            let what = format!(
                "the index counts {} chunks in pack {}, of which {rows} are there",
                pack.totals.chunks, pack.id
            );
            findings.add(Damaged::Database, Error::corrupt(what));
        }
        findings.of_the_store()
    }

    /// Checks the database, without looking into packs.
    pub fn verify_database(&self) -> Result<Findings> {
        let mut findings = Findings::default();
        check_database(self.shared(), &mut findings)?;
        findings.of_the_store()
    }
}

/// Whether an error says nothing of what is stored: there is no space or no room, or no right, or somebody is in the way.
fn is_of_the_moment(error: &Error) -> bool {
    let of_process = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::ACCESS, Errno::PERM];
    let is_one = |errno| of_process.iter().any(|known| known.raw_os_error() == errno);
    matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Busy)
        || error.os_error().is_some_and(is_one)
}

fn merge(all: &mut Findings, found: Findings) {
    all.packs += found.packs;
    all.chunks += found.chunks;
    all.bytes += found.bytes;
    all.bad_chunks.extend(found.bad_chunks);
    all.found.extend(found.found);
}

fn check_database(shared: &Shared, findings: &mut Findings) -> Result<()> {
    let lines = shared.database.read("cannot check the database", |connection| {
        let mut statement = connection.prepare("PRAGMA integrity_check(20)")?;
        statement
            .query_map([], |row| row.get::<_, String>(0))?
            .collect::<rusqlite::Result<Vec<_>>>()
    });
    match lines {
        Ok(lines) => lines.iter().filter(|line| *line != "ok").for_each(|line| {
            findings
                .add(Damaged::Database, Error::corrupt(format!("the database is damaged: {line}")));
        }),
        Err(error) => findings.add(Damaged::Database, error),
    }
    if let Err(error) = shared.database.must_end_with_a_page() {
        findings.add(Damaged::Database, error);
    }
    if let Err(error) = shared.database.read_at_once("cannot list the catalog", catalog::list) {
        findings.add(Damaged::Database, error);
    }
    if let Err(error) = catalog::check_commit(&shared.paths, &shared.database) {
        findings.add(Damaged::Database, error);
    }
    if let Err(error) = shared.space.limits() {
        findings.add(Damaged::Limits, error);
    }
    Ok(())
}

/// Checks one pack. Answers how many rows of the index point to what it has, too; `None` if it does not say what it has.
fn check_pack(
    shared: &Shared,
    pack: &PackRow,
    sample: &Sample,
    progress: &dyn Progress,
) -> (Findings, Option<u64>) {
    let mut findings = Findings { packs: 1, ..Findings::default() };
    let mut rows = 0;
    let footer = match read_footer(&shared.paths, pack.id) {
        Ok((size, footer)) => {
            if size != pack.size {
                let message =
                    format!("pack {} has {size} bytes, the index says {}", pack.id, pack.size);
                findings.add(Damaged::Database, Error::corrupt(message));
            }
            footer
        }
        // A collection was killed between its last two steps.
        Err(_) if pack.state == PackState::Condemned && pack.totals.chunks == 0 => {
            return (Findings::default(), Some(0));
        }
        Err(error) => {
            findings.add(Damaged::Pack(pack.id), error);
            progress.advance(pack.size);
            return (findings, None);
        }
    };
    for entry in footer.entries {
        let place = Place { pack: pack.number, entry };
        match index::find(&shared.database, &entry.id) {
            Ok(Some(there)) if there == place => rows += 1,
            Ok(Some(there)) if there.pack != place.pack => {} // Stored twice by two ingests at once.
            // A crash came between: as if it had never been stored, or it is being removed.
            Ok(None) if pack.state != PackState::Complete => {}
            Ok(_) => {
                let message = format!(
                    "chunk {} of pack {} is not in the index as it lies",
                    entry.id, pack.id
                );
                findings.bad_chunks.insert(entry.id);
                findings.add(Damaged::Database, Error::corrupt(message));
            }
            Err(error) => {
                findings.bad_chunks.insert(entry.id);
                findings.add(Damaged::Database, error);
            }
        }
        progress.advance(u64::from(entry.stored_len));
        if !sample.has(&entry.id) {
            continue;
        }
        let context = ChunkKind::from_u8(entry.kind).map(ChunkKind::context);
        let context = context
            .ok_or_else(|| Error::corrupt(format!("chunk {} has an unknown kind", entry.id)));
        let read = context.and_then(|context| {
            shared.reader.read_place(context, &PackPlace { pack: pack.id, entry })
        });
        match read {
            Ok(chunk) => findings.bytes += chunk.len() as u64,
            Err(error) => findings.add_chunk(pack.id, entry.id, error),
        }
        findings.chunks += 1;
    }
    (findings, Some(rows))
}

/// Checks that no row points where no pack has its chunk. Others may add packs meanwhile: a pack that is not as it was
/// listed any more is left to the next verification.
fn check_rows(
    shared: &Shared,
    packs: &[PackRow],
    rows_found: &HashMap<i64, Option<u64>>,
    findings: &mut Findings,
) -> Result<()> {
    let mut rows: HashMap<i64, u64> = HashMap::new();
    let read = index::for_each_chunk(&shared.database, |row| match row {
        Ok(place) => *rows.entry(place.pack).or_default() += 1,
        Err(error) => findings.add(Damaged::Database, error),
    });
    if let Err(error) = read {
        findings.add(Damaged::Database, error);
    }
    for pack in packs {
        let count = rows.remove(&pack.number).unwrap_or(0);
        // What a pack does not say cannot be compared.
        let Some(found) = rows_found.get(&pack.number).copied().unwrap_or(Some(0)) else {
            continue;
        };
        let wrong = found != count || pack.totals.chunks != count;
        if wrong
            && (pack.state == PackState::Complete
                || index::pack(&shared.database, pack.number)? == *pack)
        {
            let message = format!(
                "the index has {count} chunks in pack {}, of which {found} are there",
                pack.id
            );
            findings.add(Damaged::Database, Error::corrupt(message));
        }
    }
    let newest = packs.last().map_or(0, |pack| pack.number);
    for number in rows.into_keys() {
        if number > newest && index::pack(&shared.database, number).is_ok() {
            continue;
        }
        findings.add(
            Damaged::Database,
            Error::corrupt(format!(
                "the index has chunks in pack number {number}, which it does not know"
            )),
        );
    }
    Ok(())
}
