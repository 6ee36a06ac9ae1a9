//! The life of a mount once it has something to show: answer, be told to stop or be unmounted by others, end; or let another
//! server go on answering.

use super::{
    disk::Disk,
    kernel::{resend, wake},
    limits::{BACKGROUND_MAX, DRAIN_TIME_MAX, LINGER_TIME_MAX, REQUEST_BYTES_MAX, THREADS},
    mount::Mount,
};
use crate::StopSignal;
use fuser::{Config, Filesystem, InitFlags, KernelConfig, Session, SessionACL};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::retry_on_intr,
};
use silt_sys::descriptor::Switch;
use silt_types::{Context as _, Error, ErrorKind, Result};
use std::{
    os::fd::{AsFd as _, OwnedFd},
    thread::{Builder, JoinHandle},
    time::Duration,
};

/// What the kernel is told of us, and what of its offers is taken.
///
/// Not the write-back cache, with which a write would be answered before we have heard of it. Direct I/O may have many
/// requests under way; and no write makes the kernel ask whether the file may run as somebody else.
pub(super) fn negotiate(config: &mut KernelConfig) {
    for wanted in [InitFlags::FUSE_ASYNC_DIO, InitFlags::FUSE_HANDLE_KILLPRIV_V2] {
        // An old kernel goes without.
        let _ = config.add_capabilities(wanted);
    }
    // Within what the kernel takes, these cannot fail.
    let _ = config.set_max_write(REQUEST_BYTES_MAX);
    let _ = config.set_max_background(BACKGROUND_MAX);
    let _ = config.set_congestion_threshold(BACKGROUND_MAX);
}

/// A connection to the kernel.
#[derive(Debug)]
pub(super) enum Connection {
    /// On which the kernel has yet to introduce itself.
    New(OwnedFd),
    /// On which another server has answered; `first` has what the kernel said then.
    TakenOver { device: OwnedFd, first: [OwnedFd; 2] },
}

/// Threads that answer the kernel's requests.
pub(super) struct Answering {
    thread: JoinHandle<std::io::Result<()>>,
    ended: StopSignal,
    /// The connection that the threads have, by a number of our own.
    device: OwnedFd,
    /// Of the number that they use.
    switch: Switch,
}

impl Answering {
    pub(super) fn start(file_system: impl Filesystem, connection: Connection) -> Result<Answering> {
        let what = || "cannot serve a connection of FUSE".to_owned();
        let (device, first, kernel) = match connection {
            Connection::New(device) => (device.try_clone().context(what)?, device, None),
            Connection::TakenOver { device, first: [first, kernel] } => {
                (device, first, Some(kernel))
            }
        };
        let session = begin(file_system, first).context(what)?;
        // The notifier has a share in the descriptor.
        let mut switch = Switch::new(session.as_fd(), session.notifier())?;
        if kernel.is_some() {
            switch.switch(device.as_fd())?;
        }
        let ended = StopSignal::new()?;
        let thread = Builder::new().name("fuse".into()).spawn({
            let ended = ended.clone();
            move || {
                let answered = session.run();
                ended.trigger();
                answered
            }
        });
        Ok(Answering { thread: thread.context(what)?, ended, device, switch })
    }

    /// Waits until `stop` is given or somebody else has unmounted.
    pub(super) fn wait(&self, stop: &StopSignal) -> Result<()> {
        let mut fds = [PollFd::new(stop, PollFlags::IN), PollFd::new(&self.ended, PollFlags::IN)];
        let waited = retry_on_intr(|| poll(&mut fds, None));
        waited.map(drop).map_err(|errno| Error::io("cannot wait for a stop signal", errno.into()))
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_triggered()
    }

    /// Takes the mount off, and gives programs that have files open a moment to let go of them. Those who have not get errors
    /// from whatever the file system answers with then, and from the kernel when this process ends.
    pub(super) fn end(self, mount: &Mount) -> Result<()> {
        mount.undo()?;
        self.wait_for_end(LINGER_TIME_MAX);
        if !self.has_ended() {
            return Ok(());
        }
        join(self.thread).context(|| format!("cannot serve at {}", mount.mounted().path.display()))
    }

    /// Ends the threads between two requests: what was done is answered, and nothing else is lost. Answers the connection, on
    /// which the kernel's requests wait for the next server.
    ///
    /// A thread that waits for a request cannot be told to stop, and may get one at any time. So the number by which threads
    /// read and answer is made to mean the end of a pipe at a moment when nothing is under way; who waits is woken by a request
    /// that means nothing; and what was read by then and not answered is asked for again.
    ///
    /// `Io` if a request hangs in the device; the mount is of no use any more then.
    pub(super) fn let_go(mut self, disk: &Disk) -> Result<OwnedFd> {
        let what = || "cannot pass a connection of FUSE on".to_owned();
        let hung = || Error::new(ErrorKind::Io, "requests of FUSE wait for the device");
        let (nothing, _) = std::io::pipe().context(what)?;
        let switched = disk.take_away_and(DRAIN_TIME_MAX, || self.switch.switch(nothing.as_fd()));
        switched.ok_or_else(hung)??;
        for _ in 0..THREADS {
            wake(&self.device).context(what)?;
        }
        self.wait_for_end(DRAIN_TIME_MAX);
        if !self.has_ended() {
            return Err(hung());
        }
        // They say that they found nothing to read.
        let _ = join(self.thread);
        resend(&self.device).context(what)?;
        Ok(self.device)
    }

    fn wait_for_end(&self, time: Duration) {
        let time = Timespec::try_from(time).expect("a short time");
        let mut ended = [PollFd::new(&self.ended, PollFlags::IN)];
        let _ = retry_on_intr(|| poll(&mut ended, Some(&time)));
    }
}

/// Answers the kernel's requests until `stop` is given or somebody else unmounts, and then as [`Answering::end`] says.
pub(super) fn answer_until(
    file_system: impl Filesystem,
    device: OwnedFd,
    mount: &Mount,
    stop: &StopSignal,
) -> Result<()> {
    let answering = Answering::start(file_system, Connection::New(device))?;
    answering.wait(stop)?;
    answering.end(mount)
}

/// Answers on a connection until the other side ends it.
pub(super) fn answer(file_system: impl Filesystem, device: OwnedFd) -> Result<()> {
    let what = || "cannot serve a connection of FUSE".to_owned();
    begin(file_system, device).and_then(Session::run).context(what)
}

/// Waits for the first request, which says what the kernel can do.
fn begin<F: Filesystem>(file_system: F, device: OwnedFd) -> std::io::Result<Session<F>> {
    let mut config = Config::default();
    config.n_threads = Some(THREADS);
    // Whom to let in is the kernel's affair, which knows who asks.
    Session::from_fd(file_system, device, SessionACL::All, config)
}

fn join(thread: JoinHandle<std::io::Result<()>>) -> std::io::Result<()> {
    thread.join().unwrap_or_else(|_| Err(std::io::Error::other("a thread panicked")))
}
