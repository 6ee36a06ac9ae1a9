//! The 64 bytes at the start of every file of a store, and again, with another magic, at the end of every pack.

use crate::{
    layout::{Field, Record},
    wire::{WireReader, WireWrite},
};
use silt_types::{Error, ErrorKind, Result};

/// Feature sets of a file. A reader may ignore unknown `compatible` bits, may read but not write a file with unknown
/// `read_only_compatible` bits, and refuses a file with unknown `incompatible` bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// May be ignored.
    pub compatible: u32,
    /// Must be known to write.
    pub read_only_compatible: u32,
    /// Must be known to read.
    pub incompatible: u32,
}

/// What a file is, in which version, whose it is, and how many bytes follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// Which kind of file.
    pub magic: [u8; 8],
    /// Format version of that kind.
    pub version: u16,
    /// Feature sets.
    pub features: Features,
    /// Length in bytes of what the header speaks for; 0 where the file grows.
    pub payload_len: u64,
    /// Id of the object that the file is.
    pub id: [u8; 16],
    /// CRC-32C of what the header speaks for; 0 where the file grows.
    pub payload_crc: u32,
}

impl FileHeader {
    /// Length in bytes.
    pub const LEN: usize = 64;

    /// The layout, as documented in `docs/internals/formats.md`.
    pub const RECORD: Record = Record {
        name: "file header",
        len: Self::LEN,
        fields: &[
            Field::new(0, 8, "magic", "kind of file"),
            Field::new(8, 2, "version", "format version of that kind"),
            Field::new(10, 2, "length", "length of the header, 64"),
            Field::new(12, 4, "compatible", "features that may be ignored"),
            Field::new(16, 4, "read-only compatible", "features that must be known to write"),
            Field::new(20, 4, "incompatible", "features that must be known to read"),
            Field::new(
                24,
                8,
                "payload length",
                "bytes the header speaks for; 0 where the file grows",
            ),
            Field::new(32, 16, "id", "the object that the file is"),
            Field::new(48, 4, "payload checksum", "CRC-32C of those bytes; 0 where the file grows"),
            Field::new(52, 8, "reserved", "zero"),
            Field::new(60, 4, "checksum", "CRC-32C of bytes 0 to 59"),
        ],
    };

    /// A header of version 1 without features, for a file that grows.
    pub const fn growing(magic: [u8; 8], id: [u8; 16]) -> FileHeader {
        let features = Features { compatible: 0, read_only_compatible: 0, incompatible: 0 };
        FileHeader { magic, version: 1, features, payload_len: 0, id, payload_crc: 0 }
    }

    /// A header of version 1 without features, for this payload.
    pub fn of_payload(magic: [u8; 8], id: [u8; 16], payload: &[u8]) -> FileHeader {
        FileHeader {
            payload_len: payload.len() as u64,
            payload_crc: crc32c::crc32c(payload),
            ..FileHeader::growing(magic, id)
        }
    }

    /// The encoded header.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = Vec::with_capacity(Self::LEN);
        out.put_bytes(&self.magic);
        out.put_u16(self.version);
        out.put_u16(Self::LEN as u16);
        out.put_u32(self.features.compatible);
        out.put_u32(self.features.read_only_compatible);
        out.put_u32(self.features.incompatible);
        out.put_u64(self.payload_len);
        out.put_bytes(&self.id);
        out.put_u32(self.payload_crc);
        out.put_u64(0);
        out.put_u32(crc32c::crc32c(&out));
        out.try_into().expect("the fields above are 64 bytes")
    }

    /// Decodes the header of a file that should have this magic and at most `version`. `Corrupt` if it is damaged or
    /// another kind of file, `Unsupported` if it is newer or has features this build does not know.
    pub fn decode(bytes: &[u8], magic: [u8; 8], version: u16) -> Result<FileHeader> {
        let mut wire = WireReader::new(bytes, "file header");
        let header = FileHeader {
            magic: wire.array()?,
            version: wire.u16()?,
            features: {
                wire.u16()?;
                Features {
                    compatible: wire.u32()?,
                    read_only_compatible: wire.u32()?,
                    incompatible: wire.u32()?,
                }
            },
            payload_len: wire.u64()?,
            id: wire.array()?,
            payload_crc: wire.u32()?,
        };
        wire.u64()?;
        let crc = wire.u32()?;
        if crc != crc32c::crc32c(&bytes[..Self::LEN - 4]) {
            return Err(wire.corrupt("its checksum is wrong"));
        }
        if header.magic != magic {
            return Err(wire.corrupt("it belongs to another kind of file"));
        }
        if header.version > version
            || header.features.incompatible | header.features.read_only_compatible != 0
        {
            let message = format!(
                "a file of kind {:?} has format version {} with features {:?}; this build knows version {version}",
                String::from_utf8_lossy(&magic),
                header.version,
                header.features
            );
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        Ok(header)
    }

    /// Decodes a whole small file: this header and its payload, which must be all of `bytes`.
    pub fn decode_file(bytes: &[u8], magic: [u8; 8], version: u16) -> Result<(FileHeader, &[u8])> {
        let header = FileHeader::decode(bytes, magic, version)?;
        let payload = &bytes[Self::LEN..];
        let wire = WireReader::new(payload, "file");
        if header.payload_len != payload.len() as u64 {
            return Err(wire.corrupt("its length is not what its header says"));
        }
        if header.payload_crc != crc32c::crc32c(payload) {
            return Err(wire.corrupt("its checksum is wrong"));
        }
        Ok((header, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: [u8; 8] = *b"SILTTEST";

    #[test]
    fn any_flipped_bit_is_noticed() {
        let payload = b"content";
        let mut file = FileHeader::of_payload(MAGIC, [7; 16], payload).encode().to_vec();
        file.extend_from_slice(payload);
        assert_eq!(FileHeader::decode_file(&file, MAGIC, 1).unwrap().1, payload);
        for bit in 0..file.len() * 8 {
            file[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                FileHeader::decode_file(&file, MAGIC, 1).unwrap_err().kind(),
                ErrorKind::Corrupt,
                "{bit}"
            );
            file[bit / 8] ^= 1 << (bit % 8);
        }
        for len in 0..file.len() {
            assert!(FileHeader::decode_file(&file[..len], MAGIC, 1).is_err(), "{len}");
        }
    }

    #[test]
    fn newer_versions_and_unknown_features_are_unsupported() {
        let mut header = FileHeader::growing(MAGIC, [0; 16]);
        header.version = 2;
        assert_eq!(
            FileHeader::decode(&header.encode(), MAGIC, 1).unwrap_err().kind(),
            ErrorKind::Unsupported
        );
        header.version = 1;
        header.features.incompatible = 1;
        assert_eq!(
            FileHeader::decode(&header.encode(), MAGIC, 1).unwrap_err().kind(),
            ErrorKind::Unsupported
        );
        header.features = Features { compatible: 1, ..Features::default() };
        assert!(FileHeader::decode(&header.encode(), MAGIC, 1).is_ok());
    }
}
