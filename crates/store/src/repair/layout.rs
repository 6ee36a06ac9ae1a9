//! The files by which a folder is a store, before anything in it can be opened.

use super::rebuild;
use crate::{
    catalog::{self, State},
    chunk::{ChunkKind, Domain},
    database::{Database, SCHEMA_VERSION},
    lease,
    pack::{PackFiles, read_footer, read_pack_id},
    paths::StorePaths,
    quarantine::quarantine,
    reader::{ChunkReader, NoPlaces, PackPlace},
    space::SpaceGate,
    store::make_file,
};
use silt_format::{
    CommitSlot, FileHeader, LIMITS_MAGIC, LIMITS_VERSION, LimitsFile, SCRUB_MAGIC, SCRUB_VERSION,
    STORE_VERSION, ScrubFile, StoreFile,
};
use silt_sys::durability;
use silt_types::{Context as _, Error, ErrorKind, PackId, Result};
use std::{fs, path::Path};

/// Ends the name of a pack that is on its way to its right one.
const MISNAMED: &str = "misnamed";

/// Makes good what keeps the store at `path` from being opened, its database apart: a missing folder, a damaged `store` or
/// `commit` file, packs under a wrong name. Answers what was done. `NotFound` if nothing there is of a store; `Busy` while somebody
/// works with it and something has to be done.
pub fn mend_layout(path: &Path) -> Result<Vec<String>> {
    let paths = StorePaths::new(path);
    if [paths.store_file(), paths.database(), paths.packs()].iter().all(|path| !path.exists()) {
        let message = format!("there is no store at {}", path.display());
        return Err(Error::new(ErrorKind::NotFound, message));
    }
    let mut done = make_folders(&paths)?;
    if rebuild::is_to_be_finished(&paths) {
        let _nobody_begins = lease::turn_without_work(&paths)?;
        rebuild::take_place(&paths)?;
        done.push("a database that had been made again was put in its place".to_owned());
    }
    done.extend(name_packs(&paths)?);
    done.extend(mend_store_file(&paths)?);
    done.extend(mend_commit_file(&paths)?);
    done.extend(mend_limits(&paths)?);
    Ok(done)
}

fn make_folders(paths: &StorePaths) -> Result<Vec<String>> {
    for folder in [paths.packs(), paths.volumes()] {
        if !folder.is_dir() {
            return Err(Error::corrupt(format!(
                "the folder {} is missing: if it is on another disk, mount that; if it is lost, make it, empty, and repair again",
                folder.display()
            )));
        }
    }
    let mut done = Vec::new();
    for folder in paths.folders() {
        if durability::create_dir(&folder)? {
            done.push(format!("the folder {} was missing and was made", folder.display()));
        }
    }
    if !done.is_empty() {
        durability::sync_dir(paths.root())?;
    }
    Ok(done)
}

/// Gives packs the names that they say they have.
fn name_packs(paths: &StorePaths) -> Result<Vec<String>> {
    let misnamed = misnamed_packs(paths)?;
    if misnamed.is_empty() {
        return Ok(Vec::new());
    }
    let _nobody_begins = lease::turn_without_work(paths)?;
    // Two may have each other's names.
    let mut passing = Vec::new();
    for (number, (name, pack)) in misnamed.into_iter().enumerate() {
        let to = paths.packs().join(format!("{pack}.{number}.{MISNAMED}"));
        let from = paths.packs().join(&name);
        fs::rename(&from, &to).context(|| format!("cannot rename {}", from.display()))?;
        passing.push((to, name, pack));
    }
    let mut done = Vec::new();
    for (from, name, pack) in passing {
        let to = paths.pack(pack);
        if to.exists() {
            quarantine(paths, &from)?;
            done.push(format!(
                "packs/{name}, another copy of pack {pack}, was moved to quarantine"
            ));
        } else {
            fs::rename(&from, &to).context(|| format!("cannot rename {}", from.display()))?;
            done.push(format!("pack {pack} was found in the file packs/{name}"));
        }
    }
    durability::sync_dir(&paths.packs())?;
    Ok(done)
}

fn misnamed_packs(paths: &StorePaths) -> Result<Vec<(String, PackId)>> {
    let mut misnamed = Vec::new();
    for name in lease::names_in(&paths.packs())? {
        let named = name.strip_suffix(".pack").and_then(|id| id.parse::<PackId>().ok());
        if named.is_none() && !name.ends_with(MISNAMED) {
            continue;
        }
        match read_pack_id(&paths.packs().join(&name)) {
            Ok(pack) if named != Some(pack) => misnamed.push((name, pack)),
            _ => {} // Right, or damaged, which is not for here.
        }
    }
    misnamed.sort();
    Ok(misnamed)
}

