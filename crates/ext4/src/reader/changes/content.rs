//! Whether two files hold the same bytes, reading only those that are not known to be equal.
//!
//! The runs of both are followed side by side, in bytes: the two file systems may have blocks of different sizes. What is
//! a hole on both sides, or reserved and never written, is equal whatever its length.

use super::{
    super::{
        Ext4,
        disk::DiskRead,
        extents::{Extent, Extents},
        inode::Inode,
    },
    DiskPair,
    side::Side,
};
use silt_types::Result;

/// Bytes compared at a time: a chunk of the store, beside which unequal bytes seldom stand alone.
const PIECE_SIZE_BYTES: u64 = 64 << 10;

/// Whether the content of two files, or directories taken as bytes, differs.
pub(super) fn content_differs<A: DiskRead, B: DiskRead>(
    sides: (&mut Side<'_, A>, &mut Side<'_, B>),
    files: (&Inode, &Inode),
    pair: &dyn DiskPair,
) -> Result<bool> {
    let (before, after) = sides;
    let (a, b) = files;
    if a.size_bytes != b.size_bytes {
        return Ok(true);
    }
    a.refuse_encrypted()?;
    b.refuse_encrypted()?;
    if a.is_inline() || b.is_inline() {
        return bytes_differ(before.ext4, after.ext4, a, b);
    }
    let mut runs = Runs::new(before.ext4, a);
    let mut other_runs = Runs::new(after.ext4, b);
    let comparison = Comparison { before, after, pair };
    let differs = comparison.runs_differ(&mut runs, &mut other_runs, a.size_bytes);
    let (claimed, other_claimed) =
        (runs.extents.blocks_claimed(), other_runs.extents.blocks_claimed());
    before.claim(a, claimed)?;
    after.claim(b, other_claimed)?;
    differs
}

/// Compares files of which at least one is kept in its inode, so that neither is long.
fn bytes_differ<A: DiskRead, B: DiskRead>(
    before: &Ext4<A>,
    after: &Ext4<B>,
    a: &Inode,
    b: &Inode,
) -> Result<bool> {
    let mut at = 0;
    while at < a.size_bytes {
        let len = (a.size_bytes - at).min(PIECE_SIZE_BYTES) as usize;
        let (mut x, mut y) = (vec![0; len], vec![0; len]);
        before.read_file_at(a, &mut x, at)?;
        after.read_file_at(b, &mut y, at)?;
        if x != y {
            return Ok(true);
        }
        at += len as u64;
    }
    Ok(false)
}

struct Comparison<'c, 'a, A, B> {
    before: &'c Side<'a, A>,
    after: &'c Side<'a, B>,
    pair: &'c dyn DiskPair,
}

impl<A: DiskRead, B: DiskRead> Comparison<'_, '_, A, B> {
    fn runs_differ(
        &self,
        runs: &mut Runs<'_, A>,
        other_runs: &mut Runs<'_, B>,
        size_bytes: u64,
    ) -> Result<bool> {
        let mut at = 0;
        while at < size_bytes {
            let (a, b) = (runs.at(at)?, other_runs.at(at)?);
            let len = a.len_bytes.min(b.len_bytes).min(size_bytes - at);
            if self.piece_differs(a.on_disk, b.on_disk, len)? {
                return Ok(true);
            }
            at += len;
        }
        Ok(false)
    }

    /// Whether two runs of bytes differ; `None` is a hole.
    fn piece_differs(&self, a: Option<u64>, b: Option<u64>, len_bytes: u64) -> Result<bool> {
        if a.is_none() && b.is_none() {
            return Ok(false);
        }
        let (mut x, mut y) = (Vec::new(), Vec::new());
        let mut done = 0;
        while done < len_bytes {
            let (a, b) = (a.map(|at| at + done), b.map(|at| at + done));
            let rest = len_bytes - done;
            if let (Some(a), Some(b)) = (a, b) {
                let known = known_equal(self.before, self.after, self.pair, (a, b), rest)?;
                if known > 0 {
                    done += known;
                    continue;
                }
            }
            let len = rest.min(PIECE_SIZE_BYTES) as usize;
            read(self.before.ext4, &mut x, a, len)?;
            read(self.after.ext4, &mut y, b, len)?;
            if x != y {
                return Ok(true);
            }
            done += len as u64;
        }
        Ok(false)
    }
}

/// How many bytes from two places on are known to be equal, on disk and in what the journals lay over it.
pub(super) fn known_equal<A: DiskRead, B: DiskRead>(
    before: &Side<'_, A>,
    after: &Side<'_, B>,
    pair: &dyn DiskPair,
    places: (u64, u64),
    len_bytes: u64,
) -> Result<u64> {
    let known = pair.known_equal(places.0, places.1, len_bytes)?.min(len_bytes);
    let is_logged =
        known > 0 && (before.is_logged(places.0, known) || after.is_logged(places.1, known));
    Ok(if is_logged { 0 } else { known })
}

fn read<D: DiskRead>(ext4: &Ext4<D>, buf: &mut Vec<u8>, at: Option<u64>, len: usize) -> Result<()> {
    buf.clear();
    buf.resize(len, 0);
    let Some(at) = at else { return Ok(()) };
    let size = u64::from(ext4.block_size_bytes());
    ext4.blocks().read_data(buf, at / size, at % size)
}

/// A place in a file: where its bytes are on the disk, and how far that goes on.
struct Place {
    on_disk: Option<u64>,
    len_bytes: u64,
}

/// The runs of a file, looked up at ascending places.
struct Runs<'a, D> {
    extents: Extents<'a, D>,
    block_size_bytes: u64,
    current: Option<Extent>,
}

impl<'a, D: DiskRead> Runs<'a, D> {
    fn new(ext4: &'a Ext4<D>, inode: &Inode) -> Runs<'a, D> {
        let block_size_bytes = ext4.block_size_bytes().into();
        Runs { extents: ext4.extents(inode), block_size_bytes, current: None }
    }

    fn at(&mut self, at: u64) -> Result<Place> {
        let size = self.block_size_bytes;
        while self.current.is_none_or(|run| run.unwritten || run.logical_end() * size <= at) {
            let Some(next) = self.extents.next().transpose()? else {
                self.current = None;
                return Ok(Place { on_disk: None, len_bytes: u64::MAX });
            };
            self.current = Some(next);
        }
        let hole = Place { on_disk: None, len_bytes: u64::MAX };
        Ok(self.current.map_or(hole, |run| {
            let start = run.logical * size;
            match start > at {
                true => Place { on_disk: None, len_bytes: start - at },
                false => Place {
                    on_disk: Some(run.physical * size + (at - start)),
                    len_bytes: run.logical_end() * size - at,
                },
            }
        }))
    }
}
