//! Verification: what the store holds, and whether every name has what it needs.
//!
//! `needs` walks maps and trees, `one` reads what a single name has, `files` tells which files are hurt.

mod files;
mod needs;
mod one;

use crate::{device::header_of, engine::Engine};
use needs::Needs;
use silt_format::VolumeHeader;
use silt_store::{Damaged, Findings, FrozenDelta, Listing, Sample, SnapshotRecord, VolumeRecord};
use silt_types::{ChunkId, DiskName, Error, ErrorKind, Progress, Result};
use silt_volume::{DeltaReader, VolumeLock, read_volume_header};
use std::{collections::HashSet, time::Duration};

/// How long a collection under way is waited for.
pub(crate) const COLLECTION_WAIT: Duration = Duration::from_secs(600);

/// What to verify.
#[derive(Clone, Debug)]
pub struct VerifyRequest {
    /// What this name needs alone.
    pub name: Option<DiskName>,
    /// Which chunks are read.
    pub sample: Sample,
    /// Whether the files are told that have something damaged.
    pub files: bool,
}

impl Default for VerifyRequest {
    fn default() -> Self {
        VerifyRequest { name: None, sample: Sample::ALL, files: false }
    }
}

/// Something that is damaged, and who needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// What, naming the object.
    pub what: String,
    /// The chunk, where it is one.
    pub chunk: Option<ChunkId>,
    /// Files that have it, as `NAME:/path`, if that was asked for.
    pub files: Vec<String>,
    /// Images and volumes that need it, as far as that is known.
    pub needed_by: Vec<String>,
}

/// What a verification found.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// Packs read.
    pub packs: u64,
    /// Chunks read and hashed.
    pub chunks: u64,
    /// Their uncompressed length.
    pub bytes: u64,
    /// Images whose map and tree were walked.
    pub images: u64,
    /// Volumes whose base, header and deltas were checked.
    pub volumes: u64,
    /// Snapshots whose base and deltas were checked.
    pub snapshots: u64,
    /// Volumes whose own delta was left out because it is being written.
    pub volumes_in_use: Vec<String>,
    /// Everything wrong.
    pub damages: Vec<Damage>,
}

impl Engine {
    /// Hashes chunks, walks maps and trees, checks headers and deltas: of everything, or of what one name needs. Damage is in the
    /// report; an error means that verification could not go on. Costs a pass over all packs, or over those chunks.
    pub fn verify(&self, request: &VerifyRequest, progress: &dyn Progress) -> Result<VerifyReport> {
        // What is looked at is not to be moved meanwhile.
        let _held = self.store.hold_collection(COLLECTION_WAIT)?;
        let mut report = match &request.name {
            Some(name) => self.verify_one(name, &request.sample, progress)?,
            None => self.verify_all(self.store.verify(&request.sample, progress)?, progress)?,
        };
        if request.files {
            self.name_files(&mut report, progress)?;
        }
        Ok(report)
    }

