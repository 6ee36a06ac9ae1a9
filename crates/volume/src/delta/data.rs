//! The data of a delta: sparse files in which every block lies where the disk has it.
//!
//! Files are cut at 1 TiB, because the largest file that ext4 holds is just under 16 TiB, the largest disk. A file is made
//! when something is first written to its part of the disk.

use roaring::RoaringBitmap;
use rustix::{
    fs::{Advice, FallocateFlags, SeekFrom},
    io::Errno,
};
use silt_sys::{
    durability,
    iobuf::{IoBuf, IoBufMut},
};
use silt_types::{BLOCK_SIZE_BYTES, Context as _, Error, Result};
use std::{
    cell::RefCell,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Length of a data file. Part of the format: it says which file a block is in.
const SEGMENT_LEN: u64 = 1 << 40;

/// What is written with one call at most. ext4 caches what it is given at once in one folio, and looks at every block of a folio
/// for each later write to a part of it: behind writes of 1 MiB, writes of 4 KiB cost 32 us; behind pieces of this length, which
/// are written as fast, 4 us (235,000 against 31,000 a second on Linux 6.18).
const WRITE_PIECE_LEN: u64 = 64 << 10;

/// Runs of data and holes that are looked for when a delta is opened to be served: a tenth of a second.
const HOLES_SOUGHT_MAX: u32 = 1 << 17;

/// What is never to be torn.
const SECTOR_LEN: u64 = 512;

/// Room for a piece. The kernel takes what is written page by page of the memory that it is in. Where a page is missing just then
/// (it is being moved), it may part a write there, and what a crash keeps of it is the first part: so pages of the memory
/// must end where sectors do.
#[repr(align(4096))]
struct Aligned([u8; (WRITE_PIECE_LEN + SECTOR_LEN) as usize]);

thread_local! {
    static ALIGNED: RefCell<Box<Aligned>> =
        RefCell::new(Box::new(Aligned([0; (WRITE_PIECE_LEN + SECTOR_LEN) as usize])));
}

/// What becomes of the space of blocks that are made zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// It is given back to the file system.
    Release,
    /// It stays allocated, so that a later write cannot run out of it.
    Keep,
}

/// Bytes that are alike in taking space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpaceRun {
    pub(crate) len_bytes: u64,
    /// They take none, and read as zero.
    pub(crate) hole: bool,
}

/// The data files of a delta, those that exist open.
pub(super) struct Segments {
    dir: PathBuf,
    size_bytes: u64,
    segments: Vec<OnceLock<Segment>>,
    making: Mutex<()>,
    // A file was made whose name is not known to be durable.
    names_dirty: AtomicBool,
}

struct Segment {
    file: File,
    path: PathBuf,
    // Changed since its last sync began.
    dirty: AtomicBool,
}

/// A part of a request that lies in one file.
struct Piece {
    segment: usize,
    offset: u64,
    len: u64,
}

impl Segments {
    /// Opens the data of a delta for writing. `Corrupt` if a file is missing or too short for the blocks that are in it.
    pub(super) fn open_writable(
        dir: &Path,
        size_bytes: u64,
        members: &RoaringBitmap,
    ) -> Result<Segments> {
        Segments::open(dir, size_bytes, members, true)
    }

    /// The same for reading.
    pub(super) fn open_readable(
        dir: &Path,
        size_bytes: u64,
        members: &RoaringBitmap,
    ) -> Result<Segments> {
        Segments::open(dir, size_bytes, members, false)
    }

    fn open(dir: &Path, size: u64, members: &RoaringBitmap, write: bool) -> Result<Segments> {
        let size_bytes = size.next_multiple_of(BLOCK_SIZE_BYTES);
        let segments = (0..size_bytes.div_ceil(SEGMENT_LEN)).map(|_| OnceLock::new()).collect();
        let (dir, making) = (dir.to_owned(), Mutex::new(()));
        let names_dirty = AtomicBool::new(write);
        let all = Segments { dir, size_bytes, segments, making, names_dirty };
        for number in 0..all.segments.len() {
            all.open_segment(number, members, write)?;
        }
        Ok(all)
    }

    fn open_segment(&self, number: usize, members: &RoaringBitmap, write: bool) -> Result<()> {
        let path = self.path(number);
        let first = (number as u64 * (SEGMENT_LEN / BLOCK_SIZE_BYTES)) as u32;
        let last = first + (self.segment_len(number) / BLOCK_SIZE_BYTES - 1) as u32;
        let needed = members.range_cardinality(first..=last) > 0;
        let file = match OpenOptions::new().read(true).write(write).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && needed => {
                let name = path.display();
                return Err(Error::corrupt(format!("{name} is missing, but blocks are in it")));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.context(|| format!("cannot open {}", path.display()))?,
        };
        let found = file.metadata().context(|| format!("cannot read {}", path.display()))?.len();
        let expected = self.segment_len(number);
        if found != expected && needed {
            let name = path.display();
            return Err(Error::corrupt(format!("{name} has {found} bytes instead of {expected}")));
        }
        if found != expected && write {
            // A crash came between making the file and giving it its length.
            file.set_len(expected).context(|| format!("cannot extend {}", path.display()))?;
        }
        // What a killed process wrote may have been read since, though it is not durable: so the first flush covers it.
        let segment = Segment { file, path, dirty: AtomicBool::new(write) };
        let _ = self.segments[number].set(segment);
        Ok(())
    }

