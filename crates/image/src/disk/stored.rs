//! The files on a disk of the store, with the chunks that hold them: found through the disk map, not by reading.
//!
//! Where all blocks that a file has in a 64 KiB step lie in one chunk just as the step has them, and that chunk ends where
//! the step does, it is the step's. Everything else is read and put, and names itself.

use crate::{
    build::FilesRead,
    contents::{ContentsWriter, Step, nonzero_blocks},
};
use silt_ext4::{
    EntryId, EntryKind, Hierarchy,
    reader::{DiskRead, Ext4, Inode, InodeKind, ReadHierarchy},
};
use silt_store::{ChunkKind, ChunkReader, ChunkSink, ChunkSource as _, KeyContext, Store};
use silt_types::{
    BLOCK_SIZE_BYTES, CHUNK_BLOCKS_MAX, CHUNK_SIZE_BYTES_MAX, ChunkId, Context as _, Error,
    ErrorKind, Progress, Result,
};
use silt_volume::{BlockDevice as _, PartOfDisk, Volume, ext4_places};
use std::{
    ops::Range,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

/// Files that a thread takes at a time.
const FILES_TAKEN: usize = 64;
/// Chunks that are looked into are seldom looked into again.
const CHECKED_CACHE_BYTES: u64 = 1 << 20;
/// Steps of a file that are kept in memory at most.
const STEPS_KEPT: usize = 4096;
/// What mke2fs makes of `lost+found`.
const LOST_AND_FOUND: (&[u8], u16) = (b"lost+found", 0o700);
/// The inode that mke2fs gives it: the first that is not reserved.
const LOST_AND_FOUND_INODE: u32 = 11;

/// Files of a stored disk.
pub(super) struct Stored {
    pub(super) read: FilesRead,
    /// Chunks that are used as they are.
    pub(super) reused: Reused,
    /// What a person should know of the choice of the file system.
    pub(super) note: Option<String>,
}

/// Chunks that were found, and their length.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reused {
    pub(super) chunks: u64,
    pub(super) bytes: u64,
}

/// The files below `folder` on the ext4 of a disk. Which chunks they have goes to
/// `contents`. The sink's lease was taken before. Costs the metadata of the folders on
/// the way and of what is below, and what must be read.
pub(super) fn read(
    store: &Store,
    volume: &Volume,
    folder: &Path,
    sink: &dyn ChunkSink,
    contents: &ContentsWriter,
    progress: &dyn Progress,
) -> Result<Stored> {
    progress.begin("reading the file system", 0);
    let disk = WholeVolume(volume);
    let mut places = ext4_places(&disk)?;
    places.sort_by_key(|place| std::cmp::Reverse(place.size_bytes));
    let place = *places.first().ok_or_else(|| Error::invalid("there is no ext4 on the disk"))?;
    let note = (places.len() > 1).then(|| {
        let (count, start) = (places.len(), place.start_bytes);
        format!("the disk has {count} ext4 file systems; the files are those of the largest, at byte {start}")
    });
    let part = PartOfDisk::new(&disk, place);
    let ext4 = Ext4::open(&part)?;
    let top = find_folder(&ext4, folder)?;
    let mut read = ext4.hierarchy_below(&top)?;
    if top.number == ext4.root()?.number {
        leave_out_lost_and_found(&mut read)?;
    }
    let finder = Finder {
        store,
        chunks: store.separate_reader(CHECKED_CACHE_BYTES),
        volume,
        ext4: &ext4,
        // Blocks of the file system are blocks of the disk, from this one on.
        first_block: (u64::from(ext4.block_size_bytes()) == BLOCK_SIZE_BYTES
            && place.start_bytes.is_multiple_of(BLOCK_SIZE_BYTES))
        .then_some(place.start_bytes / BLOCK_SIZE_BYTES),
        read: &read,
        sink,
        contents,
    };
    let (reused, bytes_read) = finder.find_all(progress)?;
    let read = FilesRead { hierarchy: read.hierarchy, bytes_read, config: None };
    Ok(Stored { read, reused, note })
}

/// Files that are not empty.
fn files_of(hierarchy: &Hierarchy) -> Vec<EntryId> {
    let is_file = |entry: &EntryId| {
        hierarchy.kind(*entry) == EntryKind::File && hierarchy.size_bytes(*entry) > 0
    };
    hierarchy.entries().filter(is_file).collect()
}

