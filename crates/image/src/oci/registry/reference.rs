//! What an image is called in a registry: `HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]`, and what is meant where parts are left out.

use crate::oci::digest::Digest;
use silt_types::{Error, Result};
use std::fmt;

/// What docker.io serves images as.
const DOCKER_IO: &str = "docker.io";
const DOCKER_IO_SERVER: &str = "registry-1.docker.io";

/// An image in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// Host, and port if one was given.
    pub(crate) host: String,
    pub(crate) repository: String,
    tag: String,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads a reference. Without a host it is docker.io's, without a tag `latest`. `Invalid` for what is none.
    pub(crate) fn parse(text: &str) -> Result<Reference> {
        let bad = |why: &str| Error::invalid(format!("docker://{text} names no image: {why}"));
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(Digest::parse(digest)?)),
            None => (text, None),
        };
        let (host, path) = match name.split_once('/') {
            Some((host, path)) if is_host(host) => (host, path),
            _ => (DOCKER_IO, name),
        };
        let (path, tag) = path.split_once(':').unwrap_or((path, "latest"));
        if !is_tag(tag) {
            return Err(bad("its tag is none"));
        }
        if path.len() > 255 || !path.split('/').all(is_component) {
            return Err(bad("its repository is none: lower case letters, digits and . _ - / are"));
        }
        if !host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]_".contains(&b)) {
            return Err(bad("its host is none"));
        }
        let is_official = host == DOCKER_IO && !path.contains('/');
        let repository = if is_official { format!("library/{path}") } else { path.to_owned() };
        Ok(Reference { host: host.to_owned(), repository, tag: tag.to_owned(), digest })
    }

    /// The manifest that is asked for: a digest if one was given, else the tag.
    pub(crate) fn manifest(&self) -> &str {
        self.digest.as_ref().map_or(&self.tag, Digest::as_str)
    }

    /// The digest, if one was given.
    pub(crate) fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Host and port of the server.
    pub(crate) fn server(&self) -> &str {
        if self.host == DOCKER_IO { DOCKER_IO_SERVER } else { &self.host }
    }

    /// Whether the server is this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        let host = match self.host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => self.host.split(':').next().unwrap_or_default(),
        };
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => write!(f, ":{}", self.tag),
        }
    }
}

/// The first part of a name is a host where it could not be a repository, as container engines have it.
fn is_host(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':', '['])
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=128).contains(&tag.len())
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|byte| is_word(byte) || byte == b'.' || byte == b'-')
}

fn is_component(part: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = part.bytes().next().zip(part.bytes().last());
    ends.is_some_and(|(first, last)| is_word(first) && is_word(last))
        && part.bytes().all(|byte| is_word(byte) || b"._-".contains(&byte))
        && !part.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_docker_io_s() {
        let digest = Digest::of(b"");
        for (text, host, repository, manifest) in [
            ("debian", "docker.io", "library/debian", "latest"),
            ("grafana/grafana:11", "docker.io", "grafana/grafana", "11"),
            ("localhost/a:b", "localhost", "a", "b"),
            ("h:5000/a/b", "h:5000", "a/b", "latest"),
            ("[::1]:5000/a", "[::1]:5000", "a", "latest"),
            (&format!("quay.io/a:b@{digest}"), "quay.io", "a", digest.as_str()),
        ] {
            let found = Reference::parse(text).unwrap();
            assert_eq!(
                (&*found.host, &*found.repository, found.manifest()),
                (host, repository, manifest)
            );
        }
        assert_eq!(Reference::parse("debian").unwrap().server(), "registry-1.docker.io");
        let loopback = |text: &str| Reference::parse(text).unwrap().is_loopback();
        assert!(
            ["localhost/a", "localhost:5/a", "127.0.0.2:5/a", "[::1]:5/a"]
                .into_iter()
                .all(loopback)
        );
        assert!(!["debian", "localhost.example.com/a", "10.0.0.1:5/a"].into_iter().any(loopback));
    }

    #[test]
    fn what_names_no_image_is_refused() {
        for bad in [
            "",
            "A",
            "a:",
            "h:5/../x",
            "h:5/a/../b",
            "h:5/",
            "a@sha256:1",
            "a b",
            "h.x/a?b",
            "a:b:c",
            "u@h.x/a",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad}");
        }
    }
}
