//! Freezing what a volume holds now, served or not: the first half of a snapshot, a clone, a commit.
//!
//! Commands that change a volume take turns, by a lock on its folder. Where nobody serves it, its delta is closed and the
//! catalog says the rest. Where somebody does, the server rotates its delta and writes that down in the volume's header
//! before it answers; then the catalog follows. When the command is killed between the two, the header is ahead, and
//! whoever comes next lets the catalog follow first: [`Engine::reconciled`]. No snapshot comes of it then, but no write is
//! lost either.

use crate::{
    control::{ControlClient, Layering, ServedState},
    engine::Engine,
    state::state_above,
};
use silt_format::FROZEN_DELTAS_MAX;
use silt_store::{Change, FrozenDelta, VolumeRecord};
use silt_sys::durability::{create_dir, random_bytes, sync_dir};
use silt_types::{Context as _, DeltaId, Error, ErrorKind, Result};
use silt_volume::{Delta, DeltaReader, VolumeLock, read_volume_header};
use std::{fs::File, io, thread, time::Duration};

/// How often, and how far apart, a volume that is locked but not answering is asked again: its server may be about to.
const SERVER_TRIES: u32 = 10;
const SERVER_PAUSE: Duration = Duration::from_millis(50);

/// The turn of a command that changes a volume.
pub(crate) struct Turn {
    _folder: File,
}

/// The deltas of a volume after what it held was frozen.
#[derive(Debug)]
pub(crate) struct Frozen(ServedState);

impl Frozen {
    /// What a server says of its volume.
    pub(crate) fn of(state: ServedState) -> Frozen {
        Frozen(state)
    }

    /// Lets the record follow: its own delta and what was frozen before that join its frozen ones.
    pub(crate) fn apply(&self, record: &mut VolumeRecord) -> Result<()> {
        let ServedState { deltas, generation, size_bytes, state } = &self.0;
        let own_at = deltas.iter().position(|delta| *delta == record.own);
        let (Some(own_at), Some(own)) = (own_at, deltas.first()) else {
            let name = &record.name;
            let message = format!("the header of volume {name} is not one the catalog can follow");
            return Err(Error::corrupt(message));
        };
        if own_at > 0 {
            let home = record.id;
            let frozen = deltas[1..=own_at].iter().map(|delta| FrozenDelta { delta: *delta, home });
            record.frozen = frozen.chain(record.frozen.iter().copied()).collect();
            record.own = *own;
            record.state = *state;
            record.size_bytes = *size_bytes;
            record.generation = (record.generation + 1).max(*generation);
        }
        Ok(())
    }

    /// Whether anything was frozen that `record` does not know of.
    fn is_news_to(&self, record: &VolumeRecord) -> bool {
        self.0.deltas.first() != Some(&record.own)
    }
}

impl Engine {
    /// The turn with a volume that nobody else has open. `Busy` if somebody does.
    pub(crate) fn turn_alone(&self, record: &VolumeRecord) -> Result<(Turn, VolumeLock)> {
        let turn = self.turn(record)?;
        let lock = VolumeLock::acquire(&self.store.paths().volume(record.id));
        Ok((turn, lock.context(|| format!("volume {} cannot be had", record.name))?))
    }

    /// Waits for the turn to change a volume. Its folder is made where there is none, for whoever begins to write it takes
    /// a turn too. A process that takes several turns at a time takes them in the order of ids.
    pub(crate) fn turn(&self, record: &VolumeRecord) -> Result<Turn> {
        let folder = self.store.paths().volume(record.id);
        let failed = || format!("cannot take a turn with volume {}", record.name);
        create_dir(&folder)?;
        let folder = File::open(&folder).context(failed)?;
        folder.lock().context(failed)?;
        Ok(Turn { _folder: folder })
    }

