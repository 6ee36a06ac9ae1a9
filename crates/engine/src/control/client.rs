//! Asking the server of a volume.

use super::{
    Layering, ServedState,
    message::{Answer, Question, receive, send},
    socket_of,
};
use silt_store::{StorePaths, VolumeRecord};
use silt_types::{Context as _, Result};
use std::os::unix::net::UnixStream;

/// A connection to the server of a volume, good for one question. It waits for the answer as long as that takes: a flush
/// of the volume, at the longest.
pub(crate) struct ControlClient {
    stream: UnixStream,
    about: String,
}

impl ControlClient {
    /// Connects. `None` if nobody serves the volume for writing.
    pub(crate) fn connect(
        paths: &StorePaths,
        volume: &VolumeRecord,
    ) -> Result<Option<ControlClient>> {
        let stream = silt_export::connect(&socket_of(paths, volume.id))?;
        let about = format!("the server of volume {} refused", volume.name);
        Ok(stream.map(|stream| ControlClient { stream, about }))
    }

    /// What the volume is made of.
    pub(crate) fn state(self) -> Result<ServedState> {
        self.ask(&Question::State)
    }

    /// Freezes what was written so far. The answer is durable; what it says of generations counts from `generation` on.
    pub(crate) fn freeze(self, layering: &Layering, generation: u64) -> Result<ServedState> {
        self.ask(&Question::Freeze { layering: layering.into(), generation })
    }

    /// Lets the server let go of deltas that have become a part of the base.
    pub(crate) fn rebase(self, layering: &Layering) -> Result<ServedState> {
        self.ask(&Question::Rebase { layering: layering.into() })
    }

    fn ask(self, question: &Question) -> Result<ServedState> {
        let answer = send(&self.stream, question).and_then(|()| receive::<Answer>(&self.stream));
        answer.and_then(ServedState::try_from).context(|| self.about.clone())
    }
}
