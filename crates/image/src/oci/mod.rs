//! Container images as sources: image layouts of OCI in folders and archives, archives of docker, registries.
//!
//! A reference leads through manifests to one image (`resolve`), wherever its blobs are (`blobs`, with a module for each
//! place). Its layers are read into chunks and files of members (`layers`, `cache`), which are applied one over the other
//! (`apply`). Every blob is checked against its digest before anything is made of it that stays.

mod apply;
mod archive;
mod blobs;
mod cache;
mod digest;
mod docker_archive;
mod documents;
mod layers;
mod platform;
mod registry;
mod resolve;
#[cfg(test)]
mod tests;

pub(crate) use cache::chunks_of;
pub use registry::RegistryAccess;

use crate::{
    build::{BuildRequest, Building, BuiltImage, FilesRead},
    caches::trim,
    config::put_config,
    source::Source,
};
use archive::Archive;
use blobs::{Blobs, LayoutFolder};
use docker_archive::DockerArchive;
use documents::{Descriptor, Document, check_layer_type, parse};
use layers::Reading;
use platform::Platform;
use registry::Registry;
use resolve::{Resolved, resolve, resolve_document, with_tag};
use serde::Deserialize;
use silt_store::Store;
use silt_types::{Context as _, Error, ErrorKind, Result};

/// Builds from a container image. Beside what [`crate::build()`] says: `Corrupt`, naming the digest, for a blob that is not
/// what it is called; `NotFound`, with a list, if there is none of that tag or platform; `Unsupported` for layers that
/// are encrypted or kept elsewhere.
pub(crate) fn build(building: &Building<'_>, source: &Source) -> Result<BuiltImage> {
    build_image(building, source).context(|| source.to_string())
}

fn build_image(building: &Building<'_>, source: &Source) -> Result<BuiltImage> {
    let Building { store, request, progress, .. } = *building;
    let platform = Platform::parse(request.platform.as_deref())?;
    let (blobs, resolved) = open(store, source, request, &platform)?;
    resolved.layers.iter().try_for_each(|layer| check_layer_type(&layer.blob))?;
    let folder = store.paths().layer_caches();
    cache::make_folder(store.paths(), &folder)?;
    let built = building.build_files(|ingest, contents| {
        let (blobs, folder, len_bytes_max) = (&*blobs, &*folder, request.max_size_bytes);
        let reading = Reading { blobs, folder, ingest, contents, progress, len_bytes_max };
        let (hierarchy, bytes_read) = reading.read(&resolved.layers)?;
        let config = Some(put_config(ingest, &resolved.config_json)?);
        Ok(FilesRead { hierarchy, bytes_read, config })
    })?;
    blobs.forget();
    trim(&folder, cache::LAYERS_SIZE_BYTES_MAX);
    Ok(built)
}

/// Finds the image, and where its blobs are.
fn open(
    store: &Store,
    source: &Source,
    request: &BuildRequest,
    platform: &Platform,
) -> Result<(Box<dyn Blobs>, Resolved)> {
    Ok(match source {
        Source::OciLayout(dir, tag) => {
            let layout = LayoutFolder::new(dir);
            let start = check_layout(&layout.top_file("oci-layout")?)
                .and_then(|()| start_of(&layout.top_file("index.json")?, tag.as_deref()))?;
            let resolved = resolve_start(&layout, start, platform)?;
            (Box::new(layout), resolved)
        }
        Source::OciArchive(file, tag) => {
            let archive = Archive::open(file)?;
            let start = check_layout(&archive.top_file("oci-layout")?)
                .and_then(|()| start_of(&archive.top_file("index.json")?, tag.as_deref()))?;
            let resolved = resolve_start(&archive, start, platform)?;
            (Box::new(archive), resolved)
        }
        Source::DockerArchive(file, name) => {
            let (archive, resolved) = DockerArchive::open(file, name.as_deref(), platform)?;
            (Box::new(archive), resolved)
        }
        Source::Registry(reference) => {
            let registry = Registry::open(reference, &request.registry, store.paths())?;
            let start = registry.start()?;
            let resolved = resolve_document(&registry, start, platform)?;
            (Box::new(registry), resolved)
        }
        _ => return Err(Error::internal("no container image")),
    })
}

/// `Unsupported` for a layout of another version.
fn check_layout(json: &[u8]) -> Result<()> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Layout {
        image_layout_version: String,
    }
    let layout: Layout = parse(json, "oci-layout")?;
    if layout.image_layout_version.starts_with("1.") {
        return Ok(());
    }
    let message = format!("an image layout of version {:?}", layout.image_layout_version);
    Err(Error::new(ErrorKind::Unsupported, message))
}

/// The images of a layout that a tag leaves.
fn start_of(index_json: &[u8], tag: Option<&str>) -> Result<Vec<Descriptor>> {
    match Document::parse(index_json)? {
        Document::Index(all) => with_tag(all, tag),
        Document::Manifest(_) => Err(Error::invalid("index.json is no index")),
    }
}

fn resolve_start(
    blobs: &dyn Blobs,
    start: Vec<Descriptor>,
    platform: &Platform,
) -> Result<Resolved> {
    match &start[..] {
        [only] => resolve(blobs, only, platform),
        _ => resolve_document(blobs, Document::Index(start), platform),
    }
}

/// Reads bytes as each document that a stranger may send, for those who look for bytes that no reader should be given.
#[doc(hidden)]
pub fn read_as_any_document(bytes: &[u8]) {
    let platform = Platform::parse(None).ok();
    if let (Ok(Document::Index(all)), Some(platform)) = (Document::parse(bytes), &platform) {
        let _ = resolve::choose(&all, platform);
        let _ = with_tag(all, Some("latest"));
    }
    if let Ok(Document::Manifest(manifest)) = Document::parse(bytes) {
        manifest.layers.iter().for_each(|layer| drop(check_layer_type(layer)));
    }
    if let Ok(config) = documents::Config::parse(bytes) {
        let _ = config.diff_ids(3);
        let _ = platform.map(|platform| platform.fits(&config.platform));
    }
    let _ = check_layout(bytes);
    docker_archive::read_manifest(bytes);
    registry::read_as_any_text(bytes);
}
