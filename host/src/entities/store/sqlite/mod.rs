//! SQLite: a file that the nodes of one host share. Each connection has a thread, as the library
//! blocks.

mod network;
mod open_file;
mod schema;
mod turnstile;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::exit;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{
    CachedStatement, Connection, ErrorCode, OptionalExtension, Row, Transaction,
    TransactionBehavior,
};
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;
use tracing::error;
use uuid::Uuid;

use super::Store;
use super::backend::{
    Backend, Found, LOADED_BYTES_MAX, LOADED_VALUES_MAX, Listing, Look, LookError, Make, Seen,
    StoreError, What,
};
use crate::entities::commit::{Commit, CommitId, EntityId, Outcome};
use crate::message::PartitionKey;
use crate::state::{MAIN_VALUE, Name, Page, Range, Values, Writes};
use open_file::OpenFile;
use turnstile::Turnstile;

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
        ended: CancellationToken,
    ) -> Result<(Self, Uuid), StoreError> {
        let named = |error: StoreError| StoreError(format!("{}: {error}", path.display()));
        let made = |error: io::Error| named(StoreError(error.to_string()));
        match make {
            Make::IfMissing => make_file(path).map_err(made)?,
            Make::Never => drop(File::open(path).map_err(made)?),
        }
        network::warn(path);
        let mut first = Sqlite::open(path).map_err(named)?;
        let id = schema::prepare(&mut first.connection, cluster, make).map_err(named)?;
        let store = Self::new(ended);
        let committing = store.clone();
        start(
            "commits",
            async move { committing.serve_commits(first).await },
        )
        .map_err(made)?;
        for _ in 0..READERS {
            let (looking, reader) = (store.clone(), Sqlite::open(path).map_err(named)?);
            start("state", async move { looking.serve_looks(reader).await }).map_err(made)?;
        }
        Ok((store, id))
    }
}

/// Makes the file, which only its owner can read, and the directories above it.
fn make_file(path: &Path) -> io::Result<()> {
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

/// Runs a connection on a thread of its own.
fn start(name: &str, work: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    thread::Builder::new()
        .name(name.into())
        .spawn(move || runtime.block_on(work))
        .map(drop)
}

impl Sqlite {
    fn open(path: &Path) -> Result<Self, StoreError> {
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
            connection,
            turnstile,
            file: OpenFile::new(path)?,
        })
    }

    /// Commits all of them in one transaction.
    fn commit_together(&mut self, commits: &[Commit]) -> Result<Vec<Outcome>, Failed> {
        let Self {
            connection,
            turnstile,
            file,
        } = self;
        let passing = turnstile
            .pass()
            .map_err(|error| Failed::Store(StoreError(error.to_string())))?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        drop(passing);
        file.check().map_err(Failed::Store)?;
        schema::check(&transaction).map_err(Failed::Store)?;
        let outcomes = write_all(&transaction, commits)?;
        transaction.commit()?;
        Ok(outcomes)
    }
}

fn turnstile_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-turn");
    name.into()
}

fn wait_for_lock(times: i32) -> bool {
    let waited = LOCK_POLL * u32::try_from(times).unwrap_or(u32::MAX);
    if waited > LOCK_WAIT_MAX {
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
            Err(Failed::Sqlite(error)) if is_of_data(&error) => {
                // Each by itself, so that only the bad one fails.
                let mut outcomes = Vec::with_capacity(commits.len());
                for commit in commits {
                    outcomes.push(match self.commit_together(std::slice::from_ref(commit)) {
                        Ok(outcome) => outcome[0],
                        Err(Failed::Sqlite(error)) if is_of_data(&error) => {
                            error!(event = "commit-rejected", entity = %commit.entity, %error, "the store rejects what a handler wrote");
                            Outcome::Rejected
                        }
                        Err(Failed::Sqlite(error)) => {
                            end_if_disk_failed(&error);
                            Outcome::Unavailable
                        }
                        Err(Failed::Store(_)) => Outcome::Unavailable,
                    });
                }
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
        let mut seen = Vec::with_capacity(looks.len());
        for look in looks {
            seen.push(see(&transaction, look).map_err(|error| of_look(error, look))?);
        }
        transaction.commit()?;
        Ok(seen)
    }
}

/// An error that is none of SQLite's own is one of what was read.
fn of_look(error: rusqlite::Error, look: &Look) -> LookError {
    match error.sqlite_error() {
        Some(_) => error.into(),
        None => LookError::Data(StoreError(format!("{look}: {error}"))),
    }
}

/// Whether the error is about what was to be written, and would come again.
fn is_of_data(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch)
    )
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

