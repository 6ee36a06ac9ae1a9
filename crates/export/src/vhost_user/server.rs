//! The life of a server: bind, run, stop.
//!
//! One monitor is served at a time; the next one waits until it leaves, so that a monitor that was restarted need not
//! know whether the old one is quite gone. At the end nobody new comes in, the requests that were taken are answered, and
//! the device is flushed, all within five seconds.

use super::{
    connection::{self, ChannelPlace, lock},
    session::Disk,
};
use crate::{Export, ExportAddress, PassedOn, SocketFile, StateSource, StopSignal};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, retry_on_intr},
    net::{Shutdown, shutdown},
};
use silt_types::{Context as _, Error, Result};
use silt_volume::BlockDevice;
use std::{
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

/// A vhost-user-blk server for one device, listening from the moment it is bound.
///
/// ```no_run
/// # fn serve(device: std::sync::Arc<dyn silt_volume::BlockDevice>) -> silt_types::Result<()> {
/// use silt_export::{Export as _, StopSignal, vhost_user::Server};
/// let stop = StopSignal::new()?;
/// stop.trigger_on_termination()?;
/// Server::bind("/run/vm1.vhost".as_ref())?.run(device, &stop)
/// # }
/// ```
pub struct Server {
    listener: SocketFile,
    path: PathBuf,
    clients: AtomicUsize,
    channel: ChannelPlace,
    state: OnceLock<StateSource>,
    /// Whether it ended so that another one may go on.
    has_passed_on: AtomicBool,
}

impl Server {
    /// Listens at `path`; a monitor may connect at once and is answered when [`Server::run`] runs. A socket that a killed
    /// server left behind is replaced. `Busy` if another server listens there, `AlreadyExists` if something else than a
    /// socket is there, `Invalid` if the path is too long.
    pub fn bind(path: &Path) -> Result<Server> {
        SocketFile::bind(path).map(|listener| Server::new(listener, path))
    }

    /// Goes on listening with the socket of a server that has ended. Its monitor connects again: it has to be one that does, as
    /// QEMU with `reconnect-ms`. `Invalid` if no socket was passed on.
    pub fn take_over(path: &Path, passed: PassedOn) -> Result<Server> {
        let socket = passed.descriptors.into_iter().next();
        let socket = socket.ok_or_else(|| Error::invalid("no socket was passed on"))?;
        SocketFile::adopt(path, socket).map(|listener| Server::new(listener, path))
    }

    fn new(listener: SocketFile, path: &Path) -> Server {
        Server {
            listener,
            path: path.to_owned(),
            clients: AtomicUsize::new(0),
            channel: ChannelPlace::default(),
            state: OnceLock::new(),
            has_passed_on: AtomicBool::new(false),
        }
    }

    fn disk(&self, device: &Arc<dyn BlockDevice>) -> Disk {
        Disk { device: device.clone(), state: self.state.get().cloned() }
    }

    fn serve_until(&self, device: &Arc<dyn BlockDevice>, stop: &StopSignal) -> Result<()> {
        let mut served = Ok(());
        while let Some(socket) = self.next_client(stop)? {
            served = self.serve(&socket, device, stop);
        }
        served
    }

    /// The next monitor, waited for; `None` once the server is to stop.
    fn next_client(&self, stop: &StopSignal) -> Result<Option<UnixStream>> {
        let failed = |errno: Errno| {
            Error::io(format!("cannot accept at {}", self.path.display()), errno.into())
        };
        loop {
            let mut fds =
                [PollFd::new(stop, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
            retry_on_intr(|| poll(&mut fds, None)).map_err(failed)?;
            if !fds[0].revents().is_empty() {
                return Ok(None);
            }
            if let Ok(socket) = self.listener.accept() {
                return Ok(Some(socket));
            }
            // It was gone before it was accepted, or there are no file descriptors left for a while.
            let pause = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            let _ = poll(&mut [PollFd::new(stop, PollFlags::IN)], Some(&pause));
        }
    }

    /// Serves one monitor until it leaves or the server is to stop.
    fn serve(
        &self,
        socket: &UnixStream,
        device: &Arc<dyn BlockDevice>,
        stop: &StopSignal,
    ) -> Result<()> {
        let gone = StopSignal::new()?;
        self.clients.store(1, Ordering::Relaxed);
        let served = thread::scope(|scope| {
            let connection = scope.spawn(|| {
                let served = connection::serve(socket, self.disk(device), &self.channel, stop);
                gone.trigger();
                served
            });
            let mut fds = [PollFd::new(stop, PollFlags::IN), PollFd::new(&gone, PollFlags::IN)];
            let _ = retry_on_intr(|| poll(&mut fds, None));
            // Whatever message is under way, it is not waited for. The monitor sees the end only when the last answer is
            // given: it hears of no more once it has seen it.
            let _ = shutdown(socket, Shutdown::Read);
            connection.join().unwrap_or_else(|_| Err(Error::internal("a connection panicked")))
        });
        let _ = shutdown(socket, Shutdown::Both);
        self.clients.store(0, Ordering::Relaxed);
        served
    }
}

impl Export for Server {
    fn address(&self) -> ExportAddress {
        ExportAddress::VhostUser(self.path.clone())
    }

    fn socket(&self) -> Option<PathBuf> {
        Some(self.path.clone())
    }

    fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    fn tell_state(&self, state: StateSource) {
        // Told once, before it is run.
        let _ = self.state.set(state);
    }

    /// The monitor is told, and tells its guest.
    fn can_grow(&self) -> bool {
        true
    }

    fn can_pass_on(&self) -> bool {
        true
    }

    fn passed_on(&self) -> Option<PassedOn> {
        if !self.has_passed_on.swap(false, Ordering::AcqRel) {
            return None;
        }
        self.listener.leave();
        let socket = self.listener.as_fd().try_clone_to_owned().ok()?;
        Some(PassedOn { words: String::new(), descriptors: vec![socket] })
    }

    /// Tells the monitor, which looks at the configuration again and tells its guest.
    fn grown(&self) {
        if let Some(channel) = &*lock(&self.channel) {
            channel.config_changed();
        }
    }

    /// Serves `device` until `stop` is given. Then the socket's file is removed, unless it is passed on; requests that were taken are done and
    /// answered, the monitor's connection is closed, and `device` is flushed unless it is read-only.
    ///
    /// Errors: the final flush failed; a request hung in the device beyond the five seconds (what was flushed is durable
    /// all the same); accepting failed for good.
    fn run(&self, device: Arc<dyn BlockDevice>, stop: &StopSignal) -> Result<()> {
        let served = self.serve_until(&device, stop);
        if stop.is_passing_on() {
            self.has_passed_on.store(true, Ordering::Release);
            return served;
        }
        self.listener.remove();
        let _ = shutdown(&self.listener, Shutdown::Both);
        let flushed = if device.geometry().read_only { Ok(()) } else { device.flush() };
        let place = self.path.display();
        flushed.context(|| format!("cannot flush the device served at {place}"))?;
        served
    }
}
