//! Repair: everything that a store says twice is made good, in the order in which one thing needs another.
//!
//! 1. The files by which it is a store, and the names of packs.
//! 2. The database, where it is damaged: an index of the packs, and the names by what is left (`catalog`).
//! 3. Packs of which something is damaged: what is sound, or another pack has too, moves to new ones.
//! 4. Headers of volumes, by the catalog.
//! 5. Chunks that are lost: from other stores (`mending`), from sources.
//! 6. Verification, which tells what is still damaged.
//!
//! Nothing is thrown away: what is replaced is in quarantine.

mod catalog;
mod mending;

use crate::{
    CACHE_SIZE_BYTES_DEFAULT, Damage, VerifyReport, VerifyRequest,
    device::header_of,
    engine::Engine,
    seal::deltas_named,
    servers::refuse_served,
    verify::{COLLECTION_WAIT, differs},
};
use catalog::{Surroundings, find_names};
use silt_format::{RootRecord, VolumeHeader};
use silt_image::{BuildRequest, Source};
use silt_store::{
    ChunkKind, ChunkReader, ChunkSource, Damaged, Listing, Rebuild, Sample, Store, StorePaths,
    VolumeRecord, mend_layout, quarantine,
};
use silt_sys::durability;
use silt_types::{
    BLOCK_SIZE_BYTES, ChunkId, Context as _, DeltaId, DiskId, Error, ErrorKind, Name, PackId,
    Progress, Result, StateId, VolumeId,
};
use silt_volume::{DiskMap, MapVisitor, read_volume_header, write_volume_header};
use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where lost chunks may be found again.
#[derive(Clone, Debug)]
pub enum Elsewhere {
    /// Another store of the same dedup domain.
    Store(PathBuf),
    /// What an image was built from.
    Source(Source),
}

/// What a repair did.
#[derive(Debug)]
pub struct Repaired {
    /// What was done, a line for each thing.
    pub done: Vec<String>,
    /// What is still damaged.
    pub report: VerifyReport,
}

/// Makes good what is damaged of the store at `path`, as far as what is left allows, and verifies it. Others go on meanwhile, unless
/// the database or a file at the top has to be made again: then `Busy`, naming who, while somebody works with the store. Costs two
/// passes over all packs.
pub fn repair_store(
    path: &Path,
    elsewhere: &[Elsewhere],
    files: bool,
    progress: &dyn Progress,
) -> Result<Repaired> {
    // What cannot be looked into is to be known before anything is changed.
    let others = stores_of(elsewhere)?;
    let mut done = mend_layout(path)?;
    let mut told_lost = Vec::new();
    let (engine, damaged) = open_mended(path, &mut done, &mut told_lost, progress)?;
    let mut lost = Vec::new();
    if !damaged.is_empty() {
        let roots = roots_of(&engine.list()?);
        let healed = engine.store.heal(&damaged, &roots, progress)?;
        for pack in &healed.packs {
            done.push(format!(
                "pack {pack} was moved to quarantine, what is sound in it to others"
            ));
        }
        for pack in &healed.in_use {
            done.push(format!("pack {pack} is being written, and was left as it is"));
        }
        lost = healed.lost;
    }
    engine.mend_headers(&mut done, &mut told_lost)?;
    engine.restore(others, elsewhere, &lost, &mut done, progress)?;
    let request = VerifyRequest { files, ..VerifyRequest::default() };
    let mut report = engine.verify(&request, progress)?;
    report.damages.extend(told_lost);
    Ok(Repaired { done, report })
}

fn stores_of(elsewhere: &[Elsewhere]) -> Result<Vec<Box<dyn ChunkSource>>> {
    let paths = elsewhere.iter().filter_map(|place| match place {
        Elsewhere::Store(path) => Some(path),
        Elsewhere::Source(_) => None,
    });
    let open = |path: &PathBuf| Ok(Box::new(Store::open(path, 0)?) as Box<dyn ChunkSource>);
    paths.map(open).collect()
}

