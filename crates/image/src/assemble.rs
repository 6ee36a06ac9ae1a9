//! From a hierarchy and the chunks of its files to a published image: tree, layout, disk map, one commit.
//!
//! Everything here is in the order of paths or of disk addresses, so nothing depends on which thread was first.

use crate::{
    build::{Building, BuiltImage, FilesRead},
    contents::{Contents, ContentsWriter, Step, step_of_block},
    edits::Edits,
    paths::for_each_path,
};
use silt_ext4::{
    EntryId, EntryKind, Hierarchy, Layout, LayoutOptions,
    writer::{DataExtent, LAYOUT_VERSION, Summary},
};
use silt_format::LaidOut;
use silt_store::{ChunkKind, ChunkSink, ImageRecord, Ingest};
use silt_tree::{TreeBuilder, TreeContent, TreeEntry, TreeKind};
use silt_types::{
    BLOCK_SIZE_BYTES, CHUNK_BLOCKS_MAX, CHUNK_SIZE_BYTES_MAX, DiskId, Error, ErrorKind, Result,
    TreeId,
};
use silt_volume::MapBuilder;
use std::collections::HashMap;

/// What every source of files comes down to.
pub(crate) struct Files {
    pub(crate) hierarchy: Hierarchy,
    pub(crate) contents: Contents,
    pub(crate) bytes_read: u64,
    /// The configuration that came with them, in chunks.
    pub(crate) config: Option<DiskId>,
}

impl Files {
    /// What was read, edited; what is known of the content becomes the files' runs of blocks.
    pub(crate) fn edited(
        read: FilesRead,
        edits: &Edits,
        sink: &dyn ChunkSink,
        contents: ContentsWriter,
    ) -> Result<Files> {
        let FilesRead { mut hierarchy, bytes_read, config } = read;
        let added = edits.apply(&mut hierarchy, sink, &contents)?;
        let contents = contents.finish()?;
        let has_content = |entry: &EntryId| hierarchy.size_bytes(*entry) > 0;
        let files: Vec<EntryId> = hierarchy.entries().filter(has_content).collect();
        for entry in files {
            let (size_bytes, runs) = (hierarchy.size_bytes(entry), contents.runs(entry)?);
            hierarchy.set_file_content(entry, size_bytes, &runs)?;
        }
        Ok(Files { hierarchy, contents, bytes_read: bytes_read + added, config })
    }
}

/// Lays `files` out and publishes the image; takes over the disk of `known` where that was laid out by the same rules from an
/// equal tree, and all of its chunks are known to be in the store. Answers what was laid out, or taken over, too.
pub(crate) fn assemble(
    building: &Building<'_>,
    ingest: Ingest,
    files: &Files,
    known: Option<&LaidOut>,
) -> Result<(BuiltImage, LaidOut)> {
    let Building { request, created_ns, progress, .. } = *building;
    progress.begin("laying out", 0);
    let tree = build_tree(&ingest, files)?;
    let is_same = |known: &&LaidOut| {
        known.layout_version == LAYOUT_VERSION
            && known.tree == tree
            && known.size_asked == request.size_bytes
    };
    let laid_out = match known.filter(is_same) {
        Some(known) => {
            ingest.count_known(known.chunks, known.bytes);
            *known
        }
        None => lay_out(&ingest, files, tree, request.size_bytes)?,
    };
    progress.begin("publishing", 0);
    let record = ImageRecord {
        name: request.name.clone(),
        disk: laid_out.disk,
        tree: Some(tree),
        config: files.config,
        created_ns,
        bytes_nonzero: ingest.counts().bytes,
    };
    let counts = building.publish(ingest, &record)?;
    let layout = Some(Summary::from_numbers(laid_out.disk.size_bytes, laid_out.numbers));
    let bytes_read = files.bytes_read;
    let (no_tree, notes, changes) = (None, Vec::new(), None);
    let built = BuiltImage { record, bytes_read, counts, layout, no_tree, notes, changes };
    Ok((built, laid_out))
}

