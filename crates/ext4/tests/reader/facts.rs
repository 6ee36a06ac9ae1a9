//! What is known of every entry of a hierarchy, as the kernel shows it and as the reader does, to be compared.

use rustix::fs::{lgetxattr, llistxattr};
use silt_ext4::{
    hierarchy::Timestamp,
    reader::{DiskRead, Ext4, Inode, InodeKind, InodeNumber},
};
use silt_types::Result;
use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::Path,
};

/// Everything of one entry that a program could see.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub kind: char,
    pub permissions: u16,
    pub owner: (u32, u32),
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub links: u16,
    pub device: (u32, u32),
    /// Length and checksum of a file's content, or of a link's target.
    pub content: (u64, u32),
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The inode: equal for equal ones, so hard links are compared too.
    pub inode: u64,
}

/// By path from the root of the file system, without a leading slash; the root itself is empty.
pub(super) type Listing = BTreeMap<Vec<u8>, Facts>;

/// What the kernel shows under `mount`.
pub(super) fn of_mount(mount: &Path) -> Listing {
    let mut listing = Listing::new();
    let mut folders = vec![mount.to_path_buf()];
    listing.insert(Vec::new(), facts_of_path(mount));
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let facts = facts_of_path(&path);
            if facts.kind == 'd' {
                folders.push(path.clone());
            }
            listing
                .insert(path.strip_prefix(mount).unwrap().as_os_str().as_bytes().to_vec(), facts);
        }
    }
    listing
}

fn facts_of_path(path: &Path) -> Facts {
    let stat = fs::symlink_metadata(path).unwrap();
    let kind = stat.file_type();
    let (kind, content) = if kind.is_dir() {
        ('d', (0, 0))
    } else if kind.is_symlink() {
        let target = fs::read_link(path).unwrap();
        let target = target.as_os_str().as_bytes();
        ('l', (target.len() as u64, crc32c::crc32c(target)))
    } else if kind.is_file() {
        ('f', content_of_path(path))
    } else if kind.is_char_device() {
        ('c', (0, 0))
    } else if kind.is_block_device() {
        ('b', (0, 0))
    } else if kind.is_fifo() {
        ('p', (0, 0))
    } else {
        ('s', (0, 0))
    };
    let rdev = if matches!(kind, 'c' | 'b') { stat.rdev() } else { 0 };
    Facts {
        kind,
        permissions: (stat.mode() & 0o7777) as u16,
        owner: (stat.uid(), stat.gid()),
        mtime: Timestamp { seconds: stat.mtime(), nanoseconds: stat.mtime_nsec() as u32 },
        ctime: Timestamp { seconds: stat.ctime(), nanoseconds: stat.ctime_nsec() as u32 },
        links: stat.nlink() as u16,
        device: (rustix::fs::major(rdev), rustix::fs::minor(rdev)),
        content,
        xattrs: xattrs_of_path(path),
        inode: stat.ino(),
    }
}

fn content_of_path(path: &Path) -> (u64, u32) {
    let mut file = fs::File::open(path).unwrap();
    let mut buf = vec![0; 1 << 20];
    let (mut len, mut sum) = (0, 0);
    loop {
        match file.read(&mut buf).unwrap() {
            0 => return (len, sum),
            n => (len, sum) = (len + n as u64, crc32c::crc32c_append(sum, &buf[..n])),
        }
    }
}

fn xattrs_of_path(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0u8; 1 << 16];
    let len = llistxattr(path, &mut names[..]).unwrap();
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0u8; 1 << 16];
            let len = lgetxattr(path, name, &mut value[..]).unwrap();
            (name.to_vec(), value[..len].to_vec())
        })
        .collect()
}

/// What the reader shows of the whole disk.
pub(super) fn of_reader<D: DiskRead>(ext4: &Ext4<D>) -> Result<Listing> {
    let mut listing = Listing::new();
    let root = ext4.root()?;
    let mut folders = vec![(Vec::new(), root)];
    listing.insert(Vec::new(), facts_of_inode(ext4, &ext4.root()?)?);
    while let Some((path, folder)) = folders.pop() {
        let mut entries: Vec<(Vec<u8>, InodeNumber)> = Vec::new();
        ext4.read_dir(&folder, &mut |name, inode| {
            entries.push((name.to_vec(), inode));
            Ok(())
        })?;
        for (name, number) in entries {
            let mut path = path.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend(name);
            let inode = ext4.inode(number)?;
            listing.insert(path.clone(), facts_of_inode(ext4, &inode)?);
            if inode.kind == InodeKind::Directory {
                folders.push((path, inode));
            }
        }
    }
    Ok(listing)
}

fn facts_of_inode<D: DiskRead>(ext4: &Ext4<D>, inode: &Inode) -> Result<Facts> {
    let (kind, content, device) = match inode.kind {
        InodeKind::Directory => ('d', (0, 0), (0, 0)),
        InodeKind::File => ('f', content_of_inode(ext4, inode)?, (0, 0)),
        InodeKind::Symlink => {
            let target = ext4.read_link(inode)?;
            ('l', (target.len() as u64, crc32c::crc32c(&target)), (0, 0))
        }
        InodeKind::CharDevice { major, minor } => ('c', (0, 0), (major, minor)),
        InodeKind::BlockDevice { major, minor } => ('b', (0, 0), (major, minor)),
        InodeKind::Fifo => ('p', (0, 0), (0, 0)),
        InodeKind::Socket => ('s', (0, 0), (0, 0)),
    };
    Ok(Facts {
        kind,
        permissions: inode.permissions,
        owner: (inode.uid, inode.gid),
        mtime: inode.mtime,
        ctime: inode.ctime,
        links: inode.links,
        device,
        content,
        xattrs: ext4.xattrs(inode)?.into_iter().collect(),
        inode: u64::from(inode.number.get()),
    })
}

fn content_of_inode<D: DiskRead>(ext4: &Ext4<D>, inode: &Inode) -> Result<(u64, u32)> {
    let mut buf = vec![0; 70_001];
    let (mut at, mut sum) = (0, 0);
    while at < inode.size_bytes {
        let len = buf.len().min((inode.size_bytes - at) as usize);
        ext4.read_file_at(inode, &mut buf[..len], at)?;
        sum = crc32c::crc32c_append(sum, &buf[..len]);
        at += len as u64;
    }
    Ok((at, sum))
}

/// Panics with the first few differences, unless the listings are equal.
pub(super) fn assert_equal(reader: &Listing, kernel: &Listing, what: &str) {
    let mut differences = Vec::new();
    for path in reader.keys().chain(kernel.keys()) {
        if reader.get(path) != kernel.get(path) && differences.len() < 5 {
            differences.push(format!(
                "{:?}:\n  reader {:?}\n  kernel {:?}",
                String::from_utf8_lossy(path),
                reader.get(path),
                kernel.get(path)
            ));
        }
    }
    assert!(differences.is_empty(), "{what}: {}", differences.join("\n"));
    assert!(reader.len() > 1, "{what}: nothing was compared");
}