    fn path(&self, number: usize) -> PathBuf {
        self.dir.join(format!("data.{number:03}"))
    }

    fn segment_len(&self, number: usize) -> u64 {
        SEGMENT_LEN.min(self.size_bytes - number as u64 * SEGMENT_LEN)
    }

    /// Fills `buf`. Bytes must be of blocks that are in.
    pub(super) fn read_at(&self, mut buf: IoBufMut<'_>, offset: u64) -> Result<()> {
        for piece in pieces(offset, buf.len() as u64) {
            let part = buf.take(piece.len as usize);
            match self.segments[piece.segment].get() {
                Some(segment) => part
                    .read_exact_at(&segment.file, piece.offset)
                    .context(|| format!("cannot read {}", segment.path.display()))?,
                None => part.fill_zero(),
            }
        }
        Ok(())
    }

    /// Writes. Durable after [`Segments::sync`].
    pub(super) fn write_at(&self, mut buf: IoBuf<'_>, offset: u64) -> Result<()> {
        for piece in pieces(offset, buf.len() as u64) {
            let mut part = buf.take(piece.len as usize);
            let segment = self.writable(piece.segment)?;
            let written = segment.write(&mut part, piece.offset);
            segment.dirty.store(true, Ordering::Release);
            written.context(|| format!("cannot write {}", segment.path.display()))?;
        }
        Ok(())
    }

    /// Makes bytes zero. Durable after [`Segments::sync`].
    pub(super) fn zero(&self, offset: u64, len_bytes: u64, space: Space) -> Result<()> {
        for piece in pieces(offset, len_bytes) {
            let segment = self.writable(piece.segment)?;
            let zeroed = segment.zero(piece.offset, piece.len, space);
            segment.dirty.store(true, Ordering::Release);
            zeroed.context(|| format!("cannot zero a part of {}", segment.path.display()))?;
        }
        Ok(())
    }

    /// Makes every change durable that returned before the call.
    pub(super) fn sync(&self) -> Result<()> {
        if self.names_dirty.swap(false, Ordering::AcqRel) {
            durability::sync_dir(&self.dir)?;
        }
        for segment in self.segments.iter().filter_map(OnceLock::get) {
            if segment.dirty.swap(false, Ordering::AcqRel) {
                let path = || format!("cannot sync {}", segment.path.display());
                segment.file.sync_data().context(path)?;
            }
        }
        Ok(())
    }

    /// Lets go of cached pages that are not waiting to be written, so that reads answer what the disk has. After a failed
    /// sync that is not what was written: the kernel keeps such pages as if they were. Best effort.
    pub(super) fn forget_cached(&self) {
        for segment in self.segments.iter().filter_map(OnceLock::get) {
            forget_cached(&segment.file);
        }
    }

