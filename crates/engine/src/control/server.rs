//! Answering commands while a volume is served.

use super::{
    Layering, QUESTION_TIME_MAX, ServedState,
    message::{Answer, Question, receive, send},
    socket_of,
};
use crate::device::{create_delta, header_of};
use rustix::event::{PollFd, PollFlags, poll};
use silt_export::{SocketFile, StopSignal};
use silt_format::FROZEN_DELTAS_MAX;
use silt_store::{StorePaths, VolumeRecord};
use silt_sys::durability::{random_bytes, sync_dir};
use silt_types::{DeltaId, Error, ErrorKind, Result, VolumeId};
use silt_volume::{Volume, write_volume_header};
use std::{
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

/// How long accepting rests after it failed: descriptors run out for moments.
const PAUSE: Duration = Duration::from_millis(100);

/// A volume that is served for writing, and its folder, which this process alone changes meanwhile.
pub(crate) struct ServedVolume {
    volume: Arc<Volume>,
    paths: StorePaths,
    /// What the header in the folder says; its base and frozen deltas may since have become another base.
    record: Mutex<VolumeRecord>,
}

impl ServedVolume {
    pub(crate) fn new(
        volume: Arc<Volume>,
        paths: StorePaths,
        record: VolumeRecord,
    ) -> ServedVolume {
        ServedVolume { volume, paths, record: Mutex::new(record) }
    }

    fn answer(&self, question: Question) -> Result<ServedState> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        match question {
            Question::State => self.volume.must_be_recorded()?,
            Question::Rebase { layering } => self.rebase(&layering.try_into()?)?,
            Question::Freeze { layering, generation } => {
                self.rebase(&layering.try_into()?)?;
                self.freeze(&mut record, generation)?;
            }
        }
        Ok(ServedState { deltas: self.volume.deltas(), generation: record.generation })
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

    fn freeze(&self, record: &mut VolumeRecord, generation: u64) -> Result<()> {
        if !self.volume.needs_freezing()? {
            return Ok(());
        }
        if self.volume.deltas().len() > FROZEN_DELTAS_MAX {
            let message = format!("the volume reads through {FROZEN_DELTAS_MAX} frozen deltas");
            return Err(Error::new(ErrorKind::Busy, message));
        }
        let mut next = record.clone();
        next.own = DeltaId::from_bytes(random_bytes()?);
        next.generation = generation.max(record.generation + 1);
        let folder = self.paths.volume(record.id);
        let delta = create_delta(&folder, next.own, record.size_bytes)?;
        sync_dir(&folder)?;
        let mut header = header_of(&next);
        header.base = self.volume.base();
        header.frozen = self.volume.deltas();
        self.volume.rotate(delta, || write_volume_header(&folder, &header))?;
        *record = next;
        Ok(())
    }
}

/// Answers commands until it is dropped.
pub(crate) struct ControlServer {
    stop: StopSignal,
    thread: Option<thread::JoinHandle<()>>,
}

impl ControlServer {
    /// Listens in the store's `run` folder.
    pub(crate) fn bind(paths: &StorePaths, volume: VolumeId) -> Result<SocketFile> {
        SocketFile::bind_private(&socket_of(paths, volume))
    }

    /// Answers who comes to `socket`.
    pub(crate) fn start(socket: SocketFile, served: ServedVolume) -> Result<ControlServer> {
        let stop = StopSignal::new()?;
        let until = stop.clone();
        let thread = thread::Builder::new()
            .name("control".into())
            .spawn(move || accept_until(&until, &socket, &served))
            .map_err(|error| Error::io("cannot start the thread that answers commands", error))?;
        Ok(ControlServer { stop, thread: Some(thread) })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.stop.trigger();
        if let Some(thread) = self.thread.take() {
            // A panic there was told by its thread; the volume is closed all the same.
            let _ = thread.join();
        }
    }
}

fn accept_until(stop: &StopSignal, socket: &SocketFile, served: &ServedVolume) {
    loop {
        let listener = socket.as_fd();
        let mut fds = [PollFd::new(stop, PollFlags::IN), PollFd::new(&listener, PollFlags::IN)];
        let polled = poll(&mut fds, None);
        if !fds[0].revents().is_empty() {
            return;
        }
        match polled.map_err(|errno| Error::io("poll", errno.into())).and_then(|_| socket.accept())
        {
            // Whoever asked and went away is not told; what was done for it the next one finds.
            Ok(stream) => drop(answer_one(&stream, served)),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

fn answer_one(stream: &UnixStream, served: &ServedVolume) -> Result<()> {
    let failed = |error| Error::io("cannot set the time limit of a control socket", error);
    stream.set_read_timeout(Some(QUESTION_TIME_MAX)).map_err(failed)?;
    stream.set_write_timeout(Some(QUESTION_TIME_MAX)).map_err(failed)?;
    let result = receive(stream).and_then(|question| served.answer(question));
    send(stream, &Answer::from(result))
}
