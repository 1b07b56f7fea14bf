//! Writes the commits of a batch in its transaction.

use bytes::Bytes;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, ErrorCode, Transaction};

use uuid::Uuid;

use super::outbox;
use crate::entities::commit::{Changes, Commit, EntityId, Outcome};
use crate::entities::record::Record;
use crate::entities::store::backend::Imported;
use crate::message::StoreTime;
use crate::state::{MAIN_VALUE, Writes};

/// Writes each commit whose expected one is the entity's last.
pub(super) fn write_all(
    transaction: &Transaction<'_>,
    commits: &[Commit],
    now: StoreTime,
    node: &str,
) -> rusqlite::Result<Vec<Outcome>> {
    let mut entities = EntityRows {
        transaction,
        now,
        node,
        with_state: transaction.prepare_cached("UPDATE meshage_entity SET commit_id = ?3, messages_until = ?5, keys_until = ?6, state = ?7 WHERE stream = ?1 AND key = ?2 AND commit_id = ?4")?,
        without: transaction.prepare_cached("UPDATE meshage_entity SET commit_id = ?3, messages_until = ?5, keys_until = ?6 WHERE stream = ?1 AND key = ?2 AND commit_id = ?4")?,
        new: transaction.prepare_cached("INSERT INTO meshage_entity (stream, key, commit_id, messages_until, keys_until, state) VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING")?,
    };
    commits
        .iter()
        .map(|commit| entities.write(commit))
        .collect()
}

/// The statements that write rows of entities.
struct EntityRows<'a> {
    transaction: &'a Transaction<'a>,
    now: StoreTime,
    node: &'a str,
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
            changes,
            recorded,
        } = commit;
        let Changes {
            writes,
            records,
            not_after,
            sends,
            delivered,
        } = &**changes;
        let delivered: Vec<Uuid> = delivered.iter().map(|delivery| delivery.id).collect();
        if not_after.is_some_and(|not_after| not_after <= self.now)
            || !outbox::are_there(self.transaction, &delivered)?
        {
            return Ok(Outcome::Fenced);
        }
        let (messages, keys) = (millis(recorded.messages), millis(recorded.keys));
        let (stream, key) = (entity.stream.as_str(), entity.key.as_str());
        let state = writes.get(MAIN_VALUE);
        let id = &id.as_bytes()[..];
        let expected = expected.as_ref().map(|expected| &expected.as_bytes()[..]);
        let changed = match (expected, state) {
            (Some(expected), Some(state)) => {
                let row = (stream, key, id, expected, messages, keys, state.map(Value));
                self.with_state.execute(row)?
            }
            (Some(expected), None) => {
                let row = (stream, key, id, expected, messages, keys);
                self.without.execute(row)?
            }
            (None, state) => {
                let row = (stream, key, id, messages, keys, state.flatten().map(Value));
                self.new.execute(row)?
            }
        };
        if changed == 0 {
            return Ok(Outcome::Fenced);
        }
        write_values(self.transaction, entity, writes)?;
        write_records(self.transaction, entity, records)?;
        outbox::delete(self.transaction, &delivered)?;
        outbox::send(self.transaction, entity, sends, self.now, self.node)?;
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

/// Keeps records; the one of a key takes the place of an expired one.
fn write_records(
    transaction: &Transaction<'_>,
    entity: &EntityId,
    records: &[Record],
) -> rusqlite::Result<()> {
    let (stream, key) = (entity.stream.as_str(), entity.key.as_str());
    for record in records {
        let Record {
            id,
            until,
            not_after,
            kept,
        } = record;
        let fingerprint = kept
            .fingerprint
            .as_ref()
            .map(|fingerprint| &fingerprint[..]);
        transaction
            .prepare_cached("INSERT OR REPLACE INTO meshage_reply (id, stream, key, until, not_after, fingerprint, reply) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
            .execute((
                &id.as_bytes()[..],
                stream,
                key,
                millis(*until),
                millis(not_after.unwrap_or_default()),
                fingerprint,
                Value(&kept.reply),
            ))?;
    }
    Ok(())
}

/// Takes over what another store has of entities that are not there yet.
pub(super) fn import(transaction: &Transaction<'_>, imported: &Imported) -> rusqlite::Result<u64> {
    let mut changed = 0;
    for (entity, record) in &imported.records {
        let names = (entity.stream.as_str(), entity.key.as_str());
        let is_there = transaction
            .prepare_cached("SELECT 1 FROM meshage_reply WHERE id = ?1")?
            .exists([&record.id.as_bytes()[..]])?
            || transaction
                .prepare_cached("SELECT 1 FROM meshage_entity WHERE stream = ?1 AND key = ?2")?
                .exists(names)?;
        if !is_there {
            write_records(transaction, entity, std::slice::from_ref(record))?;
            changed += 1;
        }
    }
    for waiting in &imported.sends {
        changed += outbox::import(transaction, waiting)?;
    }
    Ok(changed)
}

/// A moment as it is stored.
pub(super) fn millis(time: StoreTime) -> i64 {
    i64::try_from(time.millis()).unwrap_or(i64::MAX)
}

/// A value as it is stored: as text if it is one, so that people can read it.
pub(super) struct Value<'a>(pub(super) &'a Bytes);

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

/// Whether the error is about what was to be written, and would come again.
pub(super) fn is_of_data(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch)
    )
}
