//! How commands reach the server of a volume: a socket in the store's `run` folder, one question and one answer a
//! connection, each a line of JSON.
//!
//! A server changes what it alone may change, the volume's folder; the command that asked changes the catalog. Only the
//! owner of the store can connect. What comes in is bounded in length and time all the same.

mod client;
mod message;
mod server;

pub(crate) use client::ControlClient;
pub(crate) use message::{Layering, ServedState};
pub(crate) use server::{ControlServer, ServedVolume};

use silt_store::StorePaths;
use silt_types::VolumeId;
use std::{path::PathBuf, time::Duration};

/// The longest line. A state is some ten ids.
const LINE_LEN_MAX: u64 = 16 << 10;

/// How long a server waits for a question, once somebody is connected: commands ask at once. Nobody is to keep others from
/// asking, nor the server from ending within five seconds.
const QUESTION_TIME_MAX: Duration = Duration::from_secs(1);

fn socket_of(paths: &StorePaths, volume: VolumeId) -> PathBuf {
    paths.run().join(format!("{volume}.control"))
}
