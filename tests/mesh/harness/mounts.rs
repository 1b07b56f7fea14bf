//! File systems that only a test and its nodes see.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Moves this thread, and the processes that it starts from now on, to a mount namespace of their
/// own. Returns whether that is permitted.
pub(crate) fn own_mounts() -> bool {
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    unshare(CloneFlags::CLONE_NEWNS).is_ok()
        && mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).is_ok()
}
