//! Where clients come in.

use crate::socket::{BACKLOG, SocketFile};
use rustix::{
    io::Errno,
    net::{SocketFlags, accept_with, sockopt::set_tcp_nodelay},
};
use silt_types::{Error, ErrorKind, Result};
use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    str::FromStr,
};

/// An address to listen at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A Unix socket, its owner's alone (mode 0600). At most 107 bytes long.
    Unix(PathBuf),
    /// A TCP port of the loopback interface, open to every user of this machine. Port 0 means any free one.
    Tcp(SocketAddr),
}

impl fmt::Display for Listen {
    /// As the command line takes it: a path, or `tcp:` and an address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Unix(path) => path.display().fmt(f),
            Listen::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

impl FromStr for Listen {
    type Err = Error;

    /// The same words.
    fn from_str(text: &str) -> Result<Listen> {
        match text.strip_prefix("tcp:") {
            Some(address) => address.parse().map(Listen::Tcp).map_err(|error| {
                let message = format!("bad address {text:?}: give tcp:127.0.0.1:PORT");
                Error::with_source(ErrorKind::Invalid, message, error)
            }),
            None if text.is_empty() => Err(Error::invalid("the socket needs a name")),
            None => Ok(Listen::Unix(text.strip_prefix("unix:").unwrap_or(text).into())),
        }
    }
}

/// A socket that accepts connections.
#[derive(Debug)]
pub(super) enum Listener {
    Unix(SocketFile),
    Tcp(TcpListener),
}

impl Listener {
    /// Listens, and says where, which differs from what was asked for with port 0.
    pub(super) fn bind(listen: &Listen) -> Result<(Listener, Listen)> {
        match listen {
            Listen::Unix(path) => Ok((Listener::Unix(SocketFile::bind(path)?), listen.clone())),
            Listen::Tcp(address) if !address.ip().is_loopback() => Err(Error::invalid(format!(
                "cannot listen at {listen}: NBD has no authentication, so only loopback addresses are allowed"
            ))),
            Listen::Tcp(address) => {
                let failed = |error: io::Error| {
                    let message = format!("cannot listen at {listen}");
                    match error.kind() {
                        io::ErrorKind::AddrInUse => {
                            Error::with_source(ErrorKind::Busy, message, error)
                        }
                        _ => Error::io(message, error),
                    }
                };
                let listener = TcpListener::bind(address).map_err(failed)?;
                rustix::net::listen(&listener, BACKLOG).map_err(|errno| failed(errno.into()))?;
                let address = listener.local_addr().map_err(failed)?;
                Ok((Listener::Tcp(listener), Listen::Tcp(address)))
            }
        }
    }

    /// Goes on listening with a socket that another process made.
    pub(super) fn adopt(listen: &Listen, socket: OwnedFd) -> Result<Listener> {
        match listen {
            Listen::Unix(path) => SocketFile::adopt(path, socket).map(Listener::Unix),
            Listen::Tcp(_) => Ok(Listener::Tcp(socket.into())),
        }
    }

    /// The next client that waits.
    pub(super) fn accept(&self) -> Result<OwnedFd, Errno> {
        let socket = accept_with(self, SocketFlags::CLOEXEC)?;
        if let Listener::Tcp(_) = self {
            // Replies are batched here; the kernel must not hold them back for more.
            let _ = set_tcp_nodelay(&socket, true);
        }
        Ok(socket)
    }

    /// Lets somebody else go on with it: the file stays. Answers the socket.
    pub(super) fn leave(&self) -> io::Result<OwnedFd> {
        if let Listener::Unix(socket) = self {
            socket.leave();
        }
        self.as_fd().try_clone_to_owned()
    }

    /// Ends listening: new clients are refused by the kernel, and the socket's file is gone.
    pub(super) fn close(&self) {
        if let Listener::Unix(socket) = self {
            socket.remove();
        }
        let _ = rustix::net::shutdown(self, rustix::net::Shutdown::Both);
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Unix(socket) => socket.as_fd(),
            Listener::Tcp(socket) => socket.as_fd(),
        }
    }
}
