//! What a store takes, and what is going on in it: numbers for reports, not for decisions.

use crate::{engine::Engine, info::StoreInfo, scrub::Scrubbed};
use silt_store::disk_usage;
use silt_types::{Context as _, Result};
use std::{fs, io, os::unix::fs::MetadataExt as _};

/// Bytes that parts of a store take on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceTaken {
    /// Packs, those being written too.
    pub packs: u64,
    /// Index and catalog, and their log.
    pub database: u64,
    /// Deltas of volumes, and what else is in their folders.
    pub volumes: u64,
    /// What can be had again.
    pub caches: u64,
    /// Damaged files that something has taken the place of.
    pub quarantine: u64,
    /// The rest.
    pub other: u64,
}

impl SpaceTaken {
    /// All together, as `du` has it.
    pub fn total(&self) -> u64 {
        self.packs + self.database + self.volumes + self.caches + self.quarantine + self.other
    }
}

/// Work under way in some process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkUnderWay {
    /// The process, as it says itself.
    pub pid: Option<u32>,
    /// Whether it only reads disks that it has named.
    pub only_reads: bool,
    /// Its command line, where that can be told.
    pub command: Option<String>,
}

/// What a store holds, takes and does.
#[derive(Clone, Debug)]
pub struct StoreStats {
    /// What it holds.
    pub info: StoreInfo,
    /// What it takes.
    pub space: SpaceTaken,
    /// Packs that a collection is about to remove.
    pub packs_condemned: u64,
    /// Frozen deltas that are not sealed.
    pub frozen_deltas: u64,
    /// What is served.
    pub servers: u64,
    /// Work under way, this call apart.
    pub work: Vec<WorkUnderWay>,
    /// How far verification in the background has come.
    pub scrubbed: Option<Scrubbed>,
}

impl Engine {
    /// What the store holds, takes and does. Costs a look at every file of it.
    pub fn stats(&self) -> Result<StoreStats> {
        let listing = self.list()?;
        let of_volumes = listing.volumes.iter().flat_map(|volume| &volume.frozen);
        let of_snapshots = listing.snapshots.iter().flat_map(|kept| &kept.frozen);
        let frozen: std::collections::HashSet<_> = of_volumes.chain(of_snapshots).collect();
        let servers = self.servers()?;
        Ok(StoreStats {
            info: self.store_info()?,
            space: self.space_taken()?,
            packs_condemned: self.store.packs_condemned()?,
            frozen_deltas: frozen.len() as u64,
            servers: (servers.servers.len() + servers.silent.len()) as u64,
            work: self.work_under_way()?,
            scrubbed: self.scrubbed(),
        })
    }

    /// Work that others have under way: builds, seals, servers, whatever holds a lease.
    pub fn work_under_way(&self) -> Result<Vec<WorkUnderWay>> {
        let held = self.store.leases_held()?;
        let work = held.into_iter().map(|(pid, only_reads)| WorkUnderWay {
            pid,
            only_reads,
            command: pid.and_then(command_line),
        });
        Ok(work.collect())
    }

    fn space_taken(&self) -> Result<SpaceTaken> {
        let root = self.store.paths().root();
        let own = fs::metadata(root).context(|| format!("cannot look at {}", root.display()))?;
        let mut space = SpaceTaken { other: own.blocks() * 512, ..SpaceTaken::default() };
        for entry in fs::read_dir(root).context(|| format!("cannot list {}", root.display()))? {
            let entry = entry.context(|| format!("cannot list {}", root.display()))?;
            let bytes = taken_by(&entry)?;
            let name = entry.file_name();
            let part = match name.to_string_lossy().as_ref() {
                "packs" => &mut space.packs,
                "volumes" => &mut space.volumes,
                "caches" => &mut space.caches,
                "quarantine" => &mut space.quarantine,
                name if name.starts_with("catalog.db") => &mut space.database,
                _ => &mut space.other,
            };
            *part += bytes;
        }
        Ok(space)
    }
}

/// What a file, or a folder with all below it, takes on disk. What goes meanwhile takes nothing.
fn taken_by(entry: &fs::DirEntry) -> Result<u64> {
    match entry.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Ok(about) if about.is_dir() => disk_usage(&entry.path()),
        other => other
            .map(|about| about.blocks() * 512)
            .context(|| format!("cannot look at {}", entry.path().display())),
    }
}

/// For people: a process may be gone, or be of another user.
fn command_line(pid: u32) -> Option<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    let words: Vec<_> = words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    Some(words.join(" ")).filter(|line| !line.is_empty())
}
