//! The life of a mounted folder of disks: mount, run, stop.

use super::{
    folder::{DiskFolder, Folder},
    limits::DRAIN_TIME_MAX,
    mount::{Access, Mount, mount},
    mount_point::{MountPoint, PointKind},
    session::answer_until,
    workers::Workers,
};
use crate::StopSignal;
use silt_types::Result;
use std::{os::fd::OwnedFd, path::Path, sync::Arc};

/// A folder of disks, mounted from the moment it is bound.
#[derive(Debug)]
pub struct FolderServer {
    mount: Mount,
    access: Access,
    device: OwnedFd,
}

impl FolderServer {
    /// Mounts over the folder at `path`, which is empty, or made and then removed at the end. What a killed server left
    /// there is replaced. [`MountPoint::take`] and [`mount()`] have the errors.
    pub fn bind(path: &Path, access: Access) -> Result<FolderServer> {
        let (device, mount) = mount(MountPoint::take(path, PointKind::Folder)?, access)?;
        Ok(FolderServer { mount, access, device })
    }

    /// Shows `disks` until `stop` is given, or somebody else unmounts the folder.
    pub fn run(self, disks: Arc<dyn DiskFolder>, stop: &StopSignal) -> Result<()> {
        let workers = Workers::default();
        let folder = Folder::new(disks, self.access, workers.clone());
        let answered = answer_until(folder, self.device, &self.mount, stop);
        workers.wait_until_idle(DRAIN_TIME_MAX);
        workers.close();
        answered
    }
}
