//! The life of a mount once it has something to show: answer, be told to stop or be unmounted by others, end.

use super::{
    limits::{BACKGROUND_MAX, LINGER_TIME_MAX, REQUEST_BYTES_MAX, THREADS},
    mount::Mount,
};
use crate::StopSignal;
use fuser::{Config, Filesystem, InitFlags, KernelConfig, Session, SessionACL};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::retry_on_intr,
};
use silt_types::{Context as _, Error, Result};
use std::{
    os::fd::OwnedFd,
    thread::{Builder, JoinHandle},
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

/// Answers the kernel's requests until `stop` is given or somebody else unmounts; then the name is gone, and programs that
/// have files open had a moment to let go of them. Those who have not get errors from whatever `file_system` answers with
/// then, and from the kernel when this process ends.
pub(super) fn answer_until(
    file_system: impl Filesystem,
    device: OwnedFd,
    mount: &Mount,
    stop: &StopSignal,
) -> Result<()> {
    let what = || format!("cannot serve at {}", mount.mounted().path.display());
    let session = begin(file_system, device).context(what)?;
    let ended = StopSignal::new()?;
    let thread = Builder::new().name("fuse".into()).spawn({
        let ended = ended.clone();
        move || {
            let answered = session.run();
            ended.trigger();
            answered
        }
    });
    let thread = thread.context(what)?;
    let mut fds = [PollFd::new(stop, PollFlags::IN), PollFd::new(&ended, PollFlags::IN)];
    retry_on_intr(|| poll(&mut fds, None)).map_err(|errno| Error::io(what(), errno.into()))?;
    mount.undo()?;
    let linger = Timespec::try_from(LINGER_TIME_MAX).expect("a short time");
    let _ = poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&linger));
    if ended.is_triggered() { join(thread).context(what) } else { Ok(()) }
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
