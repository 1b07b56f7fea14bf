//! The statement that commits a batch. It is one statement, and so one transaction: of each entity
//! everything is written or nothing, and the receipt says which entities were.

use std::collections::HashMap;

use bytes::Bytes;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::connect::Connection;
use super::{Failed, schema};
use crate::entities::commit::{Commit, Outcome};
use crate::entities::store::backend::StoreError;
use crate::state::MAIN_VALUE;

/// The entities of a batch, in the order of their keys, so that two nodes lock them in the same
/// order. An update waits for a row that another transaction has changed, and then looks at the
/// commit's id again (read committed).
///
/// Rows are looked up one by one (`LATERAL … LIMIT`), and changed where they were found (`ctid`). A
/// join by their keys would leave it to the planner which side it reads first: of a table that was
/// tiny when it last looked it would read every row, for each batch, until it looks again.
const ENTITIES: &str = "
WITH c AS MATERIALIZED (
    SELECT * FROM unnest($4::text[], $5::text[], $6::uuid[], $7::uuid[], $8::bool[], $9::bytea[], $10::bool[])
        WITH ORDINALITY AS u(stream, key, expected, id, has_state, state, is_clear, ord)
    LEFT JOIN LATERAL (
        SELECT ctid AS place FROM meshage_entity e
        WHERE u.expected IS NOT NULL AND e.stream = u.stream AND e.key = u.key LIMIT 1
    ) e ON true
    WHERE (SELECT compatible FROM meshage_store) <= $3::int
), old AS (
    UPDATE meshage_entity e
    SET commit_id = c.id, state = CASE WHEN c.has_state THEN c.state ELSE e.state END
    FROM c
    WHERE e.ctid = c.place AND e.commit_id = c.expected
    RETURNING c.ord
), new AS (
    INSERT INTO meshage_entity (stream, key, commit_id, state)
    SELECT stream, key, id, state FROM c WHERE expected IS NULL ORDER BY ord
    ON CONFLICT DO NOTHING
    RETURNING stream, key
), won AS MATERIALIZED (
    SELECT ord FROM old
    UNION ALL SELECT c.ord FROM new JOIN c USING (stream, key)
)";

/// The values that lie in rows of their own. A value that is written again after all were deleted
/// is only written: one statement changes a row once.
const VALUES: &str = ", v AS MATERIALIZED (
    SELECT c.stream, c.key, v.name, v.value, v.ord
    FROM unnest($11::int[], $12::text[], $13::bytea[]) AS v(ord, name, value)
    JOIN won ON won.ord = v.ord JOIN c ON c.ord = v.ord
), put AS (
    INSERT INTO meshage_value (stream, key, name, value)
    SELECT stream, key, name, value FROM v WHERE value IS NOT NULL ORDER BY ord, name
    ON CONFLICT (stream, key, name) DO UPDATE SET value = excluded.value
), gone AS (
    DELETE FROM meshage_value d USING (
        SELECT d.place FROM v CROSS JOIN LATERAL (
            SELECT ctid AS place FROM meshage_value d
            WHERE d.stream = v.stream AND d.key = v.key AND d.name = v.name LIMIT 1
        ) d
        WHERE v.value IS NULL
    ) g
    WHERE d.ctid = g.place
), cleared AS (
    DELETE FROM meshage_value d USING (
        SELECT d.place FROM won JOIN c ON c.ord = won.ord CROSS JOIN LATERAL (
            SELECT ctid AS place, name FROM meshage_value d
            WHERE d.stream = c.stream AND d.key = c.key OFFSET 0
        ) d
        WHERE c.is_clear AND NOT EXISTS (SELECT FROM v WHERE v.ord = c.ord AND v.name = d.name)
    ) g
    WHERE d.ctid = g.place
)";

/// The receipt of the committer's last batch. One that was sent twice leaves it as the first has
/// written it; so does one that the server gets to see late. A row with 0 says that it was written.
const RECEIPT_AND_END: &str = ", receipt AS (
    INSERT INTO meshage_committer AS r (id, batch, won)
    SELECT $1::uuid, $2::bigint, coalesce(array_agg(ord::int), '{}') FROM won
    ON CONFLICT (id) DO UPDATE SET batch = excluded.batch, won = excluded.won, at = now()
        WHERE r.batch < excluded.batch
    RETURNING 0
)
SELECT ord::int FROM won UNION ALL SELECT * FROM receipt";

