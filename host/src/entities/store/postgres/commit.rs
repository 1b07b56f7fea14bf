//! Commits a batch. It is one statement, and so one transaction: of each entity
//! everything is written or nothing, and the receipt says which entities were.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::connect::Connection;
use super::{Failed, schema, sql};
use crate::entities::commit::{Changes, Commit, Delivery, Outcome};
use crate::entities::letter::written;
use crate::entities::outbox::{CLAIM, Outbox};
use crate::entities::store::backend::StoreError;
use crate::message::{Sends, StoreTime};
use crate::state::MAIN_VALUE;

/// The longest delay that the server's numbers have room for: some thousand years.
const DELAY_MAX: Duration = Duration::from_millis(1 << 45);

/// Identifies a batch: the committer, and a number that grows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch {
    pub(super) committer: Uuid,
    pub(super) number: i64,
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
    not_after: Vec<Option<i64>>,
    messages_until: Vec<i64>,
    keys_until: Vec<i64>,
    value_ords: Vec<i32>,
    value_names: Vec<&'a str>,
    values: Vec<Option<&'a [u8]>>,
    record_ords: Vec<i32>,
    record_ids: Vec<Uuid>,
    record_until: Vec<i64>,
    record_not_after: Vec<i64>,
    fingerprints: Vec<Option<&'a [u8]>>,
    replies: Vec<&'a [u8]>,
    sends: Sent<'a>,
}

/// What is sent and delivered.
#[derive(Default)]
struct Sent<'a> {
    delivered_ords: Vec<i32>,
    delivered: Vec<Uuid>,
    is_replaced: Vec<bool>,
    timer_ords: Vec<i32>,
    timers: Vec<&'a str>,
    ords: Vec<i32>,
    ids: Vec<Uuid>,
    names: Vec<Option<&'a str>>,
    streams: Vec<&'a str>,
    keys: Vec<&'a str>,
    /// In milliseconds: when it is due, and when it is delivered by somebody else than this node, which
    /// does so at once.
    delays: Vec<i64>,
    wake_after: Vec<i64>,
    messages: Vec<Bytes>,
}

impl<'a> Sent<'a> {
    fn is_empty(&self) -> bool {
        self.delivered.is_empty() && self.timers.is_empty() && self.ids.is_empty()
    }

    fn add(&mut self, ord: i32, sends: &'a Sends, delivered: &[Delivery]) {
        for Delivery { id, timer } in delivered {
            self.delivered_ords.push(ord);
            self.delivered.push(*id);
            let timer = timer.as_ref().and_then(|name| sends.timers.get(name));
            self.is_replaced.push(timer.is_some_and(Option::is_some));
        }
        for (name, sending) in &sends.timers {
            if sending.is_none() {
                self.timer_ords.push(ord);
                self.timers.push(name);
            }
        }
        for (name, sending) in sends.iter() {
            self.ords.push(ord);
            self.ids.push(sending.id);
            self.names.push(name.map(|name| &**name));
            self.streams.push(sending.outgoing.stream.as_str());
            self.keys.push(sending.outgoing.partition_key.as_str());
            let delay = StoreTime::default().later(sending.delay.min(DELAY_MAX));
            self.delays.push(millis(delay));
            self.wake_after.push(if sending.delay.is_zero() {
                CLAIM.as_millis() as i64
            } else {
                millis(delay)
            });
            self.messages.push(written(&sending.outgoing));
        }
    }
}

