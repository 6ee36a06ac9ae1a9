//! Leases: a file held under an open-file-description lock for as long as some work is in progress.
//!
//! The lock dies with its holder, however that ends; neither process numbers nor clocks are asked. What an ingest finds
//! or writes is kept alive by its lease until its roots are published. Work that only reads says which disks, and a
//! collection does not wait for it.

use crate::{paths::StorePaths, store::Store};
use silt_format::LeaseFile;
use silt_sys::durability;
use silt_types::{Context as _, DiskId, Error, ErrorKind, LeaseId, Result};
use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// How often a lock that others have is asked for.
const WORK_PAUSE: Duration = Duration::from_millis(20);

/// A lease held by this process; see [`Store::lease`].
#[derive(Debug)]
pub struct Lease {
    id: LeaseId,
    path: PathBuf,
    /// None on a read-only file system.
    file: Option<File>,
    /// Whether the file says something.
    has_said: Mutex<bool>,
}

impl Lease {
    /// Takes a new lease. It needs no fsync: after a power cut nobody holds one.
    pub(crate) fn take(paths: &StorePaths) -> Result<Lease> {
        let _turn = turn(paths)?;
        let id = LeaseId::from_bytes(durability::random_bytes()?);
        let path = paths.leases().join(id.to_string());
        let file = durability::create_file(&path)?;
        file.lock().context(|| format!("cannot lock the lease {}", path.display()))?;
        let lease = Lease { id, path, file: Some(file), has_said: Mutex::new(false) };
        lease.say(None)?;
        Ok(lease)
    }

    /// As [`Lease::take`], for who only reads: where nothing can be written, nothing is collected, and no file is needed.
    fn take_to_read(paths: &StorePaths) -> Result<Lease> {
        match Lease::take(paths) {
            Err(_) if durability::is_on_read_only(&paths.leases()) => {
                let id = LeaseId::from_bytes(durability::random_bytes()?);
                let path = paths.leases().join(id.to_string());
                Ok(Lease { id, path, file: None, has_said: Mutex::new(false) })
            }
            other => other,
        }
    }

    /// Its id, by which others can ask whether it is held.
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// Its file, which goes with it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says that these disks, at most 64, are all that the work under it reads from now on, and that it adds nothing. So they
    /// are kept, and nobody waits for it, unless there was no space to say so. Costs a system call.
    pub fn reads(&self, disks: &[DiskId]) -> Result<()> {
        self.say(Some(disks.to_vec()))
    }

    fn say(&self, reads: Option<Vec<DiskId>>) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let content = LeaseFile { pid: std::process::id(), reads }.encode(self.id);
        let mut has_said = self.has_said.lock().unwrap_or_else(PoisonError::into_inner);
        let written = file.write_all_at(&content, 0);
        match written.context(|| format!("cannot write the lease {}", self.path.display())) {
            // Where nothing can be written, one that says nothing is as good: it may need anything.
            Err(error) if error.kind() == ErrorKind::NoSpace && !*has_said => Ok(()),
            other => {
                *has_said = true;
                other
            }
        }
    }
}

impl Store {
    /// Takes a lease for work in progress, which ends with its holder. To be taken before the catalog is asked for what the
    /// work is about. On a read-only file system there is one all the same, for who reads.
    pub fn lease(&self) -> Result<Lease> {
        Lease::take_to_read(self.paths())
    }

