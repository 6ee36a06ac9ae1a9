//! From what was asked for to one image: by tag, through indexes, by platform.

use super::{
    blobs::{Blobs, read_document},
    documents::{Config, Descriptor, Document, Manifest},
    platform::{Platform, listed},
};
use silt_types::{Error, ErrorKind, Result};

/// Indexes within indexes. Nobody nests more than one.
const DEPTH_MAX: usize = 4;

/// One image: its configuration, and its layers with their digests before and after they are unpacked.
#[derive(Debug)]
pub(super) struct Resolved {
    /// As it came.
    pub(super) config_json: Vec<u8>,
    /// From the lowest one on.
    pub(super) layers: Vec<Layer>,
}

/// A layer of an image.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    /// The blob. Where only its content is known, as in archives of docker, its digest is that of the content.
    pub(super) blob: Descriptor,
    /// Whether the digest of `blob` is the blob's.
    pub(super) is_blob_named: bool,
    /// Digest of the tar in it.
    pub(super) diff_id: super::digest::Digest,
}

/// Follows a reference to an image for `platform`.
pub(super) fn resolve(
    blobs: &dyn Blobs,
    start: &Descriptor,
    platform: &Platform,
) -> Result<Resolved> {
    let json = read_document(blobs, start)?;
    resolve_document(blobs, Document::parse(&json)?, platform)
}

/// The same, where the first document was read already.
pub(super) fn resolve_document(
    blobs: &dyn Blobs,
    start: Document,
    platform: &Platform,
) -> Result<Resolved> {
    let mut document = start;
    for _ in 0..DEPTH_MAX {
        match document {
            Document::Manifest(manifest) => return with_config(blobs, manifest, platform),
            Document::Index(all) => {
                let chosen = choose(&all, platform)?;
                document = Document::parse(&read_document(blobs, chosen)?)?;
            }
        }
    }
    Err(Error::invalid(format!("indexes are nested more than {DEPTH_MAX} deep")))
}

/// The one of several that is for `platform`.
pub(super) fn choose<'a>(all: &'a [Descriptor], platform: &Platform) -> Result<&'a Descriptor> {
    let mut fitting =
        all.iter().filter(|one| one.platform.as_ref().is_some_and(|p| platform.fits(p)));
    // Of several the one that runs on every machine of that kind, else the first.
    let plain = |one: &&Descriptor| one.platform.as_ref().is_some_and(|p| p.variant.is_none());
    if let Some(chosen) = fitting.clone().find(plain).or_else(|| fitting.next()) {
        return Ok(chosen);
    }
    // One that does not say; what it is for, its configuration will.
    let mut silent = all.iter().filter(|one| one.platform.is_none());
    if let (Some(only), None) = (silent.next(), silent.next()) {
        return Ok(only);
    }
    let message = format!("there is no image for {platform}, but there is: {}", listed(all));
    Err(Error::new(ErrorKind::NotFound, message))
}

fn with_config(blobs: &dyn Blobs, manifest: Manifest, platform: &Platform) -> Result<Resolved> {
    let config_json = read_document(blobs, &manifest.config)?;
    let config = Config::parse(&config_json)?;
    check_platform(platform, &config)?;
    let diff_ids = config.diff_ids(manifest.layers.len())?.to_vec();
    let layers = manifest.layers.into_iter().zip(diff_ids);
    let layers =
        layers.map(|(blob, diff_id)| Layer { blob, is_blob_named: true, diff_id }).collect();
    Ok(Resolved { config_json, layers })
}

/// A single image is taken for what it is, unless something else was asked for.
pub(super) fn check_platform(platform: &Platform, config: &Config) -> Result<()> {
    if !platform.is_asked || platform.fits(&config.platform) {
        return Ok(());
    }
    let found = &config.platform;
    let message = format!("there is no image for {platform}, but there is: {found}");
    Err(Error::new(ErrorKind::NotFound, message))
}

