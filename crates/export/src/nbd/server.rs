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
    passing::{self, PassedClient},
};
use crate::{Export, ExportAddress, PassedOn, StopSignal};
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
        atomic::{AtomicBool, AtomicUsize, Ordering},
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
    /// Clients of another server, to go on with.
    taken_over: Mutex<Vec<PassedClient>>,
    /// Whether it ended by passing its clients on.
    has_passed_on: AtomicBool,
}

impl Server {
    /// Listens at `listen`; clients may connect at once and are answered when [`Server::run`] runs. A socket that a
    /// killed server left behind is replaced. `Busy` if another server listens there, `AlreadyExists` if something else
    /// than a socket is there, `Invalid` if the address is not on the loopback interface or the path too long.
    pub fn bind(listen: &Listen) -> Result<Server> {
        let (listener, address) = Listener::bind(listen)?;
        Ok(Server::new(listener, address, Vec::new()))
    }

    /// Goes on at the same place with the clients of a server that has ended, from the moment it is run. `Invalid` if that is
    /// not what was passed on.
    pub fn take_over(listen: &Listen, passed: PassedOn) -> Result<Server> {
        let mut descriptors = passed.descriptors.into_iter();
        let listener =
            descriptors.next().ok_or_else(|| Error::invalid("no socket was passed on"))?;
        let clients = passing::take(&passed.words, descriptors.collect())?;
        Ok(Server::new(Listener::adopt(listen, listener)?, listen.clone(), clients))
    }

    fn new(listener: Listener, address: Listen, taken_over: Vec<PassedClient>) -> Server {
        let has_passed_on = AtomicBool::new(false);
        let taken_over = Mutex::new(taken_over);
        Server { listener, address, clients: Arc::default(), taken_over, has_passed_on }
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
                Ok(socket) => self.clients.admit(socket, device, stop),
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

    fn can_pass_on(&self) -> bool {
        true
    }

    fn passed_on(&self) -> Option<PassedOn> {
        if !self.has_passed_on.swap(false, Ordering::AcqRel) {
            return None;
        }
        let clients = std::mem::take(&mut *lock(&self.clients.passed));
        let (words, mut descriptors) = passing::put(clients).ok()?;
        descriptors.insert(0, self.listener.leave().ok()?);
        Some(PassedOn { words, descriptors })
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
        let taken_over = std::mem::take(&mut *lock(&self.taken_over));
        for client in taken_over {
            self.clients.go_on(client, &device, stop);
        }
        let accepted = self.accept_until(&device, stop);
        if accepted.is_ok() && stop.is_passing_on() {
            self.has_passed_on.store(true, Ordering::Release);
            return self.clients.drain(&self.address, None);
        }
        self.listener.close();
        let drained = self.clients.drain(&self.address, Some(Shutdown::Read));
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
    /// Those that are to go on elsewhere.
    passed: Mutex<Vec<PassedClient>>,
}

#[derive(Debug, Default)]
struct Open {
    sockets: HashMap<u64, Arc<OwnedFd>>,
    next_id: u64,
}

impl Clients {
    fn lock(&self) -> MutexGuard<'_, Open> {
        lock(&self.open)
    }

    /// Gives a client that another server has let in its thread.
    fn go_on(
        self: &Arc<Self>,
        client: PassedClient,
        device: &Arc<dyn BlockDevice>,
        stop: &StopSignal,
    ) {
        let PassedClient { socket, session, received } = client;
        let socket = Arc::new(socket);
        let place = self.place(&mut self.lock(), socket.clone());
        let link = Link::new(socket, session, device.clone(), stop.clone());
        let _ = thread::Builder::new()
            .name("nbd-client".into())
            .spawn(move || place.serve(link, &received));
    }

    fn place(self: &Arc<Self>, open: &mut Open, socket: Arc<OwnedFd>) -> Place {
        let id = open.next_id;
        open.next_id += 1;
        open.sockets.insert(id, socket);
        Place { clients: self.clone(), id }
    }

    /// Gives a client its thread. Where there is none to be had the connection is closed: others are not to suffer.
    fn admit(self: &Arc<Self>, socket: OwnedFd, device: &Arc<dyn BlockDevice>, stop: &StopSignal) {
        let socket = Arc::new(socket);
        let mut open = self.lock();
        let admission = match open.sockets.len() {
            ..CLIENTS_MAX => Admission::Served,
            len if len < CLIENTS_MAX + REFUSALS_MAX => Admission::Refused,
            _ => return,
        };
        let place = self.place(&mut open, socket.clone());
        drop(open);
        let (device, stop) = (device.clone(), stop.clone());
        // If this fails, the closure and with it the place and the socket are dropped.
        let _ = thread::Builder::new()
            .name("nbd-client".into())
            .spawn(move || serve(socket, device, stop, admission, place));
    }

    /// Lets every connection end: by receiving no more, or as it was told to; in the end by cutting it.
    fn drain(&self, address: &Listen, how: Option<Shutdown>) -> Result<()> {
        if let Some(how) = how {
            self.shutdown_all(how);
        }
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

impl Place {
    /// Serves a client that was let in; then it is gone, or put where those are that go on elsewhere.
    fn serve(self, link: Link, received: &[u8]) {
        self.clients.served.fetch_add(1, Ordering::Relaxed);
        let _served = Served(&self.clients);
        let (session, link) = (link.session, Arc::new(link));
        let Some(received) = connection::serve(link.clone(), received) else { return };
        if let Ok(socket) = link.socket().try_clone_to_owned() {
            lock(&self.clients.passed).push(PassedClient { socket, session, received });
        }
    }
}

fn serve(
    socket: Arc<OwnedFd>,
    device: Arc<dyn BlockDevice>,
    stop: StopSignal,
    admission: Admission,
    place: Place,
) {
    let negotiated = negotiate(socket.as_fd(), device.geometry(), admission);
    if let Ok(Some(session)) = negotiated {
        place.serve(Link::new(socket, session, device, stop), &[]);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