    /// Walks every name, by what is known of packs.
    pub(crate) fn verify_all(
        &self,
        findings: Findings,
        progress: &dyn Progress,
    ) -> Result<VerifyReport> {
        let mut report = VerifyReport {
            packs: findings.packs,
            chunks: findings.chunks,
            bytes: findings.bytes,
            ..VerifyReport::default()
        };
        let Listing { images, volumes, snapshots } = match self.list() {
            Ok(listed) => listed,
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                report_findings(&mut report, findings, &Needs::default());
                return Ok(report);
            }
            Err(error) => return Err(error),
        };
        progress.begin("walking names", 0);
        let mut needs = Needs::default();
        for image in &images {
            let name = format!("image {}", image.name);
            self.walk_disk(&name, image.disk, &findings, &mut needs);
            if let Some(tree) = image.tree {
                self.walk_tree(&name, tree, &findings, &mut needs);
            }
            if let Some(config) = image.config {
                self.walk_disk(&name, config, &findings, &mut needs);
            }
        }
        for volume in &volumes {
            self.walk_disk(&format!("volume {}", volume.name), volume.base, &findings, &mut needs);
            self.check_files_of_volume(volume, &mut report)?;
        }
        for snapshot in &snapshots {
            let of = volumes.iter().find(|volume| volume.id == snapshot.volume);
            let of = of.map_or("?", |volume| volume.name.as_str());
            let name = format!("snapshot {of}@{}", snapshot.name);
            self.walk_disk(&name, snapshot.base, &findings, &mut needs);
            self.check_files_of_snapshot(&name, snapshot, &mut report);
        }
        report.images = images.len() as u64;
        report.volumes = volumes.len() as u64;
        report.snapshots = snapshots.len() as u64;
        report_findings(&mut report, findings, &needs);
        Ok(report)
    }

    fn check_files_of_volume(
        &self,
        volume: &VolumeRecord,
        report: &mut VerifyReport,
    ) -> Result<()> {
        let damages = self.check_volume(volume, report)?;
        // One that was removed or cloned meanwhile took its files away, or gave them to others.
        if damages.is_empty() || self.volume_now(volume).is_ok_and(|now| now == *volume) {
            report.damages.extend(damages);
        }
        Ok(())
    }

    fn check_files_of_snapshot(
        &self,
        name: &str,
        snapshot: &SnapshotRecord,
        report: &mut VerifyReport,
    ) {
        let damages = self.check_frozen(name, &snapshot.frozen);
        let unchanged = || self.store.snapshot(snapshot.id).is_ok_and(|now| now == *snapshot);
        if damages.is_empty() || unchanged() {
            report.damages.extend(damages);
        }
    }

    fn check_frozen(&self, name: &str, frozen: &[FrozenDelta]) -> Vec<Damage> {
        let open = |frozen: &FrozenDelta| {
            DeltaReader::open(&self.store.paths().delta(frozen.home, frozen.delta)).err()
        };
        let damage = |error: Error| hurt(name, &error);
        frozen.iter().filter_map(open).map(damage).collect()
    }

    fn check_volume(
        &self,
        volume: &VolumeRecord,
        report: &mut VerifyReport,
    ) -> Result<Vec<Damage>> {
        let paths = self.store.paths();
        let folder = paths.volume(volume.id);
        let name = format!("volume {}", volume.name);
        let mut damages = self.check_frozen(&name, &volume.frozen);
        let mut damage = |error: Error| damages.push(hurt(&name, &error));
        // A command that freezes what nobody writes is at the record of the delta for a moment, which then seems damaged.
        let Some(_turn) = self.turn_if_there(volume)? else { return Ok(damages) };
        match read_volume_header(&folder) {
            Ok(header) if differs(&header, volume) => {
                damage(Error::corrupt(format!(
                    "the header of volume {} differs from the catalog",
                    volume.name
                )));
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => damage(error),
        }
        let own = self.own_delta(volume);
        if own.exists() {
            // A delta that is being written is not at rest, and its writer checked it when it opened it.
            match VolumeLock::share(&folder) {
                Ok(_lock) => DeltaReader::open(&own).map(drop).unwrap_or_else(damage),
                Err(error) if error.kind() == ErrorKind::Busy => {
                    report.volumes_in_use.push(volume.name.as_str().to_owned());
                }
                Err(error) => damage(error),
            }
        }
        Ok(damages)
    }
}

/// Whether a header of the same generation says something else than the catalog.
pub(crate) fn differs(header: &VolumeHeader, volume: &VolumeRecord) -> bool {
    header.generation == volume.generation && !says(header, volume)
}

/// Whether a header says what the catalog does, its volume's name apart, which may have changed while it was served.
/// Deltas that became a part of the base since it was written, it still has.
fn says(header: &VolumeHeader, volume: &VolumeRecord) -> bool {
    let expected = header_of(volume);
    let mut header = VolumeHeader { name: expected.name.clone(), ..header.clone() };
    if header.frozen.len() > expected.frozen.len() {
        header.frozen.truncate(expected.frozen.len());
        header.base = expected.base;
    }
    header == expected
}

/// Damage of something that a name alone has.
fn hurt(name: &str, error: &Error) -> Damage {
    Damage { what: error.chain(), needed_by: vec![name.to_owned()], ..Damage::default() }
}

/// Puts together what the store found and who needs it.
fn report_findings(report: &mut VerifyReport, findings: Findings, needs: &Needs) {
    let mut told = HashSet::new();
    for (chunk, (what, names)) in &needs.damaged {
        told.insert(*chunk);
        report.damages.push(Damage {
            what: what.clone(),
            chunk: Some(*chunk),
            needed_by: names.iter().cloned().collect(),
            files: Vec::new(),
        });
    }
    for finding in findings.found {
        let chunk = match finding.damaged {
            Damaged::Chunk(_, chunk) => Some(chunk),
            Damaged::Database | Damaged::Limits | Damaged::Pack(_) => None,
        };
        if chunk.is_none_or(|chunk| !told.contains(&chunk)) {
            let what = finding.error.chain();
            report.damages.push(Damage { what, chunk, ..Damage::default() });
        }
    }
}
