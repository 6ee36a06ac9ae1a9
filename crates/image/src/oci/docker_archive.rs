//! What `docker save` writes: a tar with `manifest.json`, which names configuration and layers by file names.
//!
//! Layers have no digest of their own there; that of their content, in the configuration, is checked instead.

use super::{
    archive::Archive,
    blobs::{Blobs, Shown},
    digest::Digest,
    documents::{Config, Descriptor, parse},
    platform::Platform,
    resolve::{Layer, Resolved, check_platform},
};
use crate::stream::{Packed, peek};
use serde::Deserialize;
use silt_types::{Context as _, Error, ErrorKind, Progress, Result};
use std::{collections::HashMap, io::Read, ops::Range, path::Path};

/// An archive of docker, and where in it the layers of the image lie.
pub(super) struct DockerArchive {
    archive: Archive,
    layers: HashMap<Digest, Range<u64>>,
}

/// An image in `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl DockerArchive {
    /// The image of this name in the archive at `path`; without a name the only one. `NotFound` or `Invalid`, with a list of
    /// names, if that is none or not enough.
    pub(super) fn open(
        path: &Path,
        name: Option<&str>,
        platform: &Platform,
    ) -> Result<(DockerArchive, Resolved)> {
        let archive = Archive::open(path)?;
        let saved: Vec<Saved> = parse(&archive.top_file("manifest.json")?, "manifest.json")?;
        let saved = choose(saved, name)?;
        let config_json = read_config(&archive, &saved.config)?;
        let config = Config::parse(&config_json)?;
        check_platform(platform, &config)?;
        let names = saved.layers.unwrap_or_default();
        let (mut layers, mut places) = (Vec::new(), HashMap::new());
        for (diff_id, name) in config.diff_ids(names.len())?.iter().zip(&names) {
            let bytes = archive.find(name)?;
            let (head, _) = peek(archive.read(bytes.clone())).context(|| name.clone())?;
            layers.push(Layer {
                blob: Descriptor::bare(diff_id.clone(), bytes.end - bytes.start),
                is_blob_named: Packed::of(&head).is_none(),
                diff_id: diff_id.clone(),
            });
            places.insert(diff_id.clone(), bytes);
        }
        Ok((DockerArchive { archive, layers: places }, Resolved { config_json, layers }))
    }
}

impl Blobs for DockerArchive {
    fn document(&self, wanted: &Descriptor) -> Result<Box<dyn Read + '_>> {
        Err(Error::internal(format!("{} was asked for of an archive of docker", wanted.digest)))
    }

    fn layer<'a>(
        &'a self,
        layer: &Descriptor,
        progress: &'a dyn Progress,
    ) -> Result<Box<dyn Read + 'a>> {
        let missing = || Error::internal(format!("{} is no layer of it", layer.digest));
        let bytes = self.layers.get(&layer.digest).ok_or_else(missing)?;
        Ok(Box::new(Shown { reader: self.archive.read(bytes.clone()), progress }))
    }
}

/// Reads bytes as a `manifest.json`, and what it says as it would be used.
pub(super) fn read_manifest(bytes: &[u8]) {
    if let Ok(saved) = parse::<Vec<Saved>>(bytes, "manifest.json") {
        let _ = choose(saved, Some("app:1"));
    }
}

/// Reads a configuration, whose file is named by its digest: `HEX.json`, since docker 25 `blobs/sha256/HEX`.
fn read_config(archive: &Archive, name: &str) -> Result<Vec<u8>> {
    let json = archive.top_file(name)?;
    let last = name.rsplit('/').next().unwrap_or_default();
    let hex = last.strip_suffix(".json").unwrap_or(last);
    if let Ok(digest) = Digest::parse(&format!("sha256:{hex}")) {
        digest.check("image configuration", &json)?;
    }
    Ok(json)
}

fn choose(all: Vec<Saved>, name: Option<&str>) -> Result<Saved> {
    let mut names: Vec<String> =
        all.iter().flat_map(|saved| saved.repo_tags.iter().flatten().cloned()).collect();
    names.sort();
    let list = if names.is_empty() { "none".into() } else { names.join(", ") };
    let count = all.len();
    let has_name = |saved: &Saved, wanted: &str| {
        saved.repo_tags.iter().flatten().any(|found| is_named(found, wanted))
    };
    let mut fitting = all.into_iter().filter(|saved| name.is_none_or(|name| has_name(saved, name)));
    match (fitting.next(), fitting.next(), name) {
        (Some(only), None, _) => Ok(only),
        (Some(_), Some(_), _) => {
            let message = format!("the archive has {count} images: name one of {list}");
            Err(Error::invalid(message))
        }
        (None, _, Some(name)) => {
            let message = format!("there is no image {name:?} in the archive; names: {list}");
            Err(Error::new(ErrorKind::NotFound, message))
        }
        (None, _, None) => Err(Error::new(ErrorKind::NotFound, "there is no image in the archive")),
    }
}

/// Whether an image called `found` is meant by `wanted`: the whole name, without what docker.io may be left out of, or the tag
/// alone.
fn is_named(found: &str, wanted: &str) -> bool {
    let short = |name: &str| {
        let name = name.strip_prefix("docker.io/").unwrap_or(name);
        let name = name.strip_prefix("library/").unwrap_or(name);
        let has_tag = name.rsplit('/').next().is_some_and(|last| last.contains(':'));
        if has_tag { name.to_owned() } else { format!("{name}:latest") }
    };
    let tag = found.rsplit('/').next().and_then(|last| last.split_once(':'));
    short(found) == short(wanted) || tag.is_some_and(|(_, tag)| tag == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(names: &[&str]) -> Saved {
        let repo_tags = Some(names.iter().map(|name| (*name).to_owned()).collect());
        Saved { config: names.concat(), repo_tags, layers: None }
    }

    #[test]
    fn images_go_by_their_names_and_an_error_lists_them() {
        let all = || vec![saved(&["debian:12", "debian:bookworm"]), saved(&["localhost/a:b"])];
        let found = |name| choose(all(), Some(name)).map(|saved| saved.config);
        for name in ["debian:12", "docker.io/library/debian:12", "12", "bookworm"] {
            assert_eq!(found(name).unwrap(), "debian:12debian:bookworm", "{name}");
        }
        assert_eq!(found("b").unwrap(), "localhost/a:b");
        for name in [None, Some("debian"), Some("13")] {
            let error = choose(all(), name).err().unwrap().to_string();
            assert!(error.contains("debian:12, debian:bookworm, localhost/a:b"), "{error}");
        }
        assert!(choose(vec![saved(&[])], None).is_ok());
        assert!(choose(Vec::new(), None).is_err());
    }
}
