//! How commands reach a server: a socket in the server's folder, a line of JSON for each question and each answer. The
//! protocol, with examples: `docs/internals/control.md`.
//!
//! A server changes what it alone may change, the volume's folder; the command that asked changes the catalog. Only the
//! owner of the store can connect. What comes in is bounded in length and time all the same.
//!
//! [`message`] has what is said, [`lines`] how, [`folder`] where; [`server`] listens, [`served`] answers. [`passing`] is what
//! follows a question to take over.

mod client;
mod folder;
mod lines;
mod message;
mod passing;
mod served;
mod server;
mod status;

pub(crate) use client::ControlClient;
pub(crate) use folder::{Role, RunFolder};
pub(crate) use message::{Layering, ServedState};
pub(crate) use passing::{receive as receive_passed, send as send_passed};
pub(crate) use served::{Access, ServedDisk, Writing};
pub(crate) use server::ControlServer;
pub(crate) use status::Samples;
pub use status::{
    CountsStatus, ExportStatus, LimitsStatus, OpStatus, RateStatus, RecentStatus, ServerStatus,
    SpaceStatus,
};

use std::time::Duration;

/// The longest line. A state is some ten ids, a status a few kilobytes.
const LINE_LEN_MAX: usize = 16 << 10;

/// How long a server waits for a question, once somebody is connected, and for its answer to be taken: commands do both at
/// once. Nobody is to keep the server from ending within five seconds.
const QUESTION_TIME_MAX: Duration = Duration::from_secs(1);

/// How long whoever asks waits for an answer that takes no time. A server that is stopped in a debugger is not waited for.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a server that passes its clients on may take between two messages: it lets go of its disk meanwhile.
const PASSED_TIME_MAX: Duration = Duration::from_secs(20);

/// The longest message of those: 64 clients in the midst of a request, in JSON.
const PASSED_LEN_MAX: usize = 256 << 10;

/// Connections to one server at a time. Commands have one each, for milliseconds.
const CLIENTS_MAX: usize = 32;
