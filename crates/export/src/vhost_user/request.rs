//! What a guest asks: the header of a request, held against what was offered ("5.2.6" of virtio 1.3). Ranges are held
//! against the disk by the device itself, which knows its size at that moment.

use super::{
    chain::{Chain, OutsideMemory, Segment, take_front, total_len},
    config::{SECTOR_BYTES, has},
    limits::{RANGE_SECTORS_MAX, RANGES_MAX, REQUEST_BYTES_MAX},
    memory::GuestMemory,
};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK,
    VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

const HEADER_BYTES: usize = 16;
const RANGE_BYTES: usize = 16;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Done = VIRTIO_BLK_S_OK as u8,
    Failed = VIRTIO_BLK_S_IOERR as u8,
    Unsupported = VIRTIO_BLK_S_UNSUPP as u8,
}

impl From<OutsideMemory> for Status {
    fn from(_: OutsideMemory) -> Status {
        Status::Failed
    }
}

impl<T> From<&silt_types::Result<T>> for Status {
    fn from(result: &silt_types::Result<T>) -> Status {
        if result.is_ok() { Status::Done } else { Status::Failed }
    }
}

/// A request that may be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Fill what is writable.
    Read {
        offset: u64,
    },
    /// Take what is readable.
    Write {
        offset: u64,
    },
    Flush,
    /// Fill what is writable with the name of the disk.
    Identify,
    Zero(Vec<ZeroRange>),
}

/// A range of the disk that is to read as zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ZeroRange {
    pub(super) offset: u64,
    pub(super) len_bytes: u64,
    pub(super) how: HowToZero,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HowToZero {
    /// Whole blocks only.
    Discard,
    /// Exactly.
    Write { may_unmap: bool },
}

/// The request of a chain whose status byte is off already; its header is taken off too, what is left is data.
pub(super) fn parse(
    memory: &GuestMemory,
    chain: &mut Chain,
    features: u64,
) -> Result<Request, Status> {
    let mut header = [0; HEADER_BYTES];
    take_front(memory, &mut chain.readable, &mut header)?;
    let [kind, _priority] = [0, 4].map(|at| number(&header[at..at + 4]) as u32);
    let offset = number(&header[8..]).checked_mul(SECTOR_BYTES);
    match kind {
        VIRTIO_BLK_T_IN => data(offset, &chain.writable).map(|offset| Request::Read { offset }),
        VIRTIO_BLK_T_OUT => data(offset, &chain.readable).map(|offset| Request::Write { offset }),
        VIRTIO_BLK_T_FLUSH => Ok(Request::Flush),
        VIRTIO_BLK_T_GET_ID => Ok(Request::Identify),
        VIRTIO_BLK_T_DISCARD if has(features, VIRTIO_BLK_F_DISCARD) => {
            ranges(memory, &mut chain.readable, |flags| match flags {
                0 => Ok(HowToZero::Discard),
                _ => Err(Status::Unsupported),
            })
        }
        VIRTIO_BLK_T_WRITE_ZEROES if has(features, VIRTIO_BLK_F_WRITE_ZEROES) => {
            ranges(memory, &mut chain.readable, |flags| match flags {
                0 => Ok(HowToZero::Write { may_unmap: false }),
                VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP => Ok(HowToZero::Write { may_unmap: true }),
                _ => Err(Status::Unsupported),
            })
        }
        _ => Err(Status::Unsupported),
    }
}

/// The offset of a read or write, if both that and its data can be.
fn data(offset: Option<u64>, segments: &[Segment]) -> Result<u64, Status> {
    let len = total_len(segments);
    match offset {
        Some(offset) if len <= REQUEST_BYTES_MAX && len.is_multiple_of(SECTOR_BYTES) => Ok(offset),
        _ => Err(Status::Failed),
    }
}

fn ranges(
    memory: &GuestMemory,
    segments: &mut Vec<Segment>,
    how: impl Fn(u32) -> Result<HowToZero, Status>,
) -> Result<Request, Status> {
    let mut bytes = [0; RANGE_BYTES * RANGES_MAX as usize];
    let len = total_len(segments) as usize;
    let bytes = bytes.get_mut(..len).ok_or(Status::Failed)?;
    if !len.is_multiple_of(RANGE_BYTES) {
        return Err(Status::Failed);
    }
    take_front(memory, segments, bytes)?;
    let range = |bytes: &[u8]| {
        let [sectors, flags] = [8, 12].map(|at| number(&bytes[at..at + 4]) as u32);
        let offset = number(&bytes[..8]).checked_mul(SECTOR_BYTES);
        let how = how(flags)?;
        match offset {
            Some(offset) if sectors <= RANGE_SECTORS_MAX => {
                Ok(ZeroRange { offset, len_bytes: u64::from(sectors) * SECTOR_BYTES, how })
            }
            _ => Err(Status::Failed),
        }
    };
    bytes.chunks_exact(RANGE_BYTES).map(range).collect::<Result<_, _>>().map(Request::Zero)
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
