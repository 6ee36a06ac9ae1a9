//! What an image can be built from, and how it is named.

use crate::tar;
use silt_types::{DiskName, Error, Result};
use std::{
    ffi::OsStr,
    fmt,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::PathBuf,
};

/// Where an image comes from. [`Source::parse`] says how it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A folder, a file or a block device.
    Path(PathBuf),
    /// Standard input.
    Stdin,
    /// An image layout of OCI in a folder: `oci:DIR[:TAG]`.
    OciLayout(PathBuf, Option<String>),
    /// The same in a tar: `oci-archive:FILE[:TAG]`.
    OciArchive(PathBuf, Option<String>),
    /// What `docker save` writes: `docker-archive:FILE[:NAME]`; the name is one of an image, with its tag, or a tag alone.
    DockerArchive(PathBuf, Option<String>),
    /// An image in a registry: `docker://HOST/REPOSITORY[:TAG|@DIGEST]`, here without the scheme.
    Registry(String),
    /// Files on a disk of the store: `NAME:/PATH`.
    Stored(DiskName, PathBuf),
}

/// What the bytes of a [`Source::Path`] or [`Source::Stdin`] are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A folder.
    Directory,
    /// A tar, compressed or not.
    Tar,
    /// A disk, byte for byte.
    Raw,
    /// A disk as QEMU keeps it.
    Qcow2,
}

impl Format {
    /// Every format, with what it is called.
    pub const ALL: [(&'static str, Format); 4] = [
        ("directory", Format::Directory),
        ("tar", Format::Tar),
        ("raw", Format::Raw),
        ("qcow2", Format::Qcow2),
    ];

    /// What bytes that begin like this are, once decompressed: a disk, byte for byte, unless something else is found.
    pub(crate) fn of(head: &[u8]) -> Format {
        if head.starts_with(b"QFI\xFB") {
            Format::Qcow2
        } else if tar::begins_archive(head) {
            Format::Tar
        } else {
            Format::Raw
        }
    }

    /// The format of this name. `Invalid` if there is none.
    pub fn parse(name: &str) -> Result<Format> {
        let found = Format::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, format)| *format).ok_or_else(|| {
            let known = Format::ALL.map(|(known, _)| known).join(", ");
            Error::invalid(format!("{name:?} is no kind of source: there are {known}"))
        })
    }
}

impl Source {
    /// How each is written, and what it is.
    pub const FORMS: [(&'static str, &'static str); 9] = [
        ("DIR", "a folder"),
        (
            "FILE",
            "a tar (old, ustar, GNU, pax), a raw disk, a qcow2 disk; tars and raw disks also in gzip, zstd, xz",
        ),
        ("DEVICE", "a block device, byte for byte"),
        ("-", "standard input: any of the formats of FILE"),
        ("NAME:/PATH", "a folder on an image, a snapshot or a volume of the store"),
        ("oci:DIR[:TAG]", "a container image in an OCI layout"),
        ("oci-archive:FILE[:TAG]", "the same in a tar"),
        ("docker-archive:FILE[:TAG]", "what docker save writes"),
        ("docker://HOST/REPO[:TAG|@DIGEST]", "a container image in a registry"),
    ];