    /// The leases that others hold: the process, as it says itself, and whether it only reads disks that it has named. For people.
    pub fn leases_held(&self) -> Result<Vec<(Option<u32>, bool)>> {
        let nobody = LeaseId::from_bytes([0; 16]);
        let held = held(self.paths(), nobody)?;
        let told = held.iter().map(|lease| {
            (lease.content.as_ref().map(|content| content.pid), lease.reads().is_some())
        });
        Ok(told.collect())
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

/// A lease that somebody else holds.
#[derive(Clone, Debug)]
pub(crate) struct HeldLease {
    pub(crate) id: LeaseId,
    /// What it says; `None` if that cannot be read, or is just being written.
    pub(crate) content: Option<LeaseFile>,
}

impl HeldLease {
    /// Who holds it, for people.
    pub(crate) fn holder(&self) -> String {
        match &self.content {
            Some(content) => format!("process {}", content.pid),
            None => "another process".to_owned(),
        }
    }

    /// The disks that its work reads, if that is all it needs.
    pub(crate) fn reads(&self) -> Option<&[DiskId]> {
        self.content.as_ref()?.reads.as_deref()
    }
}

/// The leases that are held now, `own` apart. Whatever is taken later begins after this.
pub(crate) fn held(paths: &StorePaths, own: LeaseId) -> Result<Vec<HeldLease>> {
    let _turn = turn(paths)?;
    let mut held = Vec::new();
    for name in names_in(&paths.leases())? {
        // What is not a lease of ours is nobody's.
        if let Ok(id) = name.parse::<LeaseId>()
            && id != own
        {
            held.extend(look_at(paths, id)?);
        }
    }
    Ok(held)
}

/// A lease, if it is still held.
pub(crate) fn look_at(paths: &StorePaths, id: LeaseId) -> Result<Option<HeldLease>> {
    let path = paths.leases().join(id.to_string());
    if !is_held(&path)? {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let read = File::open(&path)
        .and_then(|file| file.take(LeaseFile::LEN_MAX as u64 + 1).read_to_end(&mut bytes));
    let content = read.ok().and_then(|_| LeaseFile::decode(&bytes).ok());
    Ok(Some(HeldLease { id, content }))
}

/// The right to collect, which one process at a time has, or to verify, which many may have meanwhile nobody collects.
#[derive(Debug)]
pub(crate) struct WorkLock {
    /// None on a read-only file system, where nobody can collect.
    _file: Option<File>,
}

impl WorkLock {
    /// The right to collect. `Busy`, naming who has it, if it is not to be had in time.
    pub(crate) fn alone(paths: &StorePaths, until: Instant) -> Result<WorkLock> {
        WorkLock::take(paths, until, File::try_lock)
    }

    /// The right to rely on that nobody collects.
    pub(crate) fn shared(paths: &StorePaths, until: Instant) -> Result<WorkLock> {
        match WorkLock::take(paths, until, File::try_lock_shared) {
            Err(_) if durability::is_on_read_only(&paths.leases()) => Ok(WorkLock { _file: None }),
            other => other,
        }
    }

    fn take(
        paths: &StorePaths,
        until: Instant,
        lock: impl Fn(&File) -> Result<(), TryLockError>,
    ) -> Result<WorkLock> {
        let path = paths.collection_lock();
        let failed = || format!("cannot lock {}", path.display());
        let file = match durability::create_file(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                fs::OpenOptions::new().read(true).write(true).open(&path).context(failed)?
            }
            other => other?,
        };
        loop {
            match lock(&file) {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(Error::io(failed(), error)),
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    thread::sleep(WORK_PAUSE);
                }
                Err(TryLockError::WouldBlock) => {
                    let mut pid = [0; 16];
                    let len = file.read_at(&mut pid, 0).unwrap_or(0);
                    let pid = String::from_utf8_lossy(&pid[..len]).trim().to_owned();
                    let message = format!("process {pid} is collecting or verifying the store");
                    return Err(Error::new(ErrorKind::Busy, message));
                }
            }
        }
        // For people; nothing relies on it.
        let note = format!("{:<16}", std::process::id());
        let _ = file.write_all_at(note.as_bytes(), 0);
        Ok(WorkLock { _file: Some(file) })
    }
}

/// Removes what dead work left behind: leases that nobody holds, packs they never finished and, where nobody but the holder
/// of `own` may be adding any, finished packs that `is_indexed` does not know. Answers how many files went.
pub(crate) fn remove_leftovers(
    paths: &StorePaths,
    own: LeaseId,
    mut is_indexed: impl FnMut(&str) -> Result<bool>,
) -> Result<u64> {
    let _turn = turn(paths)?;
    let mut removed = 0;
    let mut working = vec![own.to_string()];
    for name in names_in(&paths.leases())? {
        let held = match name.parse() {
            Ok(id) if id == own => continue,
            Ok(id) => look_at(paths, id)?,
            Err(_) => continue, // Nobody's.
        };
        match held {
            Some(lease) if lease.reads().is_some() => {}
            Some(_) => working.push(name),
            None => removed += u64::from(fs::remove_file(paths.leases().join(&name)).is_ok()),
        }
    }
    for name in names_in(&paths.packs())? {
        let dead = match name.split('.').collect::<Vec<_>>()[..] {
            [_, lease, "tmp"] => !working.iter().any(|name| name == lease),
            [pack, "pack"] => working.len() == 1 && !is_indexed(pack)?,
            _ => false,
        };
        if dead {
            removed += u64::from(fs::remove_file(paths.packs().join(&name)).is_ok());
        }
    }
    Ok(removed)
}

/// Keeps everybody from taking a lease. `Busy`, naming who, if somebody holds one.
pub(crate) fn turn_without_work(paths: &StorePaths) -> Result<File> {
    let turn = turn(paths)?;
    for name in names_in(&paths.leases())? {
        if let Ok(id) = name.parse::<LeaseId>()
            && let Some(lease) = look_at(paths, id)?
        {
            let message = format!("{} is working with the store", lease.holder());
            return Err(Error::new(ErrorKind::Busy, message));
        }
    }
    Ok(turn)
}

/// Whose turn it is to take a lease or to remove dead ones: nobody may see one made but not yet locked.
fn turn(paths: &StorePaths) -> Result<File> {
    let dir = File::open(paths.leases()).context(|| "cannot open the folder of leases".into())?;
    dir.lock().context(|| "cannot lock the folder of leases".into())?;
    Ok(dir)
}

/// The names in a folder.
pub(crate) fn names_in(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).context(|| format!("cannot list {}", dir.display()))?;
    let names =
        entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    names.collect::<io::Result<_>>().context(|| format!("cannot list {}", dir.display()))
}

fn is_held(path: &Path) -> Result<bool> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false), // Gone since it was listed.
        other => other.context(|| format!("cannot open the lease {}", path.display()))?,
    };
    match file.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => {
            Err(Error::io(format!("cannot test the lease {}", path.display()), error))
        }
    }
}
