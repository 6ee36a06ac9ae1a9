//! Archives made by hand: what no tar program writes, but a stranger may.

use super::{read, read_as_archive as parse};
use crate::{assemble::Files, build::FilesRead, contents::ContentsWriter, edits::Edits};
use silt_ext4::{EntryId, EntryKind, Hierarchy};
use silt_store::MemoryChunks;
use silt_types::{BlockRange, ErrorKind, Result};
use std::io::{self, Read};
use tar::{EntryType, Header};

/// An archive under construction.
#[derive(Clone, Default)]
struct Made(Vec<u8>);

impl Made {
    fn add(mut self, path: &[u8], kind: EntryType, content: &[u8]) -> Made {
        self.0.extend(header(path, kind, b"", content.len() as u64).as_bytes());
        self.data(content)
    }

    fn link(mut self, path: &[u8], kind: EntryType, target: &[u8]) -> Made {
        self.0.extend(header(path, kind, target, 0).as_bytes());
        self
    }

    fn data(mut self, content: &[u8]) -> Made {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Made {
        let mut header = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut len = rest + 1;
            while rest + len.to_string().len() != len {
                len = rest + len.to_string().len();
            }
            header.extend(format!("{len} {key}=").bytes());
            header.extend_from_slice(value);
            header.push(b'\n');
        }
        self.add(b"pax", EntryType::XHeader, &header)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn header(path: &[u8], kind: EntryType, link: &[u8], size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..path.len()].copy_from_slice(path);
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(1);
    header.set_gid(2);
    header.set_mtime(3);
    header.set_size(size);
    header.set_cksum();
    header
}

fn read_within(archive: impl Read, len_bytes_max: u64) -> Result<Hierarchy> {
    let dir = tempfile::tempdir().unwrap();
    let contents = ContentsWriter::new(dir.path()).unwrap();
    let hierarchy = read(archive, len_bytes_max, &MemoryChunks::new(), &contents)?;
    let read = FilesRead { hierarchy, bytes_read: 0, config: None };
    let files = Files::edited(read, &Edits::default(), &MemoryChunks::new(), contents);
    Ok(files.unwrap().hierarchy)
}

fn read_all(archive: &[u8]) -> Result<Hierarchy> {
    read_within(archive, u64::MAX)
}

/// Refused as bad input, with a message that says this.
fn refused(archive: &[u8], says: &str) {
    let error = read_all(archive).err().unwrap_or_else(|| panic!("taken: {says}"));
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    assert!(error.chain().contains(says), "{says}: {error:?}");
}

fn find(hierarchy: &Hierarchy, path: &str) -> Option<EntryId> {
    path.split('/').try_fold(EntryId::ROOT, |at, name| hierarchy.lookup(at, name.as_bytes()))
}

#[test]
fn what_leads_out_of_the_archive_is_refused_and_named() {
    let file = EntryType::Regular;
    for path in ["../x", "a/../../x", "a/..", ".."] {
        refused(&Made::default().add(path.as_bytes(), file, b"x").end(), "'..'");
    }
    refused(&Made::default().add(b"/etc/passwd", file, b"x").end(), "absolute");
    let through = Made::default().link(b"a", EntryType::Symlink, b"/etc");
    refused(&through.clone().add(b"a/passwd", file, b"x").end(), "symbolic link \"a\"");
    refused(&through.add(b"a/b/c", file, b"x").end(), "symbolic link");
    let under_file = Made::default().add(b"a", file, b"x").add(b"a/b", file, b"x");
    refused(&under_file.end(), "no folder");
    refused(&Made::default().link(b"a", EntryType::Link, b"../../etc/passwd").end(), "'..'");
    refused(&Made::default().add(b".", file, b"x").end(), "root");
}

#[test]
fn links_to_themselves_and_to_nothing_are_refused() {
    let link = EntryType::Link;
    refused(&Made::default().link(b"a", link, b"a").end(), "not there");
    let again = Made::default().add(b"a", EntryType::Regular, b"x").link(b"a", link, b"./a");
    refused(&again.end(), "itself");
    refused(&Made::default().link(b"a", link, b"b").link(b"b", link, b"a").end(), "not there");
    let folder = Made::default().add(b"d/", EntryType::Directory, b"").link(b"d2", link, b"d");
    refused(&folder.end(), "directory");
    refused(&Made::default().link(b"a", EntryType::Symlink, b"").end(), "links to nothing");
}

#[test]
fn a_hard_link_may_stand_before_what_it_links_to() {
    let archive = Made::default().link(b"one", EntryType::Link, b"d/two");
    let hierarchy = read_all(&archive.add(b"./d/two", EntryType::Regular, b"x").end()).unwrap();
    let file = find(&hierarchy, "one").unwrap();
    assert_eq!((find(&hierarchy, "d/two"), hierarchy.links(file)), (Some(file), 2));
}

#[test]
fn the_last_of_a_name_counts_and_folders_keep_what_they_hold() {
    let (file, folder) = (EntryType::Regular, EntryType::Directory);
    let archive = Made::default()
        .add(b"d/x", file, b"first")
        .add(b"d", folder, b"")
        .add(b"d/x", file, b"second one")
        .link(b"d/y", EntryType::Symlink, b"x")
        .add(b"d/y", file, b"y");
    let hierarchy = read_all(&archive.clone().end()).unwrap();
    assert_eq!(hierarchy.size_bytes(find(&hierarchy, "d/x").unwrap()), 10);
    assert_eq!(hierarchy.size_bytes(find(&hierarchy, "d/y").unwrap()), 1);
    assert_eq!(hierarchy.metadata(find(&hierarchy, "d").unwrap()).uid, 1);
    refused(&archive.add(b"d", file, b"x").end(), "holds something");
}

/// One that is cut within its last block of zeros cannot be told from a whole one, and lacks nothing.
#[test]
fn a_truncated_archive_is_refused_wherever_it_is_cut() {
    let archive = Made::default()
        .add(b"d/x", EntryType::Regular, &[7; 1000])
        .pax(&[("path", b"long"), ("mtime", b"1.5")])
        .add(b"short", EntryType::Regular, &[7; 600])
        .link(b"link", EntryType::Symlink, b"target")
        .end();
    let whole = archive.len() - 512;
    for len in 0..whole {
        let error =
            parse(&archive[..len], u64::MAX).err().unwrap_or_else(|| panic!("taken: {len}"));
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.chain().contains("cut off"), "{len}: {error:?}");
    }
    assert!(find(&read_all(&archive[..whole]).unwrap(), "long").is_some());
}