    /// The same for who only looks at a folder, if there is one.
    pub(crate) fn turn_if_there(&self, record: &VolumeRecord) -> Result<Option<Turn>> {
        let failed = || format!("cannot take a turn with volume {}", record.name);
        let folder = match File::open(self.store.paths().volume(record.id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            folder => folder.context(failed)?,
        };
        folder.lock().context(failed)?;
        Ok(Some(Turn { _folder: folder }))
    }

    /// The record as it is now, the catalog having followed what the volume's folder says. For one that nobody serves.
    pub(crate) fn reconciled(&self, record: &VolumeRecord) -> Result<VolumeRecord> {
        let now = self.volume_now(record)?;
        let header = match read_volume_header(&self.store.paths().volume(now.id)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(now),
            other => other?,
        };
        if header.id != now.id {
            let message =
                format!("the header of volume {} is not the one the catalog knows", now.name);
            return Err(Error::corrupt(message));
        }
        // A header is ahead where it has frozen what the catalog takes for the volume's own.
        if !header.frozen.contains(&now.own) {
            return Ok(now);
        }
        let deltas = header.own.iter().chain(&header.frozen).copied().collect();
        let frozen = Frozen(ServedState {
            deltas,
            generation: header.generation,
            size_bytes: header.size_bytes,
            state: header.state,
        });
        self.follow(&now, &frozen)
    }

    /// Lets the catalog follow what was frozen, and nothing else.
    pub(crate) fn follow(&self, record: &VolumeRecord, frozen: &Frozen) -> Result<VolumeRecord> {
        let doing = "cannot let the catalog follow a volume";
        self.store.change(doing, |change| apply_in(change, record, frozen))
    }

    /// Freezes what the volume holds now, so that its record can be changed by [`Frozen::apply`]. `Busy` if it has as many
    /// frozen deltas as it can have, or somebody uses it in a way that cannot be asked.
    pub(crate) fn freeze(&self, record: &VolumeRecord, _turn: &Turn) -> Result<Frozen> {
        self.ask_or_do(
            record,
            |server, now| server.freeze(&Layering::of(now), now.generation + 1).map(Frozen),
            |now| self.freeze_at_rest(now),
        )
    }

    /// Lets the server of a volume do something, or does it while nobody writes it: both are given the record as it is now.
    /// `Busy` if somebody uses it in a way that cannot be asked.
    pub(crate) fn ask_or_do<T>(
        &self,
        record: &VolumeRecord,
        ask: impl Fn(ControlClient, &VolumeRecord) -> Result<T>,
        do_at_rest: impl Fn(&VolumeRecord) -> Result<T>,
    ) -> Result<T> {
        let mut tries = 1;
        loop {
            let now = self.volume_now(record)?;
            if let Some(server) = ControlClient::connect(self.store.paths(), &now)? {
                return ask(server, &now);
            }
            match VolumeLock::share(&self.store.paths().volume(record.id)) {
                Ok(_lock) => return do_at_rest(&now),
                Err(error) if error.kind() == ErrorKind::Busy && tries < SERVER_TRIES => {
                    tries += 1;
                    thread::sleep(SERVER_PAUSE);
                }
                Err(error) => {
                    return Err(error.context(format!("volume {} cannot be had", now.name)));
                }
            }
        }
    }

    /// The same for a volume that nobody writes.
    pub(crate) fn freeze_at_rest(&self, record: &VolumeRecord) -> Result<Frozen> {
        self.while_deltas_are_sealed(|| self.freeze_reconciled(&self.reconciled(record)?))
    }

    fn freeze_reconciled(&self, record: &VolumeRecord) -> Result<Frozen> {
        let own = self.own_delta(record);
        let grown = self.is_longer_than_below(record)?;
        let delta = match own.exists() {
            true => Some(Delta::open(&own)?),
            false if grown => {
                let folder = self.store.paths().volume(record.id);
                Some(crate::device::create_delta(&folder, record.own, record.size_bytes)?)
            }
            false => None,
        };
        let Some(delta) = delta.filter(|delta| grown || delta.is_written()) else {
            return Ok(Frozen(unchanged(record)));
        };
        must_have_room(record)?;
        // From here on it never changes; what a killed server had written and not flushed becomes durable with it.
        let mark = delta.freeze()?.mark();
        self.sync_names_of(record)?;
        let mut next = unchanged(record);
        next.deltas.insert(0, DeltaId::from_bytes(random_bytes()?));
        next.generation += 1;
        next.state = state_above(record.state, mark);
        Ok(Frozen(next))
    }

    /// Whether the disk has grown since the layer below its own delta.
    fn is_longer_than_below(&self, record: &VolumeRecord) -> Result<bool> {
        let below = match record.frozen.first() {
            Some(newest) => {
                let folder = self.store.paths().delta(newest.home, newest.delta);
                DeltaReader::open(&folder)?.size_bytes()
            }
            None => record.base.size_bytes,
        };
        Ok(below < record.size_bytes)
    }

    /// Makes the names of a volume's folder and of its deltas durable, whoever made them: a process that was killed may
    /// have left names that are seen and not durable.
    pub(crate) fn sync_names_of(&self, record: &VolumeRecord) -> Result<()> {
        sync_dir(&self.store.paths().volume(record.id))?;
        sync_dir(&self.store.paths().volumes())
    }
}

/// Freezes as part of a change: the record in the catalog follows, and is answered.
pub(crate) fn apply_in(
    change: &mut Change<'_>,
    record: &VolumeRecord,
    frozen: &Frozen,
) -> Result<VolumeRecord> {
    let mut now = change.volume(record.id)?;
    if frozen.is_news_to(&now) {
        frozen.apply(&mut now)?;
        change.put_volume(&now)?;
    }
    Ok(now)
}

/// `Busy` if the volume can freeze no more.
fn must_have_room(record: &VolumeRecord) -> Result<()> {
    if record.frozen.len() < FROZEN_DELTAS_MAX {
        return Ok(());
    }
    let message =
        format!("volume {} reads through {FROZEN_DELTAS_MAX} frozen deltas already", record.name);
    Err(Error::new(ErrorKind::Busy, message))
}

fn unchanged(record: &VolumeRecord) -> ServedState {
    ServedState {
        deltas: Layering::of(record).deltas,
        generation: record.generation,
        size_bytes: record.size_bytes,
        state: record.state,
    }
}
