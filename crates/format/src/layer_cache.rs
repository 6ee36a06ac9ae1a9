//! The cache of a container layer: its members in order, and the chunks of their content.
//!
//! ```text
//! file header | length, record | length, record | ...
//! ```
//!
//! The header speaks for all records, by length and checksum; its id begins the digest of the layer. A record is read by
//! itself, so that a layer of millions of members takes little memory. What is made of them, `silt-image` knows.

use crate::{
    file_header::FileHeader,
    folder_cache::FileStep,
    wire::{WireReader, WireWrite},
};
use silt_types::{Error, Result};

/// Magic of the cache of a layer.
pub const LAYER_CACHE_MAGIC: [u8; 8] = *b"SILTLAYR";
/// Format version of the cache of a layer.
pub const LAYER_CACHE_VERSION: u16 = 1;
/// The longest record in bytes, without its length: twice what an archive may say of one member.
pub const LAYER_RECORD_LEN_MAX: usize = 16 << 20;
/// The most steps of a record; a longer file has several.
pub const LAYER_STEPS_MAX: usize = 1024;

const MEMBER: u8 = 1;
const CONTENT: u8 = 2;

/// A part of what is known of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayerRecord {
    /// A member, in the order of the layer; counted from 0.
    Member(LayerMember),
    /// Some of the content of a file, somewhere behind its member.
    Content {
        /// Number of the member.
        member: u32,
        /// Neighbouring steps that are not zero, at most [`LAYER_STEPS_MAX`].
        steps: Vec<FileStep>,
    },
}

/// A member of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerMember {
    /// Its name, as it stands in the layer.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: LayerKind,
    /// Permission bits with set-user-id, set-group-id and sticky.
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds since 1970.
    pub mtime_seconds: i64,
    /// Modification time, nanoseconds of the second.
    pub mtime_nanoseconds: u32,
    /// Extended attributes: full names and values.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// A folder.
    Directory,
    /// A file of this length in bytes.
    File(u64),
    /// A symbolic link to these bytes.
    Symlink(Vec<u8>),
    /// One more name of the member of this name.
    HardLink(Vec<u8>),
    /// A character device: major and minor number.
    CharDevice(u32, u32),
    /// A block device: major and minor number.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
}

impl LayerRecord {
    /// Appends the record with its length. `Invalid` if it is longer than [`LAYER_RECORD_LEN_MAX`].
    pub fn encode_into(&self, out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        out.put_u32(0);
        match self {
            LayerRecord::Member(member) => put_member(out, member),
            LayerRecord::Content { member, steps } => {
                out.put_u8(CONTENT);
                out.put_u32(*member);
                steps.iter().for_each(|step| step.encode_into(out));
            }
        }
        let len = out.len() - start - 4;
        if len > LAYER_RECORD_LEN_MAX {
            out.truncate(start);
            return Err(Error::invalid("a member of the layer is described by more than 16 MiB"));
        }
        out[start..start + 4].copy_from_slice(&(len as u32).to_le_bytes());
        Ok(())
    }

    /// The length that stands before a record. `Corrupt` if no record is so long.
    pub fn decode_len(bytes: [u8; 4]) -> Result<usize> {
        let len = u32::from_le_bytes(bytes) as usize;
        if len > LAYER_RECORD_LEN_MAX {
            return Err(Error::corrupt("a record of a cached layer is too long"));
        }
        Ok(len)
    }

    /// Decodes a record, without its length.
    pub fn decode(bytes: &[u8]) -> Result<LayerRecord> {
        let mut wire = WireReader::new(bytes, "record of a cached layer");
        let record = match wire.u8()? {
            MEMBER => LayerRecord::Member(read_member(&mut wire)?),
            CONTENT => {
                let member = wire.u32()?;
                let count = wire.remaining() / FileStep::LEN;
                if count > LAYER_STEPS_MAX {
                    return Err(wire.corrupt("it has too many steps"));
                }
                let step = |_| wire.array().map(|bytes| FileStep::decode(&bytes));
                let steps = (0..count).map(step).collect::<Result<_>>()?;
                LayerRecord::Content { member, steps }
            }
            _ => return Err(wire.corrupt("its kind is unknown")),
        };
        wire.finish()?;
        Ok(record)
    }
}

/// The header of a cache whose records are so long together and have this checksum.
pub fn layer_cache_header(id: [u8; 16], records_len: u64, records_crc: u32) -> FileHeader {
    let header = FileHeader::growing(LAYER_CACHE_MAGIC, id);
    FileHeader { payload_len: records_len, payload_crc: records_crc, ..header }
}

fn put_short(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32(bytes.len() as u32);
    out.put_bytes(bytes);
}

fn read_short(wire: &mut WireReader<'_>) -> Result<Vec<u8>> {
    let len = wire.u32()? as usize;
    wire.bytes(len).map(<[u8]>::to_vec)
}

