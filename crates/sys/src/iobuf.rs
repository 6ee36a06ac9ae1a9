//! The memory of a request: where a read puts what it found, where a write takes its data from. In one piece or in many,
//! in this process's own memory or in a guest's.
//!
//! A guest may change its memory at any time, also under a system call that uses it. So no reference to such memory is
//! ever made, and nothing read from it is trusted to be the same when it is read again: bytes are copied, by the kernel
//! or here, and that is all. What must be verified, a chunk, is verified in private memory before it is copied here.
//!
//! Invariant: every piece of a buffer is memory that is mapped, and may be used as its type says, for the buffer's life.

use std::{
    fs::File,
    io::{Error, ErrorKind, Result},
    marker::PhantomData,
    os::fd::AsRawFd as _,
    ptr,
};
use vm_memory::{VolatileSlice, bitmap::BitmapSlice};

/// Pieces handed to the kernel in one call, well below its own limit of 1,024; longer buffers take more calls.
const PIECES_AT_ONCE: usize = 64;

/// A run of memory that may be written to for `'a`. Laid out as the kernel's `struct iovec`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct PieceMut<'a> {
    start: *mut u8,
    len: usize,
    memory: PhantomData<&'a ()>,
}

// SAFETY: a piece is an address that its maker vouches for as long as `'a`, whatever thread uses it. That others may use
// the same memory at the same time is assumed by everything here.
unsafe impl Send for PieceMut<'_> {}
// SAFETY: as above.
unsafe impl Sync for PieceMut<'_> {}

impl PieceMut<'_> {
    const EMPTY: PieceMut<'static> =
        PieceMut { start: ptr::null_mut(), len: 0, memory: PhantomData };

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<'a> From<&'a mut [u8]> for PieceMut<'a> {
    fn from(memory: &'a mut [u8]) -> PieceMut<'a> {
        PieceMut { start: memory.as_mut_ptr(), len: memory.len(), memory: PhantomData }
    }
}

impl<'a, B: BitmapSlice> From<&VolatileSlice<'a, B>> for PieceMut<'a> {
    /// Memory of a guest. What a read puts there is not marked as dirty: whoever logs that does it.
    fn from(memory: &VolatileSlice<'a, B>) -> PieceMut<'a> {
        let start = memory.ptr_guard_mut().as_ptr();
        PieceMut { start, len: memory.len(), memory: PhantomData }
    }
}

/// Where a read puts its data.
#[derive(Debug)]
pub struct IoBufMut<'a>(Pieces<'a>);

/// Where a write takes its data from.
#[derive(Clone, Copy, Debug)]
pub struct IoBuf<'a>(Pieces<'a>);

impl<'a> From<&'a mut [u8]> for IoBufMut<'a> {
    fn from(memory: &'a mut [u8]) -> IoBufMut<'a> {
        IoBufMut(Pieces::one(memory.into()))
    }
}

impl<'a> From<&'a [PieceMut<'a>]> for IoBufMut<'a> {
    fn from(pieces: &'a [PieceMut<'a>]) -> IoBufMut<'a> {
        IoBufMut(Pieces::many(pieces))
    }
}

impl<'a> From<&'a [u8]> for IoBuf<'a> {
    fn from(memory: &'a [u8]) -> IoBuf<'a> {
        // Never written to: an `IoBuf` only reads its pieces, and never gives them away.
        let start = memory.as_ptr().cast_mut();
        IoBuf(Pieces::one(PieceMut { start, len: memory.len(), memory: PhantomData }))
    }
}

impl<'a> From<&'a [PieceMut<'a>]> for IoBuf<'a> {
    fn from(pieces: &'a [PieceMut<'a>]) -> IoBuf<'a> {
        IoBuf(Pieces::many(pieces))
    }
}

impl<'a> IoBufMut<'a> {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// The same memory again, for a try that may fail.
    pub fn reborrow(&mut self) -> IoBufMut<'_> {
        IoBufMut(self.0)
    }

    /// Takes the first `len` bytes off, or all if there are fewer.
    pub fn take(&mut self, len: usize) -> IoBufMut<'a> {
        IoBufMut(self.0.take(len))
    }

    /// Fills all of it with `bytes`, which are as many.
    pub fn copy_from(self, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.len(), "a buffer of another length");
        let mut from = bytes.as_ptr();
        self.0.for_each(|piece| {
            // SAFETY: the piece may be written to (invariant), and `bytes` has as much left: their lengths add up to its
            // own. They do not overlap: `bytes` is a reference to memory that nobody else writes.
            unsafe {
                ptr::copy_nonoverlapping(from, piece.start, piece.len);
                from = from.add(piece.len);
            }
        });
    }

    /// Makes all of it zero.
    pub fn fill_zero(self) {
        self.0.for_each(|piece| {
            // SAFETY: the piece may be written to (invariant).
            unsafe { ptr::write_bytes(piece.start, 0, piece.len) }
        });
    }

    /// Fills all of it from `offset` of a file, without a copy in between. `UnexpectedEof` where the file ends before.
    pub fn read_exact_at(mut self, file: &File, offset: u64) -> Result<()> {
        self.0.transfer(offset, |pieces, count, at| {
            // SAFETY: `pieces` are `count` iovecs of memory that may be written to (invariant).
            unsafe { libc::preadv(file.as_raw_fd(), pieces, count, at) }
        })
    }
}

