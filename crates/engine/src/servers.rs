//! The servers of a store: what is served, and their end.

use crate::{
    control::{ControlClient, RunFolder, ServerStatus},
    engine::Engine,
};
use silt_store::{Listing, Named, SnapshotRecord, StorePaths};
use silt_types::{Context as _, DiskName, Error, ErrorKind, Result};
use silt_volume::VolumeLock;
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// How often it is looked whether a server has ended.
const PAUSE: Duration = Duration::from_millis(10);

/// Servers of a store.
#[derive(Debug, Default)]
pub struct Servers {
    /// Those that answered, by name, the one that writes first.
    pub servers: Vec<ServerStatus>,
    /// Those that live and did not answer: what is known of them, and why.
    pub silent: Vec<Error>,
}

/// Which servers of a disk are to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopWhich {
    /// All.
    All,
    /// The process of this number.
    Process(u32),
}

impl Engine {
    /// What is served, from the servers themselves; one that was killed is not among them. Costs a question to each.
    pub fn servers(&self) -> Result<Servers> {
        let mut servers = Servers::default();
        let names = names_by_id(&self.list()?);
        for asked in self.ask(None)? {
            match asked {
                Ok((_, mut status)) => {
                    if let Some(name) = names.get(&status.id) {
                        status.name.clone_from(name);
                    }
                    servers.servers.push(status);
                }
                Err(error) => servers.silent.push(error),
            }
        }
        servers.servers.sort_by(|one, other| {
            let key = |status: &ServerStatus| (status.name.clone(), status.read_only, status.pid);
            key(one).cmp(&key(other))
        });
        Ok(servers)
    }

    /// The servers of one disk; of an image, those of the disk that it is now. Costs a question to each of them.
    pub fn servers_of(&self, name: &DiskName) -> Result<Vec<ServerStatus>> {
        let (id, name) = (served_id(&self.find(name)?), name.to_string());
        let is_meant = |status: &ServerStatus| status.kind != "image" || status.name == name;
        let asked = self.ask(Some(&id))?.into_iter().flatten();
        Ok(asked.map(|(_, status)| status).filter(is_meant).collect())
    }

    /// Ends servers of a disk, and waits until they have: everything is durable then, and the disk can be had. `NotFound` if
    /// there is none, `Busy` if one has not ended in time. Answers how they were when they were told.
    pub fn stop_servers(
        &self,
        name: &DiskName,
        which: StopWhich,
        time_max: Duration,
    ) -> Result<Vec<ServerStatus>> {
        let meant = self.servers_called(name)?.into_iter().filter(|(_, status)| match which {
            StopWhich::All => true,
            StopWhich::Process(pid) => status.pid == pid,
        });
        let meant: Vec<_> = meant.collect();
        if meant.is_empty() {
            let who = match which {
                StopWhich::All => "nobody serves".to_owned(),
                StopWhich::Process(pid) => format!("process {pid} does not serve"),
            };
            return Err(Error::new(ErrorKind::NotFound, format!("{who} {name}")));
        }
        for (folder, status) in &meant {
            let about = format!("cannot stop the server of {name}, process {}", status.pid);
            // One that has gone meanwhile has stopped.
            if let Some(server) = ControlClient::connect_in(folder, about)? {
                server.stop()?;
            }
        }
        let started = Instant::now();
        for (folder, status) in &meant {
            while !self.is_over(folder, status)? {
                if started.elapsed() > time_max {
                    let (pid, seconds) = (status.pid, time_max.as_secs());
                    let message = format!(
                        "the server of {name}, process {pid}, has not ended in {seconds} s"
                    );
                    return Err(Error::new(ErrorKind::Busy, message));
                }
                thread::sleep(PAUSE);
            }
        }
        Ok(meant.into_iter().map(|(_, status)| status).collect())
    }

    /// The servers that serve something by this name.
    pub(crate) fn servers_called(&self, name: &DiskName) -> Result<Vec<(PathBuf, ServerStatus)>> {
        let named = self.find(name)?;
        let asked = match &named {
            // Another disk may have taken its name since one is served.
            Named::Image(_) => self.ask(None)?,
            _ => self.ask(Some(&served_id(&named)))?,
        };
        let name = name.to_string();
        let is_meant = |status: &ServerStatus| {
            status.kind == named.kind() && (status.kind != "image" || status.name == name)
        };
        Ok(asked.into_iter().flatten().filter(|(_, status)| is_meant(status)).collect())
    }

    /// Asks every server that lives, or those of one id.
    fn ask(&self, id: Option<&str>) -> Result<Vec<Result<(PathBuf, ServerStatus)>>> {
        let mut asked = Vec::new();
        let is_of = |folder: &Path| {
            let stem = folder.file_stem().and_then(|stem| stem.to_str());
            id.is_none_or(|id| stem == Some(id))
        };
        for folder in RunFolder::living(self.store.paths())? {
            if !is_of(&folder) {
                continue;
            }
            let about = format!("the server with the folder {} does not answer", folder.display());
            match ControlClient::connect_in(&folder, about) {
                Ok(Some(server)) => match server.status() {
                    // It ended meanwhile.
                    Err(_) if !RunFolder::is_alive(self.store.paths(), &folder)? => {}
                    status => asked.push(status.map(|status| (folder, status))),
                },
                // It has just begun, or is just ending.
                Ok(None) => {}
                Err(error) => asked.push(Err(error)),
            }
        }
        Ok(asked)
    }

    /// Whether a server has let go of everything.
    fn is_over(&self, folder: &Path, status: &ServerStatus) -> Result<bool> {
        if RunFolder::is_alive(self.store.paths(), folder)? {
            return Ok(false);
        }
        match status.id.parse() {
            Ok(volume) if !status.read_only => {
                let holder = VolumeLock::holder(&self.store.paths().volume(volume));
                holder.map(|holder| holder.is_none()).context(|| "cannot look at a volume".into())
            }
            _ => Ok(true),
        }
    }
}

/// The id by which the servers of a disk are found: of its volume or snapshot; of an image half of the root of its map, which is
/// unlike all others, too, and leaves room in the path of a socket.
pub(crate) fn served_id(named: &Named) -> String {
    match named {
        Named::Volume(volume) => volume.id.to_string(),
        Named::Snapshot(snapshot) => snapshot.id.to_string(),
        Named::Image(image) => {
            let mut id = image.disk.root.to_string();
            id.truncate(id.len() / 2);
            id
        }
    }
}

/// What volumes and snapshots are called now.
fn names_by_id(listing: &Listing) -> HashMap<String, String> {
    let volumes: HashMap<_, _> =
        listing.volumes.iter().map(|volume| (volume.id, &volume.name)).collect();
    let snapshot_name = |snapshot: &SnapshotRecord| {
        let volume = volumes.get(&snapshot.volume)?;
        Some((snapshot.id.to_string(), format!("{volume}@{}", snapshot.name)))
    };
    let volume_names = volumes.iter().map(|(id, name)| (id.to_string(), name.to_string()));
    volume_names.chain(listing.snapshots.iter().filter_map(snapshot_name)).collect()
}

/// `Busy` while a disk of the store is served.
pub(crate) fn refuse_served(paths: &StorePaths) -> Result<()> {
    let run = paths.run();
    for entry in fs::read_dir(&run).context(|| format!("cannot list {}", run.display()))? {
        let folder = entry.context(|| format!("cannot list {}", run.display()))?.path();
        if folder.is_dir() && RunFolder::is_alive(paths, &folder)? {
            let message = "disks of the store are served: end that first, see `silt ps`";
            return Err(Error::new(ErrorKind::Busy, message));
        }
    }
    Ok(())
}
