//! Deletes records that nobody can ask for any more.

use rusqlite::{Connection, Transaction};

use super::commit::millis;
use super::look::time;
use crate::entities::store::backend::{SWEPT_MAX, Swept};
use crate::message::StoreTime;

/// Those of messages, in the order of their times: the first ones are the oldest.
const OF_MESSAGES: &str = "DELETE FROM meshage_reply WHERE id IN (
    SELECT id FROM (SELECT id, until FROM meshage_reply WHERE id < x'ff' ORDER BY id LIMIT ?1)
    WHERE until <= ?2
) RETURNING not_after";

const OF_KEYS: &str = "DELETE FROM meshage_reply WHERE id IN (
    SELECT id FROM meshage_reply WHERE fingerprint IS NOT NULL AND until <= ?2 ORDER BY until LIMIT ?1
) RETURNING not_after";

/// The store's clock, and whether there is any record to delete. It is asked first, as a transaction
/// that writes keeps other processes waiting.
pub(super) fn is_due(
    connection: &Connection,
    host: StoreTime,
) -> rusqlite::Result<(StoreTime, bool)> {
    let swept_to = connection
        .prepare_cached("SELECT swept_to FROM meshage_store")?
        .query_row([], |row| time(row, 0))?;
    let now = host.max(swept_to);
    const OLD: &str = "SELECT EXISTS (
        SELECT 1 FROM (SELECT until FROM meshage_reply WHERE id < x'ff' ORDER BY id LIMIT ?1)
        WHERE until <= ?2
    ) OR EXISTS (SELECT 1 FROM meshage_reply WHERE fingerprint IS NOT NULL AND until <= ?2)";
    let is_due = connection
        .prepare_cached(OLD)?
        .query_row((SWEPT_MAX as i64, millis(now)), |row| row.get(0))?;
    Ok((now, is_due))
}

pub(super) fn sweep(transaction: &Transaction<'_>, now: StoreTime) -> rusqlite::Result<Swept> {
    let (mut swept_to, mut is_more) = (StoreTime::default(), false);
    for statement in [OF_MESSAGES, OF_KEYS] {
        let mut statement = transaction.prepare_cached(statement)?;
        let times = statement.query_map((SWEPT_MAX as i64, millis(now)), |row| time(row, 0))?;
        let mut deleted = 0;
        for not_after in times {
            swept_to = not_after?.max(swept_to);
            deleted += 1;
        }
        is_more |= deleted == SWEPT_MAX;
    }
    if swept_to > StoreTime::default() {
        // From now on the clock counts as past that, even if it is set back.
        transaction
            .prepare_cached("UPDATE meshage_store SET swept_to = ?1 WHERE swept_to < ?1")?
            .execute([millis(swept_to)])?;
    }
    Ok(Swept { now, is_more })
}
