//! The tables, which `docs/state.md` documents, and what is checked before they are used.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use uuid::{NoContext, Timestamp, Uuid};

use super::super::backend::{Make, StoreError};
use super::look::time;
use crate::message::StoreTime;

/// The version of the tables. A later version that an older node can use leaves `compatible` as it
/// is.
pub(super) const VERSION: i64 = 2;

const TABLES: &str = "
    CREATE TABLE meshage_store (
        id BLOB NOT NULL,
        version INTEGER NOT NULL,
        compatible INTEGER NOT NULL,
        cluster TEXT NOT NULL,
        swept_to INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE TABLE meshage_entity (
        stream TEXT NOT NULL,
        key TEXT NOT NULL,
        commit_id BLOB NOT NULL,
        messages_until INTEGER NOT NULL DEFAULT 0,
        keys_until INTEGER NOT NULL DEFAULT 0,
        state ANY,
        PRIMARY KEY (stream, key)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE meshage_value (
        stream TEXT NOT NULL,
        key TEXT NOT NULL,
        name TEXT NOT NULL,
        value ANY NOT NULL,
        PRIMARY KEY (stream, key, name)
    ) STRICT, WITHOUT ROWID;";

/// What version 2 added.
const RECORDS: &str = "
    CREATE TABLE meshage_reply (
        id BLOB NOT NULL PRIMARY KEY,
        stream TEXT NOT NULL,
        key TEXT NOT NULL,
        until INTEGER NOT NULL,
        not_after INTEGER NOT NULL,
        fingerprint BLOB,
        reply ANY NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE meshage_send (
        id BLOB NOT NULL PRIMARY KEY,
        stream TEXT NOT NULL,
        key TEXT NOT NULL,
        name TEXT,
        to_stream TEXT NOT NULL,
        to_key TEXT NOT NULL,
        due INTEGER NOT NULL,
        wake_at INTEGER,
        node TEXT NOT NULL,
        tries INTEGER NOT NULL DEFAULT 0,
        problem TEXT,
        message ANY NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE UNIQUE INDEX meshage_send_name ON meshage_send (stream, key, name) WHERE name IS NOT NULL;
    CREATE INDEX meshage_send_node ON meshage_send (node, wake_at) WHERE wake_at IS NOT NULL;
    CREATE INDEX meshage_send_wake_at ON meshage_send (wake_at) WHERE wake_at IS NOT NULL;
    CREATE INDEX meshage_reply_until ON meshage_reply (until) WHERE fingerprint IS NOT NULL;";

const FROM_1_TO_2: &str = "
    ALTER TABLE meshage_store ADD COLUMN swept_to INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE meshage_entity ADD COLUMN messages_until INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE meshage_entity ADD COLUMN keys_until INTEGER NOT NULL DEFAULT 0;
    UPDATE meshage_store SET version = 2, compatible = 2;";

/// Makes the tables if there are none and they may be made, and checks that this version of meshage can use those that
/// are there, and that they are of this cluster. Returns the store's id.
pub(super) fn prepare(
    connection: &mut Connection,
    cluster: &str,
    make: Make,
) -> Result<Uuid, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let has_tables = transaction
        .query_row(
            "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'meshage_store'",
            [],
            |_| Ok(()),
        )
        .optional()?
        .is_some();
    if !has_tables {
        make.check()?;
        let id = Uuid::new_v7(Timestamp::now(NoContext));
        transaction.execute_batch(TABLES)?;
        transaction.execute_batch(RECORDS)?;
        transaction.execute(
            "INSERT INTO meshage_store (id, version, compatible, cluster) VALUES (?1, ?2, ?2, ?3)",
            (id.as_bytes(), VERSION, cluster),
        )?;
    }
    type Row = ([u8; 16], i64, i64, String);
    let (id, version, compatible, owner): Row = transaction.query_row(
        "SELECT id, version, compatible, cluster FROM meshage_store",
        [],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
    )?;
    check_compatible(compatible)?;
    if owner != cluster {
        return Err(StoreError(format!(
            "it has the state of the cluster {owner:?}, and this node is of {cluster:?}: set --cluster-id, or name another file"
        )));
    }
    if version == 1 {
        transaction.execute_batch(FROM_1_TO_2)?;
        transaction.execute_batch(RECORDS)?;
    }
    transaction.commit()?;
    Ok(Uuid::from_bytes(id))
}

/// Looks at the version again: a later meshage may have changed the tables since the start. Returns
/// the moment up to which records were deleted.
///
/// # Errors
/// If the tables are of a version that this one cannot use.
pub(super) fn check(transaction: &Transaction<'_>) -> Result<StoreTime, StoreError> {
    let (compatible, swept_to) = transaction
        .prepare_cached("SELECT compatible, swept_to FROM meshage_store")?
        .query_row([], |row| Ok((row.get(0)?, time(row, 1)?)))?;
    check_compatible(compatible)?;
    Ok(swept_to)
}

fn check_compatible(compatible: i64) -> Result<(), StoreError> {
    if compatible <= VERSION {
        return Ok(());
    }
    Err(StoreError(format!(
        "its tables are of version {compatible}, and this meshage-host knows those up to {VERSION}: upgrade it"
    )))
}
