//! SQLite: a file that the nodes of one host share. Each connection has a thread, as the library
//! blocks.

mod commit;
mod file_system;
mod look;
mod open_file;
mod outbox;
mod schema;
mod sweep;
mod turnstile;
mod wal_index;

use std::cell::Cell;
use std::fs::{DirBuilder, OpenOptions, metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio_util::sync::CancellationToken;
use tracing::error;
use uuid::Uuid;

use super::backend::{Backend, Look, LookError, Make, Order, Seen, StoreError, Swept};
use super::{Store, host_time, start};
use crate::entities::commit::{Commit, Outcome};
use crate::entities::outbox::{Chores, Outbox, Tended};
use crate::message::StoreTime;
use open_file::OpenFile;
use turnstile::Turnstile;

pub(super) use wal_index::WalIndex;

/// Threads that answer looks: a slow one does not hold up all others.
const READERS: usize = 2;

/// How long a commit waits for another process to end its own. They take milliseconds, unless a
/// process is stopped in the middle of one.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);

/// How often it looks whether the other one has ended.
const LOCK_POLL: Duration = Duration::from_micros(100);

/// After so many pages of 4 KiB in the log they are moved into the file, which takes some
/// milliseconds. Twenty times the library's own number: it makes commits of many entities half as
/// expensive, for 80 MB of disk.
const CHECKPOINT_PAGES: i64 = 20_000;

/// Pages that a connection keeps in memory, in KiB.
const CACHE_KIB: i64 = 8 << 10;

/// Prepared statements that a connection keeps.
const STATEMENTS: usize = 32;

/// The exit code of a process whose disk failed.
const EXIT_DISK: i32 = 74;

/// One connection to the file.
struct Sqlite {
    node: String,
    connection: Connection,
    turnstile: Turnstile,
    file: OpenFile,
}

/// How a transaction failed. Nothing was committed.
enum Failed {
    Sqlite(rusqlite::Error),
    /// It must not be tried.
    Store(StoreError),
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<rusqlite::Error> for LookError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self(error.to_string())
    }
}

impl Store {
    /// Opens the file with the tables in it.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(in crate::entities) fn open_sqlite(
        path: &Path,
        cluster: &str,
        make: Make,
        outbox: Arc<Outbox>,
        ended: CancellationToken,
    ) -> Result<(Self, Uuid), StoreError> {
        let named = |error: StoreError| StoreError(format!("{}: {error}", path.display()));
        let made = |error: io::Error| named(StoreError(error.to_string()));
        match make {
            Make::IfMissing => make_file(path).map_err(made)?,
            Make::Never => {
                metadata(path).map_err(made)?;
            }
        }
        file_system::warn(path);
        let mut first = Sqlite::open(path, outbox.node.as_str()).map_err(named)?;
        let id = schema::prepare(&mut first.connection, cluster, make).map_err(named)?;
        let index = if file_system::is_local(path) {
            let opened = OpenFile::new(path).and_then(|file| Ok(WalIndex::new(path, file)?));
            Some(opened.map_err(named)?)
        } else {
            None
        };
        let node = outbox.node.clone();
        let store = Self::new(index, outbox, ended);
        let committing = store.clone();
        start(
            "commits",
            async move { committing.serve_commits(first).await },
        )
        .map_err(made)?;
        for _ in 0..READERS {
            let (looking, reader) = (
                store.clone(),
                Sqlite::open(path, node.as_str()).map_err(named)?,
            );
            start("state", async move { looking.serve_looks(reader).await }).map_err(made)?;
        }
        Ok((store, id))
    }
}

/// Makes the file, which only its owner can read, and the directories above it. One that is there is
/// not opened: closing it would open all locks that SQLite has on it in this process (POSIX).
fn make_file(path: &Path) -> io::Result<()> {
    if path.try_exists()? {
        return Ok(());
    }
    if let Some(directory) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
    }
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map(drop)
}

impl Sqlite {
    fn open(path: &Path, node: &str) -> Result<Self, StoreError> {
        let mut connection = Connection::open(path)?;
        connection.busy_handler(Some(wait_for_lock))?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        let mode: String =
            connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
        if mode != "wal" {
            return Err(StoreError(format!(
                "its journal mode is {mode:?}, and must be \"wal\", which this file system does not allow"
            )));
        }
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "fullfsync", true)?;
        connection.pragma_update(None, "checkpoint_fullfsync", true)?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        let turnstile = turnstile_of(path);
        let turnstile = Turnstile::new(&turnstile)
            .map_err(|error| StoreError(format!("{}: {error}", turnstile.display())))?;
        Ok(Self {
            node: node.to_owned(),
            connection,
            turnstile,
            file: OpenFile::new(path)?,
        })
    }

    /// Commits all of them in one transaction.
    fn commit_together(&mut self, commits: &[Commit]) -> Result<Vec<Outcome>, Failed> {
        let node = self.node.clone();
        self.write(|transaction, now| commit::write_all(transaction, commits, now, &node))
    }

    /// Writes in one transaction, by the store's clock: what records were deleted up to is past.
    fn write<R>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>, StoreTime) -> rusqlite::Result<R>,
    ) -> Result<R, Failed> {
        let Self {
            connection,
            turnstile,
            file,
            ..
        } = self;
        let passing = turnstile
            .pass()
            .map_err(|error| Failed::Store(StoreError(error.to_string())))?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        drop(passing);
        file.check().map_err(Failed::Store)?;
        let swept_to = schema::check(&transaction).map_err(Failed::Store)?;
        let written = work(&transaction, swept_to.max(host_time()))?;
        transaction.commit()?;
        Ok(written)
    }
}