/// Opens the store, its database having been made again if that is damaged. Answers the packs of which something is damaged, too.
fn open_mended(
    path: &Path,
    done: &mut Vec<String>,
    lost: &mut Vec<Damage>,
    progress: &dyn Progress,
) -> Result<(Engine, HashSet<PackId>)> {
    let mut is_rebuilt = false;
    loop {
        let found = match Engine::open(path, CACHE_SIZE_BYTES_DEFAULT) {
            Ok(engine) => {
                let held = engine.store.hold_collection(COLLECTION_WAIT)?;
                let findings = engine.store.verify(&Sample::ALL, progress)?;
                drop(held);
                let what = findings.found.iter().find(|f| f.damaged == Damaged::Database);
                match what {
                    None => return Ok((engine, findings.damaged_packs())),
                    Some(finding) => finding.error.chain(),
                }
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => error.chain(),
            Err(error) => return Err(error),
        };
        if is_rebuilt {
            return Err(Error::internal(format!(
                "a database that was just made is damaged: {found}"
            )));
        }
        let names = rebuild(path, done, progress).context(|| found)?;
        lost.extend(names.into_iter().map(|what| Damage {
            what: format!(
                "the catalog's record of {what} is damaged, and nothing else tells of it"
            ),
            ..Damage::default()
        }));
        is_rebuilt = true;
    }
}

/// Makes the database again. Answers which names are lost.
fn rebuild(path: &Path, done: &mut Vec<String>, progress: &dyn Progress) -> Result<Vec<String>> {
    let paths = StorePaths::new(path);
    refuse_served(&paths)?;
    let rebuild = Rebuild::begin(path, progress)?;
    let folders = VolumeFolders::read(&paths)?;
    let found = {
        let about =
            Known { rebuild: &rebuild, source: Arc::new(rebuild.source()), folders: &folders };
        find_names(rebuild.salvaged(), &folders.headers, &about)?
    };
    let Listing { images, volumes, snapshots } = &found.listing;
    done.push(format!(
        "the database was made again: {} images, {} volumes, {} snapshots; the old one is in quarantine",
        images.len(),
        volumes.len(),
        snapshots.len()
    ));
    for (pack, chunks) in &rebuild.salvaged().packs_without_footer {
        done.push(format!(
            "pack {pack} does not say what it has; {chunks} chunks of it were known"
        ));
    }
    done.extend(found.told);
    rebuild.finish(&found.listing).map(|()| found.lost)
}

/// What packs are to say of the names there are.
fn roots_of(listing: &Listing) -> Vec<RootRecord> {
    let images = listing.images.iter().map(|image| image.root_record());
    let snapshots = listing.snapshots.iter();
    let sealed = snapshots.filter_map(|s| s.disk_id().map(|disk| s.root_record(disk)));
    images.chain(sealed).collect()
}

/// The folders of volumes, as they are.
struct VolumeFolders {
    headers: Vec<VolumeHeader>,
    homes: HashMap<DeltaId, VolumeId>,
}

impl VolumeFolders {
    fn read(paths: &StorePaths) -> Result<VolumeFolders> {
        let mut folders = VolumeFolders { headers: Vec::new(), homes: HashMap::new() };
        for name in names_in(&paths.volumes())? {
            let Ok(id) = name.parse::<VolumeId>() else { continue };
            let folder = paths.volume(id);
            folders.headers.extend(read_volume_header(&folder).ok().filter(|h| h.id == id));
            let deltas = names_in(&folder)?;
            folders.homes.extend(deltas.iter().filter_map(|name| Some((name.parse().ok()?, id))));
        }
        folders.headers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(folders)
    }
}

fn names_in(folder: &Path) -> Result<Vec<String>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let failed = || format!("cannot list {}", folder.display());
    let names = fs::read_dir(folder).context(failed)?;
    let names = names.map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned()));
    names.collect::<io::Result<_>>().context(failed)
}

/// Ends a walk at a node that no pack has.
struct Nodes<'a> {
    rebuild: &'a Rebuild,
    seen: HashSet<ChunkId>,
}

impl MapVisitor for Nodes<'_> {
    fn enter(&mut self, node: &ChunkId) -> bool {
        self.seen.insert(*node)
    }

    fn node(&mut self, _node: &ChunkId, _len_bytes: u64) {}

    fn content(&mut self, _chunk: &ChunkId) {}

    fn unreadable(&mut self, node: &ChunkId, error: Error) -> Result<()> {
        if self.rebuild.has(node)? { Ok(()) } else { Err(error) }
    }
}

struct Known<'a> {
    rebuild: &'a Rebuild,
    source: Arc<ChunkReader>,
    folders: &'a VolumeFolders,
}

