//! A disk as QEMU keeps it, read through `imago`: version 2 and 3, with or without compression by deflate.
//!
//! What the file names is opened only where that is allowed, and what is named is known before: no backing file and no
//! external data file is ever opened implicitly. Of what the library takes on trust, sizes and places of tables are checked
//! here first; it reads zeros behind the end of a file, so a file that is cut off would go unnoticed.
//!
//! Source: `docs/interop/qcow2.rst` of QEMU.

use super::raw::RawDisk;
use imago::{
    DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, Mapping, Storage, StorageOpenOptions,
    file::File as ImageFile, format::gate::ImplicitOpenGate, qcow2::Qcow2,
};
use silt_ext4::reader::DiskRead;
use silt_types::{DISK_SIZE_BYTES_MAX, Error, ErrorKind, Result};
use silt_volume::NewDisk;
use std::{io, path::Path};

/// What every header has.
const HEADER_LEN: usize = 72;
/// Where version 3 has features of which a reader must know every one.
const INCOMPATIBLE_FEATURES: u64 = 72;
/// Features that are understood: reference counts that were left dirty, or are known to be wrong, do not matter to a reader.
const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA_FILE: u64 = 1 << 2;
const FEATURE_NAMES: [(u64, &str); 2] =
    [(1 << 3, "compression other than deflate"), (1 << 4, "extended L2 entries")];
/// QEMU's limit on the first table.
const L1_SIZE_BYTES_MAX: u64 = 32 << 20;
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// The bits of a table's entry that say where the next table is.
const TABLE_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const BACKING_NAME_LEN_MAX: u32 = 1023;
/// Files behind each other. More than anybody keeps, and an end to a file that names itself.
const BACKING_FILES_MAX: u32 = 32;

/// A qcow2 file open for reading, by many threads.
pub(super) struct Qcow2Disk<'a> {
    file: &'a RawDisk,
    image: FormatAccess<ImageFile>,
    cluster_size_bytes: u64,
}

impl<'a> Qcow2Disk<'a> {
    /// Opens the disk in `file`, which is at `path`. `Invalid` if it is none, is cut off, or names other files and that is
    /// not allowed; `Unsupported`, naming them, for features that are not understood.
    pub(super) fn open(
        file: &'a RawDisk,
        path: &Path,
        allow_backing: bool,
    ) -> Result<Qcow2Disk<'a>> {
        let header = Header::read(file)?;
        header.check_tables(file)?;
        let failed = |error: io::Error| of_library(format!("cannot open {}", file.name()), error);
        if let Some(name) = header.backing_name(file)?.filter(|_| !allow_backing) {
            return Err(names_others(file, "its backing file", &name));
        }
        let options = StorageOpenOptions::new().filename(path);
        let open = || ImageFile::from_open_file(file.file()?, options.clone()).map_err(failed);
        if header.features & EXTERNAL_DATA_FILE != 0 && !allow_backing {
            let image = Qcow2::<ImageFile>::open_image(open()?, false).map_err(failed)?;
            let name = image.implicit_external_data_file().map_or("", |name| name);
            return Err(names_others(file, "its data file", name));
        }
        let builder = Qcow2::<ImageFile>::builder(open()?);
        let image = match allow_backing {
            true => builder.open(OpenNamed { left: BACKING_FILES_MAX }),
            false => builder.backing(None).open(DenyImplicitOpenGate::default()),
        };
        Ok(Qcow2Disk {
            file,
            image: FormatAccess::new(image.map_err(failed)?),
            cluster_size_bytes: header.cluster_size_bytes,
        })
    }

    /// Adds where the disk has data. `Invalid` if some of that is behind the end of its file.
    pub(super) fn find_data(&self, disk: &mut NewDisk<'_>) -> Result<()> {
        let (mut at, end) = (0, self.size_bytes());
        while at < end {
            let found = self.image.get_mapping(at, end - at).map_err(|error| self.failed(error));
            let (mapping, len) = found?;
            match mapping {
                Mapping::Zero { .. } => {}
                Mapping::Raw { storage, offset, .. } => {
                    let size = storage.size().map_err(|error| self.failed(error))?;
                    // Of the last cluster, what is zero at its end may be left out.
                    let size = size.next_multiple_of(self.cluster_size_bytes);
                    if offset.saturating_add(len) > size {
                        return Err(cut_off(self.file));
                    }
                    disk.add_data(at..at + len);
                }
                _ => disk.add_data(at..at + len),
            }
            if len == 0 {
                let what = format!("{} says nothing of what is at {at}", self.file.name());
                return Err(Error::invalid(what));
            }
            at += len;
        }
        Ok(())
    }

    fn failed(&self, error: io::Error) -> Error {
        of_library(format!("cannot read {}", self.file.name()), error)
    }
}

impl DiskRead for Qcow2Disk<'_> {
    fn size_bytes(&self) -> u64 {
        self.image.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.image.read(buf, offset).map_err(|error| self.failed(error))
    }
}

/// Opens what a file names, and what that names, to a certain depth, for reading.
struct OpenNamed {
    left: u32,
}

