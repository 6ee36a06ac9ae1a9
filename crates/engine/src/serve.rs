//! Serving a disk to block clients.

use crate::engine::Engine;
use silt_export::{
    StopSignal,
    nbd::{Listen, Server},
};
use silt_store::Named;
use silt_sys::durability::create_dir;
use silt_types::{Error, Name, Result};
use silt_volume::{BlockDevice as _, Geometry};
use std::sync::Arc;

/// What to serve, and how.
#[derive(Clone, Debug)]
pub struct Serving {
    /// The volume; an image too where `read_only` is set.
    pub name: Name,
    /// Where clients connect, with NBD.
    pub listen: Listen,
    /// Whether writes are refused. Several processes may serve a volume that nobody writes.
    pub read_only: bool,
}

/// A disk that is being served.
#[derive(Clone, Debug)]
pub struct Served {
    /// Where, with the port that was found for port 0.
    pub address: Listen,
    /// What.
    pub geometry: Geometry,
}

impl Engine {
    /// Serves a disk until `stop` is given; then everything written is durable. `ready` is told once clients can
    /// connect. `Busy` if somebody else has it open.
    pub fn serve(
        &self,
        serving: &Serving,
        stop: &StopSignal,
        ready: impl FnOnce(&Served),
    ) -> Result<()> {
        let disk = match (self.find(&serving.name)?, serving.read_only) {
            (named, true) => {
                if let Named::Volume(record) = &named {
                    // A volume that was never written has no folder, and so nothing to lock.
                    create_dir(&self.store.paths().volume(record.id))?;
                }
                self.open_to_read(&serving.name)?
            }
            (Named::Volume(record), false) => self.open_to_write(&record)?,
            (Named::Image(_), false) => {
                let message = format!(
                    "{} is an image and never changes: clone it, or serve it read-only",
                    serving.name
                );
                return Err(Error::invalid(message));
            }
        };
        let server = Server::bind(&serving.listen)?;
        if let Some(lock) = &disk.lock {
            lock.note(&format!("{} {}", std::process::id(), server.address()))?;
        }
        ready(&Served { address: server.address().clone(), geometry: disk.volume.geometry() });
        let volume = Arc::new(disk.volume);
        let served = server.run(volume.clone(), stop);
        let closed = volume.close();
        if let Some(lock) = &disk.lock {
            lock.note("")?;
        }
        served.and(closed)
    }
}
