//! Reading packs: chunks by place, and the footer by which a pack describes itself.

use crate::paths::StorePaths;
use silt_format::{FileHeader, PACK_MAGIC, PACK_TRAILER_MAGIC, PACK_VERSION, PackFooter};
use silt_types::{Context as _, Error, ErrorKind, PackId, Result};
use std::{
    collections::HashMap,
    fs::File,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

/// Open packs of a process at a time: well below the usual limit of 1,024 descriptors.
const OPEN_PACKS_MAX: usize = 256;

/// The packs that a process has open for reading.
pub(crate) struct PackFiles {
    paths: StorePaths,
    /// Whether files are read that do not say that they are the pack.
    takes_damaged: bool,
    open: Mutex<HashMap<PackId, Arc<File>>>,
}

impl PackFiles {
    pub(crate) fn new(paths: StorePaths) -> PackFiles {
        PackFiles { paths, takes_damaged: false, open: Mutex::default() }
    }

    /// For who looks for what is left: what chunks are is verified anyway.
    pub(crate) fn of_damaged(paths: StorePaths) -> PackFiles {
        PackFiles { takes_damaged: true, ..PackFiles::new(paths) }
    }

    /// Fills `buf` from `offset` of a pack. One system call once the pack is open.
    pub(crate) fn read(&self, pack: PackId, offset: u64, buf: &mut [u8]) -> Result<()> {
        let file = self.file(pack)?;
        read_exact_at(&file, pack, buf, offset)
    }

    /// What a pack says of itself.
    pub(crate) fn footer(&self, pack: PackId) -> Result<PackFooter> {
        read_footer(&self.paths, pack).map(|(_, footer)| footer)
    }

    fn file(&self, pack: PackId) -> Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&pack) {
            return Ok(file.clone());
        }
        let file = match self.takes_damaged {
            true => open_file(&self.paths, pack)?,
            false => open_pack(&self.paths, pack)?,
        };
        let file = Arc::new(file);
        if open.len() >= OPEN_PACKS_MAX {
            open.clear();
        }
        open.insert(pack, file.clone());
        Ok(file)
    }
}

fn read_exact_at(file: &File, pack: PackId, buf: &mut [u8], offset: u64) -> Result<()> {
    file.read_exact_at(buf, offset).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            Error::corrupt(format!("pack {pack} is shorter than it should be"))
        }
        _ => Error::io(format!("cannot read pack {pack}"), error),
    })
}

/// The id that a file says it is the pack of. `Corrupt` if it says none.
pub(crate) fn read_pack_id(path: &Path) -> Result<PackId> {
    let failed = || format!("cannot read {}", path.display());
    let file = File::open(path).context(failed)?;
    let mut header = [0; FileHeader::LEN];
    file.read_exact_at(&mut header, 0)
        .map_err(|error| Error::with_source(ErrorKind::Corrupt, failed(), error))?;
    let header = FileHeader::decode(&header, PACK_MAGIC, PACK_VERSION).context(failed)?;
    Ok(PackId::from_bytes(header.id))
}

fn open_file(paths: &StorePaths, pack: PackId) -> Result<File> {
    let path = paths.pack(pack);
    File::open(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::corrupt(format!("pack {pack} is missing ({})", path.display()))
        }
        _ => Error::io(format!("cannot open pack {pack}"), error),
    })
}

fn open_pack(paths: &StorePaths, pack: PackId) -> Result<File> {
    let file = open_file(paths, pack)?;
    let mut header = [0; FileHeader::LEN];
    read_exact_at(&file, pack, &mut header, 0)?;
    let header = FileHeader::decode(&header, PACK_MAGIC, PACK_VERSION)
        .map_err(|e| e.context(named(pack)))?;
    if header.id != *pack.as_bytes() {
        return Err(Error::corrupt(format!("the file of pack {pack} holds another pack")));
    }
    Ok(file)
}

/// Reads and checks what a pack says of itself. `Corrupt` if it is damaged or was never finished. Answers the length of
/// the pack too.
pub(crate) fn read_footer(paths: &StorePaths, pack: PackId) -> Result<(u64, PackFooter)> {
    footer_of(&open_pack(paths, pack)?, pack)
}

/// The same of a pack that need not say at its beginning that it is one.
pub(crate) fn read_footer_of_damaged(
    paths: &StorePaths,
    pack: PackId,
) -> Result<(u64, PackFooter)> {
    footer_of(&open_file(paths, pack)?, pack)
}

fn footer_of(file: &File, pack: PackId) -> Result<(u64, PackFooter)> {
    let size = file.metadata().context(|| format!("cannot read the length of pack {pack}"))?.len();
    let trailer_at = size.checked_sub(FileHeader::LEN as u64);
    let trailer_at =
        trailer_at.ok_or_else(|| Error::corrupt(format!("pack {pack} is too short")))?;
    let mut trailer = [0; FileHeader::LEN];
    read_exact_at(file, pack, &mut trailer, trailer_at)?;
    let trailer = FileHeader::decode(&trailer, PACK_TRAILER_MAGIC, PACK_VERSION)
        .map_err(|e| e.context(named(pack)))?;
    let footer_at = trailer_at
        .checked_sub(trailer.payload_len)
        .filter(|_| trailer.payload_len <= PackFooter::LEN_MAX);
    let footer_at = footer_at
        .ok_or_else(|| Error::corrupt(format!("the footer of pack {pack} is too long")))?;
    let mut footer = vec![0; trailer.payload_len as usize];
    read_exact_at(file, pack, &mut footer, footer_at)?;
    let footer =
        PackFooter::decode(&footer, &trailer, footer_at).map_err(|e| e.context(named(pack)))?;
    if trailer.id != *pack.as_bytes() {
        return Err(Error::corrupt(format!("the footer of pack {pack} belongs to another pack")));
    }
    Ok((size, footer))
}

fn named(pack: PackId) -> String {
    format!("pack {pack} is damaged")
}
