//! Asking a server.

use super::{
    ANSWER_TIME_MAX, Layering, QUESTION_TIME_MAX, ServedState, ServerStatus,
    folder::{Role, RunFolder},
    lines::Lines,
    message::{Answer, Question},
};
use silt_store::{StorePaths, VolumeRecord};
use silt_types::{Context as _, Error, ErrorKind, Result, StateId};
use std::{os::unix::net::UnixStream, path::Path, time::Duration};

/// A connection to a server, good for one question.
pub(crate) struct ControlClient {
    stream: UnixStream,
    about: String,
}

impl ControlClient {
    /// Connects to the server that writes a volume. `None` if nobody does.
    pub(crate) fn connect(
        paths: &StorePaths,
        volume: &VolumeRecord,
    ) -> Result<Option<ControlClient>> {
        let folder = RunFolder::path_of(paths, &volume.id.to_string(), &Role::Writer);
        ControlClient::connect_in(&folder, format!("the server of volume {} refused", volume.name))
    }

    /// Connects to the server that has a folder. `None` if it has gone.
    pub(crate) fn connect_in(folder: &Path, about: String) -> Result<Option<ControlClient>> {
        let stream = silt_export::connect(&RunFolder::socket_in(folder))?;
        Ok(stream.map(|stream| ControlClient { stream, about }))
    }

    /// What is served, and how it goes.
    pub(crate) fn status(self) -> Result<ServerStatus> {
        self.ask(&Question::Status, Some(ANSWER_TIME_MAX))?.into_status()
    }

    /// Lets it end. It does so after it has answered.
    pub(crate) fn stop(self) -> Result<()> {
        self.ask(&Question::Stop, Some(ANSWER_TIME_MAX)).map(drop)
    }

    /// Lets it end, and pass its clients on over the connection that is answered.
    pub(crate) fn take_over(self) -> Result<UnixStream> {
        let stream = self.stream.try_clone();
        self.ask(&Question::TakeOver, Some(ANSWER_TIME_MAX))?;
        stream.map_err(|error| Error::io("cannot keep a control socket", error))
    }

    /// The id of the state that is durable when it answers.
    pub(crate) fn state(self) -> Result<StateId> {
        self.ask(&Question::State, None)?.into_state()
    }

    /// What the volume is made of.
    pub(crate) fn layers(self) -> Result<ServedState> {
        self.ask(&Question::Layers, None)?.into_layers()
    }

    /// Freezes what was written so far. The answer is durable; what it says of generations counts from `generation` on.
    pub(crate) fn freeze(self, layering: &Layering, generation: u64) -> Result<ServedState> {
        let question = Question::Snapshot { layering: layering.into(), generation };
        self.ask(&question, None)?.into_layers()
    }

    /// Makes the disk longer. The answer is durable. A length that is still the old one says that there is no room for
    /// another frozen delta.
    pub(crate) fn grow(
        self,
        layering: &Layering,
        generation: u64,
        size_bytes: u64,
    ) -> Result<ServedState> {
        let question = Question::Resize { layering: layering.into(), generation, size_bytes };
        self.ask(&question, None)?.into_layers()
    }

    /// Lets the server let go of deltas that have become a part of the base.
    pub(crate) fn rebase(self, layering: &Layering) -> Result<ServedState> {
        self.ask(&Question::Rebase { layering: layering.into() }, None)?.into_layers()
    }

    /// Waits as long as the answer takes, if no time is given: a flush of the volume, at the longest.
    fn ask(self, question: &Question, time_max: Option<Duration>) -> Result<Answer> {
        let mut lines = Lines::new(&self.stream, None);
        let answer = lines
            .send(question, QUESTION_TIME_MAX)
            .and_then(|()| lines.receive::<Answer>(time_max))
            .and_then(|answer| {
                answer.ok_or_else(|| Error::new(ErrorKind::Io, "it ended without an answer"))
            });
        answer.and_then(Answer::accepted).context(|| self.about.clone())
    }
}
