//! Names of images, volumes and snapshots.

use crate::{Error, Result};
use std::{fmt, str::FromStr};

/// The name of an image or a volume: 1 to 128 of the bytes `A-Z a-z 0-9 . _ -`, not starting with `-`, and neither
/// `.` nor `..`. So it is safe as a file name, on a command line and before the reserved `@`, `:` and `/`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// Longest name in bytes. With a suffix it still fits the 255 bytes that file systems give a name.
    pub const LEN_MAX: usize = 128;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Name> {
        let why = if text.is_empty() {
            "is empty"
        } else if text.len() > Name::LEN_MAX {
            "is longer than 128 bytes"
        } else if !text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        {
            "holds something else than letters, digits, '.', '_' and '-'"
        } else if text.starts_with('-') {
            "starts with '-'"
        } else if text == "." || text == ".." {
            "is reserved"
        } else {
            return Ok(Name(text.to_owned()));
        };
        Err(Error::invalid(format!("bad name {text:?}: it {why}")))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// The name of a disk: of an image or a volume, or of a snapshot of a volume, which is written `volume@snapshot`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DiskName {
    /// The image or volume.
    pub name: Name,
    /// The snapshot of it, if one is meant.
    pub snapshot: Option<Name>,
}

impl From<Name> for DiskName {
    fn from(name: Name) -> DiskName {
        DiskName { name, snapshot: None }
    }
}

impl FromStr for DiskName {
    type Err = Error;

    fn from_str(text: &str) -> Result<DiskName> {
        match text.split_once('@') {
            None => text.parse().map(|name: Name| name.into()),
            Some((name, snapshot)) => {
                Ok(DiskName { name: name.parse()?, snapshot: Some(snapshot.parse()?) })
            }
        }
    }
}

impl fmt::Display for DiskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.snapshot {
            None => self.name.fmt(f),
            Some(snapshot) => write!(f, "{}@{snapshot}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn names_of_disks_read_back_and_each_part_is_a_name() {
        for good in ["vm1", "vm1@before", "a.b@c-d"] {
            assert_eq!(good.parse::<DiskName>().unwrap().to_string(), good);
        }
        for bad in ["", "@", "vm1@", "@before", "vm1@a@b", "vm1@..", "vm1@-a", "vm1@a/b"] {
            assert_eq!(bad.parse::<DiskName>().unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
        }
    }

    #[test]
    fn names_that_could_escape_or_confuse_are_invalid() {
        for good in ["a", "debian-12.5_x", "...", &"n".repeat(128), "0"] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "/",
            "a@b",
            "a:b",
            "a\nb",
            "a\0",
            "-a",
            "é",
            "a b",
            &"n".repeat(129),
        ] {
            assert_eq!(bad.parse::<Name>().unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
        }
    }
}
