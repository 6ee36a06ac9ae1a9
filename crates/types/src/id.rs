//! Ids. Each kind of object has a type of its own and none converts into another.

use crate::{Error, Result};
use std::{fmt, str::FromStr};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $bytes;

            /// The id with these bytes.
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// The bytes of the id.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                let mut bytes = [0; $bytes];
                decode_hex(text, &mut bytes)
                    .ok_or_else(|| Error::invalid(format!(concat!("{:?} is not ", $what), text)))?;
                Ok(Self(bytes))
            }
        }
    };
}

id! {
    /// The name of a chunk: the keyed BLAKE3-256 hash of its content.
    ChunkId, 32, "a chunk id (64 hexadecimal digits)"
}
id! {
    /// The name of a sealed file hierarchy: the id of the root node of its manifest.
    TreeId, 32, "a tree id (64 hexadecimal digits)"
}
id! {
    /// The name of a disk's content at a moment: equal ids mean equal bytes, unequal ids say nothing. It outlives sealing,
    /// and changes with the first write after somebody was told of it.
    StateId, 32, "a state id (64 hexadecimal digits)"
}
id! {
    /// The name of a pack, random.
    PackId, 16, "a pack id (32 hexadecimal digits)"
}
id! {
    /// The name of a volume's folder, random: a volume's name may change, this does not.
    VolumeId, 16, "a volume id (32 hexadecimal digits)"
}
id! {
    /// The name of a delta, random.
    DeltaId, 16, "a delta id (32 hexadecimal digits)"
}
id! {
    /// The name of a snapshot, random: what a person calls it may change, this does not.
    SnapshotId, 16, "a snapshot id (32 hexadecimal digits)"
}
id! {
    /// The name of a lease, random.
    LeaseId, 16, "a lease id (32 hexadecimal digits)"
}

/// The name of a sealed disk: the root node of its disk map and its size. Equal ids mean equal bytes;
/// unequal ids say nothing. Written as `<root>:<size in bytes>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DiskId {
    /// The root node of the disk map; all zero for a disk that reads as zero everywhere.
    pub root: ChunkId,
    /// Length of the disk in bytes.
    pub size_bytes: u64,
}

impl DiskId {
    /// The root that stands for a map, or a part of a map, without any mapped block.
    pub const ZERO_ROOT: ChunkId = ChunkId([0; 32]);
}

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.root, self.size_bytes)
    }
}

impl fmt::Debug for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiskId({self})")
    }
}

impl FromStr for DiskId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(format!("{text:?} is not a disk id (<64 hexadecimal digits>:<size>)"))
        };
        let (root, size) = text.split_once(':').ok_or_else(bad)?;
        Ok(DiskId { root: root.parse()?, size_bytes: size.parse().map_err(|_| bad())? })
    }
}

fn decode_hex(text: &str, bytes: &mut [u8]) -> Option<()> {
    let digits = text.as_bytes();
    if digits.len() != bytes.len() * 2 {
        return None;
    }
    for (pair, byte) in digits.chunks_exact(2).zip(bytes) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high * 16 + low) as u8;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_what_they_print() {
        let id = DiskId { root: ChunkId::from_bytes([0xa5; 32]), size_bytes: 1 << 44 };
        assert_eq!(id.to_string().parse::<DiskId>().unwrap(), id);
        for bad in
            ["", "zz", "ff:1", &"g".repeat(64), &format!("{}:", "0".repeat(64)), &"é".repeat(32)]
        {
            assert!(bad.parse::<DiskId>().is_err(), "{bad}");
            assert!(bad.parse::<PackId>().is_err(), "{bad}");
        }
    }
}
