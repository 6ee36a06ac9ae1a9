//! What is mounted where, as the kernel says it: without asking any file system, so that a dead one is seen too.

use silt_types::{Context as _, Result};
use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

/// What is mounted at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableEntry {
    /// The type, such as `ext4` or `fuse.silt`.
    pub(super) kind: String,
    /// What it is of, as whoever mounted it said.
    pub(super) source: String,
}

/// What is on top at `path`, which is absolute and has no links in it.
pub(super) fn mounted_at(path: &Path) -> Result<Option<TableEntry>> {
    let table = fs::read("/proc/self/mountinfo").context(|| "cannot see what is mounted".into())?;
    // What was mounted last is on top.
    let mut newest_first = table.rsplit(|byte| *byte == b'\n').filter_map(parse);
    Ok(newest_first.find(|(at, _)| at == path).map(|(_, entry)| entry))
}

/// One line of proc_pid_mountinfo(5).
fn parse(line: &[u8]) -> Option<(PathBuf, TableEntry)> {
    let mut words = line.split(|byte| *byte == b' ');
    let at = PathBuf::from(OsString::from_vec(unescape(words.nth(4)?)));
    let mut behind = words.skip_while(|word| *word != b"-").skip(1);
    let mut text = || Some(String::from_utf8_lossy(&unescape(behind.next()?)).into_owned());
    Some((at, TableEntry { kind: text()?, source: text()? }))
}

/// Blanks, line ends and backslashes are written as three octal digits.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, behind)) = rest.split_first() {
        let octal = behind.first_chunk::<3>().filter(|_| *first == b'\\');
        let code = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[3..];
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_understood() {
        let line =
            b"61 28 0:45 / /tmp/a\\040b\\134c rw,nosuid shared:3 master:1 - fuse.silt silt-01 rw";
        let (at, entry) = parse(line).unwrap();
        assert_eq!(at, Path::new("/tmp/a b\\c"));
        assert_eq!((entry.kind.as_str(), entry.source.as_str()), ("fuse.silt", "silt-01"));
        for odd in [&b""[..], b"1 2 3", b"61 28 0:45 / /tmp rw -", b"61 28 0:45 / /tmp rw - ext4"] {
            assert_eq!(parse(odd), None, "{odd:?}");
        }
        assert_eq!(unescape(b"\\9x\\"), b"\\9x\\");
    }

    #[test]
    fn the_root_is_mounted_and_an_empty_folder_is_not() {
        assert!(mounted_at(Path::new("/proc")).unwrap().is_some());
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(mounted_at(&folder.path().canonicalize().unwrap()).unwrap(), None);
    }
}