pub(super) const RECEIPT: &str = "SELECT won FROM meshage_committer WHERE id = $1 AND batch = $2";

/// Identifies a batch: the committer, and a number that grows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch {
    pub(super) committer: Uuid,
    pub(super) number: i64,
}

/// The statement, for batches with values in rows of their own or without.
pub(super) fn statement(has_values: bool) -> String {
    let values = if has_values { VALUES } else { "" };
    format!("{ENTITIES}{values}{RECEIPT_AND_END}")
}

/// The parameters of a batch.
#[derive(Default)]
struct Columns<'a> {
    streams: Vec<&'a str>,
    keys: Vec<&'a str>,
    expected: Vec<Option<Uuid>>,
    ids: Vec<Uuid>,
    has_state: Vec<bool>,
    states: Vec<Option<&'a [u8]>>,
    is_clear: Vec<bool>,
    value_ords: Vec<i32>,
    value_names: Vec<&'a str>,
    values: Vec<Option<&'a [u8]>>,
}

impl<'a> Columns<'a> {
    /// Ordinals count from 1, in this order.
    fn new(commits: &[&'a Commit]) -> Self {
        let mut columns = Self::default();
        for (ord, commit) in (1..).zip(commits) {
            columns.add(ord, commit);
        }
        columns
    }

    fn add(&mut self, ord: i32, commit: &'a Commit) {
        let Commit {
            entity,
            expected,
            id,
            writes,
        } = commit;
        let state = writes.get(MAIN_VALUE);
        self.streams.push(entity.stream.as_str());
        self.keys.push(entity.key.as_str());
        self.expected
            .push(expected.map(|expected| Uuid::from_bytes(*expected.as_bytes())));
        self.ids.push(Uuid::from_bytes(*id.as_bytes()));
        self.has_state.push(state.is_some());
        self.states.push(state.flatten().map(Bytes::as_ref));
        self.is_clear.push(writes.is_clear());
        for (name, value) in writes.iter().filter(|(name, _)| &***name != MAIN_VALUE) {
            self.value_ords.push(ord);
            self.value_names.push(name);
            self.values.push(value.map(Bytes::as_ref));
        }
    }

    fn has_values(&self) -> bool {
        !self.value_ords.is_empty() || self.is_clear.contains(&true)
    }
}

/// In the order in which they are sent: that of their keys.
fn sorted(commits: &[Commit]) -> Vec<&Commit> {
    let mut sorted: Vec<&Commit> = commits.iter().collect();
    sorted.sort_unstable_by(|one, other| one.entity.name().cmp(&other.entity.name()));
    sorted
}

/// Commits a batch.
pub(super) async fn send(
    connection: &Connection,
    batch: Batch,
    commits: &[Commit],
) -> Result<Vec<Outcome>, Failed> {
    let Some(statements) = &connection.statements else {
        return Err(Failed::Nothing(StoreError("nothing is prepared".into())));
    };
    let sent = sorted(commits);
    let columns = Columns::new(&sent);
    let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![
        &batch.committer,
        &batch.number,
        &schema::VERSION,
        &columns.streams,
        &columns.keys,
        &columns.expected,
        &columns.ids,
        &columns.has_state,
        &columns.states,
        &columns.is_clear,
    ];
    let statement = if columns.has_values() {
        parameters.extend::<[&(dyn ToSql + Sync); 3]>([
            &columns.value_ords,
            &columns.value_names,
            &columns.values,
        ]);
        &statements.commit_values
    } else {
        &statements.commit
    };
    let rows = connection
        .client
        .query(statement, &parameters)
        .await
        .map_err(Failed::of)?;
    let mut won: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    let rows = won.len();
    won.retain(|ord| *ord != 0);
    let is_new = won.len() < rows;
    if !is_new {
        let earlier = receipt(connection, batch, commits).await?;
        return earlier.ok_or_else(|| Failed::Nothing(StoreError("the receipt is missing".into())));
    }
    if won.is_empty() {
        check_version(connection).await?;
    }
    Ok(outcomes(commits, &sent, &won))
}

/// A batch of which nothing was committed may be one that the tables' version has stopped.
async fn check_version(connection: &Connection) -> Result<(), Failed> {
    let row = connection
        .client
        .query_one("SELECT compatible FROM meshage_store", &[])
        .await
        .map_err(Failed::of)?;
    schema::check_compatible(row.get(0)).map_err(Failed::Nothing)
}

/// How a batch ended, if it has.
pub(super) async fn receipt(
    connection: &Connection,
    batch: Batch,
    commits: &[Commit],
) -> Result<Option<Vec<Outcome>>, Failed> {
    let Some(statements) = &connection.statements else {
        return Err(Failed::Unknown(StoreError("nothing is prepared".into())));
    };
    let row = connection
        .client
        .query_opt(&statements.receipt, &[&batch.committer, &batch.number])
        .await
        .map_err(|error| Failed::Unknown(StoreError(super::text(&error))))?;
    Ok(row.map(|row| outcomes(commits, &sorted(commits), &row.get::<_, Vec<i32>>(0))))
}

/// The outcomes in the order of the commits; `won` has the ordinals of those that were committed.
fn outcomes(commits: &[Commit], sent: &[&Commit], won: &[i32]) -> Vec<Outcome> {
    let won: HashMap<_, ()> = won
        .iter()
        .filter_map(|ord| sent.get(usize::try_from(*ord).ok()?.checked_sub(1)?))
        .map(|commit| (commit.id, ()))
        .collect();
    let outcome = |commit: &Commit| {
        if won.contains_key(&commit.id) {
            Outcome::Committed
        } else {
            Outcome::Fenced
        }
    };
    commits.iter().map(outcome).collect()
}

#[cfg(test)]
mod tests {
    use super::super::connect::Connector;
    use super::super::{look, schema};
    use super::*;
    use crate::entities::store::backend::Make;

