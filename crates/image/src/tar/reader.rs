//! The members of a tar, one after the other from a stream: old, ustar, GNU and pax.
//!
//! Fields are decoded by the crate `tar`; what follows what is ours, because headers from strangers need limits: nothing is
//! kept that is longer than its limit here, and no length is believed before the bytes came. Not for where members
//! belong in a hierarchy: `placing` knows.
//!
//! Sources: POSIX.1-2017, pax; GNU tar manual, "Basic Tar Format", "GNU Extensions", "Storing Sparse Files".

use super::{
    acl,
    pax::Pax,
    sparse::{RUNS_MAX, SparseMap, read_map},
};
use crate::stream::fill;
use silt_ext4::{Metadata, Timestamp};
use silt_types::{Context as _, Error, ErrorKind, Result};
use std::{
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
};
use tar::{EntryType, GnuExtSparseHeader, Header};

/// Records of the archive.
const BLOCK: usize = 512;
/// The longest header of extensions. Linux allows 64 KiB for an attribute and for all names of them together.
const EXTENSION_LEN_MAX: u64 = 4 << 20;
/// The longest name in a header of its own.
const NAME_LEN_MAX: u64 = 1 << 20;

/// One member, without its content.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// Its name, as it stands there.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: MemberKind,
    pub(crate) metadata: Metadata,
    /// Full names and values, as `getxattr(2)` gives them; each name once.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Length of a file, holes and all; 0 for everything else.
    pub(crate) size_bytes: u64,
}

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MemberKind {
    Directory,
    File,
    /// To this target.
    Symlink(Vec<u8>),
    /// One more name of the member of this name.
    HardLink(Vec<u8>),
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
}

/// Reads an archive. After [`TarReader::next`] gave a file, [`TarReader::content`] gives its content; what is not asked for
/// is passed over.
pub(crate) struct TarReader<R> {
    input: Input<R>,
    global: Pax,
    /// Where the content of the member belongs in its file, and how long it is in the archive.
    runs: Vec<Range<u64>>,
    content_left: u64,
    padding: u64,
}

impl<R: Read> TarReader<R> {
    /// An archive of which at most `len_bytes_max` are read: more is `Invalid`.
    pub(crate) fn new(reader: R, len_bytes_max: u64) -> TarReader<R> {
        let input = Input { reader, position: 0, len_bytes_max };
        TarReader { input, global: Pax::default(), runs: Vec::new(), content_left: 0, padding: 0 }
    }

