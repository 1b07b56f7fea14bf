//! What handlers have sent.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use super::commit::millis;
use super::connect::Connection;
use super::look::time;
use super::sql;
use crate::entities::letter::{Letter, Waiting, entity};
use crate::entities::outbox::{CLAIM, Chores, GRACE, TAKEN_OVER_MAX, Tended};
use crate::entities::record::{Kept, Record, RecordId};
use crate::entities::store::backend::{Found, Imported, Outstanding};
use crate::message::StoreTime;

/// Does what is to be done, and takes what is due. Each statement is one transaction: when one fails
/// those before it are done, and may be done again.
pub(super) async fn tend(
    connection: &Connection,
    chores: &Chores,
    node: &str,
) -> Result<Tended, Error> {
    let nothing = || Tended {
        due: Vec::new(),
        next: None,
        has_gone_more: false,
    };
    let Some(statements) = &connection.statements else {
        return Ok(nothing());
    };
    let client = &connection.client;
    if !chores.answered.is_empty() {
        client
            .execute(&statements.answered, &[&chores.answered])
            .await?;
    }
    if !chores.failed.is_empty() {
        let failed = &chores.failed;
        let ids: Vec<Uuid> = failed.iter().map(|failure| failure.id).collect();
        let problems: Vec<&str> = failed.iter().map(|failure| &*failure.problem).collect();
        let pauses = failed.iter().map(|failure| failure.pause);
        let pauses: Vec<Option<i64>> = pauses
            .map(|pause| pause.map(|pause| pause.as_millis() as i64))
            .collect();
        client
            .execute(&statements.failed, &[&ids, &problems, &pauses])
            .await?;
    }
    let claim = CLAIM.as_millis() as i64;
    if !chores.renewed.is_empty() {
        client
            .execute(&statements.renewed, &[&chores.renewed, &claim])
            .await?;
    }
    let mut has_gone_more = false;
    for gone in &chores.gone {
        let (gone, limit) = (gone.as_str(), TAKEN_OVER_MAX as i32);
        let taken = client
            .execute(&statements.take_over, &[&gone, &node, &limit])
            .await?;
        has_gone_more |= taken >= TAKEN_OVER_MAX as u64;
    }
    let mut due = Vec::new();
    if chores.room > 0 {
        let (grace, room) = (GRACE.as_millis() as i64, chores.room as i32);
        let rows = client
            .query(&statements.due, &[&node, &grace, &claim, &room])
            .await?;
        due.extend(rows.iter().filter_map(letter));
    }
    let next = client.query_opt(&statements.next_due, &[&node]).await?;
    let next = next.map(|row| row.get::<_, i64>(0).try_into().unwrap_or_default());
    Ok(Tended {
        due,
        next: next.map(StoreTime::from_millis),
        has_gone_more,
    })
}

/// Delivers messages at once that were tried before, and as often as new ones.
pub(super) async fn retry(connection: &Connection, ids: &[Uuid]) -> Result<u64, Error> {
    connection.client.execute(&sql::retry(), &[&ids]).await
}

/// Takes over what another store has.
pub(super) async fn import(connection: &Connection, imported: &Imported) -> Result<u64, Error> {
    let client = &connection.client;
    let record = client.prepare(sql::IMPORT_RECORD).await?;
    let send = client.prepare(sql::IMPORT_SEND).await?;
    // All are under way at once.
    let records = imported.records.iter().map(async |(entity, found)| {
        let (stream, key) = (entity.stream.as_str(), entity.key.as_str());
        let id = Uuid::from_bytes(*found.id.as_bytes());
        let not_after = millis(found.not_after.unwrap_or_default());
        let fingerprint = found.kept.fingerprint.as_ref().map(|bytes| &bytes[..]);
        let (until, reply) = (millis(found.until), &found.kept.reply[..]);
        let row: [&(dyn ToSql + Sync); 7] =
            [&id, &stream, &key, &until, &not_after, &fingerprint, &reply];
        client.execute(&record, &row).await
    });
    let sends = imported.sends.iter().map(async |waiting| {
        let Waiting {
            letter,
            node,
            wake_at,
            problem,
            ..
        } = waiting;
        let (from, to) = (&letter.from, &letter.to);
        let row: [&(dyn ToSql + Sync); 12] = [
            &letter.id,
            &from.stream.as_str(),
            &from.key.as_str(),
            &letter.name.as_deref(),
            &to.stream.as_str(),
            &to.key.as_str(),
            &millis(letter.due),
            &(letter.tries as i32),
            &&letter.text[..],
            node,
            &wake_at.map(millis),
            problem,
        ];
        client.execute(&send, &row).await
    });
    let (records, sends) = tokio::try_join!(try_join_all(records), try_join_all(sends))?;
    Ok(records.into_iter().chain(sends).sum())
}