/// Writes each commit whose expected one is the entity's last.
fn write_all(transaction: &Transaction<'_>, commits: &[Commit]) -> rusqlite::Result<Vec<Outcome>> {
    let mut entities = EntityRows {
        transaction,
        with_state: transaction.prepare_cached("UPDATE meshage_entity SET commit_id = ?3, state = ?4 WHERE stream = ?1 AND key = ?2 AND commit_id = ?5")?,
        without: transaction.prepare_cached("UPDATE meshage_entity SET commit_id = ?3 WHERE stream = ?1 AND key = ?2 AND commit_id = ?4")?,
        new: transaction.prepare_cached("INSERT INTO meshage_entity (stream, key, commit_id, state) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING")?,
    };
    commits
        .iter()
        .map(|commit| entities.write(commit))
        .collect()
}

/// The statements that write rows of entities.
struct EntityRows<'a> {
    transaction: &'a Transaction<'a>,
    with_state: CachedStatement<'a>,
    without: CachedStatement<'a>,
    new: CachedStatement<'a>,
}

impl EntityRows<'_> {
    /// Writes a commit, if the entity's last one is the expected.
    fn write(&mut self, commit: &Commit) -> rusqlite::Result<Outcome> {
        let Commit {
            entity,
            expected,
            id,
            writes,
        } = commit;
        let (stream, key) = (entity.stream.as_str(), entity.key.as_str());
        let state = writes.get(MAIN_VALUE);
        let id = &id.as_bytes()[..];
        let expected = expected.as_ref().map(|expected| &expected.as_bytes()[..]);
        let changed = match (expected, state) {
            (Some(expected), Some(state)) => {
                let row = (stream, key, id, state.map(Value), expected);
                self.with_state.execute(row)?
            }
            (Some(expected), None) => self.without.execute((stream, key, id, expected))?,
            (None, state) => {
                let row = (stream, key, id, state.flatten().map(Value));
                self.new.execute(row)?
            }
        };
        if changed == 0 {
            return Ok(Outcome::Fenced);
        }
        write_values(self.transaction, entity, writes)?;
        Ok(Outcome::Committed)
    }
}

/// Writes all values but the one that is in the entity's own row.
fn write_values(
    transaction: &Transaction<'_>,
    entity: &EntityId,
    writes: &Writes,
) -> rusqlite::Result<()> {
    let (stream, key) = (entity.stream.as_str(), entity.key.as_str());
    if writes.is_clear() {
        transaction
            .prepare_cached("DELETE FROM meshage_value WHERE stream = ?1 AND key = ?2")?
            .execute((stream, key))?;
    }
    for (name, value) in writes.iter().filter(|(name, _)| &***name != MAIN_VALUE) {
        match value {
            Some(value) => transaction
                .prepare_cached("INSERT INTO meshage_value (stream, key, name, value) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET value = excluded.value")?
                .execute((stream, key, &**name, Value(value)))?,
            None => transaction
                .prepare_cached("DELETE FROM meshage_value WHERE stream = ?1 AND key = ?2 AND name = ?3")?
                .execute((stream, key, &**name))?,
        };
    }
    Ok(())
}

/// A value as it is stored: as text if it is one, so that people can read it.
struct Value<'a>(&'a Bytes);

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let bytes: &[u8] = self.0;
        // A text ends at its first zero for most who read it.
        let is_text = !bytes.contains(&0) && std::str::from_utf8(bytes).is_ok();
        Ok(ToSqlOutput::Borrowed(if is_text {
            ValueRef::Text(bytes)
        } else {
            ValueRef::Blob(bytes)
        }))
    }
}

fn value(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Bytes>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(Bytes::copy_from_slice(bytes)),
        ValueRef::Null => None,
        // Somebody wrote a number by hand.
        ValueRef::Integer(number) => Some(number.to_string().into()),
        ValueRef::Real(number) => Some(number.to_string().into()),
    })
}

fn see(transaction: &Transaction<'_>, look: &Look) -> rusqlite::Result<Seen> {
    let (entity, what) = match look {
        Look::At(entity, what) => (entity, what),
        Look::Entities(listing) => {
            return Ok(Seen {
                last: None,
                found: Found::Entities(keys(transaction, listing)?),
            });
        }
        Look::StreamAfter(after) => {
            return Ok(Seen {
                last: None,
                found: Found::Stream(stream_after(transaction, after)?),
            });
        }
    };
    let parameters = (entity.stream.as_str(), entity.key.as_str());
    if let What::Last = what {
        let last = transaction
            .prepare_cached("SELECT commit_id FROM meshage_entity WHERE stream = ?1 AND key = ?2")?
            .query_row(parameters, |row| row.get(0))
            .optional()?;
        return Ok(Seen {
            last: last.map(CommitId::from_bytes),
            found: Found::Nothing,
        });
    }
    let entry = transaction
        .prepare_cached(
            "SELECT commit_id, state FROM meshage_entity WHERE stream = ?1 AND key = ?2",
        )?
        .query_row(parameters, |row| Ok((row.get(0)?, value(row, 1)?)))
        .optional()?;
    let last = entry.as_ref().map(|(last, _)| CommitId::from_bytes(*last));
    let main = entry.and_then(|(_, state)| state);
    let found = match what {
        What::Last => Found::Nothing,
        What::Values if last.is_none() => Found::Values(Values::none()),
        What::Values => Found::Values(values(transaction, entity, main)?),
        What::Value(name) if &**name == MAIN_VALUE => Found::Value(main),
        What::Value(name) => Found::Value(one(transaction, entity, name)?),
        What::Page(range) => Found::Page(page(transaction, entity, range, main)?),
    };
    Ok(Seen { last, found })
}

