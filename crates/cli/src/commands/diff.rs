//! `silt diff`: what differs between two disks, by block or by file.

use super::Context;
use crate::{output::print, progress::Bar};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Map, Value, json};
use silt_engine::{Aspect, Change, DiskDiff, InodeKind};
use silt_types::{DiskName, Result, format_size};
use std::fmt::Write as _;

/// Decoded chunks kept while comparing: those whose blocks lie apart.
const CACHE_SIZE_BYTES: u64 = 64 << 20;

/// Show what differs between two disks, each an image, a volume or a snapshot.
///
/// Without --files: the blocks of 4096 bytes whose bytes differ, in time proportional to the difference. The shorter
/// disk reads as zero behind its end.
///
/// With --files: what changed from A to B in their ext4 file systems, one line for each path. Content is read only where
/// it may differ, and what a journal holds counts. It exits with 0 whether or not there are differences. A volume that is
/// being written cannot be compared (exit 5), nor the files of a disk that is not ext4 (exit 6).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt diff debian vm1             blocks that vm1 has changed
  silt diff debian vm1 --files     files that it has changed

A line of --files is letters for what changed, and the path from the root of the file system:
  A  etc/new                       added
  D  etc/old                       removed
  R  etc/a -> etc/b                renamed, as the inode tells
  M  etc/motd                      other content, target of a link, or device number
  T  etc/localtime                 now of another kind, for instance a link that was a file
  p  usr/bin/tool                  other permissions
  o  home/user                     other owner or group
  t  etc/hosts                     other time, but the same content
  x  srv/data                      other extended attributes

Several letters may stand together (\"Mpo  etc/passwd\"). Of what has other content, and of folders whose entries changed,
another time goes without saying; --json tells it of files. The last line counts.")]
pub(crate) struct Args {
    /// The first disk: IMAGE, VOLUME or VOLUME@SNAPSHOT.
    a: String,
    /// The second disk.
    b: String,
    /// Compare files instead of blocks.
    #[arg(long)]
    files: bool,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let (a, b): (DiskName, DiskName) = (args.a.parse()?, args.b.parse()?);
    let engine = context.engine_with_cache(CACHE_SIZE_BYTES)?;
    let bar = Bar::new();
    if args.files {
        let changes = engine.diff_files(&a, &b, &bar)?;
        drop(bar);
        return print(context.json, || files_document(&a, &b, &changes), || files_text(&changes));
    }
    let diff = engine.diff(&a, &b, &bar)?;
    drop(bar);
    print(context.json, || document(&a, &b, &diff), || text(&diff))
}

fn document(a: &DiskName, b: &DiskName, diff: &DiskDiff) -> Value {
    let ranges = diff.ranges.iter();
    let ranges = ranges.map(|range| json!({ "start": range.start, "len": range.len }));
    json!({
        "a": a.to_string(),
        "b": b.to_string(),
        "a_size": diff.a_size_bytes,
        "b_size": diff.b_size_bytes,
        "blocks_differing": diff.blocks_differing(),
        "bytes_differing": diff.bytes_differing(),
        "ranges": ranges.collect::<Vec<_>>(),
    })
}

fn text(diff: &DiskDiff) -> String {
    let (a, b) = (diff.a_size_bytes, diff.b_size_bytes);
    let sizes = match a == b {
        true => String::new(),
        false => format!("the disks are {} and {} long\n", format_size(a), format_size(b)),
    };
    let mut text = format!(
        "{sizes}{} blocks differ ({}) in {} ranges\n",
        diff.blocks_differing(),
        format_size(diff.bytes_differing()),
        diff.ranges.len()
    );
    for range in &diff.ranges {
        match range.len {
            1 => writeln!(text, "block  {}", range.start),
            len => writeln!(text, "blocks {} to {} ({len})", range.start, range.end() - 1),
        }
        .expect("writing to a string does not fail");
    }
    text
}

fn files_document(a: &DiskName, b: &DiskName, changes: &[Change]) -> Value {
    json!({
        "a": a.to_string(),
        "b": b.to_string(),
        "changes": changes.iter().map(change_document).collect::<Vec<_>>(),
    })
}

fn change_document(change: &Change) -> Value {
    let mut document = Map::new();
    put_path(&mut document, "path", &change.path);
    document.insert("kind".to_owned(), kind(change.kind).into());
    let what = change.what.iter().map(Aspect::as_str).collect::<Vec<_>>();
    document.insert("what".to_owned(), what.into());
    if let Some(from) = &change.from {
        put_path(&mut document, "from", from);
    }
    Value::Object(document)
}

/// Text, and where it is no UTF-8 the bytes in base64 beside it.
fn put_path(document: &mut Map<String, Value>, key: &str, path: &[u8]) {
    document.insert(key.to_owned(), String::from_utf8_lossy(from_root(path)).into());
    if std::str::from_utf8(path).is_err() {
        document.insert(format!("{key}_bytes"), BASE64_STANDARD.encode(path).into());
    }
}

/// The root itself is `.`, as for `find`.
fn from_root(path: &[u8]) -> &[u8] {
    if path.is_empty() { b"." } else { path }
}

fn kind(kind: InodeKind) -> &'static str {
    match kind {
        InodeKind::Directory => "directory",
        InodeKind::File => "file",
        InodeKind::Symlink => "symlink",
        InodeKind::CharDevice { .. } => "char_device",
        InodeKind::BlockDevice { .. } => "block_device",
        InodeKind::Fifo => "fifo",
        InodeKind::Socket => "socket",
    }
}

