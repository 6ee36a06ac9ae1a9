//! A file, device or pipe that is a source: opened once, and looked at to tell what it is.

use crate::stream::{HEAD_LEN, peek};
use rustix::fs::{FileType, Mode, OFlags, fstat};
use silt_types::{Context as _, Error, Progress, Result};
use std::{
    fs::File,
    io::{self, Cursor, IsTerminal as _, Read},
    os::{fd::AsFd as _, unix::fs::FileExt as _},
    path::Path,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// What was opened.
pub(crate) enum Opened {
    Directory,
    Input(Input),
}

/// Bytes to be read.
pub(crate) struct Input {
    /// For messages.
    pub(crate) name: String,
    pub(crate) file: File,
    /// How it begins.
    pub(crate) head: Vec<u8>,
    /// What was read of it to learn that, if it cannot be read twice.
    taken: Vec<u8>,
    /// Its length; `None` for what can only be read from front to back.
    pub(crate) len_bytes: Option<u64>,
}

/// Opens a source. Bytes are looked at, nothing is waited for but the first of a pipe.
pub(crate) fn open(path: &Path) -> Result<Opened> {
    let name = path.display().to_string();
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from);
    let file = File::from(file.context(|| format!("cannot open {name}"))?);
    let kind = kind_of(&file, &name)?;
    if kind == FileType::Directory {
        return Ok(Opened::Directory);
    }
    Input::new(file, kind, name).map(Opened::Input)
}

/// Standard input as a source.
pub(crate) fn stdin() -> Result<Input> {
    let name = "standard input".to_owned();
    if io::stdin().is_terminal() {
        return Err(Error::invalid("standard input is a terminal: give it a file or a pipe"));
    }
    let file = io::stdin().as_fd().try_clone_to_owned();
    let file = File::from(file.context(|| "cannot take standard input".into())?);
    let kind = kind_of(&file, &name)?;
    if kind == FileType::Directory {
        return Err(Error::invalid("standard input is a folder"));
    }
    Input::new(file, kind, name)
}

fn kind_of(file: &File, name: &str) -> Result<FileType> {
    let stat = fstat(file).map_err(io::Error::from).context(|| format!("cannot look at {name}"))?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

impl Input {
    fn new(file: File, kind: FileType, name: String) -> Result<Input> {
        let cannot = || format!("cannot read {name}");
        let mut input = Input {
            name: name.clone(),
            file,
            head: Vec::new(),
            taken: Vec::new(),
            len_bytes: None,
        };
        if matches!(kind, FileType::RegularFile | FileType::BlockDevice) {
            let len = rustix::fs::seek(&input.file, rustix::fs::SeekFrom::End(0));
            input.len_bytes = Some(len.map_err(io::Error::from).context(cannot)?);
            rustix::fs::seek(&input.file, rustix::fs::SeekFrom::Start(0))
                .map_err(io::Error::from)
                .context(cannot)?;
            input.head = vec![0; HEAD_LEN];
            let len = read_up_to(&input.file, &mut input.head).context(cannot)?;
            input.head.truncate(len);
        } else {
            let (head, _) = peek(&input.file).context(cannot)?;
            (input.head, input.taken) = (head.clone(), head);
        }
        Ok(input)
    }

    /// Everything from the start, counted.
    pub(crate) fn stream<'a>(
        &'a self,
        counts: &'a AtomicU64,
        progress: &'a dyn Progress,
    ) -> impl Read + 'a {
        Counted { reader: Cursor::new(&self.taken[..]).chain(&self.file), counts, progress }
    }
}

fn read_up_to(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], filled as u64) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Counts what passes, and shows it.
struct Counted<'a, R> {
    reader: R,
    counts: &'a AtomicU64,
    progress: &'a dyn Progress,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.reader.read(buffer)?;
        self.counts.fetch_add(len as u64, Relaxed);
        self.progress.advance(len as u64);
        Ok(len)
    }
}
