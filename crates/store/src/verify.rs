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
use silt_types::{ChunkId, Error, ErrorKind, Progress, Result};
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

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
    /// Everything wrong, each naming its object, and the chunk where it is one.
    pub errors: Vec<(Option<ChunkId>, Error)>,
}

impl Findings {
    fn add(&mut self, error: Error) {
        self.errors.push((None, error));
    }

    fn add_chunk(&mut self, chunk: ChunkId, error: Error) {
        self.bad_chunks.insert(chunk);
        self.errors.push((Some(chunk), error));
    }
}

impl Store {
    /// Checks the database and hashes every chunk of every pack, on all cores. Reads the whole store, which is not to be
    /// collected meanwhile: see [`Store::hold_collection`]. `progress` hears of bytes of packs. Damage is among the findings, not an error; an error means that
    /// verification could not go on.
    pub fn verify(&self, progress: &dyn Progress) -> Result<Findings> {
        let shared = self.shared();
        let mut findings = Findings::default();
        check_database(shared, &mut findings)?;
        let packs = match index::packs(&shared.database) {
            Ok(packs) => packs,
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                findings.add(error);
                return Ok(findings);
            }
            Err(error) => return Err(error),
        };
        progress.begin("verifying packs", packs.iter().map(|pack| pack.size).sum());
        let next = AtomicUsize::new(0);
        let (all, rows_found) = (Mutex::new(findings), Mutex::new(HashMap::new()));
        let worker = || {
            while let Some(pack) = packs.get(next.fetch_add(1, Relaxed)) {
                let (found, rows) = check_pack(shared, pack, progress);
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
        Ok(findings)
    }
}

fn merge(all: &mut Findings, found: Findings) {
    all.packs += found.packs;
    all.chunks += found.chunks;
    all.bytes += found.bytes;
    all.bad_chunks.extend(found.bad_chunks);
    all.errors.extend(found.errors);
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
            findings.add(Error::corrupt(format!("the database is damaged: {line}")));
        }),
        Err(error) => findings.add(error),
    }
    if let Err(error) = shared.database.must_end_with_a_page() {
        findings.add(error);
    }
    if let Err(error) = shared.database.read_at_once("cannot list the catalog", catalog::list) {
        findings.add(error);
    }
    if let Err(error) = catalog::check_commit(&shared.paths, &shared.database) {
        findings.add(error);
    }
    if let Err(error) = shared.space.limits() {
        findings.add(error);
    }
    Ok(())
}

/// Checks one pack. Answers how many rows of the index point into it, too.
fn check_pack(shared: &Shared, pack: &PackRow, progress: &dyn Progress) -> (Findings, u64) {
    let mut findings = Findings { packs: 1, ..Findings::default() };
    let mut rows = 0;
    let footer = match read_footer(&shared.paths, pack.id) {
        Ok((size, footer)) => {
            if size != pack.size {
                let message =
                    format!("pack {} has {size} bytes, the index says {}", pack.id, pack.size);
                findings.add(Error::corrupt(message));
            }
            footer
        }
        // A collection was killed between its last two steps.
        Err(_) if pack.state == PackState::Condemned && pack.totals.chunks == 0 => {
            return (Findings::default(), 0);
        }
        Err(error) => {
            findings.add(error);
            progress.advance(pack.size);
            return (findings, rows);
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
                findings.add_chunk(entry.id, Error::corrupt(message));
            }
            Err(error) => findings.add_chunk(entry.id, error),
        }
        let context = ChunkKind::from_u8(entry.kind).map(ChunkKind::context);
        let context = context
            .ok_or_else(|| Error::corrupt(format!("chunk {} has an unknown kind", entry.id)));
        let read = context.and_then(|context| {
            shared.reader.read_place(context, &PackPlace { pack: pack.id, entry })
        });
        match read {
            Ok(chunk) => findings.bytes += chunk.len() as u64,
            Err(error) => findings.add_chunk(entry.id, error),
        }
        findings.chunks += 1;
        progress.advance(u64::from(entry.stored_len));
    }
    (findings, rows)
}

/// Checks that no row points where no pack has its chunk. Others may add packs meanwhile: a pack that is not as it was
/// listed any more is left to the next verification.
fn check_rows(
    shared: &Shared,
    packs: &[PackRow],
    rows_found: &HashMap<i64, u64>,
    findings: &mut Findings,
) -> Result<()> {
    let mut rows: HashMap<i64, u64> = HashMap::new();
    let read = index::for_each_chunk(&shared.database, |row| match row {
        Ok(place) => *rows.entry(place.pack).or_default() += 1,
        Err(error) => findings.errors.push((None, error)),
    });
    if let Err(error) = read {
        findings.add(error);
    }
    for pack in packs {
        let count = rows.remove(&pack.number).unwrap_or(0);
        let found = rows_found.get(&pack.number).copied().unwrap_or(0);
        let wrong = found != count || pack.totals.chunks != count;
        if wrong
            && (pack.state == PackState::Complete
                || index::pack(&shared.database, pack.number)? == *pack)
        {
            let message = format!(
                "the index has {count} chunks in pack {}, of which {found} are there",
                pack.id
            );
            findings.add(Error::corrupt(message));
        }
    }
    let newest = packs.last().map_or(0, |pack| pack.number);
    for number in rows.into_keys() {
        if number > newest && index::pack(&shared.database, number).is_ok() {
            continue;
        }
        findings.add(Error::corrupt(format!(
            "the index has chunks in pack number {number}, which it does not know"
        )));
    }
    Ok(())
}
