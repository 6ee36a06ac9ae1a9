//! Which files can be reached, by Landlock; and that no TCP connection, abstract socket or other process can.

use super::Rights;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, LandlockStatus,
    PathBeneath, PathFd, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, Scope,
};
use silt_types::{Error, Result};
use std::path::Path;

/// The newest version of the interface whose rights are given up by name. Older kernels hold fewer of them.
const NEWEST: ABI = ABI::V6;

/// Restricts this thread and those that it starts, and takes privileges from programs that they might run. Answers the
/// version that the kernel enforces, none if it has no Landlock.
pub(super) fn restrict(rights: &Rights) -> Result<Option<u32>> {
    let failed = |error: RulesetError| {
        Error::io("cannot confine this process to its files", std::io::Error::other(error))
    };
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|rules| rules.scope(Scope::from_all(NEWEST)))
        .and_then(Ruleset::create)
        .map_err(failed)?;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = read
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir;
    for (folders, access) in [(&rights.read, read), (&rights.write, write)] {
        for folder in folders {
            rules = rules.add_rule(rule(folder, access)?).map_err(failed)?;
        }
    }
    let status = rules.restrict_self().map_err(failed)?;
    Ok(match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => Some(effective_abi as u32),
        _ => None,
    })
}

fn rule(folder: &Path, access: BitFlags<AccessFs>) -> Result<PathBeneath<PathFd>> {
    let folder_fd = PathFd::new(folder).map_err(|error| {
        Error::io(format!("cannot open {}", folder.display()), std::io::Error::other(error))
    })?;
    Ok(PathBeneath::new(folder_fd, access))
}
