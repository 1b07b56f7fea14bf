//! What handlers have sent.

use std::sync::Arc;

use bytes::Bytes;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use super::connect::Connection;
use super::look::time;
use crate::entities::outbox::{CLAIM, Chores, GRACE, Letter, Tended, entity};
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
    })
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