impl<'a> IoBuf<'a> {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// Takes the first `len` bytes off, or all if there are fewer.
    pub fn take(&mut self, len: usize) -> IoBuf<'a> {
        IoBuf(self.0.take(len))
    }

    /// Copies all of it into `bytes`, which is as long.
    pub fn copy_to(&self, bytes: &mut [u8]) {
        assert_eq!(bytes.len(), self.len(), "a buffer of another length");
        let mut to = bytes.as_mut_ptr();
        self.0.for_each(|piece| {
            // SAFETY: the piece may be read (invariant), and `bytes` has as much left, which nobody else uses.
            unsafe {
                ptr::copy_nonoverlapping(piece.start.cast_const(), to, piece.len);
                to = to.add(piece.len);
            }
        });
    }

    /// Whether borders of `unit` bytes (a power of two) of the memory are such borders of a file, where this is at `offset`.
    pub fn is_aligned_with(&self, offset: u64, unit: u64) -> bool {
        let (mut at, mut aligned) = (offset, true);
        self.0.for_each(|piece| {
            aligned &= (at ^ piece.start.addr() as u64).is_multiple_of(unit);
            at += piece.len as u64;
        });
        aligned
    }

    /// Writes all of it at `offset` of a file, without a copy in between.
    pub fn write_all_at(mut self, file: &File, offset: u64) -> Result<()> {
        self.0.transfer(offset, |pieces, count, at| {
            // SAFETY: `pieces` are `count` iovecs of memory that may be read (invariant).
            unsafe { libc::pwritev(file.as_raw_fd(), pieces, count, at) }
        })
    }
}

/// Pieces of memory, with what was taken off the front left out.
#[derive(Clone, Copy, Debug)]
struct Pieces<'a> {
    /// What is left of the piece that comes first.
    head: PieceMut<'a>,
    rest: &'a [PieceMut<'a>],
    /// Bytes in all; the last piece may have more, which do not belong to it.
    len: usize,
}