    /// The next member; `None` behind the last one, once everything that follows was read too. `Invalid`, naming the place,
    /// for what is no tar, was cut off, or is longer than allowed; `Unsupported` for parts of another archive and the like.
    pub(crate) fn next(&mut self) -> Result<Option<Member>> {
        self.pass_over()?;
        let mut pax = self.global.clone();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            let position = self.input.position;
            let at = || format!("in the archive at byte {position}");
            let Some(header) = self.header().context(at)? else {
                return Ok(None);
            };
            let size = header.entry_size().map_err(|_| Error::invalid("its length cannot be read"));
            let size = size.context(at)?;
            match header.entry_type() {
                EntryType::XHeader => {
                    pax.add(&self.extension(size, EXTENSION_LEN_MAX).context(at)?)
                }
                EntryType::XGlobalHeader => {
                    let header = self.extension(size, EXTENSION_LEN_MAX).context(at)?;
                    self.global.add(&header).and_then(|()| pax.add(&header))
                }
                EntryType::GNULongName => {
                    long_name = Some(text(self.extension(size, NAME_LEN_MAX).context(at)?));
                    Ok(())
                }
                EntryType::GNULongLink => {
                    long_link = Some(text(self.extension(size, NAME_LEN_MAX).context(at)?));
                    Ok(())
                }
                // The label of a volume: of no file.
                kind if kind.as_byte() == b'V' => self.extension(size, NAME_LEN_MAX).map(drop),
                _ => {
                    pax.path = pax.sparse.name.take().or(pax.path).or(long_name);
                    pax.link = pax.link.or(long_link);
                    return self.member(&header, size, pax).context(at).map(Some);
                }
            }
            .context(at)?;
        }
    }

    /// The header at the next block; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        let bytes = header.as_mut_bytes();
        match self.input.read_block(bytes)? {
            Found::Nothing => {
                return Err(Error::invalid("it was cut off: its end mark is missing"));
            }
            Found::Zeros => {
                return match self.input.read_block(bytes)? {
                    Found::Data => {
                        Err(Error::invalid("a block of zeros where a member should begin"))
                    }
                    // Some end with one block, and some pad with more than two.
                    Found::Nothing | Found::Zeros => self.input.drain().map(|()| None),
                };
            }
            Found::Data => {}
        }
        if !checksum_holds(&header) {
            return Err(Error::invalid(
                "no member begins here: the checksum of its header is wrong",
            ));
        }
        Ok(Some(header))
    }

    fn extension(&mut self, len: u64, len_max: u64) -> Result<Vec<u8>> {
        if len > len_max {
            return Err(Error::invalid(format!("an extended header of {len} bytes")));
        }
        let mut bytes = vec![0; len as usize];
        self.input.read_exact(&mut bytes)?;
        self.input.skip(padding(len))?;
        Ok(bytes)
    }

    fn member(&mut self, header: &Header, size: u64, pax: Pax) -> Result<Member> {
        let path = pax.path.clone().unwrap_or_else(|| header.path_bytes().into_owned());
        let name = String::from_utf8_lossy(&path).into_owned();
        self.describe(header, size, pax, path).context(|| format!("{name:?}"))
    }

    fn describe(&mut self, header: &Header, size: u64, pax: Pax, path: Vec<u8>) -> Result<Member> {
        let device = || -> Result<(u32, u32)> {
            let numbers = (header.device_major(), header.device_minor());
            match numbers {
                (Ok(Some(major)), Ok(Some(minor))) => Ok((major, minor)),
                _ => Err(Error::invalid("its device number cannot be read")),
            }
        };
        let target = || {
            let link = header.link_name_bytes().map(|link| link.into_owned());
            let link = pax.link.clone().or(link).filter(|link| !link.is_empty());
            link.ok_or_else(|| Error::invalid("it links to nothing"))
        };
        // Before there was a kind for them, the name told folders.
        let is_folder = path.ends_with(b"/");
        let kind = match header.entry_type() {
            EntryType::Directory => MemberKind::Directory,
            EntryType::Regular | EntryType::Continuous if is_folder => MemberKind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => MemberKind::File,
            EntryType::Symlink => MemberKind::Symlink(target()?),
            EntryType::Link => MemberKind::HardLink(target()?),
            EntryType::Char => {
                let (major, minor) = device()?;
                MemberKind::CharDevice { major, minor }
            }
            EntryType::Block => {
                let (major, minor) = device()?;
                MemberKind::BlockDevice { major, minor }
            }
            EntryType::Fifo => MemberKind::Fifo,
            // A folder with a list of what was in it, which is passed over.
            other if other.as_byte() == b'D' => MemberKind::Directory,
            other => {
                let what = format!("a member of kind {:?}", char::from(other.as_byte()));
                return Err(Error::new(ErrorKind::Unsupported, what));
            }
        };
        let metadata = metadata(header, &pax)?;
        let has_content = kind == MemberKind::File || header.entry_type().as_byte() == b'D';
        // Whatever a link, folder or device says of its length, no content follows.
        let stored = if has_content { pax.size_bytes.unwrap_or(size) } else { 0 };
        (self.content_left, self.padding) = (stored, padding(stored));
        self.runs.clear();
        let size_bytes = match kind {
            MemberKind::File => self.find_runs(header, &pax)?,
            _ => 0,
        };
        Ok(Member { path, kind, metadata, xattrs: xattrs(pax)?, size_bytes })
    }

    /// Learns where the content belongs. Answers the length of the file.
    fn find_runs(&mut self, header: &Header, pax: &Pax) -> Result<u64> {
        let stored = self.content_left;
        let sparse = &pax.sparse;
        let (map, size_bytes) = if header.entry_type() == EntryType::GNUSparse {
            self.old_map(header)?
        } else {
            match sparse.real_size_bytes {
                Some(size) if sparse.map_in_content => {
                    let input = &mut self.input;
                    let next = || {
                        let mut block = [0; BLOCK];
                        input.read_exact(&mut block).map(|()| block)
                    };
                    let (map, taken) = read_map(next, stored)?;
                    self.content_left -= taken;
                    (map, size)
                }
                Some(size) => {
                    let mut map = SparseMap::default();
                    map.push_pairs(&sparse.map)?;
                    (map, size)
                }
                None => (SparseMap::whole(stored), stored),
            }
        };
        self.runs = map.finish(size_bytes, self.content_left)?;
        Ok(size_bytes)
    }

    /// The map of the old GNU format: four runs in the header, 21 in each block that follows it.
    fn old_map(&mut self, header: &Header) -> Result<(SparseMap, u64)> {
        let bad = || Error::invalid("its map of holes cannot be read");
        let gnu = header.as_gnu().ok_or_else(bad)?;
        let size_bytes = gnu.real_size().map_err(|_| bad())?;
        let mut map = SparseMap::default();
        let mut add = |runs: &[tar::GnuSparseHeader]| -> Result<()> {
            for run in runs.iter().filter(|run| !run.is_empty()) {
                map.push(run.offset().map_err(|_| bad())?, run.length().map_err(|_| bad())?)?;
            }
            Ok(())
        };
        add(&gnu.sparse)?;
        let (mut more, mut blocks) = (gnu.is_extended(), 0);
        while more {
            let mut extension = GnuExtSparseHeader::new();
            self.input.read_exact(extension.as_mut_bytes())?;
            add(extension.sparse())?;
            more = extension.is_extended();
            blocks += 1;
            if blocks > RUNS_MAX / 21 {
                return Err(bad());
            }
        }
        Ok((map, size_bytes))
    }

    /// Hands out where the content of the file belongs, run by run; `take` reads each from what it is given, whole.
    pub(crate) fn content(
        &mut self,
        mut take: impl FnMut(Range<u64>, &mut dyn FnMut(&mut [u8]) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        for run in std::mem::take(&mut self.runs) {
            let (input, left) = (&mut self.input, &mut self.content_left);
            take(run, &mut |buffer| {
                *left = left.saturating_sub(buffer.len() as u64);
                input.read_exact(buffer)
            })?;
        }
        Ok(())
    }

    fn pass_over(&mut self) -> Result<()> {
        let rest = std::mem::take(&mut self.content_left) + std::mem::take(&mut self.padding);
        self.input.skip(rest)
    }
}

