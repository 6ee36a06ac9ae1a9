//! Verification of everything: what the store holds, and whether every name has what it needs.

use crate::{device::header_of, engine::Engine};
use silt_format::VolumeHeader;
use silt_store::{Findings, FrozenDelta, Listing, VolumeRecord};
use silt_tree::{Tree, TreeContent, TreeKind};
use silt_types::{ChunkId, DiskId, Error, ErrorKind, Progress, Result, TreeId};
use silt_volume::{DeltaReader, DiskMap, MapVisitor, VolumeLock, read_volume_header};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

/// How long a collection under way is waited for.
const COLLECTION_WAIT: Duration = Duration::from_secs(600);

/// Something that is damaged, and who needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// What, naming the object.
    pub what: String,
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
    /// Hashes every chunk, walks every map and tree, checks every header and delta. Reads the whole store. Damage is in
    /// the report; an error means that verification could not go on.
    pub fn verify(&self, progress: &dyn Progress) -> Result<VerifyReport> {
        // What is looked at is not to be moved meanwhile.
        let _held = self.store.hold_collection(COLLECTION_WAIT)?;
        let findings = self.store.verify(progress)?;
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
            let damages = self.check_volume(volume, &mut report)?;
            // One that was removed or cloned meanwhile took its files away, or gave them to others.
            if damages.is_empty() || self.volume_now(volume).is_ok_and(|now| now == *volume) {
                report.damages.extend(damages);
            }
        }
        for snapshot in &snapshots {
            let of = volumes.iter().find(|volume| volume.id == snapshot.volume);
            let of = of.map_or("?", |volume| volume.name.as_str());
            let name = format!("snapshot {of}@{}", snapshot.name);
            self.walk_disk(&name, snapshot.base, &findings, &mut needs);
            let damages = self.check_frozen(&name, &snapshot.frozen);
            let unchanged = || self.store.snapshot(snapshot.id).is_ok_and(|now| now == *snapshot);
            if damages.is_empty() || unchanged() {
                report.damages.extend(damages);
            }
        }
        report.images = images.len() as u64;
        report.volumes = volumes.len() as u64;
        report.snapshots = snapshots.len() as u64;
        report_findings(&mut report, findings, &needs);
        Ok(report)
    }

    fn walk_disk(&self, name: &str, disk: DiskId, findings: &Findings, needs: &mut Needs) {
        let sound = needs.sound.remove(&disk.size_bytes).unwrap_or_default();
        let before = needs.count;
        let mut visitor = Visitor { engine: self, name, findings, needs, sound, seen: Vec::new() };
        let walked = DiskMap::open(Arc::new(self.store.clone()), disk)
            .and_then(|map| map.walk(&mut visitor));
        let Visitor { mut sound, seen, .. } = visitor;
        if let Err(error) = walked {
            needs.add(disk.root, name, error.chain());
        }
        if needs.count > before {
            // Whoever else has them needs what is damaged, too, and is to be named.
            for node in &seen {
                sound.remove(node);
            }
        }
        needs.sound.insert(disk.size_bytes, sound);
    }

    fn walk_tree(&self, name: &str, tree: TreeId, findings: &Findings, needs: &mut Needs) {
        let root = ChunkId::from_bytes(*tree.as_bytes());
        let mut maps = Vec::new();
        let walked = Tree::new(&self.store, tree).for_each_entry(|entry| {
            if let TreeKind::File { size_bytes, content } = entry.kind {
                match content {
                    TreeContent::Chunks(ids) => ids
                        .iter()
                        .filter(|id| **id != DiskId::ZERO_ROOT)
                        .for_each(|id| self.check_needed(id, name, findings, needs)),
                    TreeContent::Map(root) => maps.push(DiskId { root, size_bytes }),
                }
            }
            Ok(())
        });
        if let Err(error) = walked {
            needs.add(root, name, error.chain());
        }
        maps.into_iter().for_each(|map| self.walk_disk(name, map, findings, needs));
    }

    fn check_needed(&self, chunk: &ChunkId, name: &str, findings: &Findings, needs: &mut Needs) {
        if findings.bad_chunks.contains(chunk) {
            needs.add(*chunk, name, format!("chunk {chunk} is damaged"));
            return;
        }
        match self.store.contains(chunk) {
            Ok(true) => {}
            Ok(false) => {
                needs.add(*chunk, name, format!("chunk {chunk} is missing from the index"))
            }
            Err(error) => needs.add(*chunk, name, error.chain()),
        }
    }

    fn check_frozen(&self, name: &str, frozen: &[FrozenDelta]) -> Vec<Damage> {
        let open = |frozen: &FrozenDelta| {
            DeltaReader::open(&self.store.paths().delta(frozen.home, frozen.delta)).err()
        };
        let damage =
            |error: Error| Damage { what: error.chain(), needed_by: vec![name.to_owned()] };
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
        let mut damage = |error: Error| {
            damages.push(Damage { what: error.chain(), needed_by: vec![name.clone()] });
        };
        // A command that freezes what nobody writes is at the record of the delta for a moment, which then seems damaged.
        let Some(_turn) = self.turn_if_there(volume)? else { return Ok(damages) };
        match read_volume_header(&folder) {
            Ok(header) if header.generation == volume.generation && !says(&header, volume) => {
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

/// Which names need what is damaged.
#[derive(Default)]
struct Needs {
    damaged: BTreeMap<ChunkId, (String, BTreeSet<String>)>,
    /// Times that a need was found.
    count: u64,
    /// Nodes of maps of disks of a length that are whole with all that is below them, so that disks that share them, as a
    /// volume and its snapshots do, need not be walked for them again.
    sound: HashMap<u64, HashSet<ChunkId>>,
}

impl Needs {
    fn add(&mut self, chunk: ChunkId, name: &str, what: String) {
        self.count += 1;
        self.damaged
            .entry(chunk)
            .or_insert_with(|| (what, BTreeSet::new()))
            .1
            .insert(name.to_owned());
    }
}

struct Visitor<'a> {
    engine: &'a Engine,
    name: &'a str,
    findings: &'a Findings,
    needs: &'a mut Needs,
    /// Nodes that are whole as far as is known, with those of this walk.
    sound: HashSet<ChunkId>,
    /// Nodes of this walk.
    seen: Vec<ChunkId>,
}

impl MapVisitor for Visitor<'_> {
    fn enter(&mut self, node: &ChunkId) -> bool {
        let is_new = self.sound.insert(*node);
        if is_new {
            self.seen.push(*node);
        }
        is_new
    }

    fn node(&mut self, _node: &ChunkId, _len_bytes: u64) {}

    fn content(&mut self, chunk: &ChunkId) {
        self.engine.check_needed(chunk, self.name, self.findings, self.needs);
    }

    fn unreadable(&mut self, node: &ChunkId, error: Error) -> Result<()> {
        self.needs.add(*node, self.name, error.chain());
        Ok(())
    }
}

/// Puts together what the store found and who needs it.
fn report_findings(report: &mut VerifyReport, findings: Findings, needs: &Needs) {
    let mut told = HashSet::new();
    for (chunk, (what, names)) in &needs.damaged {
        told.insert(*chunk);
        report
            .damages
            .push(Damage { what: what.clone(), needed_by: names.iter().cloned().collect() });
    }
    for (chunk, error) in findings.errors {
        if chunk.is_none_or(|chunk| !told.contains(&chunk)) {
            report.damages.push(Damage { what: error.chain(), needed_by: Vec::new() });
        }
    }
}
