//! A whole folder in memory: names, kinds, permission bits, owners, bytes.
//!
//! The base of a recording is one, and every power-cut state becomes one before it is laid out. Not kept:
//! times and extended attributes, which nothing in a store may depend on.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{OsStr, OsString},
    fs::{self, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    os::unix::fs::{self as unix, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{CWD, FileType, Mode};
use silt_types::{Error, Result};

use super::{
    content::Content,
    op::{FileId, Made, Op, RenameKind, Slot},
};

/// The permission bits of `st_mode`.
pub(super) const PERMISSIONS: u32 = 0o7777;

/// One file or folder.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) body: Body,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
}

/// What a node holds.
#[derive(Clone)]
pub(super) enum Body {
    File(Arc<Content>),
    Dir(BTreeMap<OsString, FileId>),
    Symlink(OsString),
    Special(u32),
}

/// A folder and all below it. Nodes without a name are files that were unlinked while open.
#[derive(Clone, Default)]
pub(super) struct Image {
    pub(super) nodes: HashMap<FileId, Node>,
}

impl Image {
    /// Reads the folder `root`; `id_of` names each inode number.
    ///
    /// # Errors
    /// What the operating system refuses, with the path.
    pub(super) fn load(root: &Path, id_of: &mut dyn FnMut(u64) -> FileId) -> Result<Image> {
        let mut image = Image::default();
        let mut folders = vec![(FileId::ROOT, root.to_path_buf())];
        image.nodes.insert(FileId::ROOT, read_node(root)?);
        while let Some((dir, path)) = folders.pop() {
            let mut entries = BTreeMap::new();
            for entry in fs::read_dir(&path).map_err(|error| failed("list", &path, error))? {
                let entry = entry.map_err(|error| failed("list", &path, error))?;
                let path = entry.path();
                let meta = entry.metadata().map_err(|error| failed("stat", &path, error))?;
                let id = id_of(meta.ino());
                entries.insert(entry.file_name(), id);
                if image.nodes.contains_key(&id) {
                    continue;
                }
                image.nodes.insert(id, read_node(&path)?);
                if meta.is_dir() {
                    folders.push((id, path));
                }
            }
            if let Some(node) = image.nodes.get_mut(&dir) {
                node.body = Body::Dir(entries);
            }
        }
        Ok(image)
    }

    /// Takes every file of this name out.
    pub(super) fn forget(&mut self, name: &str) {
        for node in self.nodes.values_mut() {
            if let Body::Dir(entries) = &mut node.body {
                entries.remove(OsStr::new(name));
            }
        }
    }

    /// Lays everything out below `into`, which is made where it is missing and must be empty.
    ///
    /// # Errors
    /// What the operating system refuses, with the path.
    pub(super) fn write_to(&self, into: &Path) -> Result<()> {
        fs::create_dir_all(into).map_err(|error| failed("make", into, error))?;
        let mut placed = HashMap::new();
        self.write_dir(FileId::ROOT, into, &mut placed)
    }

    fn write_dir(
        &self,
        dir: FileId,
        path: &Path,
        placed: &mut HashMap<FileId, PathBuf>,
    ) -> Result<()> {
        for (name, id) in self.entries(dir) {
            let at = path.join(name);
            let Some(node) = self.nodes.get(id) else { continue };
            if let Some(first) = placed.get(id) {
                fs::hard_link(first, &at).map_err(|error| failed("link", &at, error))?;
                continue;
            }
            write_node(node, &at).map_err(|error| failed("make", &at, error))?;
            if matches!(node.body, Body::Dir(_)) {
                self.write_dir(*id, &at, placed)?;
            } else {
                placed.insert(*id, at.clone());
            }
            dress(node, &at).map_err(|error| failed("set the attributes of", &at, error))?;
        }
        Ok(())
    }

    /// A number that two states share when every name, byte and attribute is the same, and otherwise hardly.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let mut seen: HashMap<FileId, usize> = HashMap::new();
        let mut folders = vec![FileId::ROOT];
        while let Some(dir) = folders.pop() {
            for (name, id) in self.entries(dir) {
                let count = seen.len();
                let number = *seen.entry(*id).or_insert(count);
                (name, number).hash(&mut hasher);
                let Some(node) = self.nodes.get(id).filter(|_| number == count) else { continue };
                (node.mode, node.owner).hash(&mut hasher);
                match &node.body {
                    Body::File(content) => content.hash(&mut hasher),
                    Body::Dir(_) => folders.push(*id),
                    Body::Symlink(target) => target.hash(&mut hasher),
                    Body::Special(kind) => kind.hash(&mut hasher),
                }
            }
            "end of folder".hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Carries a change of names out, with a node for what is new. A name that is not there stays away.
    pub(super) fn rename_or_name(&mut self, op: &Op) {
        match op {
            Op::Create { at, file, .. } | Op::Link { at, file } => self.set(at, Some(*file)),
            Op::Unlink { at } | Op::Rmdir { at } => self.set(at, None),
            Op::Rename { from, to, kind } => {
                let moved = self.get(from);
                let replaced = self.get(to);
                if moved.is_some() {
                    self.set(from, replaced.filter(|_| *kind == RenameKind::Exchange));
                    self.set(to, moved);
                }
            }
            _ => {}
        }
    }

    /// Makes the node of a created file; its name is a matter of its own.
    pub(super) fn make(&mut self, op: &Op) {
        let Op::Create { file, made, mode, owner, .. } = op else { return };
        let body = match made {
            Made::File => Body::File(Arc::default()),
            Made::Dir => Body::Dir(BTreeMap::new()),
            Made::Symlink(target) => Body::Symlink(target.clone()),
            Made::Special(kind) => Body::Special(*kind),
        };
        self.nodes.insert(*file, Node { body, mode: *mode, owner: *owner });
    }

    /// What a name stands for.
    pub(super) fn get(&self, at: &Slot) -> Option<FileId> {
        match &self.nodes.get(&at.dir)?.body {
            Body::Dir(entries) => entries.get(&at.name).copied(),
            _ => None,
        }
    }

    /// The content of a regular file.
    pub(super) fn content(&self, file: FileId) -> Option<&Arc<Content>> {
        match &self.nodes.get(&file)?.body {
            Body::File(content) => Some(content),
            _ => None,
        }
    }

    fn set(&mut self, at: &Slot, file: Option<FileId>) {
        if let Some(Node { body: Body::Dir(entries), .. }) = self.nodes.get_mut(&at.dir) {
            match file {
                Some(file) => entries.insert(at.name.clone(), file),
                None => entries.remove(&at.name),
            };
        }
    }

    fn entries(&self, dir: FileId) -> impl Iterator<Item = (&OsString, &FileId)> {
        let entries = self.nodes.get(&dir).and_then(|node| match &node.body {
            Body::Dir(entries) => Some(entries),
            _ => None,
        });
        entries.into_iter().flatten()
    }
}

fn read_node(path: &Path) -> Result<Node> {
    let meta = fs::symlink_metadata(path).map_err(|error| failed("stat", path, error))?;
    let body = if meta.is_dir() {
        Body::Dir(BTreeMap::new())
    } else if meta.is_symlink() {
        let target = fs::read_link(path).map_err(|error| failed("read", path, error))?;
        Body::Symlink(target.into_os_string())
    } else if meta.is_file() {
        let content = File::open(path).and_then(|file| Content::read(&file));
        Body::File(Arc::new(content.map_err(|error| failed("read", path, error))?))
    } else {
        Body::Special(meta.mode() & !PERMISSIONS)
    };
    Ok(Node { body, mode: meta.mode() & PERMISSIONS, owner: (meta.uid(), meta.gid()) })
}

fn write_node(node: &Node, at: &Path) -> std::io::Result<()> {
    match &node.body {
        Body::File(content) => content.write_to(&File::create_new(at)?),
        Body::Dir(_) => fs::create_dir(at),
        Body::Symlink(target) => unix::symlink(target, at),
        Body::Special(kind) => {
            let kind = FileType::from_raw_mode(*kind);
            Ok(rustix::fs::mknodat(CWD, at, kind, Mode::empty(), 0)?)
        }
    }
}

/// Owner first: a change of owner clears setuid bits.
fn dress(node: &Node, at: &Path) -> std::io::Result<()> {
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if node.owner != own && own.0 == 0 {
        unix::lchown(at, Some(node.owner.0), Some(node.owner.1))?;
    }
    if matches!(node.body, Body::Symlink(_)) {
        return Ok(());
    }
    fs::set_permissions(at, fs::Permissions::from_mode(node.mode))
}

fn failed(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::io(format!("{what} {}", path.display()), error)
}
