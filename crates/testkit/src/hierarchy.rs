//! Odd file hierarchies for property tests: names of any bytes, deep folders, links, devices, attributes, times at the
//! ends of what ext4 holds, files with holes.

use proptest::{collection::vec, prelude::*, sample::select};
use silt_ext4::{EntryId, EntryKind, Hierarchy, Metadata, Timestamp};
use silt_types::{BlockRange, Result};
use std::collections::BTreeMap;

/// A declared hierarchy that can be built in more than one order.
#[derive(Clone, Debug)]
pub struct Declared {
    /// Of the root directory.
    pub root: Metadata,
    /// Names; those that are taken when their turn comes are left out.
    pub names: Vec<DeclaredName>,
}

/// One name of a [`Declared`] hierarchy.
#[derive(Clone, Debug)]
pub struct DeclaredName {
    /// Picks the parent among the directories declared before.
    pub parent: usize,
    /// 1 to 255 bytes.
    pub name: Vec<u8>,
    /// What it names.
    pub what: What,
    /// Of an entry that is not a link.
    pub metadata: Metadata,
    /// Full names and values.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a name names.
#[derive(Clone, Debug)]
pub enum What {
    /// A directory.
    Directory,
    /// A file: gaps and runs of blocks in turn, and bytes missing from its last block.
    File {
        /// A gap in blocks, and a run of blocks behind it.
        runs: Vec<(u64, u64)>,
        /// Blocks of hole at the end.
        hole_blocks: u64,
        /// 0 to 4095.
        missing_bytes: u64,
    },
    /// A symbolic link of so many bytes.
    Symlink(usize),
    /// A device: character or block, major and minor number.
    Device(bool, u32, u32),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// One more name of one of the files declared before.
    Link(usize),
}

/// Hierarchies of up to `names_max` names.
pub fn declared_hierarchy(names_max: usize) -> impl Strategy<Value = Declared> {
    (metadata(), vec(declared_name(), 0..names_max))
        .prop_map(|(root, names)| Declared { root, names })
}

fn declared_name() -> impl Strategy<Value = DeclaredName> {
    (any::<usize>(), name(), what(), metadata(), xattrs()).prop_map(
        |(parent, name, what, metadata, xattrs)| DeclaredName {
            parent,
            name,
            what,
            metadata,
            xattrs,
        },
    )
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|byte| if matches!(byte, 0 | b'/') { b'\n' } else { byte });
    let bytes = prop_oneof![4 => vec(byte.clone(), 1..20), 1 => vec(byte, 250..=255)];
    let known = select(vec![&b"lost+found"[..], b"..."]).prop_map(<[u8]>::to_vec);
    prop_oneof![30 => bytes, 1 => known].prop_map(|name| match &name[..] {
        b"." | b".." => b"dots".to_vec(),
        _ => name,
    })
}

fn what() -> impl Strategy<Value = What> {
    let run = (0u64..4, 1u64..20);
    let spread = vec((1u64..3, 1u64..2), 0..900);
    let runs = prop_oneof![6 => vec(run, 0..4), 1 => spread];
    let hole = prop_oneof![3 => Just(0u64), 1 => 1u64..60_000_000];
    let file = (runs, hole, 0u64..4096).prop_map(|(runs, hole_blocks, missing_bytes)| What::File {
        runs,
        hole_blocks,
        missing_bytes,
    });
    let target_len = prop_oneof![
        3 => 1usize..80,
        1 => select(vec![59usize, 60, 61, 4094, 4095])
    ];
    let number = |max: u32| prop_oneof![0u32..256, Just(255u32), Just(256), 0..=max];
    let device = (any::<bool>(), number(0xFFF), number(0xF_FFFF));
    prop_oneof![
        4 => Just(What::Directory),
        6 => file,
        3 => target_len.prop_map(What::Symlink),
        1 => device.prop_map(|(is_block, major, minor)| What::Device(is_block, major, minor)),
        1 => Just(What::Fifo),
        1 => Just(What::Socket),
        2 => any::<usize>().prop_map(What::Link),
    ]
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let edges =
        select(vec![0i64, -1, i64::from(i32::MIN), 1 << 31, 1 << 32, (1 << 34) - (1 << 31) - 1]);
    let seconds = prop_oneof![3 => 0i64..2_000_000_000, 1 => edges];
    let id = || prop_oneof![3 => 0u32..2000, 1 => 65_530u32..65_540, 1 => 0..u32::MAX];
    (0u16..=0o7777, id(), id(), seconds, 0u32..1_000_000_000).prop_map(
        |(permissions, uid, gid, seconds, nanoseconds)| Metadata {
            permissions,
            uid,
            gid,
            mtime: Timestamp { seconds, nanoseconds },
        },
    )
}

