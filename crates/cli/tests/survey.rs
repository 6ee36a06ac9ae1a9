//! Everything that a folder shows of itself, so that two folders can be compared entry by entry.

use rustix::fs::{SeekFrom, lgetxattr, llistxattr, seek};
use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    fs::{self, File, Metadata},
    hash::{DefaultHasher, Hasher as _},
    ops::Range,
    os::{
        fd::AsRawFd as _,
        unix::{
            ffi::{OsStrExt as _, OsStringExt as _},
            fs::{FileExt as _, MetadataExt as _},
        },
    },
    path::{Path, PathBuf},
};

const BLOCK: u64 = 4096;

/// By path beneath the folder; the folder itself by the empty path.
pub(crate) type Survey = BTreeMap<Vec<u8>, Seen>;

/// One entry. Its times but mtime are no content and left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, i64),
    /// Of a device.
    pub(crate) rdev: u64,
    /// Of a symbolic link.
    pub(crate) target: Vec<u8>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Of a file.
    pub(crate) size: u64,
    /// Blocks of a file that are not all zero, and a hash of them.
    pub(crate) content: (Vec<Range<u64>>, u64),
    /// Names of a file, and the first one in this survey's order.
    pub(crate) links: (u64, Vec<u8>),
}

/// Surveys a folder as it is.
pub(crate) fn survey(dir: &Path) -> Survey {
    take(dir, false)
}

/// Surveys a mounted image: a block is a hole exactly where it is all zero; the empty `lost+found` that every file
/// system has is left out.
pub(crate) fn survey_mounted(dir: &Path) -> Survey {
    let mut survey = take(dir, true);
    let added = survey.remove(&b"lost+found"[..]).unwrap();
    assert_eq!((added.mode, added.owner), (0o040_700, (0, 0)));
    survey
}

/// Asserts that both are the same, naming the first entry that is not.
pub(crate) fn assert_same(one: &Survey, other: &Survey) {
    for (path, seen) in one {
        let path_text = String::from_utf8_lossy(path);
        assert_eq!(Some(seen), other.get(path), "{path_text:?}");
    }
    let more: Vec<_> = other.keys().filter(|path| !one.contains_key(*path)).collect();
    assert!(more.is_empty(), "{more:?}");
}

fn take(dir: &Path, holes_are_zeros: bool) -> Survey {
    let mut surveyor = Surveyor { survey: Survey::new(), inodes: HashMap::new(), holes_are_zeros };
    let root = surveyor.look(dir, &[], &fs::metadata(dir).unwrap());
    surveyor.survey.insert(Vec::new(), root);
    surveyor.folder(dir, &[]);
    surveyor.survey
}

struct Surveyor {
    survey: Survey,
    inodes: HashMap<u64, Vec<u8>>,
    holes_are_zeros: bool,
}

impl Surveyor {
    /// Goes through the open folder, so that no path gets too long.
    fn folder(&mut self, at: &Path, path: &[u8]) {
        let open = File::open(at).unwrap();
        let here = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
        let mut names: Vec<_> =
            fs::read_dir(&here).unwrap().map(|e| e.unwrap().file_name().into_vec()).collect();
        names.sort();
        for name in names {
            let path =
                if path.is_empty() { name.clone() } else { [path, b"/", &name[..]].concat() };
            let at = here.join(OsStr::from_bytes(&name));
            let found = fs::symlink_metadata(&at).unwrap();
            let seen = self.look(&at, &path, &found);
            self.survey.insert(path.clone(), seen);
            if found.is_dir() {
                self.folder(&at, &path);
            }
        }
    }

    fn look(&mut self, at: &Path, path: &[u8], found: &Metadata) -> Seen {
        let kind = found.file_type();
        let links = if kind.is_dir() {
            (0, Vec::new())
        } else {
            let first = self.inodes.entry(found.ino()).or_insert_with(|| path.to_vec());
            (found.nlink(), first.clone())
        };
        let target = if kind.is_symlink() { fs::read_link(at).unwrap() } else { PathBuf::new() };
        Seen {
            mode: found.mode(),
            owner: (found.uid(), found.gid()),
            mtime: (found.mtime(), found.mtime_nsec()),
            rdev: found.rdev(),
            target: target.into_os_string().into_vec(),
            xattrs: xattrs(at),
            size: if kind.is_file() { found.len() } else { 0 },
            content: if kind.is_file() { self.content(at) } else { Default::default() },
            links,
        }
    }

    fn content(&self, at: &Path) -> (Vec<Range<u64>>, u64) {
        let file = File::open(at).unwrap();
        let (mut nonzero, mut allocated, mut hash) = (Vec::new(), 0, DefaultHasher::new());
        let mut end = 0;
        while let Ok(start) = seek(&file, SeekFrom::Data(end)) {
            end = seek(&file, SeekFrom::Hole(start)).unwrap();
            for block in start / BLOCK..end.div_ceil(BLOCK) {
                allocated += 1;
                let mut bytes = [0; BLOCK as usize];
                let len = file.read_at(&mut bytes, block * BLOCK).unwrap();
                if bytes.iter().any(|byte| *byte != 0) {
                    hash.write_u64(block);
                    hash.write(&bytes[..len]);
                    add_block(&mut nonzero, block);
                }
            }
        }
        if self.holes_are_zeros {
            let count: u64 = nonzero.iter().map(|run| run.end - run.start).sum();
            assert_eq!(allocated, count, "zeros take space in {}", at.display());
        }
        (nonzero, hash.finish())
    }
}

/// Adds a block behind those of the runs.
pub(crate) fn add_block(runs: &mut Vec<Range<u64>>, block: u64) {
    match runs.last_mut() {
        Some(last) if last.end == block => last.end += 1,
        _ => runs.push(block..block + 1),
    }
}

fn xattrs(at: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0; 1 << 16];
    let len = llistxattr(at, &mut list[..]).unwrap();
    let names = list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 1 << 16];
        let len = lgetxattr(at, OsStr::from_bytes(name), &mut value[..]).unwrap();
        value.truncate(len);
        value
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}