    /// Space that the files take, in bytes.
    pub(super) fn allocated_bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        for segment in self.segments.iter().filter_map(OnceLock::get) {
            let name = || format!("cannot read {}", segment.path.display());
            bytes += segment.file.metadata().context(name)?.blocks() * 512;
        }
        Ok(bytes)
    }

    /// How far from `offset` on, up to `end`, space is taken or is not. A file system that does not know says it is.
    pub(super) fn space_at(&self, offset: u64, end: u64) -> Result<SpaceRun> {
        debug_assert!(offset < end);
        let base = offset / SEGMENT_LEN * SEGMENT_LEN;
        let (start, end) = (offset - base, (end - base).min(SEGMENT_LEN));
        let run = |to: u64, hole| SpaceRun { len_bytes: to.min(end) - start, hole };
        let Some(segment) = self.segments[(base / SEGMENT_LEN) as usize].get() else {
            return Ok(run(end, true));
        };
        match rustix::fs::seek(&segment.file, SeekFrom::Data(start)) {
            Ok(data) if data > start => return Ok(run(data, true)),
            Err(Errno::NXIO) => return Ok(run(end, true)),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(run(end, false)),
            Ok(_) => {}
            Err(error) => return Err(segment.error(error)),
        }
        match rustix::fs::seek(&segment.file, SeekFrom::Hole(start)) {
            // A hole made since the first look: the caller asks again from its start.
            Ok(hole) if hole > start => Ok(run(hole, false)),
            Ok(_) => Ok(run(start + BLOCK_SIZE_BYTES, true)),
            Err(error) => Err(segment.error(error)),
        }
    }

    /// Which of these blocks take no space. Those behind so many runs that looking takes long count among them.
    pub(super) fn holes_in(&self, members: &RoaringBitmap) -> Result<RoaringBitmap> {
        let (mut holes, mut runs) = (RoaringBitmap::new(), members.iter());
        let mut looks_left = HOLES_SOUGHT_MAX;
        while let Some(run) = runs.next_range() {
            let mut block = u64::from(*run.start());
            let end = u64::from(*run.end()) + 1;
            while block < end {
                let run = match looks_left.checked_sub(1) {
                    Some(left) => {
                        looks_left = left;
                        self.space_at(block * BLOCK_SIZE_BYTES, end * BLOCK_SIZE_BYTES)?
                    }
                    None => SpaceRun { len_bytes: (end - block) * BLOCK_SIZE_BYTES, hole: true },
                };
                // A hole may end within a block, which then takes space.
                let blocks = match run.hole {
                    true => run.len_bytes / BLOCK_SIZE_BYTES,
                    false => run.len_bytes.div_ceil(BLOCK_SIZE_BYTES),
                };
                if run.hole && blocks > 0 {
                    holes.insert_range(block as u32..=(block + blocks - 1) as u32);
                }
                block += blocks.max(1);
            }
        }
        Ok(holes)
    }

    /// The file of a part of the disk, made if there is none.
    fn writable(&self, number: usize) -> Result<&Segment> {
        if let Some(segment) = self.segments[number].get() {
            return Ok(segment);
        }
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(segment) = self.segments[number].get() {
            return Ok(segment);
        }
        let path = self.path(number);
        let file = durability::create_file(&path)?;
        self.names_dirty.store(true, Ordering::Release);
        let sized = file.set_len(self.segment_len(number));
        if let Err(error) = sized {
            let _ = std::fs::remove_file(&path);
            return Err(Error::io(format!("cannot extend {}", path.display()), error));
        }
        let segment = Segment { file, path, dirty: AtomicBool::new(true) };
        Ok(self.segments[number].get_or_init(|| segment))
    }
}

impl Segment {
    /// Writes all of it, each piece up to a multiple of [`WRITE_PIECE_LEN`].
    fn write(&self, buf: &mut IoBuf<'_>, mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            let piece = buf.take((WRITE_PIECE_LEN - offset % WRITE_PIECE_LEN) as usize);
            match piece.is_aligned_with(offset, SECTOR_LEN) {
                true => piece.write_all_at(&self.file, offset)?,
                false => self.write_aligned(piece, offset)?,
            }
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// Writes by way of memory that is aligned as the file is.
    fn write_aligned(&self, piece: IoBuf<'_>, offset: u64) -> io::Result<()> {
        ALIGNED.with_borrow_mut(|aligned| {
            let skew = (offset % SECTOR_LEN) as usize;
            let memory = &mut aligned.0[skew..skew + piece.len()];
            piece.copy_to(memory);
            IoBuf::from(&*memory).write_all_at(&self.file, offset)
        })
    }

    fn zero(&self, offset: u64, len: u64, space: Space) -> io::Result<()> {
        let flags = match space {
            Space::Release => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            Space::Keep => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
        };
        loop {
            match rustix::fs::fallocate(&self.file, flags, offset, len) {
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => return self.write_zeroes(offset, len),
                other => return other.map_err(io::Error::from),
            }
        }
    }

    /// For file systems that can neither punch nor zero ranges.
    fn write_zeroes(&self, offset: u64, len: u64) -> io::Result<()> {
        // Aligned, since its pages may be missing when they are first written from: see `Aligned`.
        static ZEROES: Aligned = Aligned([0; (WRITE_PIECE_LEN + SECTOR_LEN) as usize]);
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let part = (end - at).min(WRITE_PIECE_LEN);
            let skew = (at % SECTOR_LEN) as usize;
            self.file.write_all_at(&ZEROES.0[skew..skew + part as usize], at)?;
            at += part;
        }
        Ok(())
    }

    fn error(&self, error: Errno) -> Error {
        Error::io(format!("cannot look for holes in {}", self.path.display()), error.into())
    }
}

/// See [`Segments::forget_cached`].
pub(super) fn forget_cached(file: &File) {
    let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
}

/// Cuts a request at the borders of files.
fn pieces(offset: u64, len: u64) -> impl Iterator<Item = Piece> {
    let end = offset + len;
    let mut at = offset;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let (segment, offset) = ((at / SEGMENT_LEN) as usize, at % SEGMENT_LEN);
        let len = (end - at).min(SEGMENT_LEN - offset);
        at += len;
        Some(Piece { segment, offset, len })
    })
}