#[test]
fn no_flipped_bit_makes_the_reader_panic_or_run_away() {
    let archive = Made::default()
        .add(b"d/x", EntryType::Regular, &[7; 100])
        .pax(&[("path", b"long"), ("SCHILY.acl.access", b"u::rw,g::r,o::r")])
        .add(b"short", EntryType::Regular, b"x")
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.realsize", b"9000"),
            ("GNU.sparse.name", b"s"),
        ])
        .add(
            b"sparse",
            EntryType::Regular,
            &[b"1\n4096\n10\n".as_slice(), &[0; 502], &[1; 10]].concat(),
        )
        .end();
    assert!(find(&read_all(&archive).unwrap(), "s").is_some());
    for bit in 0..archive.len() * 8 {
        let mut flipped = archive.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        // Whatever it says now: an answer.
        let _ = parse(&flipped, 1 << 20);
    }
}

#[test]
fn lengths_are_not_believed_before_the_bytes_came() {
    for (size, says) in [(1 << 60, "largest file"), (1 << 43, "cut off")] {
        let huge = header(b"x", EntryType::Regular, b"", size);
        refused(&Made(huge.as_bytes().to_vec()).end(), says);
    }
    for kind in [EntryType::XHeader, EntryType::XGlobalHeader, EntryType::GNULongName] {
        let huge = header(b"x", kind, b"", 1 << 40);
        refused(&Made(huge.as_bytes().to_vec()).end(), "extended header of 1099511627776 bytes");
    }
    let lies = Made::default().pax(&[("size", b"18446744073709551615")]);
    let lies = read_all(&lies.add(b"x", EntryType::Regular, b"x").end());
    assert_eq!(lies.err().unwrap().kind(), ErrorKind::Invalid);
}