impl<R: Read + Seek> TarReader<R> {
    /// Passes over the content of the file without reading it. Answers where in the archive it lies. `Unsupported` for a
    /// file with holes, whose content lies apart.
    pub(crate) fn skip_content(&mut self) -> Result<Range<u64>> {
        let start = self.input.position;
        let len = std::mem::take(&mut self.content_left);
        let runs = std::mem::take(&mut self.runs);
        if runs.iter().any(|run| *run != (0..len)) {
            return Err(Error::new(ErrorKind::Unsupported, "a file with holes in such an archive"));
        }
        let skipped = len.checked_add(std::mem::take(&mut self.padding));
        let end = skipped.and_then(|skipped| start.checked_add(skipped));
        let end = end.ok_or_else(|| Error::invalid("the archive was cut off here"))?;
        self.input.reader.seek(SeekFrom::Start(end)).map_err(unreadable)?;
        self.input.position = end;
        Ok(start..start + len)
    }
}

/// What stands behind `len` bytes up to the next block.
fn padding(len: u64) -> u64 {
    len.wrapping_neg() % BLOCK as u64
}

/// Up to the zero that ends it.
fn text(mut bytes: Vec<u8>) -> Vec<u8> {
    let len = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(len);
    bytes
}

/// Some early programs summed signed bytes.
fn checksum_holds(header: &Header) -> bool {
    let sum = |value: fn(u8) -> i64| {
        let bytes = header.as_bytes().iter().enumerate();
        bytes.map(|(n, byte)| if (148..156).contains(&n) { 32 } else { value(*byte) }).sum::<i64>()
    };
    let stored = header.cksum().map(i64::from);
    stored
        .is_ok_and(|stored| stored == sum(i64::from) || stored == sum(|byte| i64::from(byte as i8)))
}