fn one(
    transaction: &Transaction<'_>,
    entity: &EntityId,
    name: &str,
) -> rusqlite::Result<Option<Bytes>> {
    let found = transaction
        .prepare_cached(
            "SELECT value FROM meshage_value WHERE stream = ?1 AND key = ?2 AND name = ?3",
        )?
        .query_row((entity.stream.as_str(), entity.key.as_str(), name), |row| {
            value(row, 0)
        })
        .optional()?;
    Ok(found.flatten())
}

/// All values of an entity, or the first ones if they are many or large.
fn values(
    transaction: &Transaction<'_>,
    entity: &EntityId,
    main: Option<Bytes>,
) -> rusqlite::Result<Values> {
    let mut statement = transaction.prepare_cached(
        "SELECT name, value FROM meshage_value WHERE stream = ?1 AND key = ?2 ORDER BY name",
    )?;
    let mut rows = statement.query((entity.stream.as_str(), entity.key.as_str()))?;
    let mut found: Vec<(Name, Bytes)> = Vec::new();
    let mut bytes = 0;
    let mut is_complete = true;
    while let Some(row) = rows.next()? {
        if found.len() >= LOADED_VALUES_MAX || bytes >= LOADED_BYTES_MAX {
            is_complete = false;
            break;
        }
        let value = value(row, 1)?.unwrap_or_default();
        bytes += value.len();
        found.push((name(row)?, value));
    }
    let mut values = Values::new(found, is_complete);
    values.learn(MAIN_VALUE.into(), main);
    Ok(values)
}

fn name(row: &Row<'_>) -> rusqlite::Result<Name> {
    Ok(row.get_ref(0)?.as_str()?.into())
}

/// The first values of a range.
fn page(
    transaction: &Transaction<'_>,
    entity: &EntityId,
    range: &Range,
    main: Option<Bytes>,
) -> rusqlite::Result<Page> {
    let mut statement = transaction.prepare_cached(
        "SELECT name, value FROM meshage_value WHERE stream = ?1 AND key = ?2 AND name >= ?3 AND name > ?4 ORDER BY name",
    )?;
    let (stream, key) = (entity.stream.as_str(), entity.key.as_str());
    let mut rows = statement.query((stream, key, &*range.prefix, &*range.after))?;
    let mut failed = None;
    let found = std::iter::from_fn(|| {
        let next = rows.next().and_then(|row| {
            let Some(row) = row else { return Ok(None) };
            Ok(Some((name(row)?, value(row, 1)?.unwrap_or_default())))
        });
        next.unwrap_or_else(|error| {
            failed = Some(error);
            None
        })
    });
    let is_within = |(name, _): &(Name, Bytes)| name.starts_with(&*range.prefix);
    let page = Page::of(found.take_while(is_within), range.limit);
    if let Some(error) = failed {
        return Err(error);
    }
    let mut own_row = Writes::default();
    if main.is_some() {
        own_row.put(MAIN_VALUE.into(), main);
    }
    Ok(page.with(&own_row, range))
}

fn stream_after(transaction: &Transaction<'_>, after: &str) -> rusqlite::Result<Option<String>> {
    transaction
        .prepare_cached(
            "SELECT stream FROM meshage_entity WHERE stream > ?1 ORDER BY stream LIMIT 1",
        )?
        .query_row([after], |row| row.get(0))
        .optional()
}

fn keys(
    transaction: &Transaction<'_>,
    listing: &Listing,
) -> rusqlite::Result<Vec<(PartitionKey, CommitId)>> {
    let mut statement = transaction.prepare_cached(
        "SELECT key, commit_id FROM meshage_entity WHERE stream = ?1 AND key >= ?2 AND key > ?3 ORDER BY key LIMIT ?4",
    )?;
    let Listing {
        stream,
        prefix,
        after,
        limit,
    } = listing;
    let limit = i64::try_from(*limit).unwrap_or(i64::MAX);
    let mut rows = statement.query((stream.as_str(), prefix, after, limit))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let key = row.get_ref(0)?.as_str()?;
        if !key.starts_with(prefix.as_str()) {
            break;
        }
        // What somebody wrote by hand may be no key.
        if let Ok(key) = PartitionKey::try_from(key) {
            found.push((key, CommitId::from_bytes(row.get(1)?)));
        }
    }
    Ok(found)
}
