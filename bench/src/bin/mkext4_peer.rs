//! The `mkext4` crate as a peer: writes an ext4 image from a folder and says how long each part took.
//!
//! `mkext4-peer DIR IMAGE SIZE` prints one line, `declare A seal B write C sync D total E` in seconds:
//! reading the folder and declaring it, freezing the layout, emitting the image, fsync. It keeps what the
//! timing needs (folders, files, links, owners, times) and refuses everything else.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use mkext4::sink::FileSink;
use mkext4::{FsBuilder, InodeCount, InodeHandle, Meta, Options, ROOT};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, image, size] = &arguments[..] else {
        return Err("usage: mkext4-peer DIR IMAGE SIZE".into());
    };
    let start = Instant::now();
    let lap = || start.elapsed().as_secs_f64();

    let size = size.parse::<u64>()? & !4095;
    let mut options = Options::new(size, *b"silt-bench-mkext", 1_700_000_000);
    // Its own rule gives a disk of small files too few inodes.
    options.inodes = InodeCount::Exact((size / 8192).try_into()?);
    let mut builder = FsBuilder::new(options)?;
    let mut contents = Vec::new();
    declare(&mut builder, ROOT, Path::new(source), &mut contents)?;
    let declared = lap();

    let layout = builder.seal()?;
    let sealed = lap();

    let mut sink = FileSink::create(Path::new(image), layout.image_len())?;
    let mut writer = layout.writer(&mut sink)?;
    for (handle, path) in &contents {
        writer.fill(*handle, &mut File::open(path)?)?;
    }
    writer.finish()?;
    let written = lap();

    sink.into_file().sync_all()?;
    let synced = lap();
    println!(
        "declare {declared:.3} seal {:.3} write {:.3} sync {:.3} total {synced:.3}",
        sealed - declared,
        written - sealed,
        synced - written,
    );
    Ok(())
}

/// Declares one folder's entries, sorted by name, and those below it; notes which files have content.
fn declare(
    builder: &mut FsBuilder,
    folder: InodeHandle,
    path: &Path,
    contents: &mut Vec<(InodeHandle, PathBuf)>,
) -> Result<()> {
    let mut entries = std::fs::read_dir(path)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_str().ok_or_else(|| format!("{}: not UTF-8", path.display()))?;
        let metadata = std::fs::symlink_metadata(&path)?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            let child = builder.mkdir(folder, name, meta(&metadata))?;
            declare(builder, child, &path, contents)?;
        } else if kind.is_symlink() {
            let target = std::fs::read_link(&path)?;
            let target =
                target.to_str().ok_or_else(|| format!("{}: target not UTF-8", path.display()))?;
            builder.symlink(folder, name, target, meta(&metadata))?;
        } else if kind.is_file() {
            let file = builder.file(folder, name, meta(&metadata), metadata.len())?;
            if metadata.len() > 0 {
                contents.push((file, path));
            }
        } else {
            return Err(format!("{}: a kind of file this peer leaves out", path.display()).into());
        }
    }
    Ok(())
}

fn meta(metadata: &Metadata) -> Meta {
    let mode = (metadata.mode() & 0o7777) as u16;
    Meta::new(
        mode,
        metadata.uid(),
        metadata.gid(),
        (metadata.mtime(), metadata.mtime_nsec() as u32),
    )
}