fn turnstile_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-turn");
    name.into()
}

/// Waits a little for a lock that was tried so often already. `false`: for long enough.
fn wait_for_lock(times: i32) -> bool {
    thread_local! {
        static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
    }
    if times == 0 {
        BEGAN.set(Some(Instant::now()));
    }
    if BEGAN
        .get()
        .is_some_and(|began| began.elapsed() > LOCK_WAIT_MAX)
    {
        return false;
    }
    thread::sleep(LOCK_POLL);
    true
}

impl Backend for Sqlite {
    async fn commit(&mut self, commits: &[Commit]) -> Result<Vec<Outcome>, StoreError> {
        let together = self.commit_together(commits);
        match together {
            Ok(outcomes) => Ok(outcomes),
            Err(Failed::Sqlite(error)) if commit::is_of_data(&error) => {
                // Each by itself, so that only the bad one fails. When the file cannot be used any
                // more the rest is not tried.
                let mut outcomes = Vec::with_capacity(commits.len());
                for commit in commits {
                    outcomes.push(match self.commit_together(std::slice::from_ref(commit)) {
                        Ok(outcome) => outcome[0],
                        Err(Failed::Sqlite(error)) if commit::is_of_data(&error) => {
                            error!(event = "commit-rejected", entity = %commit.entity, %error, "the store rejects what a handler wrote");
                            Outcome::Rejected
                        }
                        Err(Failed::Sqlite(error)) => {
                            end_if_disk_failed(&error);
                            break;
                        }
                        Err(Failed::Store(_)) => break,
                    });
                }
                outcomes.resize(commits.len(), Outcome::Unavailable);
                Ok(outcomes)
            }
            Err(Failed::Sqlite(error)) => {
                end_if_disk_failed(&error);
                Err(error.into())
            }
            Err(Failed::Store(error)) => Err(error),
        }
    }

    async fn look(&mut self, looks: &[Look]) -> Result<Vec<Seen>, LookError> {
        self.file.check().map_err(LookError::Store)?;
        let transaction = self.connection.transaction()?;
        let seen = look::look(&transaction, looks)?;
        transaction.commit()?;
        Ok(seen)
    }

    async fn tend(&mut self, chores: &Chores) -> Result<Tended, StoreError> {
        let node = self.node.clone();
        let (is_due, next) = outbox::look(&self.connection, host_time(), &node)?;
        if chores.is_empty() && !(is_due && chores.room > 0) {
            return Ok(Tended {
                due: Vec::new(),
                next,
                has_gone_more: false,
            });
        }
        match self.write(|transaction, now| outbox::tend(transaction, chores, now, &node)) {
            Ok(tended) => Ok(tended),
            Err(Failed::Store(error)) => Err(error),
            Err(Failed::Sqlite(error)) => {
                end_if_disk_failed(&error);
                Err(error.into())
            }
        }
    }

    async fn carry_out(&mut self, order: &Order) -> Result<u64, StoreError> {
        let done = self.write(|transaction, now| match order {
            Order::Retry(ids) => outbox::retry(transaction, ids, now),
            Order::Import(imported) => commit::import(transaction, imported),
        });
        match done {
            Ok(rows) => Ok(rows),
            Err(Failed::Store(error)) => Err(error),
            Err(Failed::Sqlite(error)) => {
                end_if_disk_failed(&error);
                Err(error.into())
            }
        }
    }

    async fn sweep(&mut self) -> Result<Swept, StoreError> {
        let (now, is_due) = sweep::is_due(&self.connection, host_time())?;
        if !is_due {
            let is_more = false;
            return Ok(Swept { now, is_more });
        }
        match self.write(sweep::sweep) {
            Ok(swept) => Ok(swept),
            Err(Failed::Store(error)) => Err(error),
            Err(Failed::Sqlite(error)) => {
                end_if_disk_failed(&error);
                Err(error.into())
            }
        }
    }
}

/// After a failed write to the disk nobody knows what is on it: the page cache may say that it is
/// there. The next start reads it from the disk.
fn end_if_disk_failed(error: &rusqlite::Error) {
    let Some(error) = error.sqlite_error() else {
        return;
    };
    if matches!(
        error.extended_code,
        rusqlite::ffi::SQLITE_IOERR_FSYNC | rusqlite::ffi::SQLITE_IOERR_DIR_FSYNC
    ) {
        error!(event = "disk-failed", %error, "the disk did not take what was committed: the process ends");
        exit(EXIT_DISK);
    }
}
