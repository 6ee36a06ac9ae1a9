//! The life of a server: bind, run, stop.
//!
//! [`Server::run`] accepts; each client has a thread. At the end nobody new comes in, what was received is done and
//! answered, and the device is flushed, all within five seconds.

use super::{
    connection,
    handshake::{Admission, negotiate},
    limits::{CLIENTS_MAX, CUT_TIME_MAX, DRAIN_TIME_MAX, REFUSALS_MAX},
    link::Link,
    listen::{Listen, Listener},
};
use crate::{Export, ExportAddress, StopSignal};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, retry_on_intr},
    net::{Shutdown, shutdown},
};
use silt_types::{Context as _, Error, ErrorKind, Result};
use silt_volume::BlockDevice;
use std::{
    collections::HashMap,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// An NBD server for one device, listening from the moment it is bound.
///
/// ```no_run
/// # fn serve(device: std::sync::Arc<dyn silt_volume::BlockDevice>) -> silt_types::Result<()> {
/// use silt_export::{Export as _, StopSignal, nbd::{Listen, Server}};
/// let stop = StopSignal::new()?;
/// stop.trigger_on_termination()?;
/// Server::bind(&Listen::Unix("/run/vm1.nbd".into()))?.run(device, &stop)
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    address: Listen,
    clients: Arc<Clients>,
}

impl Server {
    /// Listens at `listen`; clients may connect at once and are answered when [`Server::run`] runs. A socket that a
    /// killed server left behind is replaced. `Busy` if another server listens there, `AlreadyExists` if something else
    /// than a socket is there, `Invalid` if the address is not on the loopback interface or the path too long.
    pub fn bind(listen: &Listen) -> Result<Server> {
        let (listener, address) = Listener::bind(listen)?;
        Ok(Server { listener, address, clients: Arc::default() })
    }

    fn accept_until(&self, device: &Arc<dyn BlockDevice>, stop: &StopSignal) -> Result<()> {
        let failed =
            |errno: Errno| Error::io(format!("cannot accept at {}", self.address), errno.into());
        loop {
            let mut fds =
                [PollFd::new(stop, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
            retry_on_intr(|| poll(&mut fds, None)).map_err(failed)?;
            if !fds[0].revents().is_empty() {
                return Ok(());
            }
            match self.listener.accept() {
                Ok(socket) => self.clients.admit(socket, device),
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    // Until some client leaves; waiting for the stop signal meanwhile.
                    let pause = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
                    let _ = poll(&mut [PollFd::new(stop, PollFlags::IN)], Some(&pause));
                }
                Err(errno @ (Errno::BADF | Errno::INVAL | Errno::NOTSOCK)) => {
                    return Err(failed(errno));
                }
                // The client was gone before it was accepted.
                Err(_) => (),
            }
        }
    }
}

impl Export for Server {
    /// As bound, with the port that was found for port 0.
    fn address(&self) -> ExportAddress {
        ExportAddress::Nbd(self.address.clone())
    }

    fn socket(&self) -> Option<PathBuf> {
        match &self.address {
            Listen::Unix(path) => Some(path.clone()),
            Listen::Tcp(_) => None,
        }
    }

    /// Those that have finished their handshake.
    fn clients(&self) -> usize {
        self.clients.served.load(Ordering::Relaxed)
    }

    /// Serves `device` until `stop` is given. Then no client is accepted any more and the socket's file is removed;
    /// requests received so far are done and answered; connections are closed, after four seconds even those with
    /// requests in flight; `device` is flushed unless it is read-only.
    ///
    /// Errors: the final flush failed; a connection hung in the device beyond the five seconds (what was flushed is
    /// durable all the same); accepting failed for good.
    fn run(&self, device: Arc<dyn BlockDevice>, stop: &StopSignal) -> Result<()> {
        let accepted = self.accept_until(&device, stop);
        self.listener.close();
        let drained = self.clients.drain(&self.address);
        let flushed = if device.geometry().read_only { Ok(()) } else { device.flush() };
        accepted?;
        flushed.context(|| format!("cannot flush the device served at {}", self.address))?;
        drained
    }
}

/// Every connection there is, handshakes included.
#[derive(Debug, Default)]
struct Clients {
    served: AtomicUsize,
    open: Mutex<Open>,
    /// A connection ended.
    fewer: Condvar,
}

#[derive(Debug, Default)]
struct Open {
    sockets: HashMap<u64, Arc<OwnedFd>>,
    next_id: u64,
}

impl Clients {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a client its thread. Where there is none to be had the connection is closed: others are not to suffer.
    fn admit(self: &Arc<Self>, socket: OwnedFd, device: &Arc<dyn BlockDevice>) {
        let socket = Arc::new(socket);
        let mut open = self.lock();
        let admission = match open.sockets.len() {
            ..CLIENTS_MAX => Admission::Served,
            len if len < CLIENTS_MAX + REFUSALS_MAX => Admission::Refused,
            _ => return,
        };
        let id = open.next_id;
        open.next_id += 1;
        open.sockets.insert(id, socket.clone());
        drop(open);
        let place = Place { clients: self.clone(), id };
        let device = device.clone();
        // If this fails, the closure and with it the place and the socket are dropped.
        let _ = thread::Builder::new()
            .name("nbd-client".into())
            .spawn(move || serve(socket, device, admission, &place));
    }

    /// Lets every connection end: first by receiving no more, in the end by cutting it.
    fn drain(&self, address: &Listen) -> Result<()> {
        self.shutdown_all(Shutdown::Read);
        if !self.wait_until_none(DRAIN_TIME_MAX) {
            self.shutdown_all(Shutdown::Both);
            if !self.wait_until_none(CUT_TIME_MAX) {
                let count = self.lock().sockets.len();
                let message = format!("{count} connections at {address} wait for the device");
                return Err(Error::new(ErrorKind::Io, message));
            }
        }
        Ok(())
    }

    fn shutdown_all(&self, how: Shutdown) {
        for socket in self.lock().sockets.values() {
            let _ = shutdown(&**socket, how);
        }
    }

    fn wait_until_none(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut open = self.lock();
        while !open.sockets.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.fewer.wait_timeout(open, left);
            open = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// A connection's place among the clients, given back however its thread ends.
struct Place {
    clients: Arc<Clients>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clients.lock().sockets.remove(&self.id);
        self.clients.fewer.notify_all();
    }
}

/// A client that is served, counted however its thread ends.
struct Served<'a>(&'a Clients);

impl Drop for Served<'_> {
    fn drop(&mut self) {
        self.0.served.fetch_sub(1, Ordering::Relaxed);
    }
}

fn serve(socket: Arc<OwnedFd>, device: Arc<dyn BlockDevice>, admission: Admission, place: &Place) {
    let negotiated = negotiate(socket.as_fd(), device.geometry(), admission);
    if let Ok(Some(session)) = negotiated {
        place.clients.served.fetch_add(1, Ordering::Relaxed);
        let _served = Served(&place.clients);
        connection::serve(Arc::new(Link::new(socket, session, device)));
    }
}