impl<'a> Columns<'a> {
    /// Ordinals count from 1, in this order.
    fn new(commits: &[&'a Commit]) -> Self {
        let mut columns = Self::default();
        for (ord, commit) in (1..).zip(commits) {
            columns.add(ord, commit);
            let Changes {
                sends, delivered, ..
            } = &*commit.changes;
            columns.sends.add(ord, sends, delivered);
        }
        columns
    }

    fn add(&mut self, ord: i32, commit: &'a Commit) {
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
            ..
        } = &**changes;
        let state = writes.get(MAIN_VALUE);
        self.streams.push(entity.stream.as_str());
        self.keys.push(entity.key.as_str());
        self.expected
            .push(expected.map(|expected| Uuid::from_bytes(*expected.as_bytes())));
        self.ids.push(Uuid::from_bytes(*id.as_bytes()));
        self.has_state.push(state.is_some());
        self.states.push(state.flatten().map(Bytes::as_ref));
        self.is_clear.push(writes.is_clear());
        self.not_after.push(not_after.map(millis));
        self.messages_until.push(millis(recorded.messages));
        self.keys_until.push(millis(recorded.keys));
        for (name, value) in writes.iter().filter(|(name, _)| &***name != MAIN_VALUE) {
            self.value_ords.push(ord);
            self.value_names.push(name);
            self.values.push(value.map(Bytes::as_ref));
        }
        for record in records {
            self.record_ords.push(ord);
            self.record_ids
                .push(Uuid::from_bytes(*record.id.as_bytes()));
            self.record_until.push(millis(record.until));
            self.record_not_after
                .push(millis(record.not_after.unwrap_or_default()));
            let fingerprint = record.kept.fingerprint.as_ref();
            self.fingerprints
                .push(fingerprint.map(|fingerprint| &fingerprint[..]));
            self.replies.push(&record.kept.reply);
        }
    }

    fn has_values(&self) -> bool {
        !self.value_ords.is_empty() || self.is_clear.contains(&true)
    }
}

/// A moment as it is stored.
pub(super) fn millis(time: StoreTime) -> i64 {
    i64::try_from(time.millis()).unwrap_or(i64::MAX)
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
    outbox: &Outbox,
) -> Result<Vec<Outcome>, Failed> {
    let Some(statements) = &connection.statements else {
        return Err(Failed::Nothing(StoreError("nothing is prepared".into())));
    };
    let sent = sorted(commits);
    let columns = Columns::new(&sent);
    let node = outbox.node.as_str();
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
        &columns.not_after,
        &columns.messages_until,
        &columns.keys_until,
    ];
    let (has_values, has_records) = (columns.has_values(), !columns.record_ords.is_empty());
    let sends = !columns.sends.is_empty();
    let statement = usize::from(has_values) + 2 * usize::from(has_records) + 4 * usize::from(sends);
    let statement = &statements.commits[statement];
    if has_values {
        parameters.extend::<[&(dyn ToSql + Sync); 3]>([
            &columns.value_ords,
            &columns.value_names,
            &columns.values,
        ]);
    }
    if has_records {
        parameters.extend::<[&(dyn ToSql + Sync); 6]>([
            &columns.record_ords,
            &columns.record_ids,
            &columns.record_until,
            &columns.record_not_after,
            &columns.fingerprints,
            &columns.replies,
        ]);
    }
    let messages: Vec<&[u8]> = columns.sends.messages.iter().map(Bytes::as_ref).collect();
    if sends {
        let sent = &columns.sends;
        parameters.extend::<[&(dyn ToSql + Sync); 14]>([
            &sent.delivered_ords,
            &sent.delivered,
            &sent.timer_ords,
            &sent.timers,
            &sent.ords,
            &sent.ids,
            &sent.names,
            &sent.streams,
            &sent.keys,
            &sent.delays,
            &sent.wake_after,
            &messages,
            &node,
            &sent.is_replaced,
        ]);
    }
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
        if let Some(earlier) = earlier {
            return Ok(earlier);
        }
        // Somebody deleted the committer's row: it is made again, and the commits are sent again.
        make_committer(connection, batch.committer)
            .await
            .map_err(Failed::of)?;
        return Err(Failed::Conflict);
    }
    if won.is_empty() {
        check_version(connection).await?;
    }
    Ok(outcomes(commits, &sent, &won))
}

