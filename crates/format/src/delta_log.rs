//! `map.log`, the record of which blocks a delta holds: a header sector, then record sectors, each whole in itself.
//!
//! Every sector is 512 bytes, the unit that a disk writes whole or not at all, and carries its own checksum. What a
//! missing, torn or damaged sector means is decided by `silt-volume`'s `delta::log`, not here.

use crate::{
    file_header::FileHeader,
    layout::{Field, Record},
    wire::{WireReader, WireWrite},
};
use silt_types::{BlockRange, DISK_SIZE_BYTES_MAX, DeltaId, Result};

/// Magic of the header of a delta's `map.log`.
pub const DELTA_LOG_MAGIC: [u8; 8] = *b"SILTDLOG";
/// Format version of a delta's `map.log`.
pub const DELTA_LOG_VERSION: u16 = 1;

/// Length of every sector of the log.
pub const DELTA_SECTOR_LEN: usize = 512;

const RECORD_MAGIC: [u8; 4] = *b"SDLR";
const RECORD_HEADER_LEN: usize = 32;
const RUN_LEN: usize = 8;
const STATEMENT_LEN: usize = DELTA_SECTOR_LEN - FileHeader::LEN;

/// What the header says of the record sectors behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeltaLogState {
    /// The delta may be in use, or its process died: there are at least so many.
    Open {
        /// Record sectors that were durable when this was written.
        sectors_min: u64,
    },
    /// The delta was closed, or frozen: there are exactly so many.
    Closed {
        /// Record sectors.
        sectors: u64,
    },
}

/// The first sector of `map.log`: a file header whose id is the delta's, and this statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaLogHeader {
    /// The delta.
    pub id: DeltaId,
    /// Length in bytes of the disk that the delta belongs to, 0 to 16 TiB.
    pub size_bytes: u64,
    /// What must follow.
    pub state: DeltaLogState,
    /// How often the delta was begun to be written to anew since somebody was told of the state it was in. 0: never written.
    pub write_generation: u64,
}

impl DeltaLogHeader {
    /// The layout of the statement, as documented in `docs/internals/formats.md`.
    pub const RECORD: Record = Record {
        name: "delta log statement",
        len: STATEMENT_LEN,
        fields: &[
            Field::new(0, 8, "size", "length of the disk in bytes"),
            Field::new(8, 8, "sectors", "record sectors"),
            Field::new(16, 4, "state", "0 open: at least so many; 1 closed: exactly so many"),
            Field::new(20, 4, "reserved", "zero"),
            Field::new(
                24,
                8,
                "write generation",
                "0: never written; one more before the first write after a state was told",
            ),
            Field::new(32, 416, "reserved", "zero"),
        ],
    };

    /// The encoded sector.
    pub fn encode(&self) -> [u8; DELTA_SECTOR_LEN] {
        let (state, sectors) = match self.state {
            DeltaLogState::Open { sectors_min } => (0, sectors_min),
            DeltaLogState::Closed { sectors } => (1, sectors),
        };
        let mut statement = Vec::with_capacity(STATEMENT_LEN);
        statement.put_u64(self.size_bytes);
        statement.put_u64(sectors);
        statement.put_u64(state);
        statement.put_u64(self.write_generation);
        statement.resize(STATEMENT_LEN, 0);
        let header = FileHeader::of_payload(DELTA_LOG_MAGIC, *self.id.as_bytes(), &statement);
        let mut sector = [0; DELTA_SECTOR_LEN];
        sector[..FileHeader::LEN].copy_from_slice(&header.encode());
        sector[FileHeader::LEN..].copy_from_slice(&statement);
        sector
    }

    /// Decodes the first sector.
    pub fn decode(bytes: &[u8]) -> Result<DeltaLogHeader> {
        let (header, statement) =
            FileHeader::decode_file(bytes, DELTA_LOG_MAGIC, DELTA_LOG_VERSION)?;
        let mut wire = WireReader::new(statement, "delta log header");
        let (size_bytes, sectors, state) = (wire.u64()?, wire.u64()?, wire.u32()?);
        wire.u32()?;
        let write_generation = wire.u64()?;
        wire.bytes(STATEMENT_LEN - 32)?;
        let state = match state {
            0 => DeltaLogState::Open { sectors_min: sectors },
            1 => DeltaLogState::Closed { sectors },
            _ => return Err(wire.corrupt("its state is unknown")),
        };
        if size_bytes > DISK_SIZE_BYTES_MAX {
            return Err(wire.corrupt("no disk is that long"));
        }
        wire.finish()?;
        let id = DeltaId::from_bytes(header.id);
        Ok(DeltaLogHeader { id, size_bytes, state, write_generation })
    }
}

/// A record sector: up to [`DeltaRecord::RUNS_MAX`] runs of blocks that joined the delta.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaRecord {
    /// Number of the sector in its file: 1 for the one behind the header.
    pub sequence: u64,
    /// Number of the first sector that was written together with this one. Every sector before that was durable by then.
    pub batch_first: u64,
    /// Runs of blocks; each lies within 2^32 blocks.
    pub runs: Vec<BlockRange>,
}

impl DeltaRecord {
    /// The most runs of one sector.
    pub const RUNS_MAX: usize = (DELTA_SECTOR_LEN - RECORD_HEADER_LEN) / RUN_LEN;

