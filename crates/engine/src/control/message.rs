//! What is asked and answered, as `docs/internals/control.md` tells it. Both sides are of one build or a later one: an unknown
//! question is an error to whoever asked, and unknown fields are passed over.

use super::ServerStatus;
use serde::{Deserialize, Serialize};
use silt_store::VolumeRecord;
use silt_types::{DeltaId, DiskId, Error, ErrorKind, Result, StateId};

/// A question to a server.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(super) enum Question {
    /// What is served, and how it goes.
    Status,
    /// Make everything durable that was answered.
    Flush,
    /// The same, and by which id what is durable then goes.
    State,
    /// End, as after SIGTERM.
    Stop,
    /// Let go of the disk, and pass its clients on over this connection.
    TakeOver,
    /// What the volume is made of.
    Layers,
    /// Rebase, then freeze what is written so far: the server's half of a snapshot. The header that says so has at least this
    /// generation.
    Snapshot { layering: TextLayering, generation: u64 },
    /// Rebase, then go on with a longer disk: the server's half of a resize.
    Resize { layering: TextLayering, generation: u64, size_bytes: u64 },
    /// Let go of the deltas that have become a part of this base.
    Rebase { layering: TextLayering },
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// To a question for the status.
    Status(Box<ServerStatus>),
    /// It is done, and this is the state.
    State { state_id: String },
    /// It is done, and this is what the volume is made of.
    Layers(TextLayers),
    /// It is done.
    Done {},
    /// It is not.
    Error { kind: String, message: String },
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
    /// Its length in bytes.
    pub(crate) size_bytes: u64,
    /// State of what is below the delta that is written to.
    pub(crate) state: StateId,
}

/// Ids as text.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TextLayering {
    base: String,
    deltas: Vec<String>,
}

/// The same.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TextLayers {
    deltas: Vec<String>,
    generation: u64,
    size_bytes: u64,
    state_below: String,
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

impl From<ServedState> for TextLayers {
    fn from(state: ServedState) -> TextLayers {
        TextLayers {
            deltas: texts(&state.deltas),
            generation: state.generation,
            size_bytes: state.size_bytes,
            state_below: state.state.to_string(),
        }
    }
}

impl TryFrom<TextLayers> for ServedState {
    type Error = Error;

    fn try_from(text: TextLayers) -> Result<ServedState> {
        Ok(ServedState {
            deltas: ids(&text.deltas)?,
            generation: text.generation,
            size_bytes: text.size_bytes,
            state: text.state_below.parse()?,
        })
    }
}

fn texts(ids: &[DeltaId]) -> Vec<String> {
    ids.iter().map(DeltaId::to_string).collect()
}

fn ids(texts: &[String]) -> Result<Vec<DeltaId>> {
    texts.iter().map(|text| text.parse()).collect()
}

impl From<Result<Answer>> for Answer {
    fn from(result: Result<Answer>) -> Answer {
        result.unwrap_or_else(|error| Answer::Error {
            kind: error.kind().as_str().into(),
            message: error.chain(),
        })
    }
}

impl Answer {
    /// The answer, if it is not that it was refused.
    pub(super) fn accepted(self) -> Result<Answer> {
        match self {
            Answer::Error { kind, message } => {
                let kind = ErrorKind::ALL.into_iter().find(|known| known.as_str() == kind);
                Err(Error::new(kind.unwrap_or(ErrorKind::Internal), message))
            }
            other => Ok(other),
        }
    }

    pub(super) fn into_layers(self) -> Result<ServedState> {
        match self {
            Answer::Layers(layers) => layers.try_into(),
            _ => Err(beside_the_question()),
        }
    }

    pub(super) fn into_state(self) -> Result<StateId> {
        match self {
            Answer::State { state_id } => state_id.parse(),
            _ => Err(beside_the_question()),
        }
    }

    pub(super) fn into_status(self) -> Result<ServerStatus> {
        match self {
            Answer::Status(status) => Ok(*status),
            _ => Err(beside_the_question()),
        }
    }
}

fn beside_the_question() -> Error {
    Error::invalid("the server answered another question")
}