/// What the fuzz target does for hours, from a seed.
#[test]
fn random_damage_makes_the_reader_neither_panic_nor_run_away() {
    let archive = Made::default()
        .link(b"l", EntryType::Symlink, b"d")
        .pax(&[("SCHILY.xattr.user.a", b"value"), ("mtime", b"-1.5")])
        .add(b"d/x", EntryType::Regular, &[7; 700])
        .add(b"././@LongLink", EntryType::GNULongName, &[b'n'; 200])
        .add(b"cut", EntryType::Directory, b"")
        .link(b"h", EntryType::Link, b"d/x")
        .end();
    let mut state = 1_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as usize % below
    };
    for _ in 0..20_000 {
        let mut damaged = archive.clone();
        for _ in 0..=random(4) {
            let at = random(damaged.len());
            match random(3) {
                0 => damaged[at] = random(256) as u8,
                1 => damaged[at / 512 * 512..][..512].fill(random(2) as u8 * b'7'),
                _ => damaged.copy_within(
                    at / 512 * 512..at / 512 * 512 + 512,
                    random(archive.len() / 512) * 512,
                ),
            }
        }
        // A checksum that holds lets the rest be looked at.
        for block in damaged.chunks_exact_mut(512).filter(|block| block[257] == b'u') {
            let mut header = Header::from_byte_slice(block).clone();
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
        damaged.truncate(archive.len() - random(archive.len()) * random(2));
        let _ = parse(&damaged, 1 << 20);
    }
}

/// Bytes without end.
struct Endless(Vec<u8>, usize);

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = buffer.len().min(self.0.len() - self.1);
        buffer[..len].copy_from_slice(&self.0[self.1..self.1 + len]);
        self.1 = (self.1 + len) % self.0.len();
        Ok(len)
    }
}

#[test]
fn an_archive_that_never_ends_is_refused_at_its_limit() {
    let file = Made::default().add(b"x", EntryType::Regular, &[7; 60_000]).0;
    let zeros = Made::default().add(b"x", EntryType::Regular, b"").end();
    let headers = Made::default().pax(&[("path", b"y")]).0;
    for never_ends in [file, zeros, headers] {
        let error = read_within(Endless(never_ends, 0), 8 << 20).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.chain().contains("longer than the 8.00 MiB allowed"), "{error:?}");
    }
    let archive = Made::default().add(b"x", EntryType::Regular, &[7; 60_000]).end();
    assert!(read_within(&archive[..], archive.len() as u64).is_ok());
    assert!(read_within(&archive[..], archive.len() as u64 - 1).is_err());
}