    /// A plan is made once, and for ever: it must not depend on how small the tables are then.
    #[tokio::test]
    async fn rows_are_found_by_their_keys_even_if_the_tables_are_tiny_when_it_is_planned() {
        let Some(url) = test_postgres::database("rows_are_found_by_their_keys").await else {
            return;
        };
        let connector = Connector::new(&url.parse().unwrap()).unwrap();
        let mut connection = connector.connect().await.unwrap();
        schema::prepare(&mut connection.client, "test", Make::IfMissing)
            .await
            .unwrap();
        let client = &connection.client;
        let fill = "INSERT INTO meshage_entity VALUES ('s', 'k', gen_random_uuid(), NULL);
                    INSERT INTO meshage_value VALUES ('s', 'k', 'n', '');
                    ANALYZE;";
        client.batch_execute(fill).await.unwrap();
        for (statement, parameters) in [
            (statement(false), 10),
            (statement(true), 13),
            (look::LAST.into(), 2),
            (look::VALUES.into(), 4),
            (look::VALUE.into(), 3),
            (look::PAGE.into(), 5),
            (look::ENTITIES.into(), 4),
            (look::STREAM_AFTER.into(), 1),
        ] {
            let nulls = vec!["NULL"; parameters].join(", ");
            let explain =
                format!("PREPARE p AS {statement}; EXPLAIN EXECUTE p({nulls}); DEALLOCATE p;");
            let rows = client.simple_query(&explain).await.unwrap();
            let lines: Vec<&str> = rows
                .iter()
                .filter_map(|row| match row {
                    tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
                    _ => None,
                })
                .collect();
            let scans = lines.iter().enumerate().filter(|(_, line)| {
                line.contains("Scan")
                    && line.contains("on meshage_")
                    && !line.contains("Bitmap Heap")
            });
            for (place, scan) in scans.filter(|(_, line)| !line.contains("meshage_store")) {
                let next = lines.get(place + 1).copied().unwrap_or_default();
                assert!(
                    next.contains("Index Cond") || next.contains("TID Cond"),
                    "{scan}\n{}",
                    lines.join("\n")
                );
            }
        }
    }
}
