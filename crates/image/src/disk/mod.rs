//! Disks as sources, and the files on a disk as a source.
//!
//! Importing a disk is sealing it over the empty disk: see `silt_volume::NewDisk`, which cuts it along the files of its
//! ext4. A tree is made of what was imported, without reading the disk again; where that cannot be, the image has none and
//! says why. [`raw`] and [`qcow2`] tell what a disk is and where it has data, [`spool`] makes a file of a stream, [`stored`]
//! finds files and their chunks on a disk of the store.

mod qcow2;
mod raw;
mod spool;
mod stored;

use crate::{
    assemble::{self, Files},
    build::{BuildRequest, Building, BuiltImage},
    contents::ContentsWriter,
    edits::Edits,
    input::Input,
    source::Format,
};
use raw::RawDisk;
use silt_store::{ImageRecord, Ingest, Store};
use silt_types::{Context as _, DiskId, Error, ErrorKind, Progress, Result, TreeId};
use silt_volume::{NewDisk, Volume, VolumeParts};
use std::{io::Read, path::Path, sync::Arc};
use stored::Stored;

/// Decoded chunks that are kept while the files of a disk are looked up: a working set of metadata.
pub const READ_CACHE_BYTES: u64 = 32 << 20;

/// Builds an image from the disk in a file or on a block device. `Io`, naming it, if it cannot be read or changes meanwhile.
pub(crate) fn build(building: &Building<'_>, input: &Input, format: Format) -> Result<BuiltImage> {
    refuse_changes(building.request)?;
    let file = input.file.try_clone().context(|| "cannot open it again".into())?;
    let disk = RawDisk::new(file, input.name())?;
    build_file(building, &disk, &input.path, format)
}

/// Builds an image from a disk that comes as a stream, which is kept in an unnamed file in the store's folder first.
pub(crate) fn build_stream(
    building: &Building<'_>,
    stream: &mut dyn Read,
    name: &str,
    format: Format,
) -> Result<BuiltImage> {
    refuse_changes(building.request)?;
    let Building { store, progress, .. } = *building;
    progress.begin("receiving", 0);
    let file = spool::spool(stream, name, store.paths().root(), progress)?;
    let disk = RawDisk::new(file, name.to_owned())?;
    build_file(building, &disk, Path::new(name), format)
}

/// Builds an image from the files below a folder of a disk of the store, which nobody writes meanwhile: they keep their
/// chunks, and few are read. `NotFound` if there is no such folder, `Invalid` if it is none; `Invalid`, `Unsupported` or
/// `Corrupt` if the disk has no ext4 that can be read. `disk` should not keep many decoded chunks: see
/// [`READ_CACHE_BYTES`].
pub fn build_stored(
    store: &Store,
    disk: &Volume,
    folder: &Path,
    request: &BuildRequest,
    created_ns: i64,
    progress: &dyn Progress,
) -> Result<BuiltImage> {
    let building = Building { store, request, created_ns, progress, publishes: true };
    let mut notes = Vec::new();
    let built = building.telling_changes(|| {
        building.build_files(|ingest, contents| {
            let Stored { read, reused, note } =
                stored::read(store, disk, folder, ingest, contents, progress)?;
            ingest.count_known(reused.chunks, reused.bytes);
            notes.extend(note);
            Ok(read)
        })
    })?;
    Ok(BuiltImage { notes, ..built })
}

/// A disk is taken as it is.
fn refuse_changes(request: &BuildRequest) -> Result<()> {
    let what = match request {
        BuildRequest { size_bytes: Some(_), .. } => "given a length",
        _ if !request.edits.is_empty() => "edited",
        _ => return Ok(()),
    };
    Err(Error::invalid(format!(
        "a disk is imported as it is and cannot be {what}; an image of its files can, made from NAME:/ afterwards"
    )))
}

fn build_file(
    building: &Building<'_>,
    file: &RawDisk,
    path: &Path,
    format: Format,
) -> Result<BuiltImage> {
    let Building { store, request, created_ns, progress, .. } = *building;
    let ingest = store.ingest(request.compression)?;
    let (disk, bytes_read, lost) = match format {
        Format::Qcow2 => {
            let qcow2 = qcow2::Qcow2Disk::open(file, path, request.allow_backing)?;
            let mut disk = NewDisk::new(&qcow2)?;
            qcow2.find_data(&mut disk)?;
            import(store, &disk, &ingest, progress)?
        }
        _ => {
            let mut disk = NewDisk::new(file)?;
            file.find_data(&mut disk)?;
            import(store, &disk, &ingest, progress)?
        }
    };
    file.must_not_have_changed()?;
    let bytes_nonzero = ingest.counts().bytes;
    let mut notes = Vec::new();
    let (tree, no_tree) = match tree_of(store, disk, &ingest, progress) {
        Ok((tree, note)) => {
            notes.extend(lost.map(|why| format!("not all is cut along files: {why}")));
            notes.extend(note);
            (Some(tree), None)
        }
        // About the disk, not about getting at it.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::Invalid | ErrorKind::Unsupported | ErrorKind::Corrupt
            ) =>
        {
            (None, Some(error.chain()))
        }
        Err(error) => return Err(error),
    };
    progress.begin("publishing", 0);
    let name = request.name.clone();
    let record = ImageRecord { name, disk, tree, config: None, created_ns, bytes_nonzero };
    let counts = building.publish(ingest, &record)?;
    Ok(BuiltImage { record, bytes_read, counts, layout: None, no_tree, notes, changes: None })
}

/// Answers the disk, how many bytes of it were read, and why not all could be cut along files, if that matters.
fn import(
    store: &Store,
    disk: &NewDisk<'_>,
    ingest: &Ingest,
    progress: &dyn Progress,
) -> Result<(DiskId, u64, Option<String>)> {
    let sealed = disk.import(store.domain(), ingest, progress)?;
    Ok((sealed.disk, disk.data_bytes(), sealed.hints_lost))
}

/// The tree of the files on a disk that was just imported, and what a person should know of it.
fn tree_of(
    store: &Store,
    disk: DiskId,
    ingest: &Ingest,
    progress: &dyn Progress,
) -> Result<(TreeId, Option<String>)> {
    ingest.flush()?;
    let volume = Volume::open(VolumeParts {
        source: Arc::new(store.separate_reader(READ_CACHE_BYTES)),
        base: disk,
        frozen: Vec::new(),
        own: None,
        size_bytes: disk.size_bytes,
        lease: None,
    })?;
    let contents = ContentsWriter::new(store.paths().root())?;
    let Stored { read, note, .. } =
        stored::read(store, &volume, Path::new("/"), ingest, &contents, progress)?;
    let files = Files::edited(read, &Edits::default(), ingest, contents)?;
    let tree = assemble::build_tree(ingest, &files).context(|| "cannot make a tree".into())?;
    Ok((tree, note))
}