/// Messages that have no answer.
pub(super) async fn outstanding(
    connection: &Connection,
    wanted: &Outstanding,
) -> Result<Found, Error> {
    let Outstanding {
        is_stuck,
        after,
        limit,
        with_text,
    } = wanted;
    let rows = connection
        .client
        .query(
            sql::OUTSTANDING,
            &[after, is_stuck, &(*limit as i64), with_text],
        )
        .await?;
    let last = rows.last().filter(|_| rows.len() >= *limit);
    let last = last.map(|row| row.get(0));
    let found = rows.iter().filter_map(|row| {
        let (wake_at, bytes): (Option<i64>, i32) = (row.get(10), row.get(12));
        let wake_at = wake_at.map(|millis| millis.try_into().unwrap_or_default());
        Some(Waiting {
            letter: letter(row)?,
            node: row.get(9),
            wake_at: wake_at.map(StoreTime::from_millis),
            problem: row.get(11),
            bytes: bytes.try_into().unwrap_or_default(),
        })
    });
    Ok(Found::Sends(found.collect(), last))
}

/// Records of all entities.
pub(super) async fn records(
    connection: &Connection,
    after: RecordId,
    limit: usize,
) -> Result<Found, Error> {
    let after = Uuid::from_bytes(*after.as_bytes());
    let client = &connection.client;
    let rows = client
        .query(sql::RECORDS, &[&after, &(limit as i64)])
        .await?;
    let id = |row: &Row| RecordId::from_bytes(row.get::<_, Uuid>(0).into_bytes());
    let last = rows.last().filter(|_| rows.len() >= limit).map(id);
    let found = rows.iter().filter_map(|row| {
        let not_after = time(row, 4);
        let fingerprint: Option<&[u8]> = row.get(5);
        let record = Record {
            id: id(row),
            until: time(row, 3),
            not_after: (not_after > StoreTime::default()).then_some(not_after),
            kept: Kept {
                fingerprint: fingerprint.and_then(|bytes| bytes.try_into().ok()),
                reply: Bytes::copy_from_slice(row.get(6)),
            },
        };
        Some((entity(row.get(1), row.get(2))?, record))
    });
    Ok(Found::Records(found.collect(), last))
}

/// `None`: somebody wrote it by hand.
fn letter(row: &Row) -> Option<Letter> {
    let text = |column: usize| row.get::<_, Option<&str>>(column);
    let tries: i32 = row.get(7);
    Some(Letter {
        id: row.get(0),
        from: Arc::new(entity(text(1)?, text(2)?)?),
        name: text(3).map(Into::into),
        to: entity(text(4)?, text(5)?)?,
        due: time(row, 6),
        tries: tries.try_into().unwrap_or_default(),
        text: Bytes::copy_from_slice(row.get(8)),
    })
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::super::super::backend::Make;
    use super::super::super::conformance::sends;
    use super::super::super::{Store, node_id};
    use super::super::PostgresUrl;
    use super::super::connect::Connector;
    use crate::entities::commit::{Changes, Delivery, Outcome};
    use crate::entities::outbox::Outbox;

    /// What a delivery comes to if this happens to the message's row in another transaction, which
    /// began before the commit and ends while that waits; and how many messages are left.
    async fn deliver_beside(test: &str, other: &str) -> Option<(Outcome, usize)> {
        let url: PostgresUrl = test_postgres::database(test).await?.parse().unwrap();
        let (outbox, ended) = (Outbox::new(node_id()), CancellationToken::new());
        let opened = Store::open_postgres(&url, "test", Make::IfMissing, outbox, ended).await;
        let (store, _) = opened.unwrap();
        let sent = store.commit_on("a", None, sends(&["x"], &[])).await;
        assert_eq!(sent, Outcome::Committed);
        let id = store.all_sent(false).await[0].letter.id;
        let connection = Connector::new(&url).unwrap().connect().await.unwrap();
        let client = &connection.client;
        client.batch_execute("BEGIN").await.unwrap();
        client.batch_execute(other).await.unwrap();
        let delivered = Changes {
            delivered: vec![Delivery { id, timer: None }],
            ..Changes::default()
        };
        let committing = store.commit_on("x", None, delivered);
        let waiting = async {
            let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) OR NOT granted AND locktype = 'transactionid'";
            while client.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            client.batch_execute("COMMIT").await.unwrap();
        };
        let (outcome, ()) = tokio::join!(committing, waiting);
        Some((outcome, store.all_sent(false).await.len()))
    }

    #[tokio::test]
    async fn a_delivery_takes_effect_once_although_its_row_moves() {
        let test = "a_delivery_takes_effect_once_although_its_row_moves";
        let claimed = "UPDATE meshage_send SET wake_at = wake_at + 1";
        if let Some(ended) = deliver_beside(test, claimed).await {
            assert_eq!(ended, (Outcome::Committed, 0));
        }
    }

    #[tokio::test]
    async fn what_is_cancelled_meanwhile_takes_no_effect() {
        let test = "what_is_cancelled_meanwhile_takes_no_effect";
        if let Some(ended) = deliver_beside(test, "DELETE FROM meshage_send").await {
            assert_eq!(ended, (Outcome::Fenced, 0));
        }
    }
}
