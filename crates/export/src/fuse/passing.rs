//! A mounted file on its way to another server: what that has to know of it, in words.
//!
//! The words go between two processes of one user, over the control socket of the one that ends. They are checked all the
//! same: nothing is taken over but a mount of ours that is there.

use super::{
    attributes::{Attributes, PERMISSIONS, time_of},
    kernel::Introduction,
    mount::{Access, Mount, Mounted},
};
use crate::PassedOn;
use serde::{Deserialize, Serialize};
use silt_types::{Error, ErrorKind, Result};
use std::{
    ffi::OsString,
    os::{
        fd::OwnedFd,
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    time::UNIX_EPOCH,
};

/// A mount between two requests.
#[derive(Debug)]
pub(super) struct PassedMount {
    pub(super) mount: Mount,
    pub(super) access: Access,
    pub(super) attributes: Attributes,
    pub(super) opens: usize,
    pub(super) kernel: Introduction,
    /// The connection to the kernel.
    pub(super) device: OwnedFd,
}

#[derive(Serialize, Deserialize)]
struct Words {
    /// A path's bytes, which may be no text.
    path: Vec<u8>,
    source: String,
    allow_other: bool,
    mode: u16,
    uid: u32,
    gid: u32,
    time_ns: i64,
    opens: usize,
    kernel: Introduction,
}

/// The connection to the kernel, then the lock of the place. The mount stays from now on.
pub(super) fn put(mount: &Mount, passed: Passing) -> Result<PassedOn> {
    let Passing { access, attributes, opens, kernel, device } = passed;
    let Attributes { mode, uid, gid, time } = attributes;
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let Mounted { path, source } = mount.mounted().clone();
    let words = Words {
        path: path.as_os_str().as_bytes().into(),
        source,
        allow_other: access == Access::AllowOther,
        mode,
        uid,
        gid,
        time_ns: since.as_nanos().try_into().unwrap_or(i64::MAX),
        opens,
        kernel,
    };
    let words = serde_json::to_string(&words).map_err(|error| {
        Error::with_source(ErrorKind::Internal, "cannot tell of a mount", error)
    })?;
    let lock = mount.leave().map_err(|error| Error::io("cannot pass a mount on", error))?;
    Ok(PassedOn { words, descriptors: vec![device, lock] })
}

/// What is put in words, beside the mount.
pub(super) struct Passing {
    pub(super) access: Access,
    pub(super) attributes: Attributes,
    pub(super) opens: usize,
    pub(super) kernel: Introduction,
    pub(super) device: OwnedFd,
}

/// The mount, which is taken off with this value from now on. `Invalid` if that is not what was passed on.
pub(super) fn take(passed: PassedOn) -> Result<PassedMount> {
    let words: Words = serde_json::from_str(&passed.words).map_err(|error| {
        Error::with_source(ErrorKind::Invalid, "what was told of a mount is not readable", error)
    })?;
    let descriptors: [OwnedFd; 2] = passed.descriptors.try_into().map_err(|found: Vec<_>| {
        Error::invalid(format!("a mount was passed on with {} descriptors", found.len()))
    })?;
    let [device, lock] = descriptors;
    let mounted = Mounted { path: OsString::from_vec(words.path).into(), source: words.source };
    Ok(PassedMount {
        mount: Mount::adopt(mounted, lock)?,
        access: if words.allow_other { Access::AllowOther } else { Access::Owner },
        attributes: Attributes {
            mode: words.mode & PERMISSIONS as u16,
            uid: words.uid,
            gid: words.gid,
            time: time_of(words.time_ns),
        },
        opens: words.opens,
        kernel: words.kernel,
        device,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn words(path: &str, source: &str) -> String {
        let path = path.as_bytes();
        format!(
            r#"{{"path":{path:?},"source":"{source}","allow_other":false,"mode":384,"uid":0,"gid":0,"time_ns":1,
                "opens":1,"kernel":{{"major":7,"minor":41,"capabilities":0}}}}"#
        )
    }

    #[test]
    fn what_is_no_mount_of_ours_is_refused_and_left_alone() {
        for (words, descriptors) in [
            ("nonsense".to_owned(), 2),
            (words("/nowhere", "silt-01"), 2),
            (words("/proc", "proc"), 2),
            (words("/proc", "silt-01"), 2),
            (words("/proc", "proc"), 1),
        ] {
            let descriptors = (0..descriptors).map(|_| File::open("/dev/null").unwrap().into());
            let passed = PassedOn { words: words.clone(), descriptors: descriptors.collect() };
            assert_eq!(take(passed).unwrap_err().kind(), ErrorKind::Invalid, "{words}");
        }
    }
}