fn files_text(changes: &[Change]) -> String {
    let mut text = String::new();
    for change in changes {
        let path = printable(from_root(&change.path));
        let path = match &change.from {
            Some(from) => format!("{} -> {path}", printable(from)),
            None => path,
        };
        writeln!(text, "{:<2} {path}", letters(change)).expect("writing to a string does not fail");
    }
    text.push_str(&summary(changes));
    text
}

fn summary(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "no file differs\n".to_owned();
    }
    let count = |aspect| changes.iter().filter(|change| change.what.contains(aspect)).count();
    let (added, removed, renamed) =
        (count(Aspect::Added), count(Aspect::Removed), count(Aspect::Renamed));
    let others = changes.len() - added - removed - renamed;
    format!("{added} added, {removed} removed, {renamed} renamed, {others} changed\n")
}

/// What changed in a letter each, those first that say most.
fn letters(change: &Change) -> String {
    let mut letters = String::new();
    for aspect in change.what.iter() {
        let letter = match aspect {
            Aspect::Added => 'A',
            Aspect::Removed => 'D',
            Aspect::Renamed => 'R',
            Aspect::Kind => 'T',
            Aspect::Content | Aspect::Target | Aspect::Device => 'M',
            Aspect::Mode => 'p',
            Aspect::Owner => 'o',
            // Whatever wrote the content changed the time too.
            Aspect::Times if letters.contains('M') => continue,
            Aspect::Times => 't',
            Aspect::Xattrs => 'x',
        };
        letters.push(letter);
    }
    letters
}

/// A path on one line: as it is, but for bytes that are no UTF-8 and characters that a terminal would obey or hide.
fn printable(path: &[u8]) -> String {
    let mut text = String::new();
    let escape = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            write!(text, "\\x{byte:02x}").expect("writing to a string does not fail");
        }
    };
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                c if c.is_control() || is_invisible(c) => {
                    escape(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                c => text.push(c),
            }
        }
        escape(&mut text, chunk.invalid());
    }
    text
}

/// Marks that change the direction of text, have no width, or break lines.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_on_their_line_and_printable_ones_stay_as_they_are() {
        let cases: [(&[u8], &str); 6] = [
            (b"etc/passwd", "etc/passwd"),
            ("srv/größe/日本語/e\u{301}".as_bytes(), "srv/größe/日本語/e\u{301}"),
            (b"a b\\c\"d'", "a b\\c\"d'"),
            (b"two\nlines\tand\x1b[31m", "two\\nlines\\tand\\x1b[31m"),
            (b"latin\xfc/\xff", "latin\\xfc/\\xff"),
            ("a\u{202e}b".as_bytes(), "a\\xe2\\x80\\xaeb"),
        ];
        for (path, expected) in cases {
            assert_eq!(printable(path), expected);
        }
    }
}
