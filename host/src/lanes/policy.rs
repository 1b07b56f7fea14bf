//! The scheduling policy of a thread (sched(7)).

#![allow(unsafe_code, reason = "no library has a call for it that leaves the nice value alone")]

use std::io;

use libc::{SCHED_BATCH, SCHED_OTHER, SYS_sched_getscheduler, SYS_sched_setscheduler, c_int, syscall};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    /// `SCHED_OTHER`, that of a thread for which nobody has chosen one.
    Normal,
    /// `SCHED_BATCH`: when it wakes up, it waits for its turn.
    Batch,
}

impl Policy {
    fn number(self) -> c_int {
        match self {
            Self::Normal => SCHED_OTHER,
            Self::Batch => SCHED_BATCH,
        }
    }
}

/// Whether the thread that calls has this policy.
pub(super) fn is(policy: Policy) -> bool {
    // SAFETY: it touches no memory. 0 is the thread that calls.
    let number = unsafe { syscall(SYS_sched_getscheduler, 0) };
    number == libc::c_long::from(policy.number())
}

/// Sets the policy of the thread that calls; threads that it starts from then on begin with it.
///
/// # Errors
/// If the system refuses.
pub(super) fn set(policy: Policy) -> io::Result<()> {
    let priority: c_int = 0;
    // SAFETY: the kernel reads one number, the priority, which must be 0 for these policies. 0 is the thread that calls.
    match unsafe { syscall(SYS_sched_setscheduler, 0, policy.number(), &raw const priority) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