impl Surroundings for Known<'_> {
    fn bytes_mapped(&self, disk: DiskId) -> Option<u64> {
        let map = DiskMap::open(self.source.clone(), disk).ok()?;
        // A node that is damaged may be found elsewhere yet.
        let mut nodes = Nodes { rebuild: self.rebuild, seen: HashSet::new() };
        map.walk(&mut nodes).ok()?;
        Some(map.extents().flatten().map(|extent| extent.range.len * BLOCK_SIZE_BYTES).sum())
    }

    fn home_of(&self, delta: DeltaId) -> Option<VolumeId> {
        self.folders.homes.get(&delta).copied()
    }

    fn new_delta(&self) -> Result<DeltaId> {
        durability::random_bytes().map(DeltaId::from_bytes)
    }

    fn new_state(&self) -> Result<StateId> {
        durability::random_bytes().map(StateId::from_bytes)
    }
}

impl Engine {
    /// Writes headers anew that are damaged, or are not what the catalog says, which may have gone on. A volume that is in use is left alone.
    fn mend_headers(&self, done: &mut Vec<String>, lost: &mut Vec<Damage>) -> Result<()> {
        for volume in self.list()?.volumes {
            let folder = self.store.paths().volume(volume.id);
            if !folder.exists() {
                continue;
            }
            let _alone = match self.turn_alone(&volume) {
                Err(error) if error.kind() == ErrorKind::Busy => continue,
                other => other?,
            };
            let now = self.volume_now(&volume)?;
            match read_volume_header(&folder) {
                // Behind: so that it needs no seal of long ago to be understood.
                Ok(header) if header.id == now.id && header.generation < now.generation => {
                    write_volume_header(&folder, &header_of(&now))?;
                }
                Ok(header) if header.id == now.id && !differs(&header, &now) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
                _ => self.mend_header(&now, done, lost)?,
            }
        }
        Ok(())
    }

    /// The damaged header may have been ahead of the catalog, and named a delta that nothing else does: that is put aside with it.
    fn mend_header(
        &self,
        volume: &VolumeRecord,
        done: &mut Vec<String>,
        lost: &mut Vec<Damage>,
    ) -> Result<()> {
        let paths = self.store.paths();
        let folder = paths.volume(volume.id);
        let named = deltas_named(&self.list()?);
        for name in names_in(&folder)? {
            if name.parse::<DeltaId>().is_ok_and(|delta| !named.contains(&delta)) {
                quarantine(paths, &folder.join(&name))?;
                lost.push(Damage {
                    what: format!(
                        "delta {name} of volume {}, which may hold its last writes, is named by nothing but its damaged header; it was moved to quarantine",
                        volume.name
                    ),
                    needed_by: vec![format!("volume {}", volume.name)],
                    ..Damage::default()
                });
            }
        }
        quarantine(paths, &folder.join("header"))?;
        write_volume_header(&folder, &header_of(volume))?;
        done.push(format!("the header of volume {} was written anew", volume.name));
        Ok(())
    }

    /// Looks for chunks that are lost wherever they may be.
    fn restore(
        &self,
        others: Vec<Box<dyn ChunkSource>>,
        elsewhere: &[Elsewhere],
        lost: &[(ChunkId, ChunkKind)],
        done: &mut Vec<String>,
        progress: &dyn Progress,
    ) -> Result<()> {
        if !others.is_empty() {
            let found = self.restore_from(others, lost, progress)?;
            if found > 0 {
                done.push(format!("{found} chunks that were lost were found elsewhere"));
            }
        }
        for place in elsewhere {
            if let Elsewhere::Source(source) = place {
                let stored = self.store_again(source, progress)?;
                done.push(format!(
                    "{stored} chunks that the store had not got were read from {source}"
                ));
            }
        }
        Ok(())
    }

    /// Stores again what is lost of a source, by building it in each of the lengths that images have.
    fn store_again(&self, source: &Source, progress: &dyn Progress) -> Result<u64> {
        let sizes: HashSet<u64> = self.list()?.images.iter().map(|i| i.disk.size_bytes).collect();
        let mut sizes: Vec<u64> = sizes.into_iter().collect();
        sizes.sort_unstable();
        let name: Name = "again".parse()?;
        let request = BuildRequest::new(name);
        let mut stored =
            silt_image::store_again(&self.store, source, &request, progress)?.chunks_new;
        for size_bytes in sizes {
            let request = BuildRequest { size_bytes: Some(size_bytes), ..request.clone() };
            // Too short for it, or no source that has a length of its own choosing: then it is none of those images'.
            match silt_image::store_again(&self.store, source, &request, progress) {
                Ok(counts) => stored += counts.chunks_new,
                Err(error) if error.kind() == ErrorKind::Invalid => {}
                Err(error) => return Err(error),
            }
        }
        Ok(stored)
    }
}