/// Whether these bytes, the first of a file, begin an archive.
pub(crate) fn begins_archive(head: &[u8]) -> bool {
    head.len() >= BLOCK
        && head[..BLOCK].iter().any(|byte| *byte != 0)
        && checksum_holds(Header::from_byte_slice(&head[..BLOCK]))
}

fn metadata(header: &Header, pax: &Pax) -> Result<Metadata> {
    let bad = |what: &str| Error::invalid(format!("its {what} cannot be read"));
    let id = |said: Option<u64>, field: io::Result<u64>, what: &str| -> Result<u32> {
        let id = said.map_or(field, Ok).map_err(|_| bad(what))?;
        u32::try_from(id).map_err(|_| bad(what))
    };
    let mtime = match pax.mtime {
        Some(mtime) => mtime,
        // Two's complement where it is not in digits.
        None => {
            Timestamp { seconds: header.mtime().map_err(|_| bad("time"))? as i64, nanoseconds: 0 }
        }
    };
    Ok(Metadata {
        permissions: (header.mode().map_err(|_| bad("mode"))? & 0o7777) as u16,
        uid: id(pax.uid, header.uid(), "user")?,
        gid: id(pax.gid, header.gid(), "group")?,
        mtime,
    })
}

fn xattrs(pax: Pax) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut xattrs = pax.xattrs;
    let lists = [
        (&b"system.posix_acl_access"[..], pax.acl_access),
        (&b"system.posix_acl_default"[..], pax.acl_default),
    ];
    for (name, list) in lists {
        if let Some(list) = list.filter(|_| xattrs.iter().all(|(known, _)| known != name)) {
            let value = acl::attribute(&list)?;
            // One that says no more than the mode does is none: no file system keeps it.
            if name.ends_with(b"default") || value.len() > acl::MINIMAL_LEN {
                xattrs.push((name.to_vec(), value));
            }
        }
    }
    Ok(xattrs)
}

/// What a block holds.
enum Found {
    Nothing,
    Zeros,
    Data,
}

/// The stream, counted.
struct Input<R> {
    reader: R,
    position: u64,
    len_bytes_max: u64,
}

impl<R: Read> Input<R> {
    fn read_exact(&mut self, buffer: &mut [u8]) -> Result<()> {
        if self.fill(buffer)? < buffer.len() {
            return Err(Error::invalid("the archive was cut off here"));
        }
        Ok(())
    }

    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<Found> {
        match self.fill(block)? {
            0 => Ok(Found::Nothing),
            BLOCK if silt_types::is_zero(block) => Ok(Found::Zeros),
            BLOCK => Ok(Found::Data),
            _ => Err(Error::invalid("the archive was cut off here")),
        }
    }

    /// Fills the buffer as far as the stream goes.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let filled = fill(&mut self.reader, buffer).map_err(unreadable)?;
        self.position += filled as u64;
        if self.position > self.len_bytes_max {
            let allowed = silt_types::format_size(self.len_bytes_max);
            return Err(Error::invalid(format!(
                "the archive is longer than the {allowed} allowed"
            )));
        }
        Ok(filled)
    }

    fn skip(&mut self, mut len: u64) -> Result<()> {
        let mut buffer = [0; 16 << 10];
        while len > 0 {
            let piece = &mut buffer[..len.min(16 << 10) as usize];
            self.read_exact(piece)?;
            len -= piece.len() as u64;
        }
        Ok(())
    }

    /// Reads to the end of the stream, so that whoever decompresses it checks what it has.
    fn drain(&mut self) -> Result<()> {
        let mut buffer = vec![0; 64 << 10];
        while self.fill(&mut buffer)? > 0 {}
        Ok(())
    }
}

/// What a decompressor says of its input is about the input, everything else about the machine.
pub(crate) fn unreadable(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            Error::with_source(ErrorKind::Invalid, "the archive was cut off here", error)
        }
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other
            if error.raw_os_error().is_none() =>
        {
            Error::with_source(ErrorKind::Invalid, "the archive cannot be decompressed", error)
        }
        _ => Error::io("the archive cannot be read", error),
    }
}
