//! A file, device or pipe that is a source: opened once, and looked at to tell what it is.

use crate::stream::peek;
use rustix::fs::{FileType, Mode, OFlags, SeekFrom, fstat, seek};
use silt_types::{Context as _, Error, Progress, Result};
use std::{
    fs::File,
    io::{self, Cursor, IsTerminal as _, Read},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// What was opened.
pub(crate) enum Opened {
    Directory,
    Input(Input),
}

/// Bytes to be read.
pub(crate) struct Input {
    /// Where it is, or what it is called where it has no place.
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    /// How it begins.
    pub(crate) head: Vec<u8>,
    /// What was read of it to learn that, if it cannot be read twice.
    taken: Vec<u8>,
    /// Its length; `None` for what can only be read from front to back.
    pub(crate) len_bytes: Option<u64>,
}

/// Opens a folder, a file, a block device or a pipe, and waits for the first bytes of a pipe. `Invalid` for everything else.
pub(crate) fn open(path: &Path) -> Result<Opened> {
    let name = path.display();
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from);
    let file = File::from(file.context(|| format!("cannot open {name}"))?);
    match kind_of(&file, path)? {
        FileType::Directory => Ok(Opened::Directory),
        kind @ (FileType::RegularFile | FileType::BlockDevice | FileType::Fifo) => {
            Input::new(file, kind, path.to_owned()).map(Opened::Input)
        }
        _ => Err(Error::invalid(format!("{name} is neither a folder, a file, a disk nor a pipe"))),
    }
}

/// Standard input as a source.
pub(crate) fn stdin() -> Result<Input> {
    let path = PathBuf::from("standard input");
    if io::stdin().is_terminal() {
        return Err(Error::invalid("standard input is a terminal: give it a file or a pipe"));
    }
    let file = io::stdin().as_fd().try_clone_to_owned();
    let file = File::from(file.context(|| "cannot take standard input".into())?);
    match kind_of(&file, &path)? {
        FileType::Directory => Err(Error::invalid("standard input is a folder")),
        kind => Input::new(file, kind, path),
    }
}

fn kind_of(file: &File, path: &Path) -> Result<FileType> {
    let stat = fstat(file).map_err(io::Error::from);
    let stat = stat.context(|| format!("cannot look at {}", path.display()))?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

impl Input {
    fn new(file: File, kind: FileType, path: PathBuf) -> Result<Input> {
        let mut input = Input { path, file, head: Vec::new(), taken: Vec::new(), len_bytes: None };
        input.look(kind).context(|| format!("cannot read {}", input.name()))?;
        Ok(input)
    }

    /// For messages.
    pub(crate) fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Learns its length and how it begins.
    fn look(&mut self, kind: FileType) -> io::Result<()> {
        let again = matches!(kind, FileType::RegularFile | FileType::BlockDevice);
        if again {
            self.len_bytes = Some(seek(&self.file, SeekFrom::End(0))?);
            seek(&self.file, SeekFrom::Start(0))?;
        }
        (self.head, _) = peek(&self.file)?;
        if again {
            seek(&self.file, SeekFrom::Start(0))?;
        } else {
            self.taken = self.head.clone();
        }
        Ok(())
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