fn mend_store_file(paths: &StorePaths) -> Result<Vec<String>> {
    let file = paths.store_file();
    if file.is_file() {
        let read = durability::read_file(&file, StoreFile::LEN as u64);
        match read.and_then(|bytes| StoreFile::decode(&bytes)) {
            Ok(_) => return Ok(Vec::new()),
            Err(error) if error.kind() == ErrorKind::Corrupt => {}
            Err(error) => return Err(error.context(format!("cannot repair {}", file.display()))),
        }
    }
    let _nobody_begins = lease::turn_without_work(paths)?;
    must_be_of_this_version(paths)?;
    must_have_published_domain(paths)?;
    quarantine(paths, &file)?;
    let id = id_told_elsewhere(paths).map_or_else(durability::random_bytes, Ok)?;
    let about = StoreFile { id, domain_secret: [0; 32] };
    durability::replace_file(&file, &about.encode())?;
    Ok(vec![format!("{} was damaged or missing and was made again", file.display())])
}

/// The store's id, which other files at the top have, too.
fn id_told_elsewhere(paths: &StorePaths) -> Option<[u8; 16]> {
    let scrub = (paths.scrub_file(), SCRUB_MAGIC, SCRUB_VERSION, ScrubFile::LEN);
    let limits = (paths.limits(), LIMITS_MAGIC, LIMITS_VERSION, LimitsFile::LEN);
    [scrub, limits].into_iter().find_map(|(path, magic, version, len)| {
        let bytes = durability::read_file(&path, len as u64).ok()?;
        FileHeader::decode_file(&bytes, magic, version).ok().map(|(header, _)| header.id)
    })
}

/// Damaged bounds stop whatever makes the store grow; nobody else knows what they were.
fn mend_limits(paths: &StorePaths) -> Result<Vec<String>> {
    let about = durability::read_file(&paths.store_file(), StoreFile::LEN as u64)
        .and_then(|bytes| StoreFile::decode(&bytes))?;
    match SpaceGate::new(about.id, paths.clone()).limits() {
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            quarantine(paths, &paths.limits())?;
            let what = "the bounds of the store were damaged and are the default now";
            Ok(vec![format!("{what}: `silt store limits` sets them")])
        }
        other => other.map(|_| Vec::new()),
    }
}

/// What a database says of its version, if it says anything, must be what the new file will say.
fn must_be_of_this_version(paths: &StorePaths) -> Result<()> {
    if !paths.database().exists() {
        return Ok(());
    }
    match Database::for_repair(&paths.database()).version() {
        Ok(version) if version != SCHEMA_VERSION && version != 0 => Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the database has version {version} of its tables, this build knows those of store version {STORE_VERSION}"
            ),
        )),
        _ => Ok(()),
    }
}

/// A secret that only the lost file knew cannot be found again.
fn must_have_published_domain(paths: &StorePaths) -> Result<()> {
    let reader =
        ChunkReader::new(Domain::published(), PackFiles::new(paths.clone()), Box::new(NoPlaces), 0);
    let mut tried = 0;
    for name in lease::names_in(&paths.packs())? {
        let Some(pack) = name.strip_suffix(".pack").and_then(|id| id.parse().ok()) else {
            continue;
        };
        let entries = read_footer(paths, pack).map(|(_, footer)| footer.entries);
        for entry in entries.unwrap_or_default().into_iter().take(3) {
            let Some(kind) = ChunkKind::from_u8(entry.kind) else { continue };
            if reader.read_place(kind.context(), &PackPlace { pack, entry }).is_ok() {
                return Ok(());
            }
            tried += 1;
        }
    }
    match tried {
        0 => Ok(()),
        _ => Err(Error::corrupt(
            "the store file is lost, and with it the secret of the store's dedup domain: no chunk can be verified",
        )),
    }
}

fn mend_commit_file(paths: &StorePaths) -> Result<Vec<String>> {
    let file = paths.commit_file();
    match catalog::recorded_commit(paths) {
        Ok(_) => return Ok(Vec::new()),
        Err(error) if error.kind() == ErrorKind::Corrupt => {}
        Err(error) => return Err(error),
    }
    let _nobody_begins = lease::turn_without_work(paths)?;
    let state = Database::open(&paths.database()).and_then(|database| {
        database.read("cannot read the state of the catalog", |c| Ok(State::read(c)))?
    });
    quarantine(paths, &file)?;
    make_file(&file, 2 * CommitSlot::LEN as u64)?;
    durability::sync_dir(paths.root())?;
    // A database that does not say is made again next.
    if let Ok(state) = state {
        catalog::record_commit(paths, state)?;
    }
    Ok(vec![format!("{} was damaged or missing and was made again", file.display())])
}
