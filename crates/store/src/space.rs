//! The bounds of a store: a quota, a part of the file system that stays free, and a limit on the deltas of each volume.
//!
//! What makes a store grow asks first: an ingest, and a volume whose guest writes where its delta has no space yet. It asks in
//! portions, so that it asks rarely. What removes, or only changes the catalog, does not ask: so there is a way back from a full
//! store. Not for what others do on the same file system: when that is full all the same, the kernel says so.
//!
//! [`Allowance`] is the seam: the store itself, and where a process may not look at it, another one that does.

use crate::{paths::StorePaths, store::Store};
use rustix::fs::statvfs;
use silt_format::{LimitsFile, WhenFull};
use silt_sys::durability;
use silt_types::{Context as _, Error, ErrorKind, Result, format_size};
use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The default reserve: a part of the file system, and no more than this.
const RESERVE_DIVISOR: u64 = 50;
const RESERVE_BYTES_MAX: u64 = 1 << 30;
/// What is granted at once: an eighth of what is left, so that a few who ask at the same time still fit, and no more than this.
const PORTION_DIVISOR: u64 = 8;
const PORTION_BYTES_MAX: u64 = 64 << 20;
/// How long a portion may be used. What many hold and do not use is no more than they write in that time.
const PORTION_TIME: Duration = Duration::from_secs(1);
/// A measurement of the store counts for so many times as long as it took: so measuring takes a twentieth of one core at most.
const MEASURED_TIMES: u32 = 20;
/// Folders within folders; a store has three levels of them.
const DEPTH_MAX: u32 = 8;

/// What somebody needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceAsked {
    /// Bytes; with fewer nothing can be done.
    pub bytes: u64,
    /// For the deltas of a volume: what they take now, and where the store's limit does not count, the one that does.
    pub delta: Option<DeltaSpace>,
}

/// What the deltas of a volume take and may take, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaSpace {
    /// What they take.
    pub bytes: u64,
    /// What they may take, instead of what the store says.
    pub bytes_max: Option<u64>,
}

/// What is to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// At least as many bytes as were asked for, or why not.
    pub bytes: Result<u64, String>,
    /// What the deltas of a volume may take, by the store.
    pub delta_max: Option<u64>,
    /// What a guest meets where it is refused, by the store.
    pub when_full: WhenFull,
}

/// Somebody who knows how much more a store may take.
pub trait Allowance: Send + Sync {
    /// How much somebody may add. `Corrupt` if the bounds of the store cannot be read: then nothing is added.
    fn ask(&self, asked: &SpaceAsked) -> Result<Allowed>;
}

/// Somebody who adds to a store, and takes what that needs of portions which it was granted.
pub struct Portions {
    allowance: Arc<dyn Allowance>,
    portion: Mutex<Portion>,
}

#[derive(Default)]
struct Portion {
    bytes: u64,
    until: Option<Instant>,
    delta_max: Option<u64>,
    when_full: WhenFull,
}

impl Portions {
    /// Nothing was granted yet; the bounds were these a moment ago.
    pub fn new(allowance: Arc<dyn Allowance>, limits: &LimitsFile) -> Portions {
        let portion =
            Portion { delta_max: limits.delta, when_full: limits.when_full, ..Portion::default() };
        Portions { allowance, portion: Mutex::new(portion) }
    }

    /// Takes bytes that are to be added. Where they are a volume's, `delta` tells of its deltas when somebody has to be asked.
    /// `NoSpace`, saying which bound, the numbers and what helps, if they cannot be had. Where nobody can say, they can.
    pub fn take(
        &self,
        bytes: u64,
        delta: impl FnOnce() -> Result<Option<DeltaSpace>>,
    ) -> Result<()> {
        let mut portion = self.lock();
        let now = Instant::now();
        if portion.bytes < bytes || portion.until.is_none_or(|until| until < now) {
            let allowed = self.allowance.ask(&SpaceAsked { bytes, delta: delta()? })?;
            (portion.delta_max, portion.when_full) = (allowed.delta_max, allowed.when_full);
            portion.bytes = allowed.bytes.map_err(|why| Error::new(ErrorKind::NoSpace, why))?;
            portion.until = Some(now + PORTION_TIME);
        }
        portion.bytes = portion.bytes.saturating_sub(bytes);
        Ok(())
    }

