//! The scheduling policy of a thread (sched(7)).

#![allow(unsafe_code, reason = "no library has a call for it that leaves the nice value alone")]

use std::io;

use libc::{SCHED_BATCH, SCHED_OTHER, SYS_sched_getscheduler, SYS_sched_setscheduler, c_int, c_long, syscall};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    /// `SCHED_OTHER`, that of a thread for which nobody has chosen one.
    Normal,
    /// `SCHED_BATCH`: when it wakes up, it waits for its turn.
    Batch,
}

impl Policy {
    fn number(self) -> c_long {
        match self {
            Self::Normal => SCHED_OTHER.into(),
            Self::Batch => SCHED_BATCH.into(),
        }
    }
}

const THIS_THREAD: c_long = 0;

/// Whether the thread that calls has this policy.
pub(super) fn is(policy: Policy) -> bool {
    // SAFETY: it touches no memory.
    let number = unsafe { syscall(SYS_sched_getscheduler, THIS_THREAD) };
    number == policy.number()
}

/// Sets the policy of the thread that calls. Threads that it starts from then on begin with it: from a lane that is only what
/// looks up names, to which it makes no difference.
///
/// # Errors
/// If the system refuses.
pub(super) fn set(policy: Policy) -> io::Result<()> {
    let priority: c_int = 0;
    // SAFETY: the kernel reads one number, the priority, which must be 0 for these policies.
    match unsafe { syscall(SYS_sched_setscheduler, THIS_THREAD, policy.number(), &raw const priority) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
