//! Paths of directories, each kept as its parent and its name: so deep trees cost no more than their names.

use silt_types::{Error, Result};

/// A directory whose path is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PathId(u32);

impl PathId {
    pub(super) const ROOT: PathId = PathId(0);
}

struct Node {
    parent: u32,
    name: Box<[u8]>,
}

pub(super) struct Paths {
    nodes: Vec<Node>,
}

impl Paths {
    /// The root alone.
    pub(super) fn new() -> Paths {
        Paths { nodes: vec![Node { parent: 0, name: Box::default() }] }
    }

    pub(super) fn add(&mut self, parent: PathId, name: &[u8]) -> Result<PathId> {
        let id = u32::try_from(self.nodes.len());
        let id = id.map_err(|_| Error::corrupt("there are more directories than inodes"))?;
        self.nodes.push(Node { parent: parent.0, name: name.into() });
        Ok(PathId(id))
    }

    /// The path of `name` in a directory.
    pub(super) fn path(&self, directory: PathId, name: &[u8]) -> Vec<u8> {
        let mut names = vec![name];
        let mut at = directory.0;
        while at != PathId::ROOT.0 {
            let node = &self.nodes[at as usize];
            names.push(&node.name);
            at = node.parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// The path of a directory; empty for the root.
    pub(super) fn directory(&self, directory: PathId) -> Vec<u8> {
        match directory {
            PathId::ROOT => Vec::new(),
            PathId(id) => {
                let node = &self.nodes[id as usize];
                self.path(PathId(node.parent), &node.name)
            }
        }
    }
}