    /// What the deltas of a volume may take by the store, as it was told last.
    pub fn delta_max(&self) -> Option<u64> {
        self.lock().delta_max
    }

    /// What a guest meets that is refused, as it was told last.
    pub fn when_full(&self) -> WhenFull {
        self.lock().when_full
    }

    fn lock(&self) -> MutexGuard<'_, Portion> {
        self.portion.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Space as it is on the file system of a store, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSpace {
    /// What the store takes, all of it.
    pub bytes_on_disk: u64,
    /// Its bounds.
    pub limits: LimitsFile,
    /// What the file system has, and has free for its users. None if it does not say.
    pub file_system: Option<FileSystemSpace>,
}

/// Space of a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystemSpace {
    /// All of it.
    pub bytes: u64,
    /// What its users can still write.
    pub bytes_free: u64,
}

impl StoreSpace {
    /// What is to stay free.
    pub fn reserve(&self) -> u64 {
        reserve(&self.limits, self.file_system.as_ref())
    }
}

impl Store {
    /// What it takes, its bounds, and what is free. Costs a look at every file.
    pub fn space(&self) -> Result<StoreSpace> {
        let gate = &self.shared().space;
        Ok(StoreSpace {
            bytes_on_disk: disk_usage(self.paths().root())?,
            limits: gate.limits()?,
            file_system: file_system(self.paths().root())?,
        })
    }

    /// Its bounds. `Corrupt` if they cannot be read.
    pub fn limits(&self) -> Result<LimitsFile> {
        self.shared().space.limits()
    }

    /// Changes its bounds, durably; who is at work with the store keeps to them within a second. Bounds that are damaged count
    /// as the default here. Costs three fsyncs at most.
    pub fn change_limits(&self, change: impl FnOnce(&mut LimitsFile)) -> Result<LimitsFile> {
        let root = self.paths().root();
        let turn = fs::File::open(root).context(|| format!("cannot open {}", root.display()))?;
        turn.lock().context(|| format!("cannot lock {}", root.display()))?;
        remove_passing_files(root, &self.paths().limits());
        let mut limits = match self.limits() {
            Err(error) if error.kind() == ErrorKind::Corrupt => LimitsFile::default(),
            other => other?,
        };
        change(&mut limits);
        durability::replace_file(&self.paths().limits(), &limits.encode(self.id()))?;
        Ok(limits)
    }

    /// Whom to ask before anything is added to it.
    pub fn allowance(&self) -> Arc<dyn Allowance> {
        self.shared().space.clone()
    }
}