    /// The layout, as documented in `docs/internals/formats.md`.
    pub const RECORD: Record = Record {
        name: "delta record sector",
        len: DELTA_SECTOR_LEN,
        fields: &[
            Field::new(0, 4, "magic", "`SDLR`"),
            Field::new(4, 4, "count", "runs, 1 to 60"),
            Field::new(8, 8, "sequence", "number of the sector, from 1"),
            Field::new(16, 8, "batch first", "number of the first sector of the same append"),
            Field::new(24, 4, "reserved", "zero"),
            Field::new(28, 4, "checksum", "CRC-32C of the sector with zero here"),
            Field::new(32, 480, "runs", "each: first block (4), blocks - 1 (4); then zero"),
        ],
    };

    /// The encoded sector. Holds as many runs as fit: the caller gives at most [`DeltaRecord::RUNS_MAX`].
    pub fn encode(&self) -> [u8; DELTA_SECTOR_LEN] {
        debug_assert!((1..=DeltaRecord::RUNS_MAX).contains(&self.runs.len()));
        let mut out = Vec::with_capacity(DELTA_SECTOR_LEN);
        out.put_bytes(&RECORD_MAGIC);
        out.put_u32(self.runs.len() as u32);
        out.put_u64(self.sequence);
        out.put_u64(self.batch_first);
        out.put_u64(0);
        for run in &self.runs {
            out.put_u32(run.start as u32);
            out.put_u32((run.len - 1) as u32);
        }
        out.resize(DELTA_SECTOR_LEN, 0);
        let crc = crc32c::crc32c(&out);
        out[28..32].copy_from_slice(&crc.to_le_bytes());
        out.try_into().expect("the vector was made this long")
    }

    /// Decodes a sector. `Corrupt` for anything else than what [`DeltaRecord::encode`] writes.
    pub fn decode(sector: &[u8; DELTA_SECTOR_LEN]) -> Result<DeltaRecord> {
        let mut wire = WireReader::new(sector, "delta record");
        let (magic, count) = (wire.array::<4>()?, wire.u32()? as usize);
        let (sequence, batch_first) = (wire.u64()?, wire.u64()?);
        let (reserved, crc) = (wire.u32()?, wire.u32()?);
        if magic != RECORD_MAGIC || crc != checksum(sector) {
            return Err(wire.corrupt("its checksum is wrong"));
        }
        if !(1..=DeltaRecord::RUNS_MAX).contains(&count)
            || reserved != 0
            || !(1..=sequence).contains(&batch_first)
        {
            return Err(wire.corrupt("its header is impossible"));
        }
        let mut runs = Vec::with_capacity(count);
        for _ in 0..count {
            let run = BlockRange { start: wire.u32()?.into(), len: u64::from(wire.u32()?) + 1 };
            if run.end() > 1 << 32 {
                return Err(wire.corrupt("a run is beyond every disk"));
            }
            runs.push(run);
        }
        if wire.bytes(wire.remaining())?.iter().any(|byte| *byte != 0) {
            return Err(wire.corrupt("bytes are left over"));
        }
        Ok(DeltaRecord { sequence, batch_first, runs })
    }
}

fn checksum(sector: &[u8; DELTA_SECTOR_LEN]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&sector[..28]), &[0; 4]);
    crc32c::crc32c_append(crc, &sector[32..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use silt_types::ErrorKind;

    fn header() -> DeltaLogHeader {
        let state = DeltaLogState::Closed { sectors: 7 };
        let id = DeltaId::from_bytes([9; 16]);
        DeltaLogHeader { id, size_bytes: 1 << 44, state, write_generation: 258 }
    }

    fn record() -> DeltaRecord {
        let runs = vec![
            BlockRange { start: 0, len: 1 << 32 },
            BlockRange { start: 4, len: 1 },
            BlockRange { start: u32::MAX.into(), len: 1 },
        ];
        DeltaRecord { sequence: 12, batch_first: 11, runs }
    }

    #[test]
    fn the_bytes_of_version_1_stay_what_they_were() {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        let record = record().encode();
        assert_eq!(
            hex(&record[..56]),
            "53444c52030000000c000000000000000b0000000000000000000000ab570dd000000000ffffffff0400000000000000ffffffff00000000"
        );
        let header = header().encode();
        assert_eq!(
            hex(&header[64..96]),
            "00000000001000000700000000000000010000000000000002010000_00000000".replace('_', "")
        );
        for record in [&DeltaLogHeader::RECORD, &DeltaRecord::RECORD] {
            assert!(record.is_contiguous(), "{}", record.name);
        }
    }

    #[test]
    fn sectors_read_back_and_any_flipped_bit_is_noticed() {
        let mut sector = record().encode();
        assert_eq!(DeltaRecord::decode(&sector).unwrap(), record());
        for bit in 0..DELTA_SECTOR_LEN * 8 {
            sector[bit / 8] ^= 1 << (bit % 8);
            let error = DeltaRecord::decode(&sector).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{bit}");
            sector[bit / 8] ^= 1 << (bit % 8);
        }
        let mut sector = header().encode();
        assert_eq!(DeltaLogHeader::decode(&sector).unwrap(), header());
        for bit in 0..DELTA_SECTOR_LEN * 8 {
            sector[bit / 8] ^= 1 << (bit % 8);
            let error = DeltaLogHeader::decode(&sector).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{bit}");
            sector[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn impossible_records_with_a_right_checksum_are_corrupt() {
        let cases: [fn(&mut DeltaRecord); 4] = [
            |record| record.batch_first = 13,
            |record| record.batch_first = 0,
            |record| record.runs[1] = BlockRange { start: u32::MAX.into(), len: 2 },
            |record| record.sequence = 0,
        ];
        for change in cases {
            let mut bad = record();
            change(&mut bad);
            assert!(DeltaRecord::decode(&bad.encode()).is_err(), "{bad:?}");
        }
    }
}
