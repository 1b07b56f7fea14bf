//! Writes the commits of a batch in its transaction.

use bytes::Bytes;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, ErrorCode, Transaction};

use crate::entities::commit::{Commit, EntityId, Outcome};
use crate::state::{MAIN_VALUE, Writes};

/// Writes each commit whose expected one is the entity's last.
pub(super) fn write_all(
    transaction: &Transaction<'_>,
    commits: &[Commit],
) -> rusqlite::Result<Vec<Outcome>> {
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

/// Whether the error is about what was to be written, and would come again.
pub(super) fn is_of_data(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch)
    )
}
