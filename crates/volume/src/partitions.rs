//! Partition tables, MBR and GPT, and where on a disk ext4 lies.
//!
//! Pure functions over a disk made by anyone: what they read is bounded, what a table says is cut to the disk, and a damaged
//! table is as none. Not for writing tables, nor for other file systems.
//!
//! Sources: UEFI Specification 2.10, chapter 5 (GPT, protective MBR); for logical partitions, which no standard defines, what
//! Linux reads (`block/partitions/msdos.c`).

use silt_ext4::reader::DiskRead;
use silt_types::{Error, Result};

/// A part of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Where it begins, in bytes.
    pub start_bytes: u64,
    /// Its length in bytes.
    pub size_bytes: u64,
}

/// Linux numbers no more; the rest of a longer table is passed over.
const PARTITIONS_MAX: usize = 256;
/// Sectors that disks have. A GPT begins with the second, so both are tried.
const SECTOR_SIZES: [u64; 2] = [512, 4096];
/// The sectors that an MBR counts in. Disks of 4096-byte sectors have a GPT.
const MBR_SECTOR: u64 = 512;
/// The longest array of entries that is read: of the 16 KiB that all tools write, 64 times as much.
const GPT_ENTRIES_BYTES_MAX: u64 = 1 << 20;
const GPT_HEADER_LEN: usize = 92;
const GPT_ENTRY_LEN: u64 = 128;
const TYPE_EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
const TYPE_PROTECTIVE: u8 = 0xee;
/// Where ext2, ext3 and ext4 have their magic number, and what it is.
const EXT4_MAGIC: (u64, [u8; 2]) = (1024 + 0x38, [0x53, 0xef]);

/// The partitions of a disk in the order of its table; none if there is no table, or no sound one. A GPT whose first copy is
/// damaged is read from its second. An error only where the disk cannot be read.
pub fn partitions(disk: &dyn DiskRead) -> Result<Vec<Partition>> {
    let mut sector = [0; MBR_SECTOR as usize];
    if !read_if_there(disk, &mut sector, 0)? || sector[510..] != [0x55, 0xaa] {
        return Ok(Vec::new());
    }
    let protective = mbr_entries(&sector).any(|entry| entry.kind == TYPE_PROTECTIVE);
    if !protective {
        return mbr_partitions(disk, &sector);
    }
    for sector_size in SECTOR_SIZES {
        let last = (disk.size_bytes() / sector_size).saturating_sub(1);
        for at in [1, last] {
            if let Some(found) = gpt_partitions(disk, sector_size, at)? {
                return Ok(found);
            }
        }
    }
    Ok(Vec::new())
}

/// Where the disk holds ext4, or what calls itself so: in partitions, else on the whole disk. Nothing more of it is looked
/// at than its magic number.
pub fn ext4_places(disk: &dyn DiskRead) -> Result<Vec<Partition>> {
    let mut found = Vec::new();
    for partition in partitions(disk)? {
        if has_ext4_magic(&PartOfDisk::new(disk, partition))? {
            found.push(partition);
        }
    }
    if found.is_empty() && has_ext4_magic(disk)? {
        found.push(Partition { start_bytes: 0, size_bytes: disk.size_bytes() });
    }
    Ok(found)
}

fn has_ext4_magic(disk: &dyn DiskRead) -> Result<bool> {
    let mut magic = [0; 2];
    Ok(read_if_there(disk, &mut magic, EXT4_MAGIC.0)? && magic == EXT4_MAGIC.1)
}

/// A part of a disk as a disk of its own.
#[derive(Clone, Copy)]
pub struct PartOfDisk<'a, D: ?Sized> {
    disk: &'a D,
    part: Partition,
}

impl<'a, D: DiskRead + ?Sized> PartOfDisk<'a, D> {
    /// The part, which must lie on the disk.
    pub fn new(disk: &'a D, part: Partition) -> PartOfDisk<'a, D> {
        PartOfDisk { disk, part }
    }
}

impl<D: DiskRead + ?Sized> DiskRead for PartOfDisk<'_, D> {
    fn size_bytes(&self) -> u64 {
        self.part.size_bytes
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.part.size_bytes) {
            let len = buf.len();
            return Err(Error::invalid(format!(
                "{len} bytes at {offset} are beyond the partition"
            )));
        }
        self.disk.read_at(buf, self.part.start_bytes + offset)
    }
}

/// Reads bytes of the disk; false if they are not on it.
fn read_if_there(disk: &dyn DiskRead, buf: &mut [u8], offset: u64) -> Result<bool> {
    let end = offset.checked_add(buf.len() as u64);
    if end.is_none_or(|end| end > disk.size_bytes()) {
        return Ok(false);
    }
    disk.read_at(buf, offset).map(|()| true)
}

/// The sectors from `start` on as a partition, if they begin on the disk; cut where it ends.
fn on_disk(disk: &dyn DiskRead, start: u64, sectors: u64, sector_size: u64) -> Option<Partition> {
    let start_bytes = start.checked_mul(sector_size)?;
    let left = disk.size_bytes().checked_sub(start_bytes)?;
    let size_bytes = sectors.saturating_mul(sector_size).min(left);
    (start_bytes > 0 && size_bytes > 0).then_some(Partition { start_bytes, size_bytes })
}

