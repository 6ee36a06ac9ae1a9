//! Images in registries, by the protocol that all of them speak.
//!
//! `client` asks and proves who asks (`credentials`), `download` brings layers into a folder of the store, where what a broken
//! connection or an ended process left is gone on with.
//!
//! Source: OCI distribution specification 1.1; the token flow of docker's registry.

mod client;
mod credentials;
mod download;
mod reference;
#[cfg(test)]
mod tests;

use super::{
    blobs::Blobs,
    cache::make_folder,
    digest::Digest,
    documents::{Descriptor, Document, MANIFEST_TYPES},
};
use client::Client;
use download::Downloads;
use reference::Reference;
use silt_store::StorePaths;
use silt_types::{Progress, Result};
use std::{io::Read, path::PathBuf, sync::atomic::AtomicBool, time::Duration};

/// How registries are to be spoken to.
#[derive(Clone, Debug)]
pub struct RegistryAccess {
    /// Whether to do without TLS. A registry on this machine's loopback is spoken to so where it does not offer TLS, whatever
    /// this says.
    pub plain_http: bool,
    /// Files with credentials in the formats of docker and podman; the first that has some for the registry counts.
    pub credential_files: Vec<PathBuf>,
    /// How long a connection may take to stand.
    pub connect_max: Duration,
    /// How long a registry may say nothing, and may not take what is sent.
    pub silence_max: Duration,
    /// What is waited before the second attempt at something; before each further one twice as long.
    pub pause: Duration,
}

impl Default for RegistryAccess {
    fn default() -> RegistryAccess {
        RegistryAccess {
            plain_http: false,
            credential_files: Vec::new(),
            connect_max: Duration::from_secs(10),
            silence_max: Duration::from_secs(30),
            pause: Duration::from_millis(500),
        }
    }
}

/// An image in a registry.
pub(super) struct Registry {
    reference: Reference,
    client: Client,
    downloads: Downloads,
}

impl Registry {
    /// Nothing is asked yet. `Invalid` if the reference is none.
    pub(super) fn open(
        reference: &str,
        access: &RegistryAccess,
        paths: &StorePaths,
    ) -> Result<Registry> {
        let reference = Reference::parse(reference)?;
        let folder = paths.fetched_blobs();
        make_folder(paths, &folder)?;
        let client = Client::new(&reference, access)?;
        Ok(Registry { client, reference, downloads: Downloads::new(folder) })
    }

    /// What the reference leads to.
    pub(super) fn start(&self) -> Result<Document> {
        let path = format!("manifests/{}", self.reference.manifest());
        let (json, told) = self.client.document(&path, &MANIFEST_TYPES)?;
        for digest in self.reference.digest().into_iter().chain(&told) {
            digest.check("manifest", &json)?;
        }
        Document::parse(&json)
    }
}

impl Blobs for Registry {
    fn document(&self, wanted: &Descriptor) -> Result<Box<dyn Read + '_>> {
        let kind = wanted.media_type.as_str();
        let is_manifest = MANIFEST_TYPES.contains(&kind);
        let path = format!("{}/{}", if is_manifest { "manifests" } else { "blobs" }, wanted.digest);
        let (json, _) =
            self.client.document(&path, if is_manifest { &MANIFEST_TYPES } else { &[] })?;
        Ok(Box::new(std::io::Cursor::new(json)))
    }

    fn fetch(&self, layer: &Descriptor, stop: &AtomicBool, progress: &dyn Progress) -> Result<()> {
        self.downloads.fetch(&self.client, layer, stop, progress)
    }

    fn layer<'a>(&'a self, layer: &Descriptor, _: &'a dyn Progress) -> Result<Box<dyn Read + 'a>> {
        Ok(Box::new(self.downloads.reader(&layer.digest)?))
    }

    fn forget(&self) {
        self.downloads.forget();
    }
}

/// Reads bytes as what a registry, a person, or a file of credentials may say.
pub(super) fn read_as_any_text(bytes: &[u8]) {
    credentials::read(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Reference::parse(text).map(|reference| reference.is_loopback());
        client::read_challenge(text);
    }
}

/// What a registry says that the digest of its answer is, where it says so in a way that is understood.
fn told_digest(header: Option<&str>) -> Option<Digest> {
    header.and_then(|text| Digest::parse(text).ok())
}