#[test]
fn holes_are_told_in_four_ways_and_all_mean_the_same() {
    let data = [&[1; 4096][..], &[2; 10]].concat();
    let size: u64 = 1 << 20;
    let regular = EntryType::Regular;
    let pairs = Made::default()
        .pax(&[
            ("GNU.sparse.size", b"1048576"),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.offset", b"4096"),
            ("GNU.sparse.numbytes", b"4096"),
            ("GNU.sparse.offset", b"81920"),
            ("GNU.sparse.numbytes", b"10"),
        ])
        .add(b"x", regular, &data);
    let list = Made::default()
        .pax(&[
            ("GNU.sparse.size", b"1048576"),
            ("GNU.sparse.name", b"x"),
            ("GNU.sparse.map", b"4096,4096,81920,10"),
        ])
        .add(b"GNUSparseFile.0/x", regular, &data);
    let map = b"3\n4096\n4096\n81920\n10\n1048576\n0\n";
    let before = Made::default()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"x"),
            ("GNU.sparse.realsize", b"1048576"),
        ])
        .add(
            b"GNUSparseFile.0/x",
            regular,
            &[map.as_slice(), &vec![0; 512 - map.len()], &data].concat(),
        );
    let mut old = header(b"x", EntryType::GNUSparse, b"", data.len() as u64);
    let gnu = old.as_gnu_mut().unwrap();
    gnu.set_real_size(size);
    for (run, (offset, len)) in gnu.sparse.iter_mut().zip([(4096, 4096), (81_920, 10)]) {
        run.set_offset(offset);
        run.set_length(len);
    }
    old.set_cksum();
    let old = Made(old.as_bytes().to_vec()).data(&data);
    for archive in [pairs, list, before, old] {
        let hierarchy = read_all(&archive.end()).unwrap();
        let file = find(&hierarchy, "x").unwrap();
        assert_eq!(hierarchy.size_bytes(file), size);
        let runs: Vec<_> = hierarchy.content_runs(file).collect();
        assert_eq!(runs, [BlockRange { start: 1, len: 1 }, BlockRange { start: 20, len: 1 }]);
    }
    let lies = Made::default()
        .pax(&[("GNU.sparse.size", b"1000"), ("GNU.sparse.map", b"4096,4096")])
        .add(b"x", regular, &[1; 4096]);
    refused(&lies.end(), "map of holes");
}

#[test]
fn names_attributes_and_numbers_of_any_kind_are_kept() {
    let long = [b"d/".as_slice(), &[b'n'; 250]].concat();
    let archive = Made::default()
        .add(b"././@LongLink", EntryType::GNULongName, &[&long[..], b"\0"].concat())
        .add(b"cut", EntryType::Regular, b"x")
        .pax(&[
            ("uid", b"4000000000"),
            ("mtime", b"-1.5"),
            ("SCHILY.xattr.user.a", b"\n\0="),
            ("SCHILY.acl.access", b"user::rw-,user:7:r--,group::r--,mask::r--,other::---"),
        ])
        .add(b"a\xff\n", EntryType::Fifo, b"")
        .end();
    let hierarchy = read_all(&archive).unwrap();
    let folder = find(&hierarchy, "d").unwrap();
    assert_eq!(hierarchy.metadata(folder).permissions, 0o755);
    assert!(hierarchy.lookup(folder, &long[2..]).is_some());
    let fifo = hierarchy.lookup(EntryId::ROOT, b"a\xff\n").unwrap();
    assert_eq!(hierarchy.kind(fifo), EntryKind::Fifo);
    let metadata = hierarchy.metadata(fifo);
    assert_eq!(
        (metadata.uid, metadata.mtime.seconds, metadata.mtime.nanoseconds),
        (4_000_000_000, -2, 500_000_000)
    );
    let minimal = Made::default().pax(&[
        ("SCHILY.acl.access", b"user::rw-\ngroup::r--\nother::---\n"),
        ("SCHILY.acl.default", b"user::rw-\ngroup::r--\nother::---\n"),
    ]);
    let minimal = read_all(&minimal.add(b"d/", EntryType::Directory, b"").end()).unwrap();
    let kept = minimal.xattrs(find(&minimal, "d").unwrap());
    assert_eq!(
        kept.iter().map(|xattr| &xattr.name[..]).collect::<Vec<_>>(),
        [b"system.posix_acl_default"]
    );
    let names: Vec<_> = hierarchy.xattrs(fifo).iter().map(|xattr| &xattr.name[..]).collect();
    assert_eq!(names, [&b"system.posix_acl_access"[..], b"user.a"]);
    assert_eq!(&*hierarchy.xattrs(fifo)[1].value, b"\n\0=");
}

#[test]
fn what_is_no_member_of_one_archive_is_said_to_be_unsupported() {
    for kind in [b'M', b'N', b'Z'] {
        let archive = Made::default().add(b"x", EntryType::new(kind), b"").end();
        assert_eq!(read_all(&archive).err().unwrap().kind(), ErrorKind::Unsupported);
    }
    refused(&[7; 2048], "no member begins here");
    refused(b"", "cut off");
}
