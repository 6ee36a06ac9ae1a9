//! Leases: a file held under an open-file-description lock for as long as some work is in progress.
//!
//! The lock dies with its holder, however that ends; neither process numbers nor clocks are asked. What an ingest finds
//! or writes is kept alive by its lease until its roots are published.

use crate::{paths::StorePaths, store::Store};
use silt_sys::durability;
use silt_types::{Context as _, LeaseId, Result};
use std::{
    fs::{self, File, TryLockError},
    path::PathBuf,
};

/// A lease held by this process; see [`Store::lease`].
pub struct Lease {
    id: LeaseId,
    path: PathBuf,
    _file: File,
}

impl Lease {
    /// Takes a new lease. It needs no fsync: after a power cut nobody holds one.
    pub(crate) fn take(paths: &StorePaths) -> Result<Lease> {
        let _turn = turn(paths)?;
        let id = LeaseId::from_bytes(durability::random_bytes()?);
        let path = paths.leases().join(id.to_string());
        let file = durability::create_file(&path)?;
        file.lock().context(|| format!("cannot lock the lease {}", path.display()))?;
        Ok(Lease { id, path, _file: file })
    }

    /// Its id, by which others can ask whether it is held.
    pub fn id(&self) -> LeaseId {
        self.id
    }
}

impl Store {
    /// Takes a lease for work in progress, which ends with its holder.
    pub fn lease(&self) -> Result<Lease> {
        Lease::take(self.paths())
    }

    /// Whether somebody holds a lease.
    pub fn is_leased(&self, id: LeaseId) -> Result<bool> {
        is_held(&self.paths().leases().join(id.to_string()))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // A lease file without a holder is dead, whether or not it can be removed.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes what dead work left behind: leases that nobody holds, packs they never finished and, where no lease but
/// `own` is alive, finished packs that `is_indexed` does not know. Answers how many files went.
pub(crate) fn remove_leftovers(
    paths: &StorePaths,
    own: LeaseId,
    mut is_indexed: impl FnMut(&str) -> Result<bool>,
) -> Result<u64> {
    let _turn = turn(paths)?;
    let mut removed = 0;
    let mut alive = Vec::new();
    for name in names_in(&paths.leases())? {
        let path = paths.leases().join(&name);
        if name == own.to_string() || is_held(&path)? {
            alive.push(name);
        } else {
            removed += u64::from(fs::remove_file(&path).is_ok());
        }
    }
    for name in names_in(&paths.packs())? {
        let dead = match name.split('.').collect::<Vec<_>>()[..] {
            [_, lease, "tmp"] => !alive.iter().any(|name| name == lease),
            [pack, "pack"] => alive.len() == 1 && !is_indexed(pack)?,
            _ => false,
        };
        if dead {
            removed += u64::from(fs::remove_file(paths.packs().join(&name)).is_ok());
        }
    }
    Ok(removed)
}

/// Whose turn it is to take a lease or to remove dead ones: nobody may see one made but not yet locked.
fn turn(paths: &StorePaths) -> Result<File> {
    let dir = File::open(paths.leases()).context(|| "cannot open the folder of leases".into())?;
    dir.lock().context(|| "cannot lock the folder of leases".into())?;
    Ok(dir)
}

fn names_in(dir: &std::path::Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).context(|| format!("cannot list {}", dir.display()))?;
    let names =
        entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    names.collect::<std::io::Result<_>>().context(|| format!("cannot list {}", dir.display()))
}

fn is_held(path: &std::path::Path) -> Result<bool> {
    let Ok(file) = File::open(path) else {
        return Ok(false); // Gone since it was listed.
    };
    match file.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => {
            Err(silt_types::Error::io(format!("cannot test the lease {}", path.display()), error))
        }
    }
}
