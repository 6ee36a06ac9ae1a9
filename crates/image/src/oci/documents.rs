//! The JSON documents of container images: indexes, manifests, configurations. Of each only what is used; unknown members
//! are ignored, as the specifications want it.
//!
//! Specifications: OCI image format 1.1, Docker image manifest version 2, schema 2.

use super::digest::Digest;
use serde::Deserialize;
use silt_types::{Error, ErrorKind, Result};
use std::collections::BTreeMap;

/// The longest document in bytes. Registries refuse longer manifests, so none is lost by it.
pub(crate) const DOCUMENT_SIZE_BYTES_MAX: u64 = 4 << 20;

/// The most layers of an image, of which some keep a file open each; overlay file systems take 500, docker 128.
const LAYERS_MAX: usize = 512;

/// The annotation that is a tag in an image layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// What a registry is asked for, in the order of preference.
pub(crate) const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Refers to a blob.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) platform: Option<DescriptorPlatform>,
    #[serde(default)]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    /// A blob of which nothing else is known.
    pub(crate) fn bare(digest: Digest, size: u64) -> Descriptor {
        let media_type = String::new();
        Descriptor { media_type, digest, size, platform: None, annotations: None }
    }

    /// Its tag in an image layout.
    pub(crate) fn tag(&self) -> Option<&str> {
        self.annotations.as_ref()?.get(REF_NAME).map(String::as_str)
    }
}

/// What an image is for, as an index has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct DescriptorPlatform {
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) variant: Option<String>,
}

/// What a reference may lead to.
#[derive(Debug)]
pub(crate) enum Document {
    /// Several images.
    Index(Vec<Descriptor>),
    /// One.
    Manifest(Manifest),
}

/// One image.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnyDocument {
    schema_version: Option<u32>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

impl Document {
    /// Reads an index or a manifest of either kind; which of them, its members say. `Invalid` for what is neither, or both:
    /// two readers must not see two images in it. `Unsupported` for the manifests of before 2016.
    pub(crate) fn parse(json: &[u8]) -> Result<Document> {
        let document: AnyDocument = parse(json, "manifest")?;
        if document.schema_version == Some(1) {
            let message = "the manifest is of docker's schema 1, which registries gave up";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        match (document.manifests, document.config, document.layers) {
            (Some(manifests), None, None) => Ok(Document::Index(manifests)),
            (None, Some(config), Some(layers)) if layers.len() <= LAYERS_MAX => {
                Ok(Document::Manifest(Manifest { config, layers }))
            }
            _ => Err(Error::invalid("the manifest is neither an image's nor an index of them")),
        }
    }
}

/// The configuration of an image: what it is for, and the digests of its layers, uncompressed.
#[derive(Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(flatten)]
    pub(crate) platform: DescriptorPlatform,
    rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

impl Config {
    /// Reads a configuration. `Unsupported` for what belongs to something else than an image.
    pub(crate) fn parse(json: &[u8]) -> Result<Config> {
        let value: serde_json::Value = parse(json, "image configuration")?;
        if value.get("rootfs").is_none() {
            let message = "it is not the image of a container: its configuration has no layers";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        parse(json, "image configuration")
    }

    /// The digest of each layer, uncompressed. `Invalid` if there are not as many as layers.
    pub(crate) fn diff_ids(&self, layers: usize) -> Result<&[Digest]> {
        let ids = self.rootfs.diff_ids.as_deref().unwrap_or_default();
        if ids.len() == layers {
            return Ok(ids);
        }
        let message =
            format!("the image has {layers} layers, but its configuration has {}", ids.len());
        Err(Error::invalid(message))
    }
}

/// Reads a document whose length was checked.
pub(crate) fn parse<'a, T: Deserialize<'a>>(json: &'a [u8], what: &str) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| {
        Error::with_source(ErrorKind::Invalid, format!("the {what} cannot be read"), error)
    })
}

/// `Unsupported`, naming it, if a layer is of a kind that cannot be unpacked here. How it is compressed, its first bytes
/// say.
pub(crate) fn check_layer_type(layer: &Descriptor) -> Result<()> {
    let kind = layer.media_type.as_str();
    let why = if kind.ends_with("+encrypted") {
        "is encrypted"
    } else if kind.contains(".foreign.") || kind.contains(".nondistributable.") {
        "is kept elsewhere and may not be distributed"
    } else if kind.is_empty() || kind.contains(".layer.v1.tar") || kind.contains(".diff.tar") {
        return Ok(());
    } else {
        "is no tar"
    };
    let message = format!("the layer {} {why}: its type is {kind:?}", layer.digest);
    Err(Error::new(ErrorKind::Unsupported, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor() -> String {
        format!(r#"{{"mediaType": "t", "digest": "{}", "size": 5}}"#, Digest::of(b"x"))
    }

    #[test]
    fn documents_say_what_they_are_by_their_members() {
        let d = descriptor();
        let manifest = format!(r#"{{"schemaVersion": 2, "config": {d}, "layers": [{d}], "x": 1}}"#);
        assert!(matches!(Document::parse(manifest.as_bytes()), Ok(Document::Manifest(_))));
        let index = format!(r#"{{"schemaVersion": 2, "manifests": [{d}, {d}]}}"#);
        assert!(
            matches!(Document::parse(index.as_bytes()), Ok(Document::Index(all)) if all.len() == 2)
        );
        let both = format!(r#"{{"manifests": [], "config": {d}, "layers": []}}"#);
        for bad in [both.as_str(), "", "[]", "{}", r#"{"manifests": [{"digest": "x", "size": 1}]}"#]
        {
            assert_eq!(Document::parse(bad.as_bytes()).unwrap_err().kind(), ErrorKind::Invalid);
        }
        let old = Document::parse(br#"{"schemaVersion": 1, "fsLayers": []}"#).unwrap_err();
        assert_eq!(old.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn layers_that_cannot_be_unpacked_are_named_before_they_are_fetched() {
        let check = |kind: &str| {
            let layer =
                Descriptor { media_type: kind.into(), ..Descriptor::bare(Digest::of(b""), 0) };
            check_layer_type(&layer).map_err(|error| error.kind())
        };
        for good in [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.diff.tar",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.in-toto+json",
        ] {
            assert_eq!(check(bad), Err(ErrorKind::Unsupported), "{bad}");
        }
    }

    #[test]
    fn a_configuration_has_a_digest_for_each_layer() {
        let id = Digest::of(b"");
        let json = format!(
            r#"{{"os": "linux", "architecture": "arm64", "rootfs": {{"diff_ids": ["{id}"]}}}}"#
        );
        let config = Config::parse(json.as_bytes()).unwrap();
        assert_eq!(config.diff_ids(1).unwrap(), [id]);
        assert_eq!(config.platform.architecture, "arm64");
        assert!(config.diff_ids(2).is_err());
        assert_eq!(Config::parse(b"{}").unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
