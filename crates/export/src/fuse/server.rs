//! The life of a server: bind, run, stop.
//!
//! [`Server::bind`] mounts; until [`Server::run`] answers the kernel, who looks at the file waits. At the end the name is
//! gone first, then those who have the file open get a moment, then the device is flushed, all within five seconds.

use super::{
    attributes::Attributes,
    connection::DiskFile,
    disk::Disk,
    limits::DRAIN_TIME_MAX,
    mount::{Access, Mount, mount},
    mount_point::{MountPoint, PointKind},
    session::answer_until,
    workers::Workers,
};
use crate::{Export, ExportAddress, StopSignal};
use silt_types::{Context as _, Error, ErrorKind, Result};
use silt_volume::BlockDevice;
use std::{
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
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
    attributes: Attributes,
    /// The connection to the kernel; taken by [`Server::run`].
    device: Mutex<Option<OwnedFd>>,
    opens: Arc<AtomicUsize>,
}

impl Server {
    /// Mounts over the file, which is made where there is none and then removed at the end. What a killed server left there
    /// is replaced. [`MountPoint::take`] and [`mount()`] have the errors.
    pub fn bind(address: &FileAddress) -> Result<Server> {
        let point = MountPoint::take(&address.path, PointKind::File)?;
        let (device, mount) = mount(point, address.access)?;
        let attributes = Attributes::of_own(address.access);
        let (address, device) = (address.clone(), Mutex::new(Some(device)));
        Ok(Server { address, mount, attributes, device, opens: Arc::default() })
    }
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

    /// Serves `device` until `stop` is given, or somebody else unmounts the file. Runs once.
    ///
    /// Errors: the final flush failed; a request hung in the device beyond the five seconds (what was flushed is durable
    /// all the same); the file cannot be unmounted.
    fn run(&self, device: Arc<dyn BlockDevice>, stop: &StopSignal) -> Result<()> {
        let path = || self.mount.mounted().path.display();
        let connection = self.device.lock().unwrap_or_else(PoisonError::into_inner).take();
        let connection = connection.ok_or_else(|| Error::internal("a mount is served once"))?;
        let is_read_only = device.geometry().read_only;
        let attributes = if is_read_only { self.attributes.read_only() } else { self.attributes };
        let workers = Workers::default();
        let disk = Disk::new(device.clone(), workers.clone());
        let file = DiskFile {
            disk: disk.clone(),
            attributes: Mutex::new(attributes),
            opens: self.opens.clone(),
        };
        let answered = answer_until(file, connection, &self.mount, stop);
        let is_done = disk.take_away(DRAIN_TIME_MAX);
        workers.close();
        let flushed = if is_read_only { Ok(()) } else { device.flush() };
        answered?;
        flushed.context(|| format!("cannot flush the device served at {}", path()))?;
        if is_done {
            return Ok(());
        }
        let message = format!("requests at {} wait for the device", path());
        Err(Error::new(ErrorKind::Io, message))
    }
}
