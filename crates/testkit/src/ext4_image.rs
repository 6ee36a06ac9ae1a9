//! ext4 images as files: a layout written out with made-up content, and the outside judges of it.
//!
//! Content follows from the entry's owner, time and size and the block alone, so that whoever has the hierarchy knows
//! every byte.

use rustix::{
    io::Errno,
    mount::{UnmountFlags, unmount},
};
use silt_ext4::{EntryId, Hierarchy, Layout, LayoutOptions, writer::DataExtent};
use silt_types::{Context as _, Error, Result};
use std::{
    fs::{self, File},
    io::{Seek as _, SeekFrom, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
    time::Duration,
};

/// Bytes of a block.
pub const BLOCK_SIZE: usize = 4096;

/// The UUID of test images.
pub const UUID: [u8; 16] = *b"silt-ext4 tests!";

/// The content of one block of a file: never all zero, different for every block; zero behind the end of the file.
pub fn content_block(
    hierarchy: &Hierarchy,
    entry: EntryId,
    logical_block: u64,
) -> [u8; BLOCK_SIZE] {
    let seed = content_seed(hierarchy, entry);
    let mut block = [0; BLOCK_SIZE];
    let mut state = seed ^ logical_block.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for word in block.chunks_exact_mut(8) {
        // One step of xorshift64, which never reaches zero.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    // Whatever the size, the first byte is there.
    block[0] |= 1;
    let size = hierarchy.size_bytes(entry);
    let valid = size.saturating_sub(logical_block * BLOCK_SIZE as u64).min(BLOCK_SIZE as u64);
    block[valid as usize..].fill(0);
    block
}

fn content_seed(hierarchy: &Hierarchy, entry: EntryId) -> u64 {
    // Owner and time rather than the path: links have several, and a hierarchy does not keep them in order.
    let metadata = hierarchy.metadata(entry);
    let seed = metadata.mtime.seconds as u64 ^ u64::from(metadata.uid) << 32;
    seed.wrapping_mul(0x100_0000_01B3) ^ hierarchy.size_bytes(entry)
}

/// Plans a layout, of a given or the default size, and writes it with made-up content to a sparse file.
pub fn write_image(hierarchy: &Hierarchy, size_bytes: Option<u64>, path: &Path) -> Result<Layout> {
    let layout = Layout::plan(hierarchy, &LayoutOptions { uuid: UUID, size_bytes })?;
    write_layout(&layout, hierarchy, path)?;
    Ok(layout)
}

/// Writes a layout with made-up content to a sparse file. Checks on the way that blocks come in ascending order and
/// that metadata and data do not meet.
pub fn write_layout(layout: &Layout, hierarchy: &Hierarchy, path: &Path) -> Result<()> {
    let mut file = File::create(path).context(|| format!("cannot create {path:?}"))?;
    file.set_len(layout.size_bytes()).context(|| format!("cannot size {path:?}"))?;
    let write_error = || format!("cannot write {path:?}");
    let extents = layout.data_extents(hierarchy)?;
    let mut data = extents.iter().peekable();
    let mut next = 0;
    layout.for_each_metadata_block(hierarchy, &mut |block, bytes| {
        while data.next_if(|extent| end_of(extent) <= block).is_some() {}
        let meets_data =
            data.peek().is_some_and(|extent| u64::from(extent.physical_block) <= block);
        if block < next || bytes.len() != BLOCK_SIZE || meets_data {
            return Err(Error::corrupt(format!("metadata block {block} is out of order")));
        }
        next = block + 1;
        file.write_all_at(bytes, block * BLOCK_SIZE as u64).context(write_error)
    })?;
    let mut end = 0;
    for extent in &extents {
        let start = u64::from(extent.physical_block);
        if start < end {
            return Err(Error::corrupt(format!("data of block {end} is out of order")));
        }
        end = end_of(extent);
        file.seek(SeekFrom::Start(start * BLOCK_SIZE as u64)).context(write_error)?;
        for n in 0..extent.len_blocks.into() {
            let logical = u64::from(extent.logical_block) + n;
            file.write_all(&content_block(hierarchy, extent.entry, logical))
                .context(write_error)?;
        }
    }
    Ok(())
}

fn end_of(extent: &DataExtent) -> u64 {
    u64::from(extent.physical_block) + u64::from(extent.len_blocks)
}

/// What `e2fsck -fn` says: an error with its output unless it finds the image clean.
pub fn e2fsck(path: &Path) -> Result<()> {
    run(Command::new("e2fsck").arg("-fn").arg(path)).map(drop)
}

/// Runs a program that must succeed; the error holds what it printed.
pub fn run(command: &mut Command) -> Result<Output> {
    let output = command.output().context(|| format!("cannot run {command:?}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let printed = text(&output.stdout) + &text(&output.stderr);
    Err(Error::corrupt(format!("{command:?} ended with {}:\n{printed}", output.status)))
}

/// How often it is tried, 10 ms apart, to take a mount off that is busy.
const BUSY_TRIES: u32 = 500;

/// An image mounted through a loop device, for as long as this lives.
pub struct LoopMount {
    mount_point: PathBuf,
}

impl LoopMount {
    /// Mounts an image at a folder that exists, with `options` of mount(8) besides `loop`. `None`, and the reason printed,
    /// where this machine does not let us.
    pub fn new(image: &Path, mount_point: &Path, options: &str) -> Result<Option<LoopMount>> {
        if let Some(reason) = why_no_loop_mounts() {
            // A test that did not run must not look as if it had.
            eprintln_reason(&reason);
            return Ok(None);
        }
        let options = format!("loop,{options}");
        run(Command::new("mount")
            .args(["-t", "ext4", "-o", &options])
            .arg(image)
            .arg(mount_point))?;
        Ok(Some(LoopMount { mount_point: mount_point.to_owned() }))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    /// The loop device below.
    pub fn device(&self) -> Result<PathBuf> {
        let mut find = Command::new("findmnt");
        let output = run(find.args(["-n", "-o", "SOURCE", "--mountpoint"]).arg(&self.mount_point))?;
        Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        // A process that another thread is just starting has our open files until it is another program.
        for _ in 0..BUSY_TRIES {
            match unmount(&self.mount_point, UnmountFlags::empty()) {
                Err(Errno::BUSY) => thread::sleep(Duration::from_millis(10)),
                _ => return,
            }
        }
        // Somebody still looks at it: out of the way now, gone when they are.
        let _ = unmount(&self.mount_point, UnmountFlags::DETACH);
    }
}

/// Why images cannot be mounted here, or nothing where they can.
pub fn why_no_loop_mounts() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("mounting needs root".into());
    }
    if fs::metadata("/dev/loop-control").is_err() {
        return Some("there is no /dev/loop-control".into());
    }
    None
}

#[expect(clippy::print_stderr, reason = "the reason of a skipped test")]
fn eprintln_reason(reason: &str) {
    eprintln!("skipped: {reason}");
}
