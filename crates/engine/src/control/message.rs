//! What is asked and answered. Both sides are of one build or a later one: an unknown question is an error to whoever
//! asked, and unknown fields are passed over.

use super::LINE_LEN_MAX;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use silt_store::VolumeRecord;
use silt_types::{Context as _, DeltaId, DiskId, Error, ErrorKind, Result};
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
};

/// A question to the server of a volume.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Question {
    /// What the volume is made of.
    State,
    /// Rebase, then freeze what is written so far; the header that says so has at least this generation.
    Freeze { layering: TextLayering, generation: u64 },
    /// Let go of the deltas that have become a part of this base.
    Rebase { layering: TextLayering },
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// It is done, and this is the state.
    Done(TextState),
    /// It is not.
    Failed { kind: String, message: String },
}

/// What the catalog knows of a volume: its base, and the deltas over it, newest first. A server may be ahead of it by
/// newer deltas, and behind it by older ones that have become a part of the base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layering {
    pub(crate) base: DiskId,
    pub(crate) deltas: Vec<DeltaId>,
}

impl Layering {
    pub(crate) fn of(record: &VolumeRecord) -> Layering {
        let frozen = record.frozen.iter().map(|frozen| frozen.delta);
        Layering { base: record.base, deltas: std::iter::once(record.own).chain(frozen).collect() }
    }
}

/// What a served volume is made of, durably.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServedState {
    /// Its deltas, newest first: the one that is written to, and the frozen ones.
    pub(crate) deltas: Vec<DeltaId>,
    /// Generation of the header that says so.
    pub(crate) generation: u64,
}

/// Ids as text.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TextLayering {
    base: String,
    deltas: Vec<String>,
}

/// The same.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TextState {
    deltas: Vec<String>,
    generation: u64,
}

impl From<&Layering> for TextLayering {
    fn from(layering: &Layering) -> TextLayering {
        TextLayering { base: layering.base.to_string(), deltas: texts(&layering.deltas) }
    }
}

impl TryFrom<TextLayering> for Layering {
    type Error = Error;

    fn try_from(text: TextLayering) -> Result<Layering> {
        Ok(Layering { base: text.base.parse()?, deltas: ids(&text.deltas)? })
    }
}

impl From<ServedState> for TextState {
    fn from(state: ServedState) -> TextState {
        TextState { deltas: texts(&state.deltas), generation: state.generation }
    }
}

impl TryFrom<TextState> for ServedState {
    type Error = Error;

    fn try_from(text: TextState) -> Result<ServedState> {
        Ok(ServedState { deltas: ids(&text.deltas)?, generation: text.generation })
    }
}

fn texts(ids: &[DeltaId]) -> Vec<String> {
    ids.iter().map(DeltaId::to_string).collect()
}

fn ids(texts: &[String]) -> Result<Vec<DeltaId>> {
    texts.iter().map(|text| text.parse()).collect()
}

impl From<Result<ServedState>> for Answer {
    fn from(result: Result<ServedState>) -> Answer {
        match result {
            Ok(state) => Answer::Done(state.into()),
            Err(error) => {
                Answer::Failed { kind: error.kind().as_str().into(), message: error.chain() }
            }
        }
    }
}

impl TryFrom<Answer> for ServedState {
    type Error = Error;

    fn try_from(answer: Answer) -> Result<ServedState> {
        match answer {
            Answer::Done(state) => state.try_into(),
            Answer::Failed { kind, message } => {
                let kind = ErrorKind::ALL.into_iter().find(|known| known.as_str() == kind);
                Err(Error::new(kind.unwrap_or(ErrorKind::Internal), message))
            }
        }
    }
}

/// Writes one message.
pub(super) fn send(mut stream: &UnixStream, message: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(message)
        .map_err(|error| Error::with_source(ErrorKind::Internal, "cannot say it in JSON", error))?;
    line.push(b'\n');
    stream.write_all(&line).context(|| "cannot write to a control socket".into())
}

/// Reads one message.
pub(super) fn receive<T: DeserializeOwned>(stream: &UnixStream) -> Result<T> {
    let mut line = String::new();
    let read = BufReader::new(stream.take(LINE_LEN_MAX)).read_line(&mut line);
    read.context(|| "cannot read from a control socket".into())?;
    serde_json::from_str(&line).map_err(|error| {
        Error::with_source(ErrorKind::Invalid, "a message on a control socket is none", error)
    })
}