fn put_member(out: &mut Vec<u8>, member: &LayerMember) {
    out.put_u8(MEMBER);
    put_short(out, &member.path);
    let mut numbered = |kind: u8, major: &u32, minor: &u32| {
        out.put_u8(kind);
        out.put_u32(*major);
        out.put_u32(*minor);
    };
    match &member.kind {
        LayerKind::CharDevice(major, minor) => numbered(5, major, minor),
        LayerKind::BlockDevice(major, minor) => numbered(6, major, minor),
        LayerKind::Directory => out.put_u8(1),
        LayerKind::File(size_bytes) => {
            out.put_u8(2);
            out.put_u64(*size_bytes);
        }
        LayerKind::Symlink(target) => {
            out.put_u8(3);
            put_short(out, target);
        }
        LayerKind::HardLink(target) => {
            out.put_u8(4);
            put_short(out, target);
        }
        LayerKind::Fifo => out.put_u8(7),
    }
    out.put_u16(member.permissions);
    out.put_u32(member.uid);
    out.put_u32(member.gid);
    out.put_u64(member.mtime_seconds as u64);
    out.put_u32(member.mtime_nanoseconds);
    out.put_u32(member.xattrs.len() as u32);
    for (name, value) in &member.xattrs {
        put_short(out, name);
        put_short(out, value);
    }
}

fn read_member(wire: &mut WireReader<'_>) -> Result<LayerMember> {
    let path = read_short(wire)?;
    let kind = match wire.u8()? {
        1 => LayerKind::Directory,
        2 => LayerKind::File(wire.u64()?),
        3 => LayerKind::Symlink(read_short(wire)?),
        4 => LayerKind::HardLink(read_short(wire)?),
        5 => LayerKind::CharDevice(wire.u32()?, wire.u32()?),
        6 => LayerKind::BlockDevice(wire.u32()?, wire.u32()?),
        7 => LayerKind::Fifo,
        _ => return Err(wire.corrupt("a member has an unknown kind")),
    };
    let mut member = LayerMember {
        path,
        kind,
        permissions: wire.u16()?,
        uid: wire.u32()?,
        gid: wire.u32()?,
        mtime_seconds: wire.u64()? as i64,
        mtime_nanoseconds: wire.u32()?,
        xattrs: Vec::new(),
    };
    for _ in 0..wire.u32()? {
        member.xattrs.push((read_short(wire)?, read_short(wire)?));
    }
    Ok(member)
}

#[cfg(test)]
mod tests {
    use super::*;
    use silt_types::ChunkId;

    fn records() -> Vec<LayerRecord> {
        let kinds = [
            LayerKind::Directory,
            LayerKind::File(1 << 40),
            LayerKind::Symlink(b"../a".to_vec()),
            LayerKind::HardLink(b"b".to_vec()),
            LayerKind::CharDevice(1, 3),
            LayerKind::BlockDevice(8, 1 << 19),
            LayerKind::Fifo,
        ];
        let member = |(number, kind): (u32, LayerKind)| {
            LayerRecord::Member(LayerMember {
                path: format!("./d/{number}\u{ff}\n").into_bytes(),
                kind,
                permissions: 0o4755,
                uid: u32::MAX - 1,
                gid: number,
                mtime_seconds: -1,
                mtime_nanoseconds: 999_999_999,
                xattrs: vec![(b"user.a".to_vec(), vec![0, 255]), (b"user.b".to_vec(), vec![])],
            })
        };
        let step =
            |number| FileStep { number, blocks: 0x8001, chunk: ChunkId::from_bytes([7; 32]) };
        let content = LayerRecord::Content { member: 1, steps: vec![step(0), step(9)] };
        (0..).zip(kinds).map(member).chain([content]).collect()
    }

    fn encoded() -> Vec<u8> {
        let mut bytes = Vec::new();
        records().iter().for_each(|record| record.encode_into(&mut bytes).unwrap());
        bytes
    }

    /// All records of a sequence, each by its length.
    fn decode_all(mut bytes: &[u8]) -> Result<Vec<LayerRecord>> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let mut wire = WireReader::new(bytes, "test");
            let len = LayerRecord::decode_len(wire.array()?)?;
            all.push(LayerRecord::decode(wire.bytes(len)?)?);
            bytes = &bytes[4 + len..];
        }
        Ok(all)
    }

    #[test]
    fn records_read_back() {
        assert_eq!(decode_all(&encoded()).unwrap(), records());
    }

    #[test]
    fn the_bytes_of_version_1_stay_what_they_were() {
        let header = layer_cache_header([3; 16], 5, 6).encode();
        let bytes = [header.as_slice(), &encoded()].concat();
        assert_eq!(&blake3::hash(&bytes).to_hex()[..16], "946f72534d4b7b96");
    }

    #[test]
    fn damaged_records_are_errors_not_panics() {
        let bytes = encoded();
        for len in 0..bytes.len() {
            let _ = decode_all(&bytes[..len]);
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                let _ = decode_all(&bytes);
            }
        }
        assert!(LayerRecord::decode_len([255; 4]).is_err());
        let long = LayerMember {
            path: vec![b'a'; LAYER_RECORD_LEN_MAX],
            ..match records().remove(0) {
                LayerRecord::Member(member) => member,
                LayerRecord::Content { .. } => unreachable!(),
            }
        };
        let mut out = Vec::new();
        assert!(LayerRecord::Member(long).encode_into(&mut out).is_err() && out.is_empty());
    }
}