fn lay_out(
    ingest: &Ingest,
    files: &Files,
    tree: TreeId,
    size_asked: Option<u64>,
) -> Result<LaidOut> {
    let before = ingest.counts();
    let options = LayoutOptions { uuid: uuid_of(&tree), size_bytes: size_asked };
    let layout = Layout::plan(&files.hierarchy, &options)?;
    let disk = build_map(ingest, files, &layout)?;
    let after = ingest.counts();
    Ok(LaidOut {
        layout_version: LAYOUT_VERSION,
        tree,
        size_asked,
        disk,
        numbers: layout.summary().numbers(),
        chunks: after.chunks - before.chunks,
        bytes: after.bytes - before.bytes,
    })
}

/// The UUID of a file system: of the kind that applications define (RFC 9562, version 8), from what is in it.
fn uuid_of(tree: &TreeId) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&tree.as_bytes()[..16]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

/// Writes the tree of `files`.
pub(crate) fn build_tree(sink: &dyn ChunkSink, files: &Files) -> Result<TreeId> {
    let mut builder = TreeBuilder::new(sink);
    builder.push(&tree_entry(sink, files, EntryId::ROOT, Vec::new())?)?;
    let mut first_paths: HashMap<EntryId, Vec<u8>> = HashMap::new();
    for_each_path(&files.hierarchy, |visit, path| {
        if visit.is_primary {
            builder.push(&tree_entry(sink, files, visit.entry, path.to_vec())?)?;
            if files.hierarchy.links(visit.entry) > 1 {
                first_paths.insert(visit.entry, path.to_vec());
            }
            return Ok(());
        }
        let first = first_paths.get(&visit.entry).cloned().unwrap_or_default();
        builder.push(&TreeEntry::bare(path.to_vec(), TreeKind::HardLink(first)))
    })?;
    builder.finish()
}

fn tree_entry(
    sink: &dyn ChunkSink,
    files: &Files,
    entry: EntryId,
    path: Vec<u8>,
) -> Result<TreeEntry> {
    let metadata = files.hierarchy.metadata(entry);
    let xattrs = files.hierarchy.xattrs(entry).iter();
    Ok(TreeEntry {
        permissions: metadata.permissions,
        uid: metadata.uid,
        gid: metadata.gid,
        mtime_seconds: metadata.mtime.seconds,
        mtime_nanoseconds: metadata.mtime.nanoseconds,
        xattrs: xattrs.map(|xattr| (xattr.name.to_vec(), xattr.value.to_vec())).collect(),
        ..TreeEntry::bare(path, tree_kind(sink, files, entry)?)
    })
}

fn tree_kind(sink: &dyn ChunkSink, files: &Files, entry: EntryId) -> Result<TreeKind> {
    Ok(match files.hierarchy.kind(entry) {
        EntryKind::Directory => TreeKind::Directory,
        EntryKind::File => {
            let size_bytes = files.hierarchy.size_bytes(entry);
            TreeKind::File {
                size_bytes,
                content: tree_content(sink, &files.contents, entry, size_bytes)?,
            }
        }
        EntryKind::Symlink(target) => TreeKind::Symlink(target.to_vec()),
        EntryKind::CharDevice { major, minor } => TreeKind::CharDevice { major, minor },
        EntryKind::BlockDevice { major, minor } => TreeKind::BlockDevice { major, minor },
        EntryKind::Fifo => TreeKind::Fifo,
        EntryKind::Socket => TreeKind::Socket,
    })
}

fn tree_content(
    sink: &dyn ChunkSink,
    contents: &Contents,
    entry: EntryId,
    size_bytes: u64,
) -> Result<TreeContent> {
    let steps = size_bytes.div_ceil(CHUNK_SIZE_BYTES_MAX as u64);
    if steps <= silt_tree::INLINE_CHUNKS_MAX as u64 {
        let mut chunks = vec![DiskId::ZERO_ROOT; steps as usize];
        contents.for_each_step(entry, 0, |step| {
            chunks[step.number as usize] = step.chunk;
            Ok(true)
        })?;
        return Ok(TreeContent::Chunks(chunks));
    }
    let mut map = MapBuilder::new(sink, size_bytes)?;
    let blocks = size_bytes.div_ceil(BLOCK_SIZE_BYTES);
    contents.for_each_step(entry, 0, |step| {
        let first = u64::from(step.number) * CHUNK_BLOCKS_MAX;
        map.map(first, CHUNK_BLOCKS_MAX.min(blocks - first), step.chunk, 0)?;
        Ok(true)
    })?;
    Ok(TreeContent::Map(map.finish()?.root))
}

