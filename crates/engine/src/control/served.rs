//! What a server does when it is asked.

use super::{
    Layering, ServedState, ServerStatus,
    message::{Answer, Question},
    status::{CountsStatus, ExportStatus, Samples, SpaceStatus},
};
use crate::{
    bounded::Bounded,
    device::{create_delta, header_of},
    state::state_above,
};
use silt_export::{Export, Limited, Limits, Meter, StopSignal};
use silt_format::{FROZEN_DELTAS_MAX, state_of_length};
use silt_store::{StorePaths, VolumeRecord};
use silt_sys::durability::{random_bytes, sync_dir};
use silt_types::{
    DISK_SIZE_BYTES_MAX, DeltaId, DiskName, Error, ErrorKind, Result, StateId, format_size,
};
use silt_volume::{BlockDevice as _, Volume, write_volume_header};
use std::{
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A disk that is served, and what there is to tell of it.
pub(crate) struct ServedDisk {
    pub(crate) name: DiskName,
    pub(crate) kind: &'static str,
    /// Id of the volume or snapshot, first half of the root of an image's disk.
    pub(crate) id: String,
    pub(crate) cache_bytes: u64,
    pub(crate) volume: Arc<Volume>,
    pub(crate) exports: Arc<[Box<dyn Export>]>,
    pub(crate) meter: Arc<Meter>,
    /// There if something is limited.
    pub(crate) limited: Option<Arc<Limited>>,
    pub(crate) bounded: Arc<Bounded>,
    /// Ends the server.
    pub(crate) stop: StopSignal,
    pub(crate) access: Access,
    /// Whoever takes over, once it has asked.
    pub(crate) successor: Arc<Mutex<Option<UnixStream>>>,
    pub(crate) started_ns: i64,
    pub(crate) samples: Samples,
}

/// What a server may do with its disk.
pub(crate) enum Access {
    /// Read it: it stays in this state.
    Read(StateId),
    /// Write it, and change its folder, which nobody else does meanwhile.
    Write(Box<Writing>),
}

/// A volume that is served for writing.
pub(crate) struct Writing {
    pub(crate) paths: StorePaths,
    /// What the header in the folder says; its base and frozen deltas may since have become another base.
    record: Mutex<VolumeRecord>,
}

impl Writing {
    pub(crate) fn new(paths: StorePaths, record: VolumeRecord) -> Box<Writing> {
        Box::new(Writing { paths, record: Mutex::new(record) })
    }

    /// The volume's folder.
    pub(crate) fn folder(&self) -> PathBuf {
        self.paths.volume(self.record().id)
    }

    fn record(&self) -> MutexGuard<'_, VolumeRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ServedDisk {
    pub(super) fn answer(&self, question: Question) -> Result<Answer> {
        match question {
            Question::Status => Ok(Answer::Status(Box::new(self.status()))),
            Question::Flush => match self.access {
                Access::Read(_) => Ok(Answer::Done {}),
                Access::Write(_) => self.volume.flush().map(|()| Answer::Done {}),
            },
            Question::State => {
                let state_id = self.settle()?.to_string();
                Ok(Answer::State { state_id })
            }
            Question::Stop => {
                self.stop.trigger();
                Ok(Answer::Done {})
            }
            Question::TakeOver => self.may_be_taken_over(),
            Question::Layers => self.change(|_, _| self.volume.must_be_recorded()),
            Question::Rebase { layering } => {
                let layering = layering.try_into()?;
                self.change(|_, _| self.rebase(&layering))
            }
            Question::Snapshot { layering, generation } => {
                let layering = layering.try_into()?;
                self.change(|writing, record| {
                    self.rebase(&layering)?;
                    self.freeze(writing, record, generation)
                })
            }
            Question::Resize { layering, generation, size_bytes } => {
                let layering = layering.try_into()?;
                self.change(|writing, record| {
                    self.rebase(&layering)?;
                    self.grow(writing, record, generation, size_bytes)
                })
            }
        }
    }

    fn may_be_taken_over(&self) -> Result<Answer> {
        if let Some(export) = self.exports.iter().find(|export| !export.can_pass_on()) {
            let (address, protocol) = (export.address(), export.address().protocol());
            let message = format!("clients at {address} cannot be passed on by {protocol}");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        if self.bounded.waiting() > 0 {
            let message = format!("writes to {} wait for space: make some first", self.name);
            return Err(Error::new(ErrorKind::Busy, message));
        }
        match self.stop.is_triggered() {
            false => Ok(Answer::Done {}),
            true => Err(Error::new(ErrorKind::Busy, "the server is ending already")),
        }
    }

    /// Lets the server end, so that what it passes on goes over `stream`.
    pub(super) fn pass_on_to(&self, stream: UnixStream) {
        *self.successor.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
        self.stop.pass_on();
    }

    fn status(&self) -> ServerStatus {
        let counts = CountsStatus::from(self.meter.counts());
        let export = |export: &dyn Export| {
            let address = export.address();
            ExportStatus {
                protocol: address.protocol().to_owned(),
                address: address.to_string(),
                clients: export.clients(),
            }
        };
        // Not waited for: a snapshot may be under way.
        let generation = match &self.access {
            Access::Read(_) => None,
            Access::Write(writing) => {
                writing.record.try_lock().ok().map(|record| record.generation)
            }
        };
        let limits = self.limited.as_ref().map_or(Limits::default(), |limited| limited.limits());
        let waited = self.limited.as_ref().map(|limited| limited.waited());
        ServerStatus {
            name: self.name.to_string(),
            kind: self.kind.to_owned(),
            id: self.id.clone(),
            read_only: matches!(self.access, Access::Read(_)),
            pid: std::process::id(),
            started_ns: self.started_ns,
            size_bytes: self.volume.geometry().size_bytes,
            cache_bytes: self.cache_bytes,
            exports: self.exports.iter().map(|one| export(one.as_ref())).collect(),
            limits: limits.into(),
            counts,
            recent: self.samples.recent(counts),
            waited_ns: waited.map_or(0, |waited| waited.as_nanos() as u64),
            space: self.space(),
            frozen_deltas: self.volume.frozen_deltas(),
            generation,
            state_id: self.settled().map(|id| id.to_string()),
        }
    }

    fn space(&self) -> Option<SpaceStatus> {
        let Access::Write(_) = &self.access else { return None };
        Some(SpaceStatus {
            delta_bytes: self.volume.delta_bytes_allocated().ok()?,
            delta_bytes_max: self.volume.delta_bytes_max(),
            when_full: self.bounded.when_full().as_str().to_owned(),
            is_full: self.volume.is_full(),
            waiting: self.bounded.waiting(),
        })
    }

    pub(super) fn sample(&self) {
        self.samples.take(|| self.meter.counts().into());
    }

    /// The state, as it was when everything answered so far became durable.
    pub(crate) fn settle(&self) -> Result<StateId> {
        match &self.access {
            Access::Read(state) => Ok(*state),
            // Held, so that no snapshot comes between the mark and what is below it.
            Access::Write(writing) => {
                let record = writing.record();
                Ok(state_above(record.state, self.volume.settle()?))
            }
        }
    }

    fn settled(&self) -> Option<StateId> {
        match &self.access {
            Access::Read(state) => Some(*state),
            Access::Write(writing) => {
                let record = writing.record.try_lock().ok()?;
                self.volume.settled().map(|mark| state_above(record.state, mark))
            }
        }
    }

    /// Changes the volume, one change at a time, and answers what it is made of then.
    fn change(
        &self,
        change: impl FnOnce(&Writing, &mut VolumeRecord) -> Result<()>,
    ) -> Result<Answer> {
        let Access::Write(writing) = &self.access else {
            return Err(Error::invalid(format!("{} is served read-only", self.name)));
        };
        let mut record = writing.record();
        change(writing, &mut record)?;
        let state = ServedState {
            deltas: self.volume.deltas(),
            generation: record.generation,
            size_bytes: record.size_bytes,
            state: record.state,
        };
        Ok(Answer::Layers(state.into()))
    }

    /// The catalog may be behind, when the command that asked for a rotation was killed: deltas that it does not know stay.
    fn rebase(&self, layering: &Layering) -> Result<()> {
        let deltas = self.volume.deltas();
        let known = layering.deltas.split_first().and_then(|(own, frozen)| {
            deltas.iter().position(|delta| delta == own).map(|at| (at, frozen))
        });
        let (own_at, frozen) =
            known.ok_or_else(|| Error::invalid("the catalog knows another delta as its own"))?;
        self.volume.rebase(layering.base, &[&deltas[1..=own_at], frozen].concat())
    }

    fn freeze(&self, writing: &Writing, record: &mut VolumeRecord, generation: u64) -> Result<()> {
        if !self.volume.needs_freezing()? {
            return Ok(());
        }
        if !self.has_room() {
            let message = format!("the volume reads through {FROZEN_DELTAS_MAX} frozen deltas");
            return Err(Error::new(ErrorKind::Busy, message));
        }
        self.rotate(writing, record, generation, record.size_bytes)
    }

    /// Leaves everything as it is where there is no room for another frozen delta.
    fn grow(
        &self,
        writing: &Writing,
        record: &mut VolumeRecord,
        generation: u64,
        size_bytes: u64,
    ) -> Result<()> {
        self.volume.must_be_recorded()?;
        if size_bytes == record.size_bytes {
            return Ok(());
        }
        if size_bytes < record.size_bytes || size_bytes > DISK_SIZE_BYTES_MAX {
            let (name, size) = (&self.name, format_size(size_bytes));
            let message = format!("volume {name} cannot become {size} long while it is served");
            return Err(Error::invalid(message));
        }
        if let Some(export) = self.exports.iter().find(|export| !export.can_grow()) {
            let (name, address) = (&self.name, export.address());
            let protocol = address.protocol();
            let message = format!(
                "volume {name} is served at {address} by {protocol}, whose clients cannot be told of another length: stop it first"
            );
            return Err(Error::new(ErrorKind::Busy, message));
        }
        if self.has_room() {
            self.rotate(writing, record, generation, size_bytes)?;
            self.exports.iter().for_each(|export| export.grown());
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.volume.deltas().len() <= FROZEN_DELTAS_MAX
    }

    /// Freezes the delta and goes on in a new one for a disk of this length. Durable once the header says so.
    fn rotate(
        &self,
        writing: &Writing,
        record: &mut VolumeRecord,
        generation: u64,
        size_bytes: u64,
    ) -> Result<()> {
        let mut next = record.clone();
        next.own = DeltaId::from_bytes(random_bytes()?);
        next.generation = generation.max(record.generation + 1);
        next.size_bytes = size_bytes;
        let folder = writing.paths.volume(record.id);
        let delta = create_delta(&folder, next.own, size_bytes)?;
        sync_dir(&folder)?;
        let mut header = header_of(&next);
        header.base = self.volume.base();
        header.frozen = self.volume.deltas();
        self.volume.rotate(delta, |mark| {
            let state = state_above(record.state, mark);
            next.state = match size_bytes == record.size_bytes {
                true => state,
                false => state_of_length(&state, size_bytes),
            };
            header.state = next.state;
            write_volume_header(&folder, &header)
        })?;
        *record = next;
        Ok(())
    }
}