    /// Reads a source as the command line has it. Whatever has none of the forms above is a path; one that looks like one of
    /// them can be written with `./` before it. Nothing is looked at but, for `NAME:/PATH`, whether there is a file of
    /// that name.
    pub fn parse(text: &OsStr) -> Result<Source> {
        let bytes = text.as_bytes();
        if bytes == b"-" {
            return Ok(Source::Stdin);
        }
        let after = |prefix: &str| bytes.strip_prefix(prefix.as_bytes());
        let cut_at = |rest: &[u8], cut: Option<usize>| -> Result<(PathBuf, Option<String>)> {
            let (path, tag) =
                cut.map_or((rest, None), |cut| (&rest[..cut], Some(&rest[cut + 1..])));
            let tag = tag.map(|tag| String::from_utf8(tag.to_vec())).transpose();
            let tag = tag.map_err(|_| Error::invalid(format!("bad tag in {}", text.display())))?;
            if path.is_empty() || tag.as_ref().is_some_and(String::is_empty) {
                return Err(Error::invalid(format!("{} names no image", text.display())));
            }
            Ok((path_of(path), tag))
        };
        let tagged = |rest: &[u8]| {
            // A tag has no slash, so what follows a colon with one belongs to the path.
            let cut = rest.iter().rposition(|byte| *byte == b':');
            cut_at(rest, cut.filter(|cut| !rest[*cut..].contains(&b'/')))
        };
        // A name may have colons and slashes.
        let named = |rest: &[u8]| cut_at(rest, rest.iter().position(|byte| *byte == b':'));
        if let Some(rest) = after("oci:") {
            return tagged(rest).map(|(path, tag)| Source::OciLayout(path, tag));
        }
        if let Some(rest) = after("oci-archive:") {
            return tagged(rest).map(|(path, tag)| Source::OciArchive(path, tag));
        }
        if let Some(rest) = after("docker-archive:") {
            return named(rest).map(|(path, name)| Source::DockerArchive(path, name));
        }
        if let Some(rest) = after("docker://") {
            let reference = String::from_utf8(rest.to_vec())
                .map_err(|_| Error::invalid(format!("bad reference {}", text.display())))?;
            return Ok(Source::Registry(reference));
        }
        if let Some(cut) = bytes.windows(2).position(|pair| pair == b":/")
            && let Ok(name) = std::str::from_utf8(&bytes[..cut])
            && let Ok(name) = name.parse::<DiskName>()
            && !PathBuf::from(text).exists()
        {
            return Ok(Source::Stored(name, path_of(&bytes[cut + 1..])));
        }
        Ok(Source::Path(text.into()))
    }
}

fn path_of(bytes: &[u8]) -> PathBuf {
    std::ffi::OsString::from_vec(bytes.to_vec()).into()
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tagged = |f: &mut fmt::Formatter<'_>, scheme, path: &PathBuf, tag: &Option<String>| {
            write!(f, "{scheme}:{}", path.display())?;
            tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))
        };
        match self {
            Source::Path(path) => write!(f, "{}", path.display()),
            Source::Stdin => f.write_str("standard input"),
            Source::OciLayout(path, tag) => tagged(f, "oci", path, tag),
            Source::OciArchive(path, tag) => tagged(f, "oci-archive", path, tag),
            Source::DockerArchive(path, tag) => tagged(f, "docker-archive", path, tag),
            Source::Registry(reference) => write!(f, "docker://{reference}"),
            Source::Stored(name, path) => write!(f, "{name}:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_as_documented() {
        let parse = |text: &str| Source::parse(OsStr::new(text)).unwrap();
        let layout =
            |path: &str, tag: Option<&str>| Source::OciLayout(path.into(), tag.map(Into::into));
        assert_eq!(parse("-"), Source::Stdin);
        assert_eq!(parse("./rootfs"), Source::Path("./rootfs".into()));
        assert_eq!(parse("oci:dir"), layout("dir", None));
        assert_eq!(parse("oci:dir:1.0"), layout("dir", Some("1.0")));
        assert_eq!(parse("oci:a:b/c"), layout("a:b/c", None));
        let archive = Source::DockerArchive("f.tar".into(), Some("localhost/a:b".into()));
        assert_eq!(parse("docker-archive:f.tar:localhost/a:b"), archive);
        assert_eq!(parse("docker://h:5000/a/b:t"), Source::Registry("h:5000/a/b:t".into()));
        let stored = |name: &str, path: &str| Source::Stored(name.parse().unwrap(), path.into());
        assert_eq!(parse("debian:/root"), stored("debian", "/root"));
        assert_eq!(parse("vm1@before:/a:/b"), stored("vm1@before", "/a:/b"));
        assert_eq!(parse("bad name:/root"), Source::Path("bad name:/root".into()));
        for bad in ["oci:", "oci::tag", "oci-archive:x:", "docker-archive:"] {
            assert!(Source::parse(OsStr::new(bad)).is_err(), "{bad}");
        }
        for text in ["oci:dir:1.0", "docker-archive:f", "docker://h/r", "debian:/root", "./x"] {
            assert_eq!(parse(text).to_string(), text);
        }
    }
}
