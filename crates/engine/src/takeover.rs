//! A new server under the clients of an old one, which ends: a new binary, or other options, without anybody noticing.
//!
//! The old server ends each connection between two requests, flushes, lets go of the disk and of its lock, and only then
//! passes on sockets and mounts; the new one opens the disk with those in its hands. Meanwhile clients wait. If the new one fails then,
//! they are cut, and everything they were answered is durable.

use crate::{
    control::{ControlClient, receive_passed},
    engine::Engine,
    serve::{Prepared, Serving, VolumeBounds},
};
use silt_export::Limits;
use silt_types::{DiskName, Error, ErrorKind, Result};

/// Which server to take over from, and what is new.
#[derive(Clone, Debug)]
pub struct TakeOver {
    /// What is served.
    pub name: DiskName,
    /// What its clients together may take from now on.
    pub limits: Limits,
    /// How far it may grow from now on.
    pub bounds: VolumeBounds,
}

impl Engine {
    /// Takes a disk over from its server, with its exports and their clients. `NotFound` if nobody serves it, `Busy` if
    /// several do, `Unsupported` if clients of its export cannot be passed on; then the old server goes on. `Io` if the old
    /// server ended without passing them on.
    pub fn take_over(&self, taking: &TakeOver) -> Result<(Serving, Prepared)> {
        let name = &taking.name;
        let mut servers = self.servers_called(name)?;
        let (folder, status) = match (servers.pop(), servers.len()) {
            (Some(server), 0) => server,
            (None, _) => {
                return Err(Error::new(ErrorKind::NotFound, format!("nobody serves {name}")));
            }
            (Some(_), others) => {
                let message = format!("{} processes serve {name}: stop all but one", others + 1);
                return Err(Error::new(ErrorKind::Busy, message));
            }
        };
        let about = format!("cannot take {name} over from process {}", status.pid);
        let server = ControlClient::connect_in(&folder, about.clone())?;
        let server = server.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("nobody serves {name} any more"))
        })?;
        let passed = receive_passed(&server.take_over()?)?;
        if passed.is_empty() {
            let message = format!("{about}: nobody could reach it any more");
            return Err(Error::new(ErrorKind::Io, message));
        }
        // Before anything that may fail: dropped, they take with them what nobody answers for any more.
        let exports = passed.into_iter().map(|(address, passed)| address.take_over(passed));
        let exports = exports.collect::<Result<Vec<_>>>()?;
        let serving = Serving {
            name: name.clone(),
            exports: exports.iter().map(|export| export.address()).collect(),
            read_only: status.read_only,
            limits: taking.limits,
            bounds: taking.bounds,
            expect: None,
        };
        let opened = self.open_to_serve(&serving)?;
        let prepared = self.prepare_opened(&serving, opened, || Ok(exports))?;
        Ok((serving, prepared))
    }
}