/// Makes the row of a committer, if there is none.
pub(super) async fn make_committer(
    connection: &Connection,
    committer: Uuid,
) -> Result<(), tokio_postgres::Error> {
    let client = &connection.client;
    client.execute(sql::COMMITTER, &[&committer]).await?;
    Ok(())
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
    use std::sync::Arc;
    use std::time::Duration;

    use tokio_util::sync::CancellationToken;

    use super::super::super::backend::Make;
    use super::super::super::{Store, host_time, node_id};
    use super::super::PostgresUrl;
    use super::super::connect::Connector;
    use super::*;
    use crate::entities::commit::{CommitId, EntityId};
    use crate::entities::record::RecordedUntil;
    use crate::message::{PartitionKey, StreamName};

    fn commit(expected: Option<CommitId>, not_after: Option<StoreTime>) -> Commit {
        Commit {
            entity: Arc::new(EntityId {
                stream: StreamName::try_from("cart").unwrap(),
                key: PartitionKey::try_from("ada").unwrap(),
            }),
            expected,
            id: CommitId::new(),
            changes: Arc::new(Changes {
                not_after,
                ..Changes::default()
            }),
            recorded: RecordedUntil::default(),
        }
    }

    /// The second is sent because nobody knows whether the first has come to the server. It comes when
    /// it would be too late by itself.
    #[tokio::test]
    async fn a_batch_that_is_sent_again_has_the_outcome_of_the_first() {
        let test = "a_batch_that_is_sent_again_has_the_outcome_of_the_first";
        let Some(url) = test_postgres::database(test).await else {
            return;
        };
        let url: PostgresUrl = url.parse().unwrap();
        let connector = Connector::new(&url).unwrap();
        let mut connections = Vec::new();
        for _ in 0..3 {
            connections.push(connector.connect().await.unwrap());
        }
        schema::prepare(&mut connections[2].client, "test", Make::IfMissing)
            .await
            .unwrap();
        let mut batch = Batch {
            committer: Uuid::now_v7(),
            number: 1,
        };
        for connection in &mut connections[..2] {
            connection.prepare().await.unwrap();
            make_committer(connection, batch.committer).await.unwrap();
        }
        let (first, second, other) = (&connections[0], &connections[1], &connections[2].client);
        let outbox = Outbox::new(node_id());
        let made = commit(None, None);
        let expected = Some(made.id);
        send(first, batch, &[made], &outbox).await.unwrap();
        batch.number += 1;
        let not_after = host_time().later(Duration::from_millis(300));
        let commits = [commit(expected, Some(not_after))];
        let lock = "BEGIN; SELECT * FROM meshage_entity FOR UPDATE";
        other.batch_execute(lock).await.unwrap();
        let waiting = async |count: i64| {
            let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
            while other.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let again = async {
            waiting(1).await;
            while host_time() <= not_after {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            send(second, batch, &commits, &outbox).await
        };
        let release = async {
            waiting(2).await;
            other.batch_execute("COMMIT").await.unwrap();
        };
        let sent = send(first, batch, &commits, &outbox);
        let both = async { tokio::join!(sent, again, release) };
        let ended = tokio::time::timeout(Duration::from_secs(20), both).await;
        let (sent, again, ()) = ended.expect("both wait for each other");
        assert_eq!(sent.unwrap(), [Outcome::Committed]);
        assert_eq!(again.unwrap(), [Outcome::Committed]);
    }

    #[tokio::test]
    async fn a_committer_whose_row_was_deleted_goes_on() {
        let test = "a_committer_whose_row_was_deleted_goes_on";
        let Some(url) = test_postgres::database(test).await else {
            return;
        };
        let url: PostgresUrl = url.parse().unwrap();
        let (outbox, ended) = (Outbox::new(node_id()), CancellationToken::new());
        let opened = Store::open_postgres(&url, "test", Make::IfMissing, outbox, ended).await;
        let (store, _) = opened.unwrap();
        let first = commit(None, None);
        let second = commit(Some(first.id), None);
        assert_eq!(store.commit_one(first).await, Outcome::Committed);
        let connection = Connector::new(&url).unwrap().connect().await.unwrap();
        let delete = "DELETE FROM meshage_committer";
        connection.client.batch_execute(delete).await.unwrap();
        assert_eq!(store.commit_one(second).await, Outcome::Committed);
    }
}