fn build_map(sink: &dyn ChunkSink, files: &Files, layout: &Layout) -> Result<DiskId> {
    let data = layout.data_extents(&files.hierarchy)?;
    let mut writer = MapWriter {
        sink,
        contents: &files.contents,
        map: MapBuilder::new(sink, layout.size_bytes())?,
        data: data.iter(),
        next: None,
        run: Vec::with_capacity(CHUNK_SIZE_BYTES_MAX),
        run_start: 0,
    };
    writer.next = writer.data.next();
    layout.for_each_metadata_block(&files.hierarchy, &mut |block, bytes| {
        writer.metadata_block(block, bytes)
    })?;
    writer.finish_run()?;
    writer.data_before(u64::MAX)?;
    writer.map.finish()
}

/// Merges metadata blocks and the extents of files, both ascending, into one map.
struct MapWriter<'a> {
    sink: &'a dyn ChunkSink,
    contents: &'a Contents,
    map: MapBuilder<'a>,
    data: std::slice::Iter<'a, DataExtent>,
    next: Option<&'a DataExtent>,
    /// Neighbouring metadata blocks that become one chunk.
    run: Vec<u8>,
    run_start: u64,
}

impl MapWriter<'_> {
    fn metadata_block(&mut self, block: u64, bytes: &[u8]) -> Result<()> {
        let run_end = self.run_start + self.run.len() as u64 / BLOCK_SIZE_BYTES;
        // Cut where a multiple of 64 KiB lies on the disk, so that a longer run before moves no cut.
        if block != run_end || block.is_multiple_of(CHUNK_BLOCKS_MAX) {
            self.finish_run()?;
            self.data_before(block)?;
            self.run_start = block;
        }
        self.run.extend_from_slice(bytes);
        Ok(())
    }

    fn finish_run(&mut self) -> Result<()> {
        if self.run.is_empty() {
            return Ok(());
        }
        let chunk = self.sink.put(ChunkKind::DiskData, &self.run)?;
        self.map.map(self.run_start, self.run.len() as u64 / BLOCK_SIZE_BYTES, chunk, 0)?;
        self.run.clear();
        Ok(())
    }

    fn data_before(&mut self, block: u64) -> Result<()> {
        while let Some(extent) = self.next.filter(|extent| u64::from(extent.physical_block) < block)
        {
            self.data_extent(extent)?;
            self.next = self.data.next();
        }
        Ok(())
    }

    fn data_extent(&mut self, extent: &DataExtent) -> Result<()> {
        let begin = u64::from(extent.logical_block);
        let (mut logical, end) = (begin, begin + u64::from(extent.len_blocks));
        let map = &mut self.map;
        self.contents.for_each_step(
            extent.entry,
            step_of_block(logical),
            |Step { number, chunk, .. }| {
                let first = u64::from(*number) * CHUNK_BLOCKS_MAX;
                let stop = end.min(first + CHUNK_BLOCKS_MAX);
                if first > logical {
                    return Err(missing(extent));
                }
                map.map(
                    u64::from(extent.physical_block) + (logical - begin),
                    stop - logical,
                    *chunk,
                    logical - first,
                )?;
                logical = stop;
                Ok(logical < end)
            },
        )?;
        if logical < end { Err(missing(extent)) } else { Ok(()) }
    }
}

fn missing(extent: &DataExtent) -> Error {
    Error::new(
        ErrorKind::Internal,
        format!("the layout has data where the file has none: {extent:?}"),
    )
}
