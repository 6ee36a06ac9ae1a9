//! What shall go wrong, and when: plans, operation numbers, and the gate every changing operation passes.
//!
//! The gate lets one changing operation through at a time, so operation numbers, the order on the backing
//! folder and the order in a recording are one and the same. It knows nothing of files.

use rustix::io::Errno;

/// A kind of changing operation, for counting and for choosing what fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpClass {
    /// All of the following.
    Any,
    /// Bytes written by a call (not by a memory map, see [`Plan`]).
    Write,
    /// fsync and fdatasync, of files and folders.
    Sync,
    /// Names: create, mkdir, symlink, link, rename, unlink, rmdir.
    Name,
    /// Truncate and fallocate.
    Size,
    /// Permission bits, owner, times.
    Attr,
}

/// What happens to the operations after the one that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Later {
    /// They work again.
    Work,
    /// Every later changing operation of any class fails alike.
    Fail,
}

/// What shall go wrong. Numbers count the operations of the class from 0, from the moment the plan was set.
///
/// Pages of a shared memory map are written when the kernel thinks fit, so they have no number and are never
/// what a plan picks; after a crash, with [`Later::Fail`] and without space they fail like everything else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plan {
    /// Nothing goes wrong.
    #[default]
    None,
    /// One operation answers `errno` and changes nothing.
    FailAt {
        /// What is counted.
        class: OpClass,
        /// Which one.
        op: u64,
        /// Its answer.
        errno: Errno,
        /// What follows.
        later: Later,
    },
    /// From this operation on nothing reaches the backing folder: every operation, reads too, answers EIO.
    CrashAt {
        /// What is counted.
        class: OpClass,
        /// The first one lost.
        op: u64,
    },
    /// Room for this many more bytes in whole 4 KiB pages. Filling holes takes room; punching, truncating and
    /// removing give it back; without a page left nothing new can be made. The answer is ENOSPC.
    NoSpaceAfter {
        /// The room.
        bytes: u64,
    },
}

/// Whether operations pass.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Health {
    Well,
    Refusing(Errno),
    Crashed,
}

/// The state of a plan. One lock around it makes changing operations take turns.
pub(super) struct Gate {
    plan: Plan,
    health: Health,
    tripped: bool,
    counts: [u64; 6],
    room: u64,
}

impl Gate {
    pub(super) fn new(plan: Plan) -> Gate {
        let room = match plan {
            Plan::NoSpaceAfter { bytes } => bytes,
            _ => u64::MAX,
        };
        Gate { plan, health: Health::Well, tripped: false, counts: [0; 6], room }
    }

    /// Numbers an operation and says whether it may happen.
    pub(super) fn admit(&mut self, class: OpClass) -> Result<(), Errno> {
        self.admit_unnumbered()?;
        let any = self.counts[OpClass::Any as usize];
        let of_class = self.counts[class as usize];
        self.counts[OpClass::Any as usize] += 1;
        self.counts[class as usize] += 1;
        let hit = |wanted: OpClass, op: u64| match wanted {
            OpClass::Any => any == op,
            _ => wanted == class && of_class == op,
        };
        match self.plan {
            Plan::FailAt { class, op, errno, later } if hit(class, op) => {
                self.tripped = true;
                if later == Later::Fail {
                    self.health = Health::Refusing(errno);
                }
                Err(errno)
            }
            Plan::CrashAt { class, op } if hit(class, op) => {
                self.tripped = true;
                self.health = Health::Crashed;
                Err(Errno::IO)
            }
            _ => Ok(()),
        }
    }

    /// Says whether a write from a memory map may happen.
    pub(super) fn admit_unnumbered(&self) -> Result<(), Errno> {
        match self.health {
            Health::Well => Ok(()),
            Health::Refusing(errno) => Err(errno),
            Health::Crashed => Err(Errno::IO),
        }
    }

    pub(super) fn count(&self, class: OpClass) -> u64 {
        self.counts[class as usize]
    }

    pub(super) fn tripped(&self) -> bool {
        self.tripped
    }

    pub(super) fn crashed(&self) -> bool {
        self.health == Health::Crashed
    }

    /// The bytes that may still be taken, where they are limited.
    pub(super) fn room(&self) -> Option<u64> {
        matches!(self.plan, Plan::NoSpaceAfter { .. }).then_some(self.room)
    }

    /// Says whether `bytes` more fit.
    pub(super) fn require(&mut self, bytes: u64) -> Result<(), Errno> {
        if bytes <= self.room {
            return Ok(());
        }
        self.tripped = true;
        Err(Errno::NOSPC)
    }

    /// Takes note of the bytes allocated before and after an operation.
    pub(super) fn settle(&mut self, before: u64, after: u64) {
        if self.room().is_some() {
            self.room = self.room.saturating_add(before).saturating_sub(after);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbered_operation_of_its_class_fails_and_no_other() {
        let plan =
            Plan::FailAt { class: OpClass::Sync, op: 1, errno: Errno::NOSPC, later: Later::Work };
        let mut gate = Gate::new(plan);
        let order = [OpClass::Sync, OpClass::Write, OpClass::Sync, OpClass::Sync];
        let answers: Vec<_> = order.map(|class| gate.admit(class).is_ok()).into();
        assert_eq!(answers, [true, true, false, true]);
        assert_eq!((gate.count(OpClass::Any), gate.count(OpClass::Sync)), (4, 3));
    }

    #[test]
    fn nothing_passes_after_a_crash_or_a_lasting_failure() {
        let lasting =
            Plan::FailAt { class: OpClass::Any, op: 1, errno: Errno::ROFS, later: Later::Fail };
        for (plan, answer) in
            [(lasting, Errno::ROFS), (Plan::CrashAt { class: OpClass::Any, op: 1 }, Errno::IO)]
        {
            let mut gate = Gate::new(plan);
            assert_eq!(gate.admit(OpClass::Name), Ok(()));
            assert_eq!(gate.admit(OpClass::Write), Err(answer));
            assert_eq!(gate.admit(OpClass::Sync), Err(answer));
            assert_eq!(gate.admit_unnumbered(), Err(answer));
        }
    }
}
