//! What the exports have in common: where they are, and how they live.

use crate::{
    StopSignal, fuse,
    nbd::{self, Listen},
    vhost_user,
};
use silt_types::{Error, ErrorKind, Result};
use silt_volume::BlockDevice;
use std::{fmt, os::fd::OwnedFd, path::PathBuf, sync::Arc};

/// Where a device is exported, and by which protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportAddress {
    /// NBD, at a Unix socket or a TCP port.
    Nbd(Listen),
    /// FUSE: a file.
    Fuse(fuse::FileAddress),
    /// vhost-user-blk, at a Unix socket.
    VhostUser(PathBuf),
}

impl ExportAddress {
    /// Makes the export: clients may come from now on, and are answered when it runs. The protocol's `Server::bind` has the
    /// errors.
    pub fn bind(&self) -> Result<Box<dyn Export>> {
        match self {
            ExportAddress::Nbd(listen) => Ok(Box::new(nbd::Server::bind(listen)?)),
            ExportAddress::Fuse(file) => Ok(Box::new(fuse::Server::bind(file)?)),
            ExportAddress::VhostUser(path) => Ok(Box::new(vhost_user::Server::bind(path)?)),
        }
    }

    /// Makes the export of what another server of the same address passed on; clients do not notice. `Invalid` if it cannot be
    /// made of that.
    pub fn take_over(&self, passed: PassedOn) -> Result<Box<dyn Export>> {
        match self {
            ExportAddress::Nbd(listen) => Ok(Box::new(nbd::Server::take_over(listen, passed)?)),
            ExportAddress::VhostUser(path) => {
                Ok(Box::new(vhost_user::Server::take_over(path, passed)?))
            }
            ExportAddress::Fuse(file) => Ok(Box::new(fuse::Server::take_over(file, passed)?)),
        }
    }

    /// The address that [`ExportAddress::protocol`] and its display name, for the next server of what is there: whom a file is
    /// for is not in it. `Unsupported` for another protocol.
    pub fn parse(protocol: &str, address: &str) -> Result<ExportAddress> {
        match protocol {
            "nbd" => address.parse().map(ExportAddress::Nbd),
            "fuse" => Ok(ExportAddress::Fuse(fuse::FileAddress {
                path: address.into(),
                access: fuse::Access::default(),
            })),
            "vhost-user" => Ok(ExportAddress::VhostUser(address.into())),
            _ => {
                let message = format!("nothing is known of the protocol {protocol:?}");
                Err(Error::new(ErrorKind::Unsupported, message))
            }
        }
    }

    /// The protocol, as the command line has it.
    pub fn protocol(&self) -> &'static str {
        match self {
            ExportAddress::Nbd(_) => "nbd",
            ExportAddress::Fuse(_) => "fuse",
            ExportAddress::VhostUser(_) => "vhost-user",
        }
    }
}

impl fmt::Display for ExportAddress {
    /// The place alone, as the command line takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExportAddress::Nbd(listen) => listen.fmt(f),
            ExportAddress::Fuse(file) => file.path.display().fmt(f),
            ExportAddress::VhostUser(path) => path.display().fmt(f),
        }
    }
}

/// Makes durable what was answered, and answers the id of the state that the device is in then: the same id, whenever, means the
/// same bytes.
pub type StateSource = Arc<dyn Fn() -> Result<String> + Send + Sync>;

/// Clients, and where they come in, on their way from one server to the next, of which one at a time may use them.
#[derive(Debug, Default)]
pub struct PassedOn {
    /// What is to be known of the descriptors, for the protocol's own server.
    pub words: String,
    /// The listening socket first, or the connection to the kernel.
    pub descriptors: Vec<OwnedFd>,
}

/// A server of one device by one protocol.
pub trait Export: Send + Sync {
    /// Where clients find it, with what was left to choose filled in.
    fn address(&self) -> ExportAddress;

    /// The socket's file, if it has one.
    fn socket(&self) -> Option<PathBuf>;

    /// What it mounted, if it did.
    fn mount(&self) -> Option<&fuse::Mount> {
        None
    }

    /// Told before it is run, if it may want to know: what its protocol hands over with a virtual machine.
    fn tell_state(&self, _state: StateSource) {}

    /// Clients that are connected now.
    fn clients(&self) -> usize;

    /// Whether its clients can be passed on to another server.
    fn can_pass_on(&self) -> bool {
        false
    }

    /// What the next server needs to go on with the same clients. None unless it was run until it was told to pass them on, and
    /// once.
    fn passed_on(&self) -> Option<PassedOn> {
        None
    }

    /// Whether the protocol can tell clients that the device has become longer. A device grows only where all of its
    /// exports can.
    fn can_grow(&self) -> bool {
        false
    }

    /// Tells the clients that the device has become longer; its geometry says by how much. Never waits for them.
    fn grown(&self) {}

    /// Serves `device` until `stop` is given; then everything that was received is done and answered, `device` is flushed
    /// unless it is read-only, and clients find nobody any more, all within five seconds.
    fn run(&self, device: Arc<dyn BlockDevice>, stop: &StopSignal) -> Result<()>;
}
