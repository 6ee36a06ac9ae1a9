//! The life of a server: bind, run, stop.
//!
//! [`Server::bind`] mounts; until [`Server::run`] answers the kernel, who looks at the file waits. At the end the name is
//! gone first, then those who have the file open get a moment, then the device is flushed, all within five seconds. Or the
//! mount stays, and what comes waits for the server that takes over.

use super::{
    attributes::Attributes,
    connection::DiskFile,
    disk::Disk,
    kernel::Introduction,
    limits::DRAIN_TIME_MAX,
    mount::{Access, Mount, mount},
    mount_point::{MountPoint, PointKind},
    passing::{self, PassedMount, Passing},
    session::{Answering, Connection},
    workers::Workers,
};
use crate::{Export, ExportAddress, PassedOn, StopSignal};
use silt_types::{Context as _, Error, ErrorKind, Result};
use silt_volume::BlockDevice;
use std::{
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Where the file is, and whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileAddress {
    /// The file: an empty one, or none yet.
    pub path: PathBuf,
    /// Who gets at it.
    pub access: Access,
}

/// A device as a file, mounted from the moment it is bound.
///
/// ```no_run
/// # fn serve(device: std::sync::Arc<dyn silt_volume::BlockDevice>) -> silt_types::Result<()> {
/// use silt_export::{Export as _, StopSignal, fuse::{Access, FileAddress, Server}};
/// let stop = StopSignal::new()?;
/// stop.trigger_on_termination()?;
/// let address = FileAddress { path: "/run/vm1.disk".into(), access: Access::Owner };
/// Server::bind(&address)?.run(device, &stop)
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    address: FileAddress,
    mount: Mount,
    attributes: Arc<Mutex<Attributes>>,
    /// Taken by [`Server::run`].
    connection: Mutex<Option<Connection>>,
    opens: Arc<AtomicUsize>,
    kernel: Arc<OnceLock<Introduction>>,
    /// The connection to the kernel, for the next server.
    passed: Mutex<Option<OwnedFd>>,
}

impl Server {
    /// Mounts over the file, which is made where there is none and then removed at the end. What a killed server left there
    /// is replaced. [`MountPoint::take`] and [`mount()`] have the errors.
    pub fn bind(address: &FileAddress) -> Result<Server> {
        let point = MountPoint::take(&address.path, PointKind::File)?;
        let (device, mount) = mount(point, address.access)?;
        let attributes = Attributes::of_own(address.access);
        Ok(Server::new(address.clone(), mount, attributes, Connection::New(device)))
    }

    /// Goes on with the mount of a server that has ended, from the moment it is run; programs wait meanwhile. Who may get at it
    /// stays as it was, whatever `address` says. `Invalid` if that is not what was passed on, or nothing is mounted there
    /// any more.
    pub fn take_over(address: &FileAddress, passed: PassedOn) -> Result<Server> {
        let PassedMount { mount, access, attributes, opens, kernel, device } =
            passing::take(passed)?;
        // Made here, since a confined process makes no sockets.
        let first = kernel.again().context(|| "cannot go on with a mount".into())?;
        let address = FileAddress { path: address.path.clone(), access };
        let connection = Connection::TakenOver { device, first };
        let server = Server::new(address, mount, attributes, connection);
        server.opens.store(opens, Ordering::Relaxed);
        Ok(server)
    }

    fn new(
        address: FileAddress,
        mount: Mount,
        attributes: Attributes,
        connection: Connection,
    ) -> Server {
        Server {
            address,
            mount,
            attributes: Arc::new(Mutex::new(attributes)),
            connection: Mutex::new(Some(connection)),
            opens: Arc::default(),
            kernel: Arc::default(),
            passed: Mutex::default(),
        }
    }

    /// Ends by letting another server go on; flushes.
    fn let_go(&self, answering: Answering, disk: &Disk, device: &dyn BlockDevice) -> Result<()> {
        // Without a server a mount is of no use. Off it goes before the flush, which may hang as well.
        let undo = |_: &Error| _ = self.mount.undo();
        let let_go = answering.let_go(disk).inspect_err(undo);
        let flushed = flush(device).inspect_err(undo);
        let passed = let_go.context(|| self.what("pass on"))?;
        flushed.context(|| self.what("flush"))?;
        *lock(&self.passed) = Some(passed);
        Ok(())
    }

    fn what(&self, to: &str) -> String {
        format!("cannot {to} the device served at {}", self.mount.mounted().path.display())
    }
}

fn flush(device: &dyn BlockDevice) -> Result<()> {
    if device.geometry().read_only { Ok(()) } else { device.flush() }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Export for Server {
    fn address(&self) -> ExportAddress {
        ExportAddress::Fuse(self.address.clone())
    }

    fn socket(&self) -> Option<PathBuf> {
        None
    }

    fn mount(&self) -> Option<&Mount> {
        Some(&self.mount)
    }

    /// Who looks at the file is told the length of the moment.
    fn can_grow(&self) -> bool {
        true
    }

    /// Opens of the file that were not closed yet.
    fn clients(&self) -> usize {
        self.opens.load(Ordering::Relaxed)
    }

    /// Where the kernel sends requests again that were read and not answered: Linux 6.9 and later.
    fn can_pass_on(&self) -> bool {
        self.kernel.get().is_some_and(Introduction::can_resend)
    }

    fn passed_on(&self) -> Option<PassedOn> {
        let device = lock(&self.passed).take()?;
        let kernel = *self.kernel.get()?;
        let (attributes, opens) = (*lock(&self.attributes), self.opens.load(Ordering::Relaxed));
        let passing = Passing { access: self.address.access, attributes, opens, kernel, device };
        passing::put(&self.mount, passing).ok()
    }

    /// Serves `device` until `stop` is given, or somebody else unmounts the file. Runs once.
    ///
    /// Errors: the final flush failed; a request hung in the device beyond the five seconds (what was flushed is durable
    /// all the same); the file cannot be unmounted.
    fn run(&self, device: Arc<dyn BlockDevice>, stop: &StopSignal) -> Result<()> {
        let connection = lock(&self.connection).take();
        let connection = connection.ok_or_else(|| Error::internal("a mount is served once"))?;
        if device.geometry().read_only {
            let mut attributes = lock(&self.attributes);
            *attributes = attributes.read_only();
        }
        let workers = Workers::default();
        let disk = Disk::new(device.clone(), workers.clone());
        let file = DiskFile {
            disk: disk.clone(),
            attributes: self.attributes.clone(),
            opens: self.opens.clone(),
            kernel: self.kernel.clone(),
        };
        let answering = Answering::start(file, connection).context(|| self.what("answer for"))?;
        answering.wait(stop)?;
        if stop.is_passing_on() && !answering.has_ended() {
            let let_go = self.let_go(answering, &disk, &*device);
            workers.close();
            return let_go;
        }
        let answered = answering.end(&self.mount);
        let is_done = disk.take_away(DRAIN_TIME_MAX);
        workers.close();
        let flushed = flush(&*device);
        answered?;
        flushed.context(|| self.what("flush"))?;
        if is_done {
            return Ok(());
        }
        let path = self.mount.mounted().path.display();
        let message = format!("requests at {path} wait for the device");
        Err(Error::new(ErrorKind::Io, message))
    }
}