/// An entry of an MBR, or of one of the records that stand before logical partitions.
struct MbrEntry {
    kind: u8,
    start: u64,
    sectors: u64,
}

/// The entries in use.
fn mbr_entries(sector: &[u8; MBR_SECTOR as usize]) -> impl Iterator<Item = MbrEntry> {
    let (entries, _) = sector[446..510].as_chunks::<16>();
    let entry = |bytes: &[u8; 16]| MbrEntry {
        kind: bytes[4],
        start: le32(&bytes[8..]).into(),
        sectors: le32(&bytes[12..]).into(),
    };
    entries.iter().map(entry).filter(|entry| entry.kind != 0)
}

fn mbr_partitions(
    disk: &dyn DiskRead,
    sector: &[u8; MBR_SECTOR as usize],
) -> Result<Vec<Partition>> {
    let mut found = Vec::new();
    for entry in mbr_entries(sector) {
        if TYPE_EXTENDED.contains(&entry.kind) {
            logical_partitions(disk, entry.start, &mut found)?;
        } else {
            found.extend(on_disk(disk, entry.start, entry.sectors, MBR_SECTOR));
        }
    }
    found.truncate(PARTITIONS_MAX);
    Ok(found)
}

/// The logical partitions of an extended one: a chain of records, each with a partition counted from itself and the next
/// record counted from the extended partition. A chain that runs in a circle ends where it is too long.
fn logical_partitions(
    disk: &dyn DiskRead,
    extended: u64,
    found: &mut Vec<Partition>,
) -> Result<()> {
    let mut at = extended;
    for _ in 0..PARTITIONS_MAX {
        let mut sector = [0; MBR_SECTOR as usize];
        if !read_if_there(disk, &mut sector, at * MBR_SECTOR)? || sector[510..] != [0x55, 0xaa] {
            break;
        }
        let mut next = None;
        for entry in mbr_entries(&sector) {
            if TYPE_EXTENDED.contains(&entry.kind) {
                next = next.or(Some(extended + entry.start));
            } else {
                found.extend(on_disk(disk, at + entry.start, entry.sectors, MBR_SECTOR));
            }
        }
        match next {
            Some(next) if next != at => at = next,
            _ => break,
        }
    }
    Ok(())
}

/// The partitions of the GPT whose header is in sector `at`; `None` if there is none that is whole.
fn gpt_partitions(
    disk: &dyn DiskRead,
    sector_size: u64,
    at: u64,
) -> Result<Option<Vec<Partition>>> {
    let mut header = vec![0; sector_size as usize];
    if at == 0 || !read_if_there(disk, &mut header, at * sector_size)? {
        return Ok(None);
    }
    let Some(table) = GptTable::decode(&mut header, at) else { return Ok(None) };
    let Some(start) = table.start.checked_mul(sector_size) else { return Ok(None) };
    let mut entries = vec![0; table.len() as usize];
    if !read_if_there(disk, &mut entries, start)? || crc32(&entries) != table.checksum {
        return Ok(None);
    }
    let entries = entries.chunks_exact(table.entry_len as usize);
    let used = entries.filter(|entry| entry[..16].iter().any(|byte| *byte != 0));
    let partition = |entry: &[u8]| {
        let (first, last) = (le64(&entry[32..]), le64(&entry[40..]));
        let sectors = last.checked_sub(first)?.checked_add(1)?;
        on_disk(disk, first, sectors, sector_size)
    };
    Ok(Some(used.filter_map(partition).take(PARTITIONS_MAX).collect()))
}

/// What the header of a GPT says of its entries.
struct GptTable {
    start: u64,
    count: u64,
    entry_len: u64,
    checksum: u32,
}

impl GptTable {
    /// `None` if the sector holds no header, one of another place, or a damaged one. Sets its checksum to zero.
    fn decode(sector: &mut [u8], at: u64) -> Option<GptTable> {
        let len = le32(&sector[12..]) as usize;
        if !sector.starts_with(b"EFI PART") || !(GPT_HEADER_LEN..=sector.len()).contains(&len) {
            return None;
        }
        let checksum = le32(&sector[16..]);
        sector[16..20].fill(0);
        let table = GptTable {
            start: le64(&sector[72..]),
            count: le32(&sector[80..]).into(),
            entry_len: le32(&sector[84..]).into(),
            checksum: le32(&sector[88..]),
        };
        let sound = crc32(&sector[..len]) == checksum
            && le64(&sector[24..]) == at
            && table.entry_len >= GPT_ENTRY_LEN
            && table.entry_len.is_power_of_two()
            && table.len() <= GPT_ENTRIES_BYTES_MAX;
        sound.then_some(table)
    }

    fn len(&self) -> u64 {
        self.count * self.entry_len // Both have 32 bits.
    }
}

fn le32(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn le64(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The checksum of GPT, CRC-32 of ISO 3309, bit by bit: at most a MiB is ever summed.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 }
        })
    })
}

#[cfg(test)]
mod tests;
