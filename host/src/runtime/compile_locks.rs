//! Compile locks: when several nodes on one host share a compile cache, one compiles a component,
//! and the others wait for it and find it in the cache.

use std::fs::{File, OpenOptions, TryLockError, create_dir_all};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tracing::{debug, warn};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Number of lock files; the length of a component and the hash of its beginning select one. Two components with the same
/// lock wait for each other needlessly, which costs nothing but time.
const LOCKS: u64 = 64;

/// How much of the beginning that is.
const HASHED_BYTES: usize = 64 << 10;

/// Poll interval while waiting: the operating system has no file lock with a timeout.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// How long to wait for another node, which may hang, before compiling without the lock. The
/// largest components take 5 s on an idle machine, and may be begun anew after 20 s on a busy one.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The locks of all nodes that share a directory. Without a directory, nothing is locked.
#[derive(Clone, Default)]
pub(super) struct CompileLocks(Option<Arc<Path>>);

impl CompileLocks {
    /// Shares locks with every node that uses the same directory, which is created if it is
    /// missing.
    pub(super) fn in_directory(directory: PathBuf) -> io::Result<Self> {
        create_dir_all(&directory)?;
        Ok(Self(Some(directory.into())))
    }

    /// Waits for the lock of this component. It is held until the returned file is dropped or the
    /// process ends.
    pub(super) fn take(&self, component: &[u8]) -> Option<File> {
        let begins = &component[..component.len().min(HASHED_BYTES)];
        let hash = xxh3_64_with_seed(begins, component.len() as u64);
        let path = self.0.as_ref()?.join(format!("{:02}.lock", hash % LOCKS));
        // Where locking fails (some network file systems do not support it), compile without a
        // lock.
        let taken = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(lock);
        taken
            .inspect_err(|error| debug!(path = %path.display(), %error, "compiling without a turn"))
            .ok()
    }
}

fn lock(file: File) -> io::Result<File> {
    let until = Instant::now() + WAIT_MAX;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(LOOK_INTERVAL),
            Err(TryLockError::WouldBlock) => {
                warn!(
                    event = "compile-turn-late",
                    "another node has been compiling the same component for {WAIT_MAX:?}; not waiting for it"
                );
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_component_is_compiled_by_one_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let turns = || CompileLocks::in_directory(directory.path().join("turns")).unwrap();
        let held = turns().take(b"component").unwrap();
        let waiting = turns();
        let waiter = thread::spawn(move || waiting.take(b"component").is_some());
        assert!(
            turns().take(b"another").is_some(),
            "another component does not wait"
        );
        assert!(!waiter.is_finished());
        drop(held);
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn without_a_directory_nobody_waits() {
        let turns = CompileLocks::default();
        assert!(turns.take(b"component").is_none());
    }
}