/// Attributes that the kernel can show: `user.` ones only belong to files and directories, which the building sees to.
fn xattrs() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
    let prefix = select(vec![&b"user."[..], b"trusted.", b"security."]);
    let rest = vec(prop_oneof![9 => 1u8..=127, 1 => 128u8..=255], 1..40);
    let named = (prefix, rest).prop_map(|(prefix, rest)| [prefix, &rest].concat());
    let value = prop_oneof![6 => vec(any::<u8>(), 0..60), 1 => vec(any::<u8>(), 300..900)];
    let count = prop_oneof![5 => Just(0usize), 2 => 1usize..4];
    count.prop_flat_map(move |count| vec((named.clone(), value.clone()), count))
}

impl Declared {
    /// The hierarchy, names added in the order of their declaration.
    pub fn build(&self) -> Result<Hierarchy> {
        self.build_in(|children| children)
    }

    /// The same hierarchy, siblings added the other way round, so that files may get another of their names first.
    pub fn build_reversed(&self) -> Result<Hierarchy> {
        self.build_in(|mut children| {
            children.reverse();
            children
        })
    }

    fn build_in(&self, reorder: impl Fn(Vec<Name>) -> Vec<Name>) -> Result<Hierarchy> {
        let mut hierarchy = Hierarchy::new(self.root)?;
        let mut children = self.children_by_directory();
        let mut added: BTreeMap<usize, EntryId> = BTreeMap::new();
        let mut waiting = vec![(0, EntryId::ROOT)];
        while let Some((directory, entry)) = waiting.pop() {
            for child in reorder(children.remove(&directory).unwrap_or_default()) {
                let declared = &self.names[child.node];
                if let Some(existing) = added.get(&child.node) {
                    hierarchy.link(entry, &child.name, *existing)?;
                    continue;
                }
                let id = declared.add_to(&mut hierarchy, entry, &child.name)?;
                added.insert(child.node, id);
                if matches!(declared.what, What::Directory) {
                    waiting.push((child.node + 1, id));
                }
            }
        }
        Ok(hierarchy)
    }

    /// By directory (0 is the root, else the index of its declaration and one), its names.
    fn children_by_directory(&self) -> BTreeMap<usize, Vec<Name>> {
        let mut children: BTreeMap<usize, Vec<Name>> = BTreeMap::new();
        let (mut directories, mut files) = (vec![0], Vec::new());
        for (index, declared) in self.names.iter().enumerate() {
            let parent = directories[declared.parent % directories.len()];
            let names = children.entry(parent).or_default();
            if names.iter().any(|taken| taken.name == declared.name) {
                continue;
            }
            let node = match declared.what {
                What::Link(_) if files.is_empty() => continue,
                What::Link(pick) => files[pick % files.len()],
                What::Directory => {
                    directories.push(index + 1);
                    index
                }
                _ => {
                    files.push(index);
                    index
                }
            };
            names.push(Name { name: declared.name.clone(), node });
        }
        children
    }
}

struct Name {
    name: Vec<u8>,
    node: usize,
}

impl DeclaredName {
    fn add_to(&self, hierarchy: &mut Hierarchy, parent: EntryId, name: &[u8]) -> Result<EntryId> {
        let target;
        let kind = match &self.what {
            What::Directory => EntryKind::Directory,
            What::File { .. } | What::Link(_) => EntryKind::File,
            What::Symlink(len) => {
                // A path of names that a directory could hold.
                target = b"/target".iter().copied().cycle().take(*len).collect::<Vec<_>>();
                EntryKind::Symlink(&target)
            }
            What::Device(true, major, minor) => {
                EntryKind::BlockDevice { major: *major, minor: *minor }
            }
            What::Device(false, major, minor) => {
                EntryKind::CharDevice { major: *major, minor: *minor }
            }
            What::Fifo => EntryKind::Fifo,
            What::Socket => EntryKind::Socket,
        };
        let entry = hierarchy.add(parent, name, kind, self.metadata)?;
        if let What::File { runs, hole_blocks, missing_bytes } = &self.what {
            set_content(hierarchy, entry, runs, *hole_blocks, *missing_bytes)?;
        }
        let takes_user = matches!(self.what, What::Directory | What::File { .. });
        let mut xattrs: Vec<(&[u8], &[u8])> = self
            .xattrs
            .iter()
            .filter(|(name, _)| takes_user || !name.starts_with(b"user."))
            .map(|(name, value)| (&name[..], &value[..]))
            .collect();
        xattrs.sort_unstable();
        xattrs.dedup_by_key(|(name, _)| *name);
        hierarchy.set_xattrs(entry, &xattrs)?;
        Ok(entry)
    }
}

/// Turns gaps and runs into runs that do not adjoin.
fn set_content(
    hierarchy: &mut Hierarchy,
    entry: EntryId,
    gaps_and_runs: &[(u64, u64)],
    hole_blocks: u64,
    missing_bytes: u64,
) -> Result<()> {
    let (mut runs, mut next): (Vec<BlockRange>, u64) = (Vec::new(), 0);
    for (gap, len) in gaps_and_runs {
        match runs.last_mut() {
            Some(last) if *gap == 0 => last.len += len,
            _ => runs.push(BlockRange { start: next + gap, len: *len }),
        }
        next += gap + len;
    }
    let size = (next + hole_blocks) * 4096;
    hierarchy.set_file_content(entry, size - missing_bytes.min(size), &runs)
}
