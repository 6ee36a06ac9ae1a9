//! What the server of a disk gives up before it hears from a guest, so that a guest that takes it over has nothing but
//! what the server needs: packs to read, its volume's folder, the connections it has.
//!
//! The kernel enforces it, on this thread and every one that it starts: so it is done once, by the only thread there is.
//! What a server needs beyond it, the broker does. Explained in `docs/internals/confinement.md`.

mod paths;
mod system_calls;

use crate::broker::Broker;
use rustix::{
    fs::Mode,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use silt_types::{Error, ErrorKind, Result};
use std::path::PathBuf;

/// Descriptors that a server may have: 64 clients, 256 packs, the files of nine deltas, a guest's memory and queues; with
/// room.
const OPEN_FILES_MAX: u64 = 4096;

/// The paths that a server needs once it is open.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rights {
    /// Folders whose files are read.
    pub(crate) read: Vec<PathBuf>,
    /// Folders whose files are made, written and removed.
    pub(crate) write: Vec<PathBuf>,
}

/// What a server gave up, as far as the kernel lets it.
#[derive(Clone, Debug)]
pub struct Confinement {
    /// Version of Landlock's interface that holds paths, TCP and signals; none where the kernel has no Landlock.
    pub landlock: Option<u32>,
    /// What files it can open for reading: those beneath these folders.
    pub read: Vec<PathBuf>,
    /// What it can write: files beneath these folders.
    pub write: Vec<PathBuf>,
    /// How many system calls are left to it, out of some 350.
    pub system_calls: usize,
    /// Descriptors that it may have.
    pub open_files_max: u64,
}

/// Confines this process for good, as far as the kernel can. `Unsupported` if `required` and it cannot in full; `Internal`
/// if there are other threads, which would be left out.
pub(crate) fn confine(rights: &Rights, broker: &Broker, required: bool) -> Result<Confinement> {
    silt_sys::process::must_be_single_threaded()?;
    broker.begin()?;
    // What is made from now on is private without its mode being set, which Landlock cannot hold and so is taken away.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let open_files_max = limit_resources()?;
    let landlock = paths::restrict(rights)?;
    if required && landlock.is_none() {
        let message = "this kernel has no Landlock, so files would stay within the server's reach";
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    let system_calls = system_calls::restrict()?;
    let Rights { read, write } = rights.clone();
    Ok(Confinement { landlock, read, write, system_calls, open_files_max })
}

/// No core dumps, in which a guest's data would lie about, and no more descriptors than can be needed.
fn limit_resources() -> Result<u64> {
    let failed = |errno: rustix::io::Errno| Error::io("cannot limit this process", errno.into());
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(failed)?;
    setrlimit(Resource::Memlock, none).map_err(failed)?;
    let now = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let files = now.min(OPEN_FILES_MAX);
    let limit = Rlimit { current: Some(files), maximum: Some(files) };
    setrlimit(Resource::Nofile, limit).map_err(failed)?;
    Ok(files)
}
