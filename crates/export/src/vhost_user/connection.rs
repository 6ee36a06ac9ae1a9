//! One monitor: messages in, answers out, until it leaves, breaks the protocol or the server is to stop. Requests of its
//! guest do not pass here, but through the queues that its messages set up.

use super::{
    channel::{Channel, Next, look, take_channel},
    limits::MESSAGE_TIME_MAX,
    session::{Disk, Session},
};
use crate::StopSignal;
use std::{
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use vhost::vhost_user::{BackendReqHandler, Error};

/// Where the server finds the way to the monitor that is served, if that monitor has given one.
pub(super) type ChannelPlace = Mutex<Option<Channel>>;

/// Serves a monitor. When it returns, every request that was taken is answered, unless the server stops and the device
/// took too long: then it says so.
pub(super) fn serve(
    socket: &UnixStream,
    disk: Disk,
    channel: &ChannelPlace,
    stop: &StopSignal,
) -> silt_types::Result<()> {
    let session = Arc::new(Mutex::new(Session::new(disk, stop.clone())));
    if let Ok(stream) = prepare(socket) {
        let mut handler = BackendReqHandler::from_stream(stream, session.clone());
        while !stop.is_triggered() && answer_next(socket, &mut handler, &session, channel) {}
    }
    *lock(channel) = None;
    let stopped = lock(&session).stop_all();
    stopped.map_err(|refused| silt_types::Error::new(silt_types::ErrorKind::Io, refused.0))
}

fn prepare(socket: &UnixStream) -> std::io::Result<UnixStream> {
    socket.set_write_timeout(Some(MESSAGE_TIME_MAX))?;
    socket.try_clone()
}

/// Waits for a message and answers it; false when there will be no more.
fn answer_next(
    socket: &UnixStream,
    handler: &mut BackendReqHandler<Mutex<Session>>,
    session: &Mutex<Session>,
    channel: &ChannelPlace,
) -> bool {
    match look(socket) {
        Next::End => false,
        Next::Channel => {
            let taken = take_channel(socket, lock(session).reply_ack());
            let is_taken = taken.is_some();
            *lock(channel) = taken;
            is_taken
        }
        Next::Message => match handler.handle_request() {
            // Something that was never offered was asked for, and refused.
            Ok(()) | Err(Error::InvalidOperation(_)) => true,
            Err(_) => false,
        },
    }
}

/// Both are whole between two messages, whatever happened in one of them.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
