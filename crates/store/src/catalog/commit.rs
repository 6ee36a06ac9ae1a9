//! The commit file: the number of the last transaction, kept outside the database.

use super::State;
use crate::{database::Database, paths::StorePaths};
use silt_format::CommitSlot;
use silt_types::{Context as _, Error, ErrorKind, Result};
use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt as _,
};

/// Records outside the database that it has come to `state`. Costs one fsync; runs after the commit, so that a crash
/// between them leaves the database ahead, never behind.
pub(crate) fn record_commit(paths: &StorePaths, state: State) -> Result<()> {
    let path = paths.commit_file();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .context(|| format!("cannot open {}", path.display()))?;
    file.lock().context(|| format!("cannot lock {}", path.display()))?;
    let number = state.number as u64;
    if read_commit_slots(&file)? < number {
        let at = number % 2 * CommitSlot::LEN as u64;
        let written =
            file.write_all_at(&CommitSlot { number }.encode(), at).and_then(|()| file.sync_data());
        written.context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The number of the last transaction, as it was recorded outside the database. `Corrupt` if the file is damaged or missing.
pub(crate) fn recorded_commit(paths: &StorePaths) -> Result<u64> {
    let path = paths.commit_file();
    let file = File::open(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::corrupt(format!("{} is missing", path.display())),
        _ => Error::io(format!("cannot open {}", path.display()), error),
    })?;
    // Without the lock a slot may be met half written. With it, what looks damaged is.
    let read = read_commit_slots(&file).or_else(|_| {
        file.lock_shared().context(|| format!("cannot lock {}", path.display()))?;
        read_commit_slots(&file)
    });
    read.context(|| format!("{} is damaged", path.display()))
}

/// Checks that the database has come at least as far as was recorded outside of it.
pub(crate) fn check_commit(paths: &StorePaths, database: &Database) -> Result<()> {
    let recorded = recorded_commit(paths)?;
    let state = database.read("cannot read the state of the catalog", |c| Ok(State::read(c)))??;
    if (state.number as u64) < recorded {
        let message = format!(
            "the catalog ends at transaction {} of {recorded}: later ones are lost",
            state.number
        );
        return Err(Error::corrupt(message));
    }
    Ok(())
}

fn read_commit_slots(file: &File) -> Result<u64> {
    let mut bytes = [0; 2 * CommitSlot::LEN];
    file.read_exact_at(&mut bytes, 0)
        .map_err(|error| Error::with_source(ErrorKind::Corrupt, "too short", error))?;
    let (first, second) = bytes.split_at(CommitSlot::LEN);
    let number = |slot| CommitSlot::decode(slot).map(|slot| slot.map_or(0, |slot| slot.number));
    Ok(number(first)?.max(number(second)?))
}
