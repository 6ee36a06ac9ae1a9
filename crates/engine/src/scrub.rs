//! Scrubbing: verification that goes on in the background, at a set rate, pack after pack for as long as it is let, and that goes on
//! where it was when it is begun again.
//!
//! Not for who wants to know now: `verify` reads everything at once. A collection waits for one pack at most.

use crate::engine::{Engine, now_ns};
use silt_export::StopSignal;
use silt_format::ScrubFile;
use silt_store::{CollectionHeld, StorePaths};
use silt_sys::durability;
use silt_types::{Context as _, Error, ErrorKind, Progress, Result};
use std::{
    fs::{self, File, TryLockError},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How often the place is written down: what is read again after a kill.
const REMEMBER: Duration = Duration::from_secs(10);
/// How long a collection is waited for before it is asked again whether to stop.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long nothing is held between two packs.
const GIVE_WAY: Duration = Duration::from_millis(50);
/// The rest between two passes: of a store that is read in less there is nothing new to find.
const REST: Duration = Duration::from_secs(60);

/// How to scrub.
#[derive(Clone, Copy, Debug)]
pub struct ScrubRequest {
    /// Bytes of packs to read in a second, at most.
    pub rate_bytes: u64,
    /// Whether to end after the pass that is under way, or begins.
    pub once: bool,
}

/// How far scrubbing has come.
pub type Scrubbed = ScrubFile;

impl Engine {
    /// Goes through the store until `stop` is given, or once. `found` is told each thing that is damaged. `Busy` if somebody else is at
    /// it. Answers how far it has come. Memory: the ids of one pack.
    pub fn scrub(
        &self,
        request: &ScrubRequest,
        stop: &StopSignal,
        mut found: impl FnMut(&str),
    ) -> Result<Scrubbed> {
        let _alone = lock(self.store.paths())?;
        let throttle = Throttle::new(request.rate_bytes, stop);
        let mut place = self.scrubbed().unwrap_or_default();
        let mut remembered = Instant::now();
        while !stop.is_triggered() {
            if place.started_ns == 0 || place.pack == 0 {
                place = ScrubFile { started_ns: now_ns(), pack: 0, bytes: 0, damages: 0, ..place };
            }
            let Some((pack, bytes)) = self.store.pack_after(place.pack)? else {
                self.end_pass(&mut place, stop, &mut found)?;
                if request.once || stop.wait(REST) {
                    break;
                }
                continue;
            };
            let Some(held) = self.hold(stop)? else { break };
            let findings = self.store.verify_pack(pack, &throttle)?;
            drop(held);
            // Who waits for its turn looks for it now and then.
            stop.wait(GIVE_WAY);
            if self.store.is_replaced()? {
                let message = "the store's database was made again meanwhile: begin the scrub anew";
                return Err(Error::new(ErrorKind::Io, message));
            }
            findings.found.iter().for_each(|finding| found(&finding.error.chain()));
            place.damages += findings.found.len() as u64;
            (place.pack, place.bytes) = (pack, place.bytes + bytes);
            if remembered.elapsed() > REMEMBER {
                self.remember(&place)?;
                remembered = Instant::now();
            }
        }
        self.remember(&place)?;
        Ok(place)
    }

    /// How far scrubbing has come, if it ever began.
    pub fn scrubbed(&self) -> Option<Scrubbed> {
        let bytes = durability::read_file(&self.store.paths().scrub_file(), ScrubFile::LEN as u64);
        bytes.and_then(|bytes| ScrubFile::decode(&bytes)).ok()
    }

    /// What packs alone do not tell: the database, and whether every name has what it needs.
    fn end_pass(
        &self,
        place: &mut Scrubbed,
        stop: &StopSignal,
        found: &mut impl FnMut(&str),
    ) -> Result<()> {
        let Some(_held) = self.hold(stop)? else { return Ok(()) };
        let report = self.verify_all(self.store.verify_database()?, &silt_types::NoProgress)?;
        report.damages.iter().for_each(|damage| found(&damage.what));
        let damages = place.damages + report.damages.len() as u64;
        *place = ScrubFile {
            passes: place.passes + 1,
            finished_ns: now_ns(),
            damages_before: damages,
            ..ScrubFile::default()
        };
        self.remember(place)
    }

    /// Keeps collections from beginning; nothing, if it is to stop before that can be had.
    fn hold(&self, stop: &StopSignal) -> Result<Option<CollectionHeld>> {
        loop {
            match self.store.hold_collection(PATIENCE) {
                Err(error) if error.kind() == ErrorKind::Busy && stop.is_triggered() => {
                    return Ok(None);
                }
                Err(error) if error.kind() == ErrorKind::Busy => {}
                other => return other.map(Some),
            }
        }
    }

    fn remember(&self, place: &Scrubbed) -> Result<()> {
        durability::replace_file(&self.store.paths().scrub_file(), &place.encode(self.store.id()))
    }
}

/// The right to scrub, which one process at a time has.
fn lock(paths: &StorePaths) -> Result<File> {
    let path = paths.scrub_lock();
    let failed = || format!("cannot lock {}", path.display());
    let file = match durability::create_file(&path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            fs::OpenOptions::new().read(true).write(true).open(&path).context(failed)?
        }
        other => other?,
    };
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Error::new(ErrorKind::Busy, "another process is scrubbing the store"))
        }
        Err(TryLockError::Error(error)) => Err(Error::io(failed(), error)),
    }
}

/// Lets no more bytes pass than a rate allows, until it is to stop.
struct Throttle<'a> {
    rate_bytes: u64,
    stop: &'a StopSignal,
    /// When what has passed so far was due.
    due: Mutex<Instant>,
}

impl<'a> Throttle<'a> {
    fn new(rate_bytes: u64, stop: &'a StopSignal) -> Throttle<'a> {
        Throttle { rate_bytes: rate_bytes.max(1), stop, due: Mutex::new(Instant::now()) }
    }
}

impl Progress for Throttle<'_> {
    fn begin(&self, _task: &'static str, _total_bytes: u64) {}

    fn advance(&self, bytes: u64) {
        let now = Instant::now();
        let took = Duration::from_secs_f64(bytes as f64 / self.rate_bytes as f64);
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        // What was not used is not saved up.
        *due = (*due).max(now) + took;
        if let Some(early) = due.checked_duration_since(now) {
            self.stop.wait(early);
        }
    }
}