impl ImplicitOpenGate<ImageFile> for OpenNamed {
    fn open_format<F: FormatDriverBuilder<ImageFile>>(
        &mut self,
        builder: F,
    ) -> io::Result<FormatAccess<ImageFile>> {
        let left = self.left.checked_sub(1).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "too many files behind each other")
        })?;
        Ok(FormatAccess::new(builder.write(false).open(OpenNamed { left })?))
    }

    fn open_storage(&mut self, options: StorageOpenOptions) -> io::Result<ImageFile> {
        // A pipe would keep us waiting.
        if let Some(path) = options.get_filename() {
            let kind = std::fs::metadata(path)?.file_type();
            if !kind.is_file() && !std::os::unix::fs::FileTypeExt::is_block_device(&kind) {
                let what = format!("{} is neither a file nor a disk", path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
        }
        ImageFile::open(options.write(false))
    }
}

/// What must be known of a header before the library may see it.
struct Header {
    cluster_size_bytes: u64,
    backing_offset: u64,
    backing_len: u32,
    l1_offset: u64,
    l1_entries: u32,
    features: u64,
}

impl Header {
    fn read(file: &RawDisk) -> Result<Header> {
        let name = file.name();
        let invalid = |what: &str| Error::invalid(format!("{name}: {what}"));
        let unsupported =
            |what: String| Error::new(ErrorKind::Unsupported, format!("{name} uses {what}"));
        let mut bytes = [0; HEADER_LEN];
        if file.size_bytes() < HEADER_LEN as u64 {
            return Err(invalid("it is no qcow2 file: it is too short"));
        }
        file.read_at(&mut bytes, 0)?;
        if !bytes.starts_with(b"QFI\xfb") {
            return Err(invalid("it is no qcow2 file"));
        }
        let version = be32(&bytes[4..]);
        let features = match version {
            2 => 0,
            3 => {
                let mut features = [0; 8];
                read_within(file, &mut features, INCOMPATIBLE_FEATURES)?;
                u64::from_be_bytes(features)
            }
            _ => return Err(unsupported(format!("qcow2 version {version}"))),
        };
        if be32(&bytes[32..]) != 0 {
            return Err(unsupported("encryption".into()));
        }
        let unknown = features & !(DIRTY | CORRUPT | EXTERNAL_DATA_FILE);
        if unknown != 0 {
            let named = FEATURE_NAMES.iter().find(|(bit, _)| unknown & bit != 0);
            let other = || format!("qcow2 features {unknown:#x}");
            return Err(unsupported(named.map_or_else(other, |(_, what)| (*what).to_owned())));
        }
        let cluster_bits = be32(&bytes[20..]);
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(invalid("its cluster size is impossible"));
        }
        let size_bytes = be64(&bytes[24..]);
        if size_bytes == 0 {
            return Err(invalid("it is empty: there is no disk in it"));
        }
        if size_bytes > DISK_SIZE_BYTES_MAX {
            return Err(invalid(&format!("a disk of {size_bytes} bytes is larger than 16 TiB")));
        }
        let header = Header {
            cluster_size_bytes: 1 << cluster_bits,
            backing_offset: be64(&bytes[8..]),
            backing_len: be32(&bytes[16..]),
            l1_entries: be32(&bytes[36..]),
            l1_offset: be64(&bytes[40..]),
            features,
        };
        // A table of the second level is a cluster of entries of 8 bytes.
        let per_entry = header.cluster_size_bytes * (header.cluster_size_bytes / 8);
        if u64::from(header.l1_entries) < size_bytes.div_ceil(per_entry)
            || header.l1_bytes() > L1_SIZE_BYTES_MAX
        {
            return Err(invalid("its first table has an impossible length"));
        }
        Ok(header)
    }

    fn l1_bytes(&self) -> u64 {
        u64::from(self.l1_entries) * 8
    }

    /// Whether every table lies in the file.
    fn check_tables(&self, file: &RawDisk) -> Result<()> {
        let mut table = vec![0; self.l1_bytes() as usize];
        read_within(file, &mut table, self.l1_offset)?;
        let (entries, _) = table.as_chunks::<8>();
        let offsets = entries.iter().map(|entry| u64::from_be_bytes(*entry) & TABLE_OFFSET);
        match offsets.max() {
            Some(last) if last > 0 && last + self.cluster_size_bytes > file.size_bytes() => {
                Err(cut_off(file))
            }
            _ => Ok(()),
        }
    }

    fn backing_name(&self, file: &RawDisk) -> Result<Option<String>> {
        if self.backing_offset == 0 {
            return Ok(None);
        }
        let mut name = vec![0; self.backing_len.min(BACKING_NAME_LEN_MAX) as usize];
        read_within(file, &mut name, self.backing_offset)?;
        Ok(Some(String::from_utf8_lossy(&name).into_owned()))
    }
}

/// Reads bytes that the file must have.
fn read_within(file: &RawDisk, buf: &mut [u8], offset: u64) -> Result<()> {
    match offset.checked_add(buf.len() as u64) {
        Some(end) if end <= file.size_bytes() => file.read_at(buf, offset),
        _ => Err(cut_off(file)),
    }
}

fn cut_off(file: &RawDisk) -> Error {
    Error::invalid(format!("{} is cut off: what its tables name is not in it", file.name()))
}

fn names_others(file: &RawDisk, role: &str, named: &str) -> Error {
    let file = file.name();
    Error::invalid(format!("{file} names {named:?} as {role}, which needs --allow-backing"))
}

/// An error of the library: of the operating system, or about what is in the file.
fn of_library(doing: String, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::Other | io::ErrorKind::UnexpectedEof => {
            Error::with_source(ErrorKind::Invalid, doing, error)
        }
        _ => Error::io(doing, error),
    }
}

fn be32(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

fn be64(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