/// Those of the images of a layout that have a tag; all, if there is no choice between tags. Errors list the tags.
pub(super) fn with_tag(all: Vec<Descriptor>, tag: Option<&str>) -> Result<Vec<Descriptor>> {
    let mut tags: Vec<&str> = all.iter().filter_map(Descriptor::tag).collect();
    tags.sort_unstable();
    tags.dedup();
    let list = if tags.is_empty() { "none".into() } else { tags.join(", ") };
    match tag {
        None if tags.len() > 1 => {
            Err(Error::invalid(format!("there are several images: name one by its tag: {list}")))
        }
        None if all.is_empty() => {
            Err(Error::new(ErrorKind::NotFound, "there is no image in the layout"))
        }
        None => Ok(all),
        Some(tag) => {
            let tagged: Vec<_> = all.iter().filter(|one| one.tag() == Some(tag)).cloned().collect();
            if tagged.is_empty() {
                let message = format!("there is no image with the tag {tag:?}; tags: {list}");
                return Err(Error::new(ErrorKind::NotFound, message));
            }
            Ok(tagged)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::digest::Digest, *};
    use silt_types::Progress;
    use std::{collections::HashMap, io::Read, sync::atomic::AtomicBool};

    /// Blobs in memory.
    #[derive(Default)]
    struct Memory(HashMap<Digest, Vec<u8>>);

    impl Memory {
        fn put(&mut self, json: &str) -> String {
            let digest = Digest::of(json.as_bytes());
            self.0.insert(digest.clone(), json.as_bytes().to_vec());
            format!(r#""digest": "{digest}", "size": {}"#, json.len())
        }

        fn image(&mut self, os: &str, architecture: &str) -> String {
            let config = self.put(&format!(
                r#"{{"os": "{os}", "architecture": "{architecture}", "rootfs": {{"diff_ids": []}}}}"#
            ));
            self.put(&format!(r#"{{"config": {{{config}}}, "layers": []}}"#))
        }

        fn start(&mut self, json: &str) -> Descriptor {
            self.put(json);
            Descriptor::bare(Digest::of(json.as_bytes()), json.len() as u64)
        }
    }

    impl Blobs for Memory {
        fn document(&self, wanted: &Descriptor) -> Result<Box<dyn Read + '_>> {
            let missing = || Error::new(ErrorKind::NotFound, "no blob");
            Ok(Box::new(self.0.get(&wanted.digest).ok_or_else(missing)?.as_slice()))
        }

        fn fetch(&self, _: &Descriptor, _: &AtomicBool, _: &dyn Progress) -> Result<()> {
            Ok(())
        }

        fn layer<'a>(&'a self, _: &Descriptor, _: &'a dyn Progress) -> Result<Box<dyn Read + 'a>> {
            Err(Error::internal("no layers here"))
        }
    }

    #[test]
    fn the_platform_chooses_and_an_error_lists_what_there_is() {
        let mut blobs = Memory::default();
        let [amd, arm] = ["amd64", "arm64"].map(|arch| {
            let image = blobs.image("linux", arch);
            format!(r#"{{{image}, "platform": {{"os": "linux", "architecture": "{arch}"}}}}"#)
        });
        let nested = blobs.put(&format!(r#"{{"manifests": [{arm}]}}"#));
        let start = blobs.start(&format!(
            r#"{{"manifests": [{amd}, {{{nested}, "platform": {{"os": "linux", "architecture": "arm64"}}}}]}}"#
        ));
        let resolve = |platform| resolve(&blobs, &start, &Platform::parse(Some(platform)).unwrap());
        let text = |resolved: Resolved| String::from_utf8(resolved.config_json).unwrap();
        assert!(text(resolve("linux/amd64").unwrap()).contains("amd64"));
        assert!(text(resolve("linux/arm64/v8").unwrap()).contains("arm64"));
        let error = resolve("linux/s390x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("linux/amd64, linux/arm64"), "{error}");
    }

    #[test]
    fn a_single_image_is_taken_for_what_it_is_unless_another_is_asked_for() {
        let mut blobs = Memory::default();
        blobs.image("plan9", "mips");
        let start = blobs.0.iter().find(|(_, json)| json.starts_with(b"{\"config\"")).unwrap();
        let start = Descriptor::bare(start.0.clone(), start.1.len() as u64);
        assert!(resolve(&blobs, &start, &Platform::parse(None).unwrap()).is_ok());
        let asked = Platform::parse(Some("linux/amd64")).unwrap();
        assert!(resolve(&blobs, &start, &asked).unwrap_err().to_string().contains("plan9/mips"));
    }

    #[test]
    fn endless_indexes_and_damaged_documents_are_refused() {
        let mut blobs = Memory::default();
        let mut inner = blobs.image("linux", "amd64");
        for _ in 0..DEPTH_MAX {
            inner = blobs.put(&format!(r#"{{"manifests": [{{{inner}}}]}}"#));
        }
        let start = blobs.start(&format!(r#"{{"manifests": [{{{inner}}}]}}"#));
        let platform = Platform::parse(None).unwrap();
        assert_eq!(resolve(&blobs, &start, &platform).unwrap_err().kind(), ErrorKind::Invalid);
        blobs.0.get_mut(&start.digest).unwrap()[3] ^= 1;
        assert_eq!(resolve(&blobs, &start, &platform).unwrap_err().kind(), ErrorKind::Corrupt);
        let long = Descriptor { size: 1 << 40, ..start };
        assert_eq!(resolve(&blobs, &long, &platform).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn tags_are_listed_where_one_is_needed() {
        let tagged = |tag: &str| -> Descriptor {
            let digest = Digest::of(tag.as_bytes());
            let json = format!(
                r#"{{"digest": "{digest}", "size": 1, "annotations": {{"{}": "{tag}"}}}}"#,
                "org.opencontainers.image.ref.name"
            );
            serde_json::from_str(&json).unwrap()
        };
        let both = || vec![tagged("b"), tagged("a")];
        assert_eq!(with_tag(both(), Some("a")).unwrap(), [tagged("a")]);
        assert!(with_tag(both(), None).unwrap_err().to_string().contains("a, b"));
        assert!(with_tag(both(), Some("c")).unwrap_err().to_string().contains("a, b"));
        assert_eq!(with_tag(vec![tagged("a")], None).unwrap(), [tagged("a")]);
        assert!(with_tag(Vec::new(), None).is_err());
    }
}
