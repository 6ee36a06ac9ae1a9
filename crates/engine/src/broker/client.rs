//! The server's side of the connection.

use super::{
    message::{Answer, MESSAGE_LEN_MAX, Reply, Request, decode_reply},
    server::work,
};
use rustix::{
    io::retry_on_intr,
    net::{RecvFlags, SendFlags, recv, send},
};
use silt_export::fuse::Mount;
use silt_store::{Allowance, Allowed, PackPlace, Places, SpaceAsked, WhenFull};
use silt_sys::process::HelperProcess;
use silt_types::{ChunkId, Error, ErrorKind, Result};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// A broker and the connection to it. Clones are the same one; it ends with the last.
#[derive(Clone, Debug)]
pub struct Broker {
    helper: Arc<Mutex<HelperProcess>>,
}

impl Broker {
    /// Starts a broker for the store at `path`, which it opens when it is first asked something. `Internal` if this process
    /// has other threads already.
    pub fn start(path: &Path) -> Result<Broker> {
        let path = PathBuf::from(path);
        let helper = HelperProcess::start(move |socket| work(&socket, &path))?;
        Ok(Broker { helper: Arc::new(Mutex::new(helper)) })
    }

    /// When this process has ended, the socket at `path` is removed, or the server's folder in `run`. Good before [`Broker::begin`].
    pub fn remove_at_end(&self, path: &Path) -> Result<()> {
        let path = std::path::absolute(path)
            .map_err(|error| Error::io(format!("cannot resolve {}", path.display()), error))?;
        self.send(&Request::RemoveAtEnd(path))
    }

    /// Leaves it to the broker to undo a mount: when this process asks for it, or has ended. Good before [`Broker::begin`].
    pub fn undo_at_end(&self, mount: &Mount) -> Result<()> {
        self.send(&Request::UndoAtEnd(mount.mounted().clone()))?;
        let broker = self.clone();
        mount.leave_to(move || broker.send(&Request::Undo));
        Ok(())
    }

    /// Sockets and mounts that this process made stay when it has ended: another one goes on with them.
    pub(crate) fn leave_exports(&self) -> Result<()> {
        self.send(&Request::Leave)
    }

    /// Waits until the broker has the store open; from now on it takes nothing from this process but look-ups, and wishes for
    /// what it has been told of: to undo mounts, to leave them and sockets.
    pub fn begin(&self) -> Result<()> {
        self.ask(&Request::Begin).map(drop)
    }

    fn send(&self, request: &Request) -> Result<()> {
        let helper = self.helper.lock().unwrap_or_else(PoisonError::into_inner);
        send_to(&helper, request)
    }

    fn ask(&self, request: &Request) -> Reply {
        decode_reply(&self.exchange(request)?)
    }

    /// An error is one of getting through to it.
    fn exchange(&self, request: &Request) -> Result<Vec<u8>> {
        let helper = self.helper.lock().unwrap_or_else(PoisonError::into_inner);
        send_to(&helper, request)?;
        let mut reply = [0; MESSAGE_LEN_MAX];
        let received = retry_on_intr(|| recv(helper.socket(), &mut reply, RecvFlags::empty()));
        match received {
            Ok((0, _)) => Err(Error::new(ErrorKind::Io, "the broker of this server has ended")),
            Ok((len, _)) => Ok(reply[..len].to_vec()),
            Err(errno) => Err(Error::io("the broker does not answer", errno.into())),
        }
    }
}

impl Places for Broker {
    /// Costs a message each way.
    fn find(&self, id: &ChunkId) -> Result<Option<PackPlace>> {
        match self.ask(&Request::Find(*id))? {
            Answer::Nothing => Ok(None),
            Answer::Place(place) => Ok(Some(place)),
            Answer::Space(_) => Err(answered_otherwise()),
        }
    }
}

impl Allowance for Broker {
    /// Costs a message each way, and what the store's own answer does. Where the broker was killed nobody can say, and nothing is
    /// refused: the kernel still says when all is full.
    fn ask(&self, asked: &SpaceAsked) -> Result<Allowed> {
        let Ok(reply) = self.exchange(&Request::Space(*asked)) else {
            let when_full = WhenFull::default();
            return Ok(Allowed { bytes: Ok(asked.bytes), delta_max: None, when_full });
        };
        match decode_reply(&reply)? {
            Answer::Space(allowed) => Ok(allowed),
            Answer::Nothing | Answer::Place(_) => Err(answered_otherwise()),
        }
    }
}

fn answered_otherwise() -> Error {
    Error::internal("the broker answered something that was not asked")
}

fn send_to(helper: &HelperProcess, request: &Request) -> Result<()> {
    let sent = retry_on_intr(|| send(helper.socket(), &request.encode(), SendFlags::NOSIGNAL));
    sent.map(drop).map_err(|errno| Error::io("the broker of this server has ended", errno.into()))
}