/// Goes down a path, name by name: nothing is followed, so nothing leads out.
fn find_folder<D: DiskRead>(ext4: &Ext4<D>, path: &Path) -> Result<Inode> {
    let mut folder = ext4.root()?;
    let mut seen = String::new();
    for name in path.as_os_str().as_bytes().split(|byte| *byte == b'/') {
        if name.is_empty() || name == b"." {
            continue;
        }
        seen.push('/');
        seen.push_str(&String::from_utf8_lossy(name));
        if name == b".." {
            return Err(Error::invalid(format!("{seen:?}: `..` is not followed")));
        }
        let found = ext4.lookup(&folder, name).context(|| format!("cannot look {seen:?} up"))?;
        folder = found.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no {seen:?} on the disk"))
        })?;
        match folder.kind {
            InodeKind::Directory => {}
            InodeKind::Symlink => {
                let target = ext4.read_link(&folder)?;
                let target = String::from_utf8_lossy(&target).into_owned();
                let what = format!("{seen:?} is a symbolic link to {target:?}: name the folder");
                return Err(Error::invalid(what));
            }
            _ => return Err(Error::invalid(format!("{seen:?} is not a folder"))),
        }
    }
    Ok(folder)
}

/// An empty `lost+found` as mke2fs makes it was in no source: it belongs to the disk, not to the tree.
fn leave_out_lost_and_found(read: &mut ReadHierarchy) -> Result<()> {
    let (name, permissions) = LOST_AND_FOUND;
    let Some(entry) = read.hierarchy.lookup(EntryId::ROOT, name) else { return Ok(()) };
    let metadata = read.hierarchy.metadata(entry);
    let made_by_mke2fs = read.hierarchy.kind(entry) == EntryKind::Directory
        && read.hierarchy.children_count(entry) == 0
        && read.hierarchy.xattrs(entry).is_empty()
        && read.inode(entry).get() == LOST_AND_FOUND_INODE
        && (metadata.permissions, metadata.uid, metadata.gid) == (permissions, 0, 0);
    if made_by_mke2fs { read.hierarchy.remove(EntryId::ROOT, name) } else { Ok(()) }
}

/// A volume as the ext4 reader takes it.
struct WholeVolume<'a>(&'a Volume);

impl DiskRead for WholeVolume<'_> {
    fn size_bytes(&self) -> u64 {
        self.0.geometry().size_bytes
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.0.read_at(buf, offset)
    }
}

/// Finds the chunks of files, with every core.
struct Finder<'a, D> {
    store: &'a Store,
    /// Where chunks are looked into.
    chunks: ChunkReader,
    volume: &'a Volume,
    ext4: &'a Ext4<D>,
    /// Where the file system begins, in blocks of the disk; `None` where its blocks are not the disk's, so all is read.
    first_block: Option<u64>,
    read: &'a ReadHierarchy,
    sink: &'a dyn ChunkSink,
    contents: &'a ContentsWriter,
}

/// What one thread has found.
#[derive(Default)]
struct Found {
    steps: Vec<Step>,
    reused: Reused,
    bytes_read: u64,
}

/// What is known of the step of a file that the walk over its extents has come to.
struct Pending {
    number: u64,
    /// Blocks that the disk map has.
    blocks: u16,
    chunk: Option<ChunkId>,
    /// Some block is elsewhere than one chunk would have it, so the step has to be read.
    scattered: bool,
}