impl<'a> Pieces<'a> {
    fn one(piece: PieceMut<'a>) -> Pieces<'a> {
        Pieces { head: piece, rest: &[], len: piece.len }
    }

    fn many(pieces: &'a [PieceMut<'a>]) -> Pieces<'a> {
        let len = pieces.iter().map(|piece| piece.len).sum();
        Pieces { head: PieceMut::EMPTY, rest: pieces, len }
    }

    fn take(&mut self, len: usize) -> Pieces<'a> {
        let len = len.min(self.len);
        let front = Pieces { len, ..*self };
        let mut left = len;
        while left > 0 {
            left -= self.next_up_to(left).len;
        }
        front
    }

    /// Takes off the next contiguous run, of at most `len` bytes; `len` is more than zero and no more than there is.
    fn next_up_to(&mut self, len: usize) -> PieceMut<'a> {
        while self.head.len == 0 {
            let (next, rest) =
                self.rest.split_first().expect("`len` counts no more than the pieces");
            (self.head, self.rest) = (*next, rest);
        }
        let taken = PieceMut { len: len.min(self.head.len), ..self.head };
        // Still within the piece, or one behind its end, where nothing is left of it.
        self.head.start = self.head.start.wrapping_add(taken.len);
        self.head.len -= taken.len;
        self.len -= taken.len;
        taken
    }

    #[inline]
    fn for_each(mut self, mut f: impl FnMut(PieceMut<'a>)) {
        while self.len > 0 {
            f(self.next_up_to(self.len));
        }
    }

    /// Has the kernel read or write all of it, in as few calls as it takes.
    fn transfer(
        &mut self,
        mut offset: u64,
        call: impl Fn(*const libc::iovec, libc::c_int, libc::off_t) -> isize,
    ) -> Result<()> {
        while self.len > 0 {
            let mut pieces = [PieceMut::EMPTY; PIECES_AT_ONCE];
            let mut ahead = *self;
            let mut count = 0;
            while ahead.len > 0 && count < PIECES_AT_ONCE {
                pieces[count] = ahead.next_up_to(ahead.len);
                count += 1;
            }
            let at = libc::off_t::try_from(offset).map_err(|_| ErrorKind::InvalidInput)?;
            match call(pieces.as_ptr().cast(), count as libc::c_int, at) {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                done if done > 0 => {
                    self.take(done as usize);
                    offset += done as u64;
                }
                _ => {
                    let error = Error::last_os_error();
                    if error.kind() != ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap};

    fn cut(memory: &mut [u8], piece_len: usize) -> Vec<PieceMut<'_>> {
        memory.chunks_mut(piece_len).map(PieceMut::from).collect()
    }

    #[test]
    fn what_is_copied_or_read_lands_in_the_order_of_the_pieces() {
        let content: Vec<u8> = (0..=255).cycle().take(1000).collect();
        let file = tempfile::tempfile().unwrap();
        IoBuf::from(&content[..]).write_all_at(&file, 5).unwrap();
        // 1,000 pieces of one byte take more than one system call.
        for piece_len in [1, 3, 64, 999, 5000] {
            let mut memory = vec![1; 1000];
            let pieces = cut(&mut memory, piece_len);
            let mut buf = IoBufMut::from(&pieces[..]);
            buf.take(100).copy_from(&content[..100]);
            buf.take(400).read_exact_at(&file, 105).unwrap();
            assert_eq!(buf.len(), 500);
            buf.take(100).fill_zero();
            buf.reborrow().fill_zero();
            buf.take(1000).read_exact_at(&file, 605).unwrap();
            assert!(buf.is_empty());
            assert_eq!(memory[..500], content[..500]);
            assert_eq!(memory[500..600], [0; 100]);
            assert_eq!(memory[600..], content[600..]);
        }
    }

    #[test]
    fn writes_gather_and_copies_out_do_too() {
        let mut content: Vec<u8> = (0..200).collect();
        let expected = content.clone();
        let file = tempfile::tempfile().unwrap();
        let pieces = cut(&mut content, 7);
        let mut buf = IoBuf::from(&pieces[..]);
        let front = buf.take(50);
        let mut copy = vec![0; 50];
        front.copy_to(&mut copy);
        assert_eq!(copy, expected[..50]);
        front.write_all_at(&file, 0).unwrap();
        buf.write_all_at(&file, 50).unwrap();
        let mut found = vec![0; 200];
        IoBufMut::from(&mut found[..]).read_exact_at(&file, 0).unwrap();
        assert_eq!(found, expected);
    }

    #[test]
    fn alignment_is_that_of_every_piece() {
        #[repr(align(4096))]
        struct Page([u8; 4096]);
        let mut page = Page([0; 4096]);
        assert!(IoBuf::from(&page.0[..]).is_aligned_with(1024, 512));
        assert!(IoBuf::from(&page.0[100..]).is_aligned_with(612, 512));
        assert!(!IoBuf::from(&page.0[28..]).is_aligned_with(1024, 512));
        for (cut, aligned) in [(1024, true), (1000, true)] {
            let pieces = cut_at(&mut page.0, cut);
            assert_eq!(IoBuf::from(&pieces[..]).is_aligned_with(0, 512), aligned);
        }
        let (front, back) = page.0.split_at_mut(2048);
        let apart = [PieceMut::from(&mut front[..1000]), PieceMut::from(&mut back[..])];
        assert!(!IoBuf::from(&apart[..]).is_aligned_with(0, 512));
    }

    fn cut_at(memory: &mut [u8], at: usize) -> [PieceMut<'_>; 2] {
        let (front, back) = memory.split_at_mut(at);
        [front.into(), back.into()]
    }

    #[test]
    fn a_file_that_ends_early_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        IoBuf::from(&[1u8; 10][..]).write_all_at(&file, 0).unwrap();
        let mut memory = [0; 20];
        let error = IoBufMut::from(&mut memory[..]).read_exact_at(&file, 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn memory_of_a_guest_is_a_buffer_like_any_other() {
        let guest: GuestMemoryMmap =
            GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 8192)]).unwrap();
        let slices: Vec<_> = [(10, 20), (4090, 100)]
            .map(|(at, len)| guest.get_slice(GuestAddress(at), len).unwrap())
            .into();
        let pieces: Vec<PieceMut<'_>> = slices.iter().map(PieceMut::from).collect();
        let content: Vec<u8> = (0..120).collect();
        IoBufMut::from(&pieces[..]).copy_from(&content);
        let mut found = vec![0; 100];
        guest.read_slice(&mut found, GuestAddress(4090)).unwrap();
        assert_eq!(found, content[20..]);
        let mut copy = vec![0; 120];
        IoBuf::from(&pieces[..]).copy_to(&mut copy);
        assert_eq!(copy, content);
    }
}
