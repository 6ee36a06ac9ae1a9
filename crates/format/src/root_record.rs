//! Root records: what was published together with a pack, so that the catalog can be made again from packs and the
//! headers of volumes. They stand in a pack's footer, which bounds their number and carries their checksum.

use crate::wire::{WireReader, WireWrite};
use silt_types::{ChunkId, DeltaId, DiskId, Name, Result, SnapshotId, StateId, TreeId, VolumeId};

/// Something that was published with a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootRecord {
    /// An image.
    Image {
        /// Its name.
        name: Name,
        /// Its disk.
        disk: DiskId,
        /// Its tree, where it was built from files.
        tree: Option<TreeId>,
        /// Its configuration as a disk of that length, where it came with one.
        config: Option<DiskId>,
        /// When it was published, in nanoseconds since 1970.
        created_ns: i64,
    },
    /// A frozen delta became chunks: whoever stood on `delta` over `base` stands on `disk`.
    Seal {
        /// The disk below the delta.
        base: DiskId,
        /// The delta.
        delta: DeltaId,
        /// The two together.
        disk: DiskId,
    },
    /// A snapshot whose disk is complete by this pack.
    Snapshot {
        /// The volume it is of.
        volume: VolumeId,
        /// Its id.
        id: SnapshotId,
        /// Its name within the volume, as it was then.
        name: Name,
        /// The snapshot that the volume went on from when it was taken.
        parent: Option<SnapshotId>,
        /// Its disk.
        disk: DiskId,
        /// Its state id.
        state: StateId,
        /// When it was taken, in nanoseconds since 1970.
        created_ns: i64,
    },
}

const IMAGE: u8 = 1;
const SEAL: u8 = 2;
const SNAPSHOT: u8 = 3;
const CONFIGURED_IMAGE: u8 = 4;

impl RootRecord {
    /// The longest encoded record in bytes.
    pub const LEN_MAX: usize = 288;

    pub(crate) fn encode_into(&self, out: &mut Vec<u8>) {
        match self {
            RootRecord::Image { name, disk, tree, config, created_ns } => {
                out.put_u8(if config.is_some() { CONFIGURED_IMAGE } else { IMAGE });
                put_name(out, name);
                put_disk(out, disk);
                put_optional(out, tree.as_ref().map(TreeId::as_bytes));
                out.put_u64(*created_ns as u64);
                config.iter().for_each(|config| put_disk(out, config));
            }
            RootRecord::Seal { base, delta, disk } => {
                out.put_u8(SEAL);
                put_disk(out, base);
                out.put_bytes(delta.as_bytes());
                put_disk(out, disk);
            }
            RootRecord::Snapshot { volume, id, name, parent, disk, state, created_ns } => {
                out.put_u8(SNAPSHOT);
                out.put_bytes(volume.as_bytes());
                out.put_bytes(id.as_bytes());
                put_name(out, name);
                put_optional(out, parent.as_ref().map(SnapshotId::as_bytes));
                put_disk(out, disk);
                out.put_bytes(state.as_bytes());
                out.put_u64(*created_ns as u64);
            }
        }
    }

    pub(crate) fn decode(wire: &mut WireReader<'_>) -> Result<RootRecord> {
        Ok(match wire.u8()? {
            kind @ (IMAGE | CONFIGURED_IMAGE) => RootRecord::Image {
                name: read_name(wire)?,
                disk: read_disk(wire)?,
                tree: read_optional(wire)?.map(TreeId::from_bytes),
                created_ns: wire.u64()? as i64,
                config: if kind == CONFIGURED_IMAGE { Some(read_disk(wire)?) } else { None },
            },
            SEAL => RootRecord::Seal {
                base: read_disk(wire)?,
                delta: DeltaId::from_bytes(wire.array()?),
                disk: read_disk(wire)?,
            },
            SNAPSHOT => RootRecord::Snapshot {
                volume: VolumeId::from_bytes(wire.array()?),
                id: SnapshotId::from_bytes(wire.array()?),
                name: read_name(wire)?,
                parent: read_optional(wire)?.map(SnapshotId::from_bytes),
                disk: read_disk(wire)?,
                state: StateId::from_bytes(wire.array()?),
                created_ns: wire.u64()? as i64,
            },
            _ => return Err(wire.corrupt("a root record has an unknown kind")),
        })
    }
}

pub(crate) fn put_name(out: &mut Vec<u8>, name: &Name) {
    out.put_u8(name.as_str().len() as u8);
    out.put_bytes(name.as_str().as_bytes());
}

pub(crate) fn read_name(wire: &mut WireReader<'_>) -> Result<Name> {
    let len = usize::from(wire.u8()?);
    let name = std::str::from_utf8(wire.bytes(len)?).ok().and_then(|text| text.parse().ok());
    name.ok_or_else(|| wire.corrupt("a name in it is none"))
}

pub(crate) fn put_disk(out: &mut Vec<u8>, disk: &DiskId) {
    out.put_bytes(disk.root.as_bytes());
    out.put_u64(disk.size_bytes);
}

pub(crate) fn read_disk(wire: &mut WireReader<'_>) -> Result<DiskId> {
    Ok(DiskId { root: ChunkId::from_bytes(wire.array()?), size_bytes: wire.u64()? })
}

/// One byte that says whether it is there, then the id, or zeros.
pub(crate) fn put_optional<const N: usize>(out: &mut Vec<u8>, id: Option<&[u8; N]>) {
    out.put_u8(u8::from(id.is_some()));
    out.put_bytes(id.unwrap_or(&[0; N]));
}

pub(crate) fn read_optional<const N: usize>(wire: &mut WireReader<'_>) -> Result<Option<[u8; N]>> {
    let is_there = wire.u8()? == 1;
    let id = wire.array()?;
    Ok(is_there.then_some(id))
}