impl<D: DiskRead + Sync> Finder<'_, D> {
    fn find_all(&self, progress: &dyn Progress) -> Result<(Reused, u64)> {
        let files = files_of(&self.read.hierarchy);
        let bytes = files
            .iter()
            .map(|file| self.read.hierarchy.content_blocks(*file).saturating_mul(BLOCK_SIZE_BYTES));
        progress.begin("finding files", bytes.fold(0, u64::saturating_add));
        let (next, all) = (AtomicUsize::new(0), Mutex::new(Ok((Reused::default(), 0))));
        let work = || {
            let mut found = Found::default();
            let done = self.find_some(&files, &next, &mut found, progress);
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            match (&mut *all, done) {
                (Ok((reused, bytes_read)), Ok(())) => {
                    reused.chunks += found.reused.chunks;
                    reused.bytes += found.reused.bytes;
                    *bytes_read += found.bytes_read;
                }
                (Ok(_), Err(error)) => *all = Err(error),
                (Err(_), _) => {}
            }
            // After an error nobody need begin anything.
            if all.is_err() {
                next.store(files.len(), Relaxed);
            }
        };
        thread::scope(|scope| {
            let threads = thread::available_parallelism().map_or(1, usize::from);
            (0..threads).for_each(|_| drop(scope.spawn(work)));
        });
        all.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn find_some(
        &self,
        files: &[EntryId],
        next: &AtomicUsize,
        found: &mut Found,
        progress: &dyn Progress,
    ) -> Result<()> {
        loop {
            let first = next.fetch_add(FILES_TAKEN, Relaxed);
            let Some(rest) = files.get(first..).filter(|rest| !rest.is_empty()) else {
                return Ok(());
            };
            for entry in rest.iter().take(FILES_TAKEN) {
                self.find_file(*entry, found)?;
                let blocks = self.read.hierarchy.content_blocks(*entry);
                progress.advance(blocks * BLOCK_SIZE_BYTES);
            }
        }
    }

    fn find_file(&self, entry: EntryId, found: &mut Found) -> Result<()> {
        let file = self.ext4.inode(self.read.inode(entry))?;
        let pending = |number| Pending { number, blocks: 0, chunk: None, scattered: false };
        let mut step: Option<Pending> =
            file.is_inline().then(|| Pending { scattered: true, ..pending(0) });
        let block_size = u64::from(self.ext4.block_size_bytes());
        let end = file.size_bytes.div_ceil(block_size);
        let per_step = CHUNK_SIZE_BYTES_MAX as u64 / block_size;
        for extent in self.ext4.extents(&file) {
            let extent = extent?;
            if extent.unwritten {
                continue;
            }
            let mut at = extent.logical;
            while at < extent.logical_end().min(end) {
                let number = at / per_step;
                let stop = ((number + 1) * per_step).min(extent.logical_end()).min(end);
                if step.as_ref().is_none_or(|step| step.number != number)
                    && let Some(done) = step.replace(pending(number))
                {
                    self.finish_step(entry, &file, done, found)?;
                }
                let physical = extent.physical + (at - extent.logical);
                if let Some(step) = &mut step {
                    self.look_up(step, at % per_step, physical..physical + (stop - at))?;
                }
                at = stop;
            }
        }
        if let Some(done) = step {
            self.finish_step(entry, &file, done, found)?;
        }
        self.contents.add(entry, &found.steps)?;
        found.steps.clear();
        Ok(())
    }

    /// Looks up blocks of the file system that a step has from block `first` on.
    fn look_up(&self, step: &mut Pending, first: u64, blocks: Range<u64>) -> Result<()> {
        let Some(first_block) =
            self.first_block.filter(|_| !self.ext4.is_journaled(blocks.clone()))
        else {
            step.scattered = true;
            return Ok(());
        };
        let mut at = blocks.start;
        while at < blocks.end && !step.scattered {
            let left = blocks.end - at;
            let Some(extent) = self.volume.sealed_extent(first_block + at, left)? else {
                step.scattered = true;
                return Ok(());
            };
            let len = extent.len_blocks.min(left);
            let in_step = first + (at - blocks.start);
            if let Some(place) = extent.place {
                let chunk = *step.chunk.get_or_insert(place.chunk);
                step.scattered = chunk != place.chunk || place.offset_blocks != in_step;
                let mask = (1u32 << len) - 1; // At most 16 blocks.
                step.blocks |= (mask << in_step) as u16;
            }
            at += len;
        }
        Ok(())
    }

    fn finish_step(
        &self,
        entry: EntryId,
        file: &Inode,
        step: Pending,
        found: &mut Found,
    ) -> Result<()> {
        let start = step.number * CHUNK_SIZE_BYTES_MAX as u64;
        let len = (file.size_bytes - start).min(CHUNK_SIZE_BYTES_MAX as u64) as usize;
        let number = step.number as u32; // The longest file has 2^28 steps.
        let kept = match step {
            Pending { scattered: true, .. } => self.read_step(file, start, len, found)?,
            Pending { chunk: None, .. } => None,
            Pending { chunk: Some(chunk), blocks, .. } if self.is_step(&chunk, blocks, len)? => {
                found.reused.chunks += 1;
                found.reused.bytes += len as u64;
                Some((chunk, blocks))
            }
            _ => self.read_step(file, start, len, found)?,
        };
        found.steps.extend(kept.map(|(chunk, blocks)| Step { number, blocks, chunk }));
        if found.steps.len() >= STEPS_KEPT {
            self.contents.add(entry, &found.steps)?;
            found.steps.clear();
        }
        Ok(())
    }

    /// Whether a chunk, which holds these blocks of a step, holds all of it and nothing else.
    fn is_step(&self, chunk: &ChunkId, blocks: u16, len: usize) -> Result<bool> {
        let found = self.store.place_of(chunk)?;
        if found.is_none_or(|place| place.entry.len as usize != len) {
            return Ok(false);
        }
        let all = (1u32 << (len as u64).div_ceil(BLOCK_SIZE_BYTES).min(CHUNK_BLOCKS_MAX)) - 1;
        if u32::from(blocks) == all {
            return Ok(true);
        }
        // Where the file has a hole the chunk must be zero.
        let content = self.chunks.get(KeyContext::Content, chunk)?;
        Ok(nonzero_blocks(&content) == blocks)
    }

    /// Reads a step and makes a chunk of it, unless it is zero.
    fn read_step(
        &self,
        file: &Inode,
        start: u64,
        len: usize,
        found: &mut Found,
    ) -> Result<Option<(ChunkId, u16)>> {
        let mut content = [0; CHUNK_SIZE_BYTES_MAX];
        let content = &mut content[..len];
        self.ext4.read_file_at(file, content, start)?;
        found.bytes_read += len as u64;
        let blocks = nonzero_blocks(content);
        if blocks == 0 {
            return Ok(None);
        }
        Ok(Some((self.sink.put(ChunkKind::FileData, content)?, blocks)))
    }
}
