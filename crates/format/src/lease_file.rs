//! Lease files: who holds a lease, for people, and what the work under it reads, for a collection.
//!
//! A lease is a lock on its file; the content only spares a collection to wait for work that says what it needs.

use crate::{
    file_header::FileHeader,
    layout::{Field, Record},
    wire::{WireReader, WireWrite},
};
use silt_types::{ChunkId, DiskId, LeaseId, Result};

/// Magic of a lease file.
pub const LEASE_MAGIC: [u8; 8] = *b"SILTLEAS";
/// Format version of lease files.
pub const LEASE_VERSION: u16 = 1;

/// What a lease file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseFile {
    /// Process that took it. For people: nothing relies on it.
    pub pid: u32,
    /// The disks that the work reads and all it needs; `None` while that cannot be told, as while it builds.
    pub reads: Option<Vec<DiskId>>,
}

/// The layout of what follows the header, as documented in `docs/internals/formats.md`. The disks follow.
pub const LEASE_RECORD: Record = Record {
    name: "lease payload",
    len: 12,
    fields: &[
        Field::new(0, 4, "process", "for people"),
        Field::new(4, 4, "kind", "0 work that may need anything; 1 work that reads these disks"),
        Field::new(8, 4, "disks", "count; then root (32 bytes) and length (8 bytes) of each"),
    ],
};

impl LeaseFile {
    /// The most disks that a lease names.
    pub const DISKS_MAX: usize = 64;
    /// The longest file in bytes.
    pub const LEN_MAX: usize = FileHeader::LEN + LEASE_RECORD.len + Self::DISKS_MAX * 40;

    /// The encoded file of the lease with this id.
    pub fn encode(&self, id: LeaseId) -> Vec<u8> {
        let mut payload = Vec::with_capacity(LEASE_RECORD.len);
        payload.put_u32(self.pid);
        payload.put_u32(u32::from(self.reads.is_some()));
        let disks = self.reads.as_deref().unwrap_or_default();
        payload.put_u32(disks.len() as u32);
        for disk in disks {
            payload.put_bytes(disk.root.as_bytes());
            payload.put_u64(disk.size_bytes);
        }
        let header = FileHeader::of_payload(LEASE_MAGIC, *id.as_bytes(), &payload);
        [header.encode().as_slice(), &payload].concat()
    }

    /// Decodes a file. What follows, of a longer one that was there before, is passed over. `Corrupt` if it is none, or is being
    /// written.
    pub fn decode(bytes: &[u8]) -> Result<LeaseFile> {
        let header = FileHeader::decode(bytes, LEASE_MAGIC, LEASE_VERSION)?;
        let len = usize::try_from(header.payload_len).unwrap_or(usize::MAX);
        let whole = bytes.get(..FileHeader::LEN.saturating_add(len)).unwrap_or(bytes);
        let (_, payload) = FileHeader::decode_file(whole, LEASE_MAGIC, LEASE_VERSION)?;
        let mut wire = WireReader::new(payload, "lease file");
        let (pid, kind, count) = (wire.u32()?, wire.u32()?, wire.u32()? as usize);
        if kind > 1 || count > Self::DISKS_MAX {
            return Err(wire.corrupt("it has an unknown kind"));
        }
        let mut disks = Vec::with_capacity(count);
        for _ in 0..count {
            let root = ChunkId::from_bytes(wire.array()?);
            disks.push(DiskId { root, size_bytes: wire.u64()? });
        }
        wire.finish()?;
        Ok(LeaseFile { pid, reads: (kind == 1).then_some(disks) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_file_reads_back_and_its_bytes_stay_what_they_were() {
        let id = LeaseId::from_bytes([7; 16]);
        let disk = DiskId { root: ChunkId::from_bytes([3; 32]), size_bytes: 1 << 30 };
        let reads = LeaseFile { pid: 12, reads: Some(vec![disk, disk]) };
        let works = LeaseFile { pid: 12, reads: None };
        for (file, expected) in [(&reads, "b22b5f1fd01b6372"), (&works, "9566d5ff8d7335d1")] {
            let mut bytes = file.encode(id);
            assert_eq!(LeaseFile::decode(&bytes).unwrap(), *file);
            assert_eq!(&blake3::hash(&bytes).to_hex()[..16], expected);
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(LeaseFile::decode(&bytes).is_err(), "{bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
        assert!(LeaseFile::decode(b"").is_err());
        let mut over_a_longer_one = reads.encode(id);
        over_a_longer_one[..works.encode(id).len()].copy_from_slice(&works.encode(id));
        assert_eq!(LeaseFile::decode(&over_a_longer_one).unwrap(), works);
    }
}
