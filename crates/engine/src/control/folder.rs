//! A server's folder in the store's `run` folder: `<id of what is served>.writer`, or `.reader-` and a random number.
//!
//! A server holds a lock on its folder for life, and all it makes outside of its volume is in there: it needs no right to
//! `run` itself. The folder of a killed server is known by a lock that nobody holds, whatever process has its number now; its
//! broker removes it, or else who meets it. Whoever makes, tests or removes folders takes a turn, so that nobody sees one made
//! and not yet locked.

use silt_store::StorePaths;
use silt_sys::durability::{create_dir, random_bytes};
use silt_types::{Context as _, Error, ErrorKind, Result};
use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

/// What a server may do with what it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Write it: there is one at most.
    Writer,
    /// Read it, among any number of others.
    Reader {
        /// Tells it from the others.
        number: u32,
    },
}

impl Role {
    /// A reader unlike all others.
    pub(crate) fn reader() -> Result<Role> {
        Ok(Role::Reader { number: u32::from_le_bytes(random_bytes()?) })
    }
}

/// The folder of this server; goes when it is dropped.
pub(crate) struct RunFolder {
    path: PathBuf,
    _lock: File,
}

impl RunFolder {
    /// Makes and locks the folder of a server of what has this id. What a killed one left is replaced; `Busy` if another one
    /// has the same, which the lock of a volume prevents.
    pub(crate) fn create(paths: &StorePaths, id: &str, role: &Role) -> Result<RunFolder> {
        let _turn = turn(paths)?;
        let path = RunFolder::path_of(paths, id, role);
        if is_held(&path)? {
            let message = format!("another server has the folder {}", path.display());
            return Err(Error::new(ErrorKind::Busy, message));
        }
        remove(&path)?;
        create_dir(&path)?;
        let lock = File::open(&path).context(|| format!("cannot open {}", path.display()))?;
        lock.lock().context(|| format!("cannot lock {}", path.display()))?;
        Ok(RunFolder { path, _lock: lock })
    }

    /// Where the folder of a server is.
    pub(crate) fn path_of(paths: &StorePaths, id: &str, role: &Role) -> PathBuf {
        let role = match role {
            Role::Writer => "writer".to_owned(),
            Role::Reader { number } => format!("reader-{number:08x}"),
        };
        paths.run().join(format!("{id}.{role}"))
    }

    /// The control socket in a folder.
    pub(crate) fn socket_in(folder: &Path) -> PathBuf {
        folder.join("control")
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The control socket in this one.
    pub(crate) fn socket(&self) -> PathBuf {
        RunFolder::socket_in(&self.path)
    }

    /// The folders of all servers that live. Those of killed ones are removed.
    pub(crate) fn living(paths: &StorePaths) -> Result<Vec<PathBuf>> {
        let run = paths.run();
        let failed = || format!("cannot list {}", run.display());
        let _turn = turn(paths)?;
        let mut living = Vec::new();
        for entry in fs::read_dir(&run).context(failed)? {
            let path = entry.context(failed)?.path();
            if !is_of_server(&path) {
                continue;
            }
            match is_held(&path)? {
                true => living.push(path),
                // If it cannot be removed, it is dead all the same.
                false => drop(remove(&path)),
            }
        }
        living.sort();
        Ok(living)
    }

    /// Removes the folder of a server that has ended, unless another one has it by now.
    pub(crate) fn remove_if_dead(paths: &StorePaths, folder: &Path) -> Result<()> {
        let _turn = turn(paths)?;
        if is_of_server(folder) && !is_held(folder)? { remove(folder) } else { Ok(()) }
    }

    /// Whether the server that has this folder lives.
    pub(crate) fn is_alive(paths: &StorePaths, folder: &Path) -> Result<bool> {
        let _turn = turn(paths)?;
        is_held(folder)
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        // A server that may not is survived by a folder that nobody holds.
        let _ = remove(&self.path);
    }
}

fn is_of_server(path: &Path) -> bool {
    let role = path.extension().and_then(|role| role.to_str());
    role.is_some_and(|role| role == "writer" || role.starts_with("reader-"))
}

fn turn(paths: &StorePaths) -> Result<File> {
    let run = paths.run();
    let failed = || format!("cannot lock the folder {}", run.display());
    let dir = File::open(&run).context(failed)?;
    dir.lock().context(failed)?;
    Ok(dir)
}

fn is_held(path: &Path) -> Result<bool> {
    let failed = |error| Error::io(format!("cannot test the lock of {}", path.display()), error);
    let folder = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other.map_err(failed)?,
    };
    match folder.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.context(|| format!("cannot remove {}", path.display())),
    }
}