/// What a command that was killed left of [`durability::replace_file`].
fn remove_passing_files(folder: &Path, file: &Path) {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let is_passing =
        |found: &str| found.starts_with(&format!(".{name}.")) && found.ends_with(".tmp");
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if is_passing(&entry.file_name().to_string_lossy()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The store's own word on what it may take.
pub(crate) struct SpaceGate {
    id: [u8; 16],
    paths: StorePaths,
    measured: Mutex<Option<Measured>>,
}

/// What the store took, and what was granted since.
struct Measured {
    at: Instant,
    took: Duration,
    bytes: u64,
}

/// A bound, and what of it is in use.
enum Bound {
    Quota { max: u64, used: u64 },
    Reserve { reserve: u64, free: u64 },
    Delta { max: u64, used: u64 },
}

impl Bound {
    /// Bytes that may be added.
    fn room(&self) -> u64 {
        match self {
            Bound::Quota { max, used } | Bound::Delta { max, used } => max.saturating_sub(*used),
            Bound::Reserve { reserve, free } => free.saturating_sub(*reserve),
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes: &u64| format_size(*bytes);
        match self {
            Bound::Quota { max, used } => write!(
                f,
                "the store takes {} of its quota of {}: `silt rm` and then `silt gc` make room, `silt store limits --quota` \
                 raises it",
                size(used),
                size(max)
            ),
            Bound::Reserve { reserve, free } => write!(
                f,
                "the store's file system has {} free, of which {} are its reserve: `silt rm` and then `silt gc` make room, \
                 `silt store limits --reserve` lowers it",
                size(free),
                size(reserve)
            ),
            Bound::Delta { max, used } => write!(
                f,
                "the volume's deltas take {} of the {} that they may: discards of its guest and `silt flatten` make room, \
                 `silt store limits --delta` or `silt serve --delta-max` raises it",
                size(used),
                size(max)
            ),
        }
    }
}

impl SpaceGate {
    pub(crate) fn new(id: [u8; 16], paths: StorePaths) -> SpaceGate {
        SpaceGate { id, paths, measured: Mutex::default() }
    }

    pub(crate) fn limits(&self) -> Result<LimitsFile> {
        let path = self.paths.limits();
        if fs::symlink_metadata(&path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            return Ok(LimitsFile::default());
        }
        let bytes = durability::read_file(&path, LimitsFile::LEN as u64)?;
        LimitsFile::decode(&bytes, self.id).context(|| {
            format!("{} is damaged: `silt store limits` sets the bounds anew", path.display())
        })
    }

    fn bounds(&self, limits: &LimitsFile, asked: &SpaceAsked) -> Result<Vec<Bound>> {
        let mut bounds = Vec::new();
        if let Some(file_system) = file_system(self.paths.root())? {
            let reserve = reserve(limits, Some(&file_system));
            bounds.push(Bound::Reserve { reserve, free: file_system.bytes_free });
        }
        if let Some(max) = limits.quota {
            bounds.push(Bound::Quota { max, used: self.used()? });
        }
        if let Some(delta) = asked.delta
            && let Some(max) = delta.bytes_max.or(limits.delta)
        {
            bounds.push(Bound::Delta { max, used: delta.bytes });
        }
        Ok(bounds)
    }

    /// What the store takes now, or took a moment ago and was granted since.
    fn used(&self) -> Result<u64> {
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*measured
            && known.at.elapsed() < known.took * MEASURED_TIMES
        {
            return Ok(known.bytes);
        }
        let at = Instant::now();
        let bytes = disk_usage(self.paths.root())?;
        *measured = Some(Measured { at, took: at.elapsed(), bytes });
        Ok(bytes)
    }

    fn count(&self, granted: u64) {
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &mut *measured {
            known.bytes = known.bytes.saturating_add(granted);
        }
    }
}

impl Allowance for SpaceGate {
    /// Costs a look at the file system; with a quota now and then one at every file of the store.
    fn ask(&self, asked: &SpaceAsked) -> Result<Allowed> {
        let limits = self.limits()?;
        let bounds = self.bounds(&limits, asked)?;
        let bytes = match bounds.iter().min_by_key(|bound| bound.room()) {
            Some(tightest) if tightest.room() < asked.bytes => {
                Err(format!("{} more are needed, and {tightest}", format_size(asked.bytes)))
            }
            tightest => {
                let room = tightest.map_or(u64::MAX, Bound::room);
                let portion = (room / PORTION_DIVISOR).min(PORTION_BYTES_MAX).max(asked.bytes);
                self.count(portion);
                Ok(portion)
            }
        };
        Ok(Allowed { bytes, delta_max: limits.delta, when_full: limits.when_full })
    }
}

fn reserve(limits: &LimitsFile, file_system: Option<&FileSystemSpace>) -> u64 {
    let usual = || file_system.map_or(0, |f| (f.bytes / RESERVE_DIVISOR).min(RESERVE_BYTES_MAX));
    limits.reserve.unwrap_or_else(usual)
}

/// Space on the file system of a folder; none where it says nothing of that, as some do that are served by programs.
pub(crate) fn file_system(folder: &Path) -> Result<Option<FileSystemSpace>> {
    let found = statvfs(folder).map_err(io::Error::from);
    let found =
        found.context(|| format!("cannot look at the file system of {}", folder.display()))?;
    let space = FileSystemSpace {
        bytes: found.f_blocks.saturating_mul(found.f_frsize),
        bytes_free: found.f_bavail.saturating_mul(found.f_frsize),
    };
    Ok((found.f_blocks > 0).then_some(space))
}

/// Space that a folder takes with all that is in it, in bytes, as du(1) has it. What goes meanwhile does not count.
pub fn disk_usage(folder: &Path) -> Result<u64> {
    let failed = |error| Error::io(format!("cannot look at {}", folder.display()), error);
    let found = fs::symlink_metadata(folder).map_err(failed)?;
    Ok(found.blocks() * 512 + usage_within(folder, DEPTH_MAX).map_err(failed)?)
}

fn usage_within(folder: &Path, depth: u32) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let found = match entry.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            found => found?,
        };
        bytes += found.blocks() * 512;
        if found.is_dir() && depth > 0 {
            match usage_within(&entry.path(), depth - 1) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                within => bytes += within?,
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    /// So many bytes are left, and each question counts.
    struct Left(AtomicU64, AtomicU64);

    impl Allowance for Left {
        fn ask(&self, asked: &SpaceAsked) -> Result<Allowed> {
            self.1.fetch_add(1, Relaxed);
            let left = self.0.load(Relaxed);
            let bytes = if left < asked.bytes { Err("none left".into()) } else { Ok(left) };
            self.0.store(0, Relaxed);
            Ok(Allowed { bytes, delta_max: None, when_full: WhenFull::Error })
        }
    }

    #[test]
    fn a_portion_is_used_up_before_the_next_one_is_asked_for() {
        let left = Arc::new(Left(AtomicU64::new(100), AtomicU64::new(0)));
        let portions = Portions::new(left.clone(), &LimitsFile::default());
        let take = |bytes| portions.take(bytes, || Ok(None));
        (0..10).for_each(|_| take(10).unwrap());
        assert_eq!(left.1.load(Relaxed), 1);
        assert_eq!(take(1).unwrap_err().kind(), ErrorKind::NoSpace);
        left.0.store(5, Relaxed);
        take(5).unwrap();
        assert_eq!(left.1.load(Relaxed), 3);
    }

    #[test]
    fn each_bound_is_kept_and_the_tightest_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(&dir.path().join("store"), 0).unwrap();
        let ask = |bytes, delta| store.allowance().ask(&SpaceAsked { bytes, delta }).unwrap();
        let set = |change: &dyn Fn(&mut LimitsFile)| store.change_limits(change).unwrap();
        assert!(ask(1 << 20, None).bytes.is_ok_and(|bytes| bytes >= 1 << 20));
        let delta = Some(DeltaSpace { bytes: 900, bytes_max: None });
        set(&|limits| limits.delta = Some(1000));
        assert_eq!(ask(100, delta).bytes, Ok(100));
        assert!(ask(101, delta).bytes.unwrap_err().contains("900 B of the 1000 B"));
        let own = Some(DeltaSpace { bytes: 900, bytes_max: Some(950) });
        assert!(ask(51, own).bytes.is_err() && ask(50, own).bytes.is_ok());
        let used = store.space().unwrap().bytes_on_disk;
        set(&|limits| limits.quota = Some(used + (1 << 20)));
        assert!(ask(1 << 20, None).bytes.is_ok());
        assert!(ask(2 << 20, None).bytes.unwrap_err().contains("its quota"));
        set(&|limits| *limits = LimitsFile { reserve: Some(1 << 60), ..LimitsFile::default() });
        assert!(ask(1, None).bytes.unwrap_err().contains("its reserve"));
        // What is damaged lets nothing grow, and is set anew.
        fs::write(store.paths().limits(), "?").unwrap();
        let asked = store.allowance().ask(&SpaceAsked { bytes: 1, delta: None });
        assert_eq!(asked.unwrap_err().kind(), ErrorKind::Corrupt);
        set(&|_| ());
        assert!(ask(1, None).bytes.is_ok());
    }
}
