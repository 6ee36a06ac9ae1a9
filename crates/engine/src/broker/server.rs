//! The broker's own side: what it does, for whom it was started, until that one has ended.

use super::message::{Answer, MESSAGE_LEN_MAX, Request, encode_reply};
use crate::control::RunFolder;
use rustix::{
    fs::{AtFlags, CWD, FileType, statat, unlinkat},
    io::retry_on_intr,
    net::{RecvFlags, SendFlags, recv, send},
};
use silt_export::fuse::Mounted;
use silt_store::{SpaceAsked, Store, StorePaths};
use silt_types::{ChunkId, Result};
use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    thread,
};

/// Names to remove: a few sockets and a folder; and as many mounts.
const NAMES_MAX: usize = 64;

/// Serves one connection to its end, and cleans up.
pub(super) fn work(socket: &OwnedFd, store: &Path) {
    let mut broker =
        Work { path: store, store: None, names: Vec::new(), mounts: Vec::new(), has_begun: false };
    let mut bytes = [0; MESSAGE_LEN_MAX];
    while let Ok((len @ 1.., _)) = retry_on_intr(|| recv(socket, &mut bytes, RecvFlags::empty())) {
        let Some(reply) = broker.answer(&bytes[..len]) else { continue };
        if retry_on_intr(|| send(socket, &reply, SendFlags::NOSIGNAL)).is_err() {
            break;
        }
    }
    undo(&broker.mounts);
    let paths = StorePaths::new(store);
    broker.names.iter().rev().for_each(|name| name.remove(&paths));
}

/// Undoes mounts, some of which may be undone already. One that cannot be is left to whoever mounts there next.
fn undo(mounts: &[Mounted]) {
    mounts.iter().for_each(|mounted| _ = mounted.undo());
}

struct Work<'a> {
    path: &'a Path,
    store: Option<Store>,
    names: Vec<Name>,
    mounts: Vec<Mounted>,
    has_begun: bool,
}

impl Work<'_> {
    /// The reply, to what has one. What is no message, or comes too late, is passed over: the server before confinement does
    /// not send such, and the one after has no claim to an answer.
    fn answer(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        match Request::decode(bytes) {
            Ok(Request::Find(id)) => Some(encode_reply(&self.find(&id))),
            Ok(Request::Space(asked)) => Some(encode_reply(&self.space(&asked))),
            Ok(Request::RemoveAtEnd(path)) if !self.has_begun && self.names.len() < NAMES_MAX => {
                self.names.extend(Name::of(path));
                None
            }
            Ok(Request::Begin) => {
                self.has_begun = true;
                Some(encode_reply(&self.store().map(|_| Answer::Nothing)))
            }
            Ok(Request::UndoAtEnd(mounted)) if !self.has_begun && self.mounts.len() < NAMES_MAX => {
                self.mounts.push(mounted);
                None
            }
            Ok(Request::Leave) => {
                self.mounts.clear();
                self.names.retain(|name| name.kind != FileType::Socket);
                None
            }
            Ok(Request::Undo) => {
                // What the kernel still has to write reaches the server, which may look up chunks for that meanwhile.
                let mounts = self.mounts.clone();
                let _ = thread::Builder::new().spawn(move || undo(&mounts));
                None
            }
            Ok(Request::RemoveAtEnd(_) | Request::UndoAtEnd(_)) | Err(_) => None,
        }
    }

    fn find(&mut self, id: &ChunkId) -> Result<Answer> {
        Ok(self.store()?.place_of(id)?.map_or(Answer::Nothing, Answer::Place))
    }

    fn space(&mut self, asked: &SpaceAsked) -> Result<Answer> {
        self.store()?.allowance().ask(asked).map(Answer::Space)
    }

    fn store(&mut self) -> Result<&Store> {
        match &mut self.store {
            Some(store) => Ok(store),
            none => Ok(none.insert(Store::open(self.path, 0)?)),
        }
    }
}

/// A name that is removed unless it means something else by then: a socket, the server's folder, its lease.
struct Name {
    path: PathBuf,
    identity: (u64, u64),
    kind: FileType,
}

impl Name {
    fn of(path: PathBuf) -> Option<Name> {
        let found = statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let kind = FileType::from_raw_mode(found.st_mode);
        let removable =
            matches!(kind, FileType::Socket | FileType::Directory | FileType::RegularFile);
        removable.then_some(Name { path, identity: (found.st_dev, found.st_ino), kind })
    }

    /// A folder is the server's own in `run`. The next server of that disk may have it already, even as the same inode; its
    /// lock tells.
    fn remove(&self, paths: &StorePaths) {
        if self.kind == FileType::Directory {
            let _ = RunFolder::remove_if_dead(paths, &self.path);
            return;
        }
        let found = statat(CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW);
        if found.is_ok_and(|found| (found.st_dev, found.st_ino) == self.identity) {
            let _ = unlinkat(CWD, &self.path, AtFlags::empty());
        }
    }
}
