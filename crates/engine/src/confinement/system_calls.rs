//! Which system calls can be made, by a seccomp filter. Everything else fails with EPERM: a library that tries something
//! new falls back, and a disk does not go away because of it.
//!
//! The list is what servers were seen to make, in the tests of every export under `strace`, and what the libraries below
//! them make where a machine is another one. Each line says what for.

use libc as c;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op,
    SeccompCondition as Condition, SeccompFilter, SeccompRule as Rule, apply_filter,
};
use silt_types::{Error, ErrorKind, Result};

/// Calls that are good with any arguments: what they reach is held by Landlock, or open already.
#[rustfmt::skip]
const ANY: &[i64] = &[
    // Data: packs, deltas, the memory of guests, sockets.
    c::SYS_read, c::SYS_write, c::SYS_readv, c::SYS_writev, c::SYS_pread64, c::SYS_pwrite64,
    c::SYS_preadv, c::SYS_pwritev, c::SYS_preadv2, c::SYS_pwritev2, c::SYS_lseek, c::SYS_fallocate,
    c::SYS_fsync, c::SYS_fdatasync, c::SYS_ftruncate, c::SYS_fadvise64,
    // Clients.
    c::SYS_accept4, c::SYS_recvfrom, c::SYS_recvmsg, c::SYS_sendto, c::SYS_sendmsg, c::SYS_shutdown,
    c::SYS_setsockopt, c::SYS_getsockopt, c::SYS_getsockname, c::SYS_getpeername,
    // Letting another process go on with them: a descriptor means something else from then on.
    c::SYS_dup3,
    // Waiting for them, and being told by a guest.
    c::SYS_ppoll, c::SYS_epoll_create1, c::SYS_epoll_ctl, c::SYS_epoll_pwait, c::SYS_eventfd2, c::SYS_pipe2,
    // Names: new deltas, packs that were not read before. Landlock holds which; modes and owners, which it does not hold,
    // cannot be changed.
    c::SYS_openat, c::SYS_close, c::SYS_fcntl, c::SYS_flock, c::SYS_fstat, c::SYS_newfstatat, c::SYS_statx,
    c::SYS_getdents64, c::SYS_mkdirat, c::SYS_unlinkat, c::SYS_renameat, c::SYS_renameat2,
    // Memory, but for what could be executed.
    c::SYS_munmap, c::SYS_mremap, c::SYS_madvise, c::SYS_brk, c::SYS_membarrier, c::SYS_memfd_create,
    // Threads and time.
    c::SYS_futex, c::SYS_set_robust_list, c::SYS_rseq, c::SYS_sched_yield, c::SYS_sched_getaffinity,
    c::SYS_sigaltstack, c::SYS_rt_sigaction, c::SYS_rt_sigprocmask, c::SYS_rt_sigreturn,
    c::SYS_gettid, c::SYS_getpid, c::SYS_getrandom, c::SYS_clock_gettime,
    c::SYS_clock_nanosleep, c::SYS_nanosleep, c::SYS_restart_syscall, c::SYS_wait4,
    c::SYS_exit, c::SYS_exit_group,
];

/// The same, of which only some processors' kernels have a number of their own.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const ANY_OF_ARCHITECTURE: &[i64] = &[
    c::SYS_poll, c::SYS_epoll_wait, c::SYS_stat, c::SYS_lstat, c::SYS_mkdir, c::SYS_rmdir, c::SYS_unlink, c::SYS_rename,
];
#[cfg(not(target_arch = "x86_64"))]
const ANY_OF_ARCHITECTURE: &[i64] = &[];

/// Takes every system call but those above from this thread and those that it starts. Answers how many are left.
pub(super) fn restrict() -> Result<usize> {
    let failed = |error: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Unsupported, format!("cannot take system calls away: {error}"))
    };
    let mut rules: std::collections::BTreeMap<i64, Vec<Rule>> =
        ANY.iter().chain(ANY_OF_ARCHITECTURE).map(|number| (*number, Vec::new())).collect();
    rules.extend(with_arguments().map_err(|error| failed(&error))?);
    let left = rules.len();
    let architecture = std::env::consts::ARCH
        .try_into()
        .map_err(|_| failed(&"an architecture that is not known"))?;
    let refused = SeccompAction::Errno(c::EPERM as u32);
    // The C library goes on with `clone`, whose arguments can be looked at, only if this one seems not to exist.
    let missing = SeccompAction::Errno(c::ENOSYS as u32);
    let clone3 = std::iter::once((c::SYS_clone3, Vec::new())).collect();
    rules.insert(c::SYS_clone3, Vec::new());
    for (rules, others, these) in
        [(clone3, SeccompAction::Allow, missing), (rules, refused, SeccompAction::Allow)]
    {
        let program: BpfProgram = SeccompFilter::new(rules, others, these, architecture)
            .and_then(TryInto::try_into)
            .map_err(|error| failed(&error))?;
        apply_filter(&program).map_err(|error| failed(&error))?;
    }
    Ok(left)
}

/// Calls that are good with some arguments only.
fn with_arguments() -> std::result::Result<Vec<(i64, Vec<Rule>)>, seccompiler::BackendError> {
    let only = |conditions: Vec<Condition>| Rule::new(conditions);
    // What is mapped is never code.
    let no_code = || Condition::new(2, Len::Dword, Op::MaskedEq(c::PROT_EXEC as u64), 0);
    // What is started is a thread, never a process.
    let is_thread = Condition::new(
        0,
        Len::Qword,
        Op::MaskedEq(c::CLONE_THREAD as u64),
        c::CLONE_THREAD as u64,
    )?;
    let is_own = Condition::new(0, Len::Dword, Op::Eq, std::process::id().into())?;
    let is_name = |option: c::c_int| Condition::new(0, Len::Dword, Op::Eq, option as u64);
    let is_nonblocking = Condition::new(1, Len::Dword, Op::Eq, c::FIONBIO)?;
    Ok(vec![
        (c::SYS_mmap, vec![only(vec![no_code()?])?]),
        (c::SYS_mprotect, vec![only(vec![no_code()?])?]),
        (c::SYS_clone, vec![only(vec![is_thread])?]),
        // For abort, when a panic cannot be unwound.
        (c::SYS_tgkill, vec![only(vec![is_own])?]),
        (
            c::SYS_prctl,
            vec![only(vec![is_name(c::PR_SET_NAME)?])?, only(vec![is_name(PR_SET_VMA)?])?],
        ),
        (c::SYS_ioctl, vec![only(vec![is_nonblocking])?]),
    ])
}

/// Names of memory areas, which the C library gives.
const PR_SET_VMA: c::c_int = 0x5356_4d41;
