//! What handlers have sent.

use std::sync::Arc;

use rusqlite::{Connection, Row, Transaction};
use uuid::Uuid;

use super::commit::{Value, millis};
use super::look::{time, value};
use crate::entities::commit::EntityId;
use crate::entities::letter::{Letter, Waiting, entity, written};
use crate::entities::outbox::{CLAIM, Chores, GRACE, TAKEN_OVER_MAX, Tended};
use crate::entities::store::backend::{Found, Outstanding};
use crate::message::{Sends, StoreTime};

/// Whether none of them took effect yet, or was cancelled.
pub(super) fn are_there(transaction: &Transaction<'_>, ids: &[Uuid]) -> rusqlite::Result<bool> {
    for id in ids {
        let is_there = transaction
            .prepare_cached("SELECT 1 FROM meshage_send WHERE id = ?1")?
            .exists([&id.as_bytes()[..]])?;
        if !is_there {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn delete(transaction: &Transaction<'_>, ids: &[Uuid]) -> rusqlite::Result<()> {
    for id in ids {
        transaction
            .prepare_cached("DELETE FROM meshage_send WHERE id = ?1")?
            .execute([&id.as_bytes()[..]])?;
    }
    Ok(())
}

/// Stores what an entity sends. What is due at once the node delivers without asking for it.
pub(super) fn send(
    transaction: &Transaction<'_>,
    from: &EntityId,
    sends: &Sends,
    now: StoreTime,
    node: &str,
) -> rusqlite::Result<()> {
    let (stream, key) = (from.stream.as_str(), from.key.as_str());
    for name in sends.timers.keys() {
        transaction
            .prepare_cached(
                "DELETE FROM meshage_send WHERE stream = ?1 AND key = ?2 AND name = ?3",
            )?
            .execute((stream, key, &**name))?;
    }
    for (name, sending) in sends.iter() {
        let due = now.later(sending.delay);
        let wake_at = if sending.delay.is_zero() {
            now.later(CLAIM)
        } else {
            due
        };
        transaction
            .prepare_cached("INSERT INTO meshage_send (id, stream, key, name, to_stream, to_key, due, wake_at, node, message) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?
            .execute((
                &sending.id.as_bytes()[..],
                stream,
                key,
                name.map(|name| &**name),
                sending.outgoing.stream.as_str(),
                sending.outgoing.partition_key.as_str(),
                millis(due),
                millis(wake_at),
                node,
                Value(&written(&sending.outgoing)),
            ))?;
    }
    Ok(())
}

/// A message that is due: this node's own at once, another's after a while.
const DUE: &str = "wake_at <= ?1 AND (node = ?2 OR wake_at <= ?1 - ?3)";

/// Whether any is due, and when this node's next one is.
pub(super) fn look(
    connection: &Connection,
    now: StoreTime,
    node: &str,
) -> rusqlite::Result<(bool, Option<StoreTime>)> {
    let is_due = connection
        .prepare_cached(&format!(
            "SELECT EXISTS (SELECT 1 FROM meshage_send WHERE {DUE})"
        ))?
        .query_row((millis(now), node, GRACE.as_millis() as i64), |row| {
            row.get(0)
        })?;
    let next: Option<i64> = connection
        .prepare_cached("SELECT wake_at FROM meshage_send WHERE wake_at > ?1 AND node = ?2 ORDER BY wake_at LIMIT 1")?
        .query_map((millis(now), node), |row| row.get(0))?
        .next()
        .transpose()?;
    let next = next.and_then(|next| u64::try_from(next).ok());
    Ok((is_due, next.map(StoreTime::from_millis)))
}

/// Does what is to be done, and takes what is due.
pub(super) fn tend(
    transaction: &Transaction<'_>,
    chores: &Chores,
    now: StoreTime,
    node: &str,
) -> rusqlite::Result<Tended> {
    delete(transaction, &chores.answered)?;
    for failure in &chores.failed {
        let wake_at = failure.pause.map(|pause| millis(now.later(pause)));
        transaction
            .prepare_cached("UPDATE meshage_send SET tries = tries + 1, wake_at = ?2, problem = ?3 WHERE id = ?1")?
            .execute((&failure.id.as_bytes()[..], wake_at, &failure.problem))?;
    }
    for id in &chores.renewed {
        transaction
            .prepare_cached("UPDATE meshage_send SET wake_at = ?2 WHERE id = ?1")?
            .execute((&id.as_bytes()[..], millis(now.later(CLAIM))))?;
    }
    let mut has_gone_more = false;
    for gone in &chores.gone {
        let taken = transaction
            .prepare_cached(
                "UPDATE meshage_send SET node = ?2 WHERE id IN (
                    SELECT id FROM meshage_send WHERE node = ?1 AND wake_at IS NOT NULL ORDER BY wake_at LIMIT ?3
                )",
            )?
            .execute((gone.as_str(), node, TAKEN_OVER_MAX as i64))?;
        has_gone_more |= taken >= TAKEN_OVER_MAX;
    }
    let mut statement = transaction.prepare_cached(&format!(
        "UPDATE meshage_send SET node = ?2, wake_at = ?4
         WHERE id IN (SELECT id FROM meshage_send WHERE {DUE} ORDER BY wake_at LIMIT ?5)
         RETURNING id, stream, key, name, to_stream, to_key, due, tries, message"
    ))?;
    let parameters = (
        millis(now),
        node,
        GRACE.as_millis() as i64,
        millis(now.later(CLAIM)),
        chores.room as i64,
    );
    let found = statement.query_map(parameters, letter)?;
    let due: Vec<Option<Letter>> = found.collect::<rusqlite::Result<_>>()?;
    let (_, next) = look(transaction, now, node)?;
    Ok(Tended {
        due: due.into_iter().flatten().collect(),
        next,
        has_gone_more,
    })
}

/// Delivers messages at once that were tried before, and as often as new ones.
pub(super) fn retry(
    transaction: &Transaction<'_>,
    ids: &[Uuid],
    now: StoreTime,
) -> rusqlite::Result<u64> {
    let mut statement = transaction.prepare_cached(
        "UPDATE meshage_send SET tries = 0, wake_at = ?2 WHERE id = ?1 AND tries > 0",
    )?;
    let mut changed = 0;
    for id in ids {
        changed += statement.execute((&id.as_bytes()[..], millis(now)))? as u64;
    }
    Ok(changed)
}

/// Takes over a message of another store: of an entity that is not there yet.
pub(super) fn import(transaction: &Transaction<'_>, waiting: &Waiting) -> rusqlite::Result<u64> {
    let Waiting {
        letter,
        node,
        wake_at,
        problem,
        ..
    } = waiting;
    let changed = transaction
        .prepare_cached(
            "INSERT INTO meshage_send (id, stream, key, name, to_stream, to_key, due, wake_at, node, tries, problem, message)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12
             WHERE NOT EXISTS (SELECT 1 FROM meshage_entity WHERE stream = ?2 AND key = ?3)
             ON CONFLICT DO NOTHING",
        )?
        .execute((
            &letter.id.as_bytes()[..],
            letter.from.stream.as_str(),
            letter.from.key.as_str(),
            letter.name.as_deref(),
            letter.to.stream.as_str(),
            letter.to.key.as_str(),
            millis(letter.due),
            wake_at.map(millis),
            node,
            letter.tries,
            problem,
            Value(&letter.text),
        ))?;
    Ok(changed as u64)
}

/// Messages that have no answer.
pub(super) fn outstanding(
    transaction: &Transaction<'_>,
    wanted: &Outstanding,
) -> rusqlite::Result<Found> {
    let mut statement = transaction.prepare_cached(
        "SELECT id, stream, key, name, to_stream, to_key, due, tries, CASE WHEN ?4 THEN message ELSE '' END,
             node, wake_at, problem, octet_length(message)
         FROM meshage_send WHERE id > ?1 AND (wake_at IS NULL OR NOT ?2) ORDER BY id LIMIT ?3",
    )?;
    let mut rows = statement.query((
        &wanted.after.as_bytes()[..],
        wanted.is_stuck,
        wanted.limit as i64,
        wanted.with_text,
    ))?;
    let (mut found, mut last, mut count) = (Vec::new(), None, 0);
    while let Some(row) = rows.next()? {
        last = Some(Uuid::from_bytes(row.get(0)?));
        count += 1;
        let Some(letter) = letter(row)? else { continue };
        let wake_at: Option<i64> = row.get(10)?;
        let wake_at = wake_at.map(|millis| millis.try_into().unwrap_or_default());
        found.push(Waiting {
            letter,
            node: row.get(9)?,
            wake_at: wake_at.map(StoreTime::from_millis),
            problem: row.get(11)?,
            bytes: row.get::<_, u32>(12)? as usize,
        });
    }
    Ok(Found::Sends(found, last.filter(|_| count >= wanted.limit)))
}

/// `None`: somebody wrote it by hand.
fn letter(row: &Row<'_>) -> rusqlite::Result<Option<Letter>> {
    let text = |column| -> rusqlite::Result<Option<String>> { row.get(column) };
    let entity_at = |first: usize| -> rusqlite::Result<Option<EntityId>> {
        let (stream, key): (String, String) = (row.get(first)?, row.get(first + 1)?);
        Ok(entity(&stream, &key))
    };
    let (Some(from), Some(to)) = (entity_at(1)?, entity_at(4)?) else {
        return Ok(None);
    };
    Ok(Some(Letter {
        id: Uuid::from_bytes(row.get(0)?),
        from: Arc::new(from),
        name: text(3)?.map(Into::into),
        to,
        due: time(row, 6)?,
        tries: row.get(7)?,
        text: value(row, 8)?.unwrap_or_default(),
    }))
}
