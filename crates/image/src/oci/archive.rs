//! Image layouts in a tar, and what `docker save` writes: members are found once, by their offsets, and read where they lie.
//!
//! Nothing is unpacked to disk. Links between members are followed, as old versions of docker make them for layers that
//! are there twice.

use super::{
    blobs::{Blobs, Shown, open_regular, read_limited},
    digest::Digest,
    documents::Descriptor,
};
use crate::{
    stream::{Packed, peek},
    tar::{MemberKind, TarReader},
};
use silt_types::{Context as _, Error, ErrorKind, Progress, Result};
use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek as _},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::Path,
};

/// Members of an archive of images: a manifest, and two for each layer.
const MEMBERS_MAX: usize = 1 << 16;
/// Links from member to member that are followed.
const LINKS_MAX: usize = 8;

/// A tar whose members are read by name.
pub(super) struct Archive {
    file: File,
    members: HashMap<Vec<u8>, Found>,
}

enum Found {
    /// Bytes of the archive.
    Content(Range<u64>),
    /// Another member.
    Link(Vec<u8>),
}

impl Archive {
    /// Finds the members of the archive at `path`. `Unsupported` for one that is compressed: it cannot be read but in order.
    pub(super) fn open(path: &Path) -> Result<Archive> {
        let mut file = open_regular(path)?;
        let (head, _) = peek(&file).context(|| "cannot read the archive".into())?;
        if Packed::of(&head).is_some() {
            let message = "the archive is compressed: decompress it first";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        file.rewind().context(|| "cannot read the archive".into())?;
        let members = find_members(&file)?;
        Ok(Archive { file, members })
    }

    /// The bytes of a member. `NotFound` if there is none of this name.
    pub(super) fn find(&self, name: &str) -> Result<Range<u64>> {
        let mut at = plain(name.as_bytes());
        for _ in 0..LINKS_MAX {
            match self.members.get(&at) {
                Some(Found::Content(bytes)) => return Ok(bytes.clone()),
                Some(Found::Link(target)) => at = target.clone(),
                None => break,
            }
        }
        Err(Error::new(ErrorKind::NotFound, format!("the archive has no file {name:?}")))
    }

    /// Bytes of the archive, as found.
    pub(super) fn read(&self, bytes: Range<u64>) -> impl Read + '_ {
        Part { file: &self.file, bytes }
    }

    /// A document at the top of it.
    pub(super) fn top_file(&self, name: &str) -> Result<Vec<u8>> {
        read_limited(self.read(self.find(name)?), name)
    }

    fn blob(&self, digest: &Digest) -> Result<impl Read + '_> {
        let (algorithm, hex) = digest.parts();
        Ok(self.read(self.find(&format!("blobs/{algorithm}/{hex}"))?))
    }
}

/// The blobs of an image layout in a tar.
impl Blobs for Archive {
    fn document(&self, wanted: &Descriptor) -> Result<Box<dyn Read + '_>> {
        Ok(Box::new(self.blob(&wanted.digest)?))
    }

    fn layer<'a>(
        &'a self,
        layer: &Descriptor,
        progress: &'a dyn Progress,
    ) -> Result<Box<dyn Read + 'a>> {
        Ok(Box::new(Shown { reader: self.blob(&layer.digest)?, progress }))
    }
}

fn find_members(file: &File) -> Result<HashMap<Vec<u8>, Found>> {
    let mut reader = TarReader::new(file, u64::MAX);
    let mut members = HashMap::new();
    while let Some(member) = reader.next()? {
        let folder = member.path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let found = match member.kind {
            MemberKind::File => Found::Content(reader.skip_content()?),
            // A symbolic link is relative to its folder, a hard link to the archive.
            MemberKind::Symlink(target) => {
                Found::Link(plain(&[&member.path[..folder], &target].concat()))
            }
            MemberKind::HardLink(target) => Found::Link(plain(&target)),
            _ => continue,
        };
        if members.len() == MEMBERS_MAX {
            let message = format!("the archive has more than {MEMBERS_MAX} files");
            return Err(Error::invalid(message));
        }
        members.insert(plain(&member.path), found);
    }
    Ok(members)
}

/// A path without what does not change where it leads.
fn plain(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    names.join(&b'/')
}

/// A range of a file.
struct Part<'a> {
    file: &'a File,
    bytes: Range<u64>,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.bytes.end.saturating_sub(self.bytes.start);
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let len = self.file.read_at(&mut buffer[..want], self.bytes.start)?;
        self.bytes.start += len as u64;
        Ok(len)
    }
}
