//! `header`, the file that says what a volume's folder is, so that the catalog can be made again without it.

use crate::{
    file_header::FileHeader,
    layout::{Field, Record},
    wire::{WireReader, WireWrite},
};
use silt_types::{ChunkId, DISK_SIZE_BYTES_MAX, DeltaId, DiskId, Name, Result, StateId, VolumeId};

/// Magic of a volume's `header` file.
pub const VOLUME_MAGIC: [u8; 8] = *b"SILTVOLU";
/// Format version of a volume's folder.
pub const VOLUME_VERSION: u16 = 1;

/// The most frozen deltas of one volume: each costs every read of a block that no newer one holds a look-up.
pub const FROZEN_DELTAS_MAX: usize = 8;

/// What a volume is made of. Its file is a file header whose id is the volume's, and the rest as payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeHeader {
    /// The volume.
    pub id: VolumeId,
    /// The name it had when this was written; the catalog knows better.
    pub name: Name,
    /// The sealed disk below everything.
    pub base: DiskId,
    /// Length of the volume in bytes, at least that of its base.
    pub size_bytes: u64,
    /// Frozen deltas, newest first; at most [`FROZEN_DELTAS_MAX`].
    pub frozen: Vec<DeltaId>,
    /// The delta that is written to; none until the first write needs it.
    pub own: Option<DeltaId>,
    /// Grows by one with every change of this file.
    pub generation: u64,
    /// State of what is below the own delta; the volume's, until that is written to.
    pub state: StateId,
}

impl VolumeHeader {
    /// The most bytes that an encoded header takes; a longer file is none.
    pub const LEN_MAX: usize =
        FileHeader::LEN + FIXED_LEN + (FROZEN_DELTAS_MAX + 1) * DeltaId::LEN + Name::LEN_MAX;

    /// The layout of the fixed part of the payload, as documented in `docs/internals/formats.md`. The ids of the frozen
    /// deltas follow, newest first, then the id of the own delta if there is one, then the name.
    pub const RECORD: Record = Record {
        name: "volume header payload",
        len: FIXED_LEN,
        fields: &[
            Field::new(0, 8, "generation", "grows by one with every change"),
            Field::new(8, 8, "size", "length of the volume in bytes"),
            Field::new(16, 32, "base root", "root of the base's disk map; zero if it has none"),
            Field::new(48, 8, "base size", "length of the base in bytes"),
            Field::new(56, 2, "frozen", "frozen deltas, 0 to 8"),
            Field::new(58, 2, "own", "own deltas, 0 or 1"),
            Field::new(60, 4, "name length", "bytes of the name"),
            Field::new(64, 32, "state", "state id of what is below the own delta"),
        ],
    };

    /// The encoded file.
    pub fn encode(&self) -> Vec<u8> {
        let name = self.name.as_str().as_bytes();
        let mut payload = Vec::with_capacity(Self::LEN_MAX);
        payload.put_u64(self.generation);
        payload.put_u64(self.size_bytes);
        payload.put_bytes(self.base.root.as_bytes());
        payload.put_u64(self.base.size_bytes);
        payload.put_u16(self.frozen.len() as u16);
        payload.put_u16(self.own.is_some().into());
        payload.put_u32(name.len() as u32);
        payload.put_bytes(self.state.as_bytes());
        self.frozen.iter().chain(&self.own).for_each(|id| payload.put_bytes(id.as_bytes()));
        payload.put_bytes(name);
        let header = FileHeader::of_payload(VOLUME_MAGIC, *self.id.as_bytes(), &payload);
        [header.encode().as_slice(), &payload].concat()
    }

    /// Decodes the file.
    pub fn decode(bytes: &[u8]) -> Result<VolumeHeader> {
        let (header, payload) = FileHeader::decode_file(bytes, VOLUME_MAGIC, VOLUME_VERSION)?;
        let mut wire = WireReader::new(payload, "volume header");
        let (generation, size_bytes) = (wire.u64()?, wire.u64()?);
        let base = DiskId { root: ChunkId::from_bytes(wire.array()?), size_bytes: wire.u64()? };
        let (frozen_count, own_count) = (wire.u16()?, wire.u16()?);
        let name_len = wire.u32()? as usize;
        let state = StateId::from_bytes(wire.array()?);
        if base.size_bytes > size_bytes
            || size_bytes > DISK_SIZE_BYTES_MAX
            || usize::from(frozen_count) > FROZEN_DELTAS_MAX
            || own_count > 1
        {
            return Err(wire.corrupt("its sizes are impossible"));
        }
        let mut frozen = Vec::with_capacity(frozen_count.into());
        for _ in 0..frozen_count {
            frozen.push(DeltaId::from_bytes(wire.array()?));
        }
        let own = if own_count == 1 { Some(DeltaId::from_bytes(wire.array()?)) } else { None };
        let name =
            std::str::from_utf8(wire.bytes(name_len)?).ok().and_then(|name| name.parse().ok());
        let name = name.ok_or_else(|| wire.corrupt("its name is none"))?;
        wire.finish()?;
        let id = VolumeId::from_bytes(header.id);
        Ok(VolumeHeader { id, name, base, size_bytes, frozen, own, generation, state })
    }
}

const FIXED_LEN: usize = 96;

#[cfg(test)]
mod tests {
    use super::*;

    fn header(frozen: usize, own: bool) -> VolumeHeader {
        VolumeHeader {
            id: VolumeId::from_bytes([1; 16]),
            name: "vm-1".parse().unwrap(),
            base: DiskId { root: ChunkId::from_bytes([2; 32]), size_bytes: 1 << 30 },
            size_bytes: 1 << 33,
            frozen: (0..frozen).map(|n| DeltaId::from_bytes([n as u8; 16])).collect(),
            own: own.then(|| DeltaId::from_bytes([0xee; 16])),
            generation: 5,
            state: StateId::from_bytes([0xdd; 32]),
        }
    }

    #[test]
    fn headers_read_back_and_any_flipped_bit_is_noticed() {
        assert!(VolumeHeader::RECORD.is_contiguous());
        for header in [header(0, false), header(0, true), header(8, true)] {
            let mut bytes = header.encode();
            assert!(bytes.len() <= VolumeHeader::LEN_MAX);
            assert_eq!(VolumeHeader::decode(&bytes).unwrap(), header);
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(VolumeHeader::decode(&bytes).is_err(), "{bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn the_bytes_of_version_1_stay_what_they_were() {
        let hash = blake3::hash(&header(2, true).encode()).to_hex();
        assert_eq!(&hash[..16], "eb04d8dd7c19bdc1");
    }

    #[test]
    fn impossible_headers_with_a_right_checksum_are_corrupt() {
        let mut nine = header(8, true);
        nine.frozen.push(DeltaId::from_bytes([9; 16]));
        let mut shrunk = header(0, true);
        shrunk.size_bytes = 1;
        for header in [nine, shrunk] {
            assert!(VolumeHeader::decode(&header.encode()).is_err(), "{header:?}");
        }
    }
}
