//! A turnstile in front of the file's write lock. SQLite's lock is not fair: who has just committed
//! gets it again before the others wake up. Here, who waits for it holds the turnstile, and who has
//! just committed must wait behind. Among those who wait for the turnstile there is no order.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::wait_for_lock;

/// Passed by one process at a time. The system opens it again when a process dies in it.
pub(super) struct Turnstile(File);

/// Holds the turnstile.
pub(super) struct Passing<'a>(&'a File);

impl Turnstile {
    /// # Errors
    /// If there can be no file of that name.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)?;
        Ok(Self(file))
    }

    /// Waits until no other process is in it.
    ///
    /// # Errors
    /// If another one stays in it, as a process does that was stopped there, or the file system has
    /// no locks.
    pub(super) fn pass(&self) -> io::Result<Passing<'_>> {
        let mut times = 0;
        loop {
            match flock(&self.0, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Passing(&self.0)),
                Err(Errno::WOULDBLOCK) if wait_for_lock(times) => times += 1,
                Err(Errno::WOULDBLOCK) => {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "another process does not end its commit; is one stopped that has the file open?",
                    ));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        // Unlocking a lock that is held does not fail.
        let _ = flock(self.0, FlockOperation::Unlock);
    }
}
