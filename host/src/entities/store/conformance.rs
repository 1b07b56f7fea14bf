//! What every store must do, whatever is behind it. Each check runs on both.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::*;
use crate::entities::commit::{Changes, CommitId, Delivery, EntityId};
use crate::entities::letter::{Letter, Waiting, written};
use crate::entities::record::{Kept, Record, RecordId, RecordedUntil};
use crate::message::{self, PartitionKey, StreamName};
use crate::state::{MAIN_VALUE, Name, Page, Range, Values, Writes};

fn entity(key: &str) -> Arc<EntityId> {
    Arc::new(EntityId {
        stream: StreamName::try_from("cart").unwrap(),
        key: PartitionKey::try_from(key).unwrap(),
    })
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Values to set, or to delete.
fn writes(values: &[(&str, Option<&str>)]) -> Writes {
    let mut writes = Writes::default();
    for (name, value) in values {
        writes.put((*name).into(), value.map(bytes));
    }
    writes
}

impl Store {
    /// Hands over these commits together, and waits for all.
    async fn commit_all(&self, commits: Vec<Commit>) -> Vec<Outcome> {
        join_all(commits.into_iter().map(|commit| self.commit_one(commit))).await
    }

    /// Commits on top of `expected`. Returns the outcome, and the id.
    async fn put(
        &self,
        key: &str,
        expected: Option<CommitId>,
        writes: Writes,
    ) -> (Outcome, CommitId) {
        let id = CommitId::new();
        let commit = Commit {
            entity: entity(key),
            expected,
            id,
            changes: Arc::new(writes.into()),
            recorded: RecordedUntil::default(),
        };
        (self.commit_all(vec![commit]).await[0], id)
    }

    /// Commits one record, and nothing else.
    async fn keep(&self, key: &str, expected: Option<CommitId>, record: Record) -> Outcome {
        let commit = Commit {
            entity: entity(key),
            expected,
            id: CommitId::new(),
            recorded: RecordedUntil {
                messages: record.until,
                keys: StoreTime::from_millis(7),
            },
            changes: Arc::new(Changes {
                not_after: record.not_after,
                records: vec![record],
                ..Changes::default()
            }),
        };
        self.commit_one(commit).await
    }

    async fn kept(&self, key: &str, id: RecordId) -> Option<Kept> {
        match self.see(key, What::Record(id)).await.found {
            Found::Record(kept) => kept,
            Found::Nothing => None,
            other => panic!("{other:?}"),
        }
    }

    /// A commit that must succeed.
    async fn must_put(&self, key: &str, expected: Option<CommitId>, writes: Writes) -> CommitId {
        let (outcome, id) = self.put(key, expected, writes).await;
        assert_eq!(outcome, Outcome::Committed);
        id
    }

    async fn see(&self, key: &str, what: What) -> Seen {
        self.look(Look::At(entity(key), what)).await.unwrap()
    }

    async fn last(&self, key: &str) -> Option<CommitId> {
        self.see(key, What::Last).await.last
    }

    async fn values(&self, key: &str) -> Values {
        match self.see(key, What::Values).await.found {
            Found::Values(values, _) => values,
            other => panic!("{other:?}"),
        }
    }

    async fn value(&self, key: &str, name: &str) -> Option<Bytes> {
        match self.see(key, What::Value(name.into())).await.found {
            Found::Value(value) => value,
            other => panic!("{other:?}"),
        }
    }

    async fn page(&self, key: &str, range: Range) -> Page {
        match self.see(key, What::Page(range)).await.found {
            Found::Page(page) => page,
            other => panic!("{other:?}"),
        }
    }

    /// The names of all values of a range, page by page.
    async fn names(&self, key: &str, prefix: &str, limit: usize) -> Vec<String> {
        let mut range = Range::new(prefix, "", limit);
        let mut names = Vec::new();
        loop {
            let page = self.page(key, range.clone()).await;
            names.extend(page.values.iter().map(|(name, _)| name.to_string()));
            match page.until {
                Some(until) => range = range.behind(&until),
                None => return names,
            }
        }
    }
}

async fn what_is_committed_is_seen(store: Store) {
    assert_eq!(store.last("a").await, None);
    assert_eq!(store.values("a").await, Values::none());
    let first = store
        .must_put(
            "a",
            None,
            writes(&[(MAIN_VALUE, Some("{}")), ("x", Some("1"))]),
        )
        .await;
    assert_eq!(store.last("a").await, Some(first));
    let values = store.values("a").await;
    assert_eq!(values.get(MAIN_VALUE), Some(Some(&bytes("{}"))));
    assert_eq!(values.get("x"), Some(Some(&bytes("1"))));
    assert_eq!(values.get("y"), Some(None), "all are known");
    assert_eq!(store.value("a", "x").await, Some(bytes("1")));
    assert_eq!(store.value("a", MAIN_VALUE).await, Some(bytes("{}")));
    assert_eq!(store.value("a", "y").await, None);
    let second = store
        .must_put("a", Some(first), writes(&[("x", None), ("y", Some("2"))]))
        .await;
    assert_eq!(store.last("a").await, Some(second));
    assert_eq!(store.value("a", "x").await, None);
    assert_eq!(store.value("a", "y").await, Some(bytes("2")));
    assert_eq!(
        store.value("a", MAIN_VALUE).await,
        Some(bytes("{}")),
        "it was not touched"
    );
    store
        .must_put("a", Some(second), writes(&[(MAIN_VALUE, None)]))
        .await;
    assert_eq!(store.value("a", MAIN_VALUE).await, None);
}

async fn of_two_commits_on_one_state_one_succeeds(store: Store) {
    // The first one ever.
    let first = store.must_put("a", None, writes(&[("x", Some("1"))])).await;
    let (outcome, _) = store.put("a", None, writes(&[("x", Some("2"))])).await;
    assert_eq!(outcome, Outcome::Fenced);
    let second = store
        .must_put("a", Some(first), writes(&[("x", Some("3"))]))
        .await;
    for outdated in [None, Some(first), Some(CommitId::new())] {
        let more = writes(&[("x", Some("4")), ("y", Some("4")), (MAIN_VALUE, Some("4"))]);
        let (outcome, _) = store.put("a", outdated, more).await;
        assert_eq!(outcome, Outcome::Fenced);
    }
    // One that there never was.
    let (outcome, _) = store
        .put("b", Some(second), writes(&[("x", Some("5"))]))
        .await;
    assert_eq!(outcome, Outcome::Fenced);
    assert_eq!(store.last("a").await, Some(second));
    assert_eq!(store.value("a", "x").await, Some(bytes("3")));
    assert_eq!(
        store.value("a", "y").await,
        None,
        "nothing of it was written"
    );
    assert_eq!(store.value("a", MAIN_VALUE).await, None);
    assert_eq!(store.last("b").await, None);
}

async fn a_batch_succeeds_entity_by_entity(store: Store) {
    let mut last = BTreeMap::new();
    for number in 0..50 {
        let key = format!("k{number:02}");
        let id = store
            .must_put(&key, None, writes(&[("x", Some("old"))]))
            .await;
        last.insert(key, id);
    }
    let commits = last.iter().enumerate().map(|(number, (key, last))| Commit {
        entity: entity(key),
        expected: (number % 3 != 0).then_some(*last),
        id: CommitId::new(),
        changes: Arc::new(writes(&[("x", Some("new")), (MAIN_VALUE, Some(key))]).into()),
        recorded: RecordedUntil::default(),
    });
    // In another order than that of the keys.
    let commits: Vec<Commit> = commits.rev().collect();
    let outcomes = store.commit_all(commits.clone()).await;
    for (commit, outcome) in commits.iter().zip(outcomes) {
        let is_current = commit.expected.is_some();
        let expected = if is_current {
            Outcome::Committed
        } else {
            Outcome::Fenced
        };
        assert_eq!(outcome, expected);
        let key = commit.entity.key.as_str();
        let value = if is_current { "new" } else { "old" };
        assert_eq!(store.value(key, "x").await, Some(bytes(value)));
        let main = is_current.then(|| bytes(key));
        assert_eq!(store.value(key, MAIN_VALUE).await, main);
    }
}

async fn clearing_deletes_everything_older(store: Store) {
    let first = writes(&[("x", Some("1")), ("y", Some("1")), (MAIN_VALUE, Some("1"))]);
    let first = store.must_put("a", None, first).await;
    let mut clear = Writes::default();
    clear.clear();
    clear.put("y".into(), Some(bytes("2")));
    let second = store.must_put("a", Some(first), clear).await;
    assert_eq!(store.names("a", "", 10).await, ["y"]);
    assert_eq!(store.value("a", "y").await, Some(bytes("2")));
    let mut clear = Writes::default();
    clear.clear();
    let third = store.must_put("a", Some(second), clear).await;
    assert_eq!(store.names("a", "", 10).await, [""; 0]);
    // It was there, and its last commit still counts.
    assert_eq!(store.last("a").await, Some(third));
    let (outcome, _) = store.put("a", None, writes(&[("x", Some("3"))])).await;
    assert_eq!(outcome, Outcome::Fenced);
}

async fn values_come_in_the_order_of_their_bytes(store: Store) {
    let names = [
        "a", "a/1", "aé", "b", "z", "ä", "日", "state", "A", "a b", "%", "_",
    ];
    let values: Vec<(&str, Option<&str>)> = names.iter().map(|name| (*name, Some("v"))).collect();
    store.must_put("k", None, writes(&values)).await;
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    for limit in [1, 3, 100] {
        assert_eq!(
            store.names("k", "", limit).await,
            sorted,
            "{limit} at a time"
        );
    }
    assert_eq!(store.names("k", "a", 2).await, ["a", "a b", "a/1", "aé"]);
    assert_eq!(store.names("k", "st", 2).await, ["state"]);
    assert_eq!(store.names("k", "%", 2).await, ["%"], "no pattern");
    assert_eq!(store.names("k", "none", 2).await, [""; 0]);
}

async fn many_or_large_values_are_loaded_when_they_are_asked_for(store: Store) {
    let large = "x".repeat(100 << 10);
    let many: Vec<String> = (0..200).map(|number| format!("n{number:03}")).collect();
    let mut all = writes(&[("large", Some(&large)), (MAIN_VALUE, Some("{}"))]);
    for name in &many {
        all.put(Name::from(name.as_str()), Some(bytes(name)));
    }
    store.must_put("a", None, all).await;
    let values = store.values("a").await;
    assert!(
        values.memory() < 2 * large.len(),
        "not everything was loaded"
    );
    assert_eq!(
        values.get("none"),
        None,
        "it is not known whether there is one"
    );
    assert_eq!(values.get(MAIN_VALUE), Some(Some(&bytes("{}"))));
    assert_eq!(store.value("a", "large").await, Some(bytes(&large)));
    assert_eq!(store.value("a", "n199").await, Some(bytes("n199")));
    assert_eq!(store.names("a", "n", 1000).await, many);
}

async fn any_bytes_are_a_value(store: Store) {
    for (number, value) in [
        &b""[..],
        b"\0",
        b"a\0b",
        b"\xff\xfe",
        "日".as_bytes(),
        b"7",
        b"null",
    ]
    .into_iter()
    .enumerate()
    {
        let mut both = Writes::default();
        both.put("x".into(), Some(Bytes::copy_from_slice(value)));
        both.put(MAIN_VALUE.into(), Some(Bytes::copy_from_slice(value)));
        let key = format!("k{number}");
        store.must_put(&key, None, both).await;
        assert_eq!(store.value(&key, "x").await.as_deref(), Some(value));
        assert_eq!(store.value(&key, MAIN_VALUE).await.as_deref(), Some(value));
        assert_eq!(
            store.values(&key).await.get("x").flatten().map(|v| &**v),
            Some(value)
        );
    }
}

async fn the_longest_names_and_keys_are_taken(store: Store) {
    // What no compression makes shorter.
    let long: String = (0..1024)
        .map(|number: u32| char::from(b'!' + (number.wrapping_mul(2_654_435_761) >> 8) as u8 % 90))
        .collect();
    store
        .must_put(&long, None, writes(&[(&long, Some("1"))]))
        .await;
    assert_eq!(store.value(&long, &long).await, Some(bytes("1")));
}

async fn entities_are_listed_by_their_keys(store: Store) {
    for key in ["b", "a1", "a2", "ä", "a%"] {
        store.must_put(key, None, writes(&[("x", Some("1"))])).await;
    }
    let list = async |prefix: &str, after: &str, limit| {
        let listing = Listing {
            stream: StreamName::try_from("cart").unwrap(),
            prefix: prefix.into(),
            after: after.into(),
            limit,
        };
        match store.look(Look::Entities(listing)).await.unwrap().found {
            Found::Entities(keys) => {
                let keys = keys.into_iter().map(|(key, _)| key.as_str().to_owned());
                keys.collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(list("", "", 10).await, ["a%", "a1", "a2", "b", "ä"]);
    assert_eq!(list("a", "", 2).await, ["a%", "a1"]);
    assert_eq!(list("a", "a1", 2).await, ["a2"]);
    assert_eq!(list("c", "", 2).await, [""; 0]);
}

/// A record of a message, or of a key, whose reply is its number.
fn record(first: u8, number: u8, until: StoreTime) -> Record {
    let mut id = [number; 16];
    id[0] = first;
    Record {
        id: RecordId::from_bytes(id),
        until,
        not_after: None,
        kept: Kept {
            fingerprint: (first == KEY).then_some([number; 16]),
            reply: Bytes::from(vec![number, 0, 0xff]),
        },
    }
}

const MESSAGE: u8 = 1;
const KEY: u8 = 0xff;

async fn records_are_kept_with_the_commit(store: Store) {
    let later = store.now().later(Duration::from_secs(60));
    for (key, first) in [("a", MESSAGE), ("b", KEY)] {
        let one = record(first, 1, later);
        assert_eq!(store.kept(key, one.id).await, None);
        assert_eq!(store.keep(key, None, one.clone()).await, Outcome::Committed);
        assert_eq!(store.kept(key, one.id).await, Some(one.kept));
        // Of another entity, and of a commit that was fenced.
        assert_eq!(store.kept("other", one.id).await, None);
        let two = record(first, 2, later);
        assert_eq!(store.keep(key, None, two.clone()).await, Outcome::Fenced);
        assert_eq!(store.kept(key, two.id).await, None);
        let seen = store.see(key, What::Values).await;
        let Found::Values(_, recorded) = seen.found else {
            panic!("{seen:?}")
        };
        assert_eq!((recorded.messages, recorded.keys.millis()), (later, 7));
        // Others that have a record of their own, or values too, in the same batch.
        let mut writes: Changes = writes(&[("x", Some("1"))]).into();
        writes.records.push(two.clone());
        let (last, three) = (seen.last, record(first, 3, later));
        let commit = |key: &str, expected, changes| Commit {
            entity: entity(key),
            expected,
            id: CommitId::new(),
            changes: Arc::new(changes),
            recorded,
        };
        let alone = Changes {
            records: vec![three.clone()],
            ..Changes::default()
        };
        let new = format!("{key}2");
        let both = vec![commit(key, last, writes), commit(&new, None, alone)];
        assert_eq!(store.commit_all(both).await, [Outcome::Committed; 2]);
        assert_eq!(store.kept(key, two.id).await, Some(two.kept));
        assert_eq!(store.kept(&new, three.id).await, Some(three.kept));
        assert_eq!(store.value(key, "x").await, Some(bytes("1")));
    }
}

async fn a_record_of_a_key_gives_way_once_its_time_is_over(store: Store) {
    let old = record(KEY, 1, store.now());
    assert_eq!(store.keep("a", None, old.clone()).await, Outcome::Committed);
    while store.now() <= old.until {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(store.kept("a", old.id).await, None);
    let last = store.last("a").await;
    let mut new = record(KEY, 1, store.now().later(Duration::from_secs(60)));
    new.kept.reply = bytes("new");
    assert_eq!(store.keep("a", last, new.clone()).await, Outcome::Committed);
    assert_eq!(store.kept("a", new.id).await, Some(new.kept));
}

async fn a_commit_that_comes_too_late_is_void(store: Store) {
    let mut late = record(MESSAGE, 1, store.now().later(Duration::from_secs(60)));
    late.not_after = Some(store.now());
    while store.now() <= late.not_after.unwrap() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(store.keep("a", None, late.clone()).await, Outcome::Fenced);
    assert_eq!(store.last("a").await, None);
    late.not_after = Some(store.now().later(Duration::from_secs(60)));
    assert_eq!(store.keep("a", None, late).await, Outcome::Committed);
}

/// Records are deleted once they are old, and from then on their messages are late, even if the
/// clock is set back.
async fn what_was_swept_is_past(store: Store) {
    let soon = store.now().later(Duration::from_secs(600));
    let live = record(MESSAGE, 3, soon.later(Duration::from_secs(1)));
    assert_eq!(
        store.keep("c", None, live.clone()).await,
        Outcome::Committed
    );
    let mut old = record(MESSAGE, 1, store.now());
    old.not_after = Some(soon);
    assert_eq!(store.keep("a", None, old).await, Outcome::Committed);
    let mut tries = 0;
    loop {
        tries += 1;
        let mut one = record(MESSAGE, 4, soon);
        one.not_after = Some(soon);
        let key = format!("try{tries}");
        match store.keep(&key, None, one).await {
            Outcome::Fenced => break,
            outcome => assert_eq!(outcome, Outcome::Committed),
        }
        assert!(tries < 1000, "nothing was swept");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(store.kept("c", live.id).await, Some(live.kept));
    let mut next = record(MESSAGE, 5, soon);
    next.not_after = Some(soon.later(Duration::from_secs(1)));
    assert_eq!(store.keep("next", None, next).await, Outcome::Committed);
}

fn sending(key: &str) -> message::Sending {
    message::Sending {
        id: Uuid::now_v7(),
        outgoing: message::Outgoing {
            stream: StreamName::try_from("ledger").unwrap(),
            partition_key: PartitionKey::try_from(key).unwrap(),
            method: message::Method::Post,
            query: "a=%20".into(),
            headers: http::HeaderMap::new(),
            body: Bytes::from_static(&[1, 0, 0xff]),
        },
        delay: Duration::ZERO,
    }
}

impl Store {
    /// Commits on top of what is there. Returns the outcome.
    pub(super) async fn commit_on(
        &self,
        key: &str,
        expected: Option<CommitId>,
        changes: Changes,
    ) -> Outcome {
        let commit = Commit {
            entity: entity(key),
            expected,
            id: CommitId::new(),
            changes: Arc::new(changes),
            recorded: RecordedUntil::default(),
        };
        self.commit_all(vec![commit]).await[0]
    }

    pub(super) async fn all_sent(&self, is_stuck: bool) -> Vec<Waiting> {
        let wanted = Outstanding {
            is_stuck,
            after: Uuid::nil(),
            limit: 100,
            with_text: true,
        };
        self.outstanding(&wanted).await.unwrap().0
    }

    /// The keys to which something is sent.
    async fn targets(&self) -> Vec<String> {
        let sends = self.all_sent(false).await.into_iter();
        let mut keys: Vec<_> = sends.map(|sent| sent.letter.to.key.to_string()).collect();
        keys.sort_unstable();
        keys
    }
}

pub(super) fn sends(unnamed: &[&str], timers: &[(&str, Option<&str>)]) -> Changes {
    let mut changes = Changes::default();
    for key in unnamed {
        changes.sends.send(None, sending(key));
    }
    for (name, key) in timers {
        match key {
            Some(key) => changes.sends.send(Some((*name).into()), sending(key)),
            None => changes.sends.cancel((*name).into()),
        }
    }
    changes
}

async fn what_is_sent_leaves_with_the_commit(store: Store) {
    let first = sends(&["x", "y"], &[("t", Some("timer"))]);
    assert_eq!(store.commit_on("a", None, first).await, Outcome::Committed);
    let fenced = sends(&["z"], &[("t", None)]);
    assert_eq!(store.commit_on("a", None, fenced).await, Outcome::Fenced);
    assert_eq!(store.targets().await, ["timer", "x", "y"]);
    let sent = &store.all_sent(false).await[0];
    assert_eq!((&*sent.node, sent.letter.tries), ("n1", 0));
    assert_eq!(*sent.letter.from, *entity("a"));
    assert_eq!(sent.letter.text, written(&sending("x").outgoing));
    // Another entity's timer of that name is another one.
    let other = sends(&[], &[("t", Some("others"))]);
    assert_eq!(store.commit_on("b", None, other).await, Outcome::Committed);
    // It is replaced, and removed.
    let last = store.last("a").await;
    let next = sends(&[], &[("t", Some("later")), ("u", Some("next"))]);
    assert_eq!(store.commit_on("a", last, next).await, Outcome::Committed);
    assert_eq!(store.targets().await, ["later", "next", "others", "x", "y"]);
    let last = store.last("a").await;
    let cancelled = sends(&[], &[("t", None)]);
    let done = store.commit_on("a", last, cancelled).await;
    assert_eq!(done, Outcome::Committed);
    assert_eq!(store.targets().await, ["next", "others", "x", "y"]);
}

async fn what_is_delivered_takes_effect_once(store: Store) {
    let sent = sends(&["x", "y"], &[]);
    assert_eq!(store.commit_on("a", None, sent).await, Outcome::Committed);
    let id = store.all_sent(false).await[0].letter.id;
    let delivered = |key: &str| {
        let mut changes: Changes = writes(&[("got", Some(key))]).into();
        changes.delivered.push(Delivery { id, timer: None });
        changes
    };
    let is_there = async || match store.see("x", What::Sent(id)).await.found {
        Found::Sent(is_there) => is_there,
        _ => true,
    };
    assert!(is_there().await);
    assert_eq!(
        store.commit_on("x", None, delivered("x")).await,
        Outcome::Committed
    );
    assert!(!is_there().await);
    let last = store.last("x").await;
    let again = store.commit_on("x", last, delivered("x")).await;
    assert_eq!(again, Outcome::Fenced);
    assert_eq!(store.targets().await, ["y"]);
}

async fn what_another_store_has_is_taken_over_once(store: Store) {
    let sent = sends(&["x", "y"], &[("t", Some("timer"))]);
    assert_eq!(store.commit_on("a", None, sent).await, Outcome::Committed);
    let mut moved = store.all_sent(false).await;
    for (waiting, id) in moved.iter_mut().zip([7, 8, 9]) {
        waiting.letter.id = Uuid::from_u128(id);
        waiting.letter.name = None;
        waiting.letter.from = entity("moved");
        waiting.letter.tries = 20;
        waiting.node = "other".into();
        waiting.wake_at = None;
        waiting.problem = Some("no node offers the stream".into());
    }
    let later = store.now().later(Duration::from_secs(60));
    let records = [record(MESSAGE, 1, later), record(KEY, 1, later)];
    let records = records.map(|record| ((*entity("moved")).clone(), record));
    let imported = || {
        Order::Import(Imported {
            records: records.to_vec(),
            sends: moved.clone(),
        })
    };
    assert_eq!(store.order(imported()).await.unwrap(), 5);
    assert_eq!(store.order(imported()).await.unwrap(), 0);
    assert_eq!(store.all_sent(true).await, moved);
    assert_eq!(store.all_sent(false).await.len(), 6);
    let first = Look::Records(RecordId::FIRST, 1);
    let Found::Records(found, _) = store.look(first).await.unwrap().found else {
        panic!("no records")
    };
    assert_eq!(found, records[..1]);
    let rest = Look::Records(found[0].1.id, 10);
    let Found::Records(found, _) = store.look(rest).await.unwrap().found else {
        panic!("no records")
    };
    assert_eq!(found, records[1..]);
    // Those that were not tried yet stay as they are.
    let all = store.all_sent(false).await;
    let ids = all.iter().map(|waiting| waiting.letter.id).collect();
    assert_eq!(store.order(Order::Retry(ids)).await.unwrap(), 3);
    assert_eq!(store.all_sent(true).await, []);
    let retried = &store.all_sent(false).await[0];
    assert_eq!(retried.letter.tries, 0);
    assert!(retried.wake_at.unwrap() <= store.now());
    // Once an entity is there, what it has sent may have been delivered.
    store
        .must_put("moved", None, writes(&[("x", Some("1"))]))
        .await;
    let late = Order::Import(Imported {
        records: vec![((*entity("moved")).clone(), record(MESSAGE, 9, later))],
        sends: vec![Waiting {
            letter: Letter {
                id: Uuid::from_u128(77),
                ..moved[0].letter.clone()
            },
            ..moved[0].clone()
        }],
    });
    assert_eq!(store.order(late).await.unwrap(), 0);
}

async fn a_closed_store_has_committed_what_it_took(store: Store) {
    let commits = (0..20).map(|number| Commit {
        entity: entity(&format!("k{number}")),
        expected: None,
        id: CommitId::new(),
        changes: Arc::new(writes(&[("x", Some("1"))]).into()),
        recorded: RecordedUntil::default(),
    });
    let committing = store.commit_all(commits.collect());
    let (outcomes, ()) = tokio::join!(committing, async {
        tokio::task::yield_now().await;
        store.close().await;
    });
    assert!(
        outcomes
            .iter()
            .all(|outcome| *outcome == Outcome::Committed)
    );
    let (outcome, _) = store.put("late", None, writes(&[("x", Some("1"))])).await;
    assert_eq!(outcome, Outcome::Unavailable);
    store
        .look(Look::At(entity("k1"), What::Last))
        .await
        .unwrap_err();
}

/// Each of these checks on both stores.
macro_rules! on_both {
    ($($check:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $check() {
                let directory = super::TempDir::new().unwrap();
                let file = directory.path().join("state.db");
                let ended = super::CancellationToken::new();
                let (store, _) = super::Store::open_sqlite(&file, "test", super::Make::IfMissing, super::Outbox::new(super::node_id()), ended).unwrap();
                super::$check(store).await;
            })+
        }

        mod postgres {
            $(#[tokio::test]
            async fn $check() {
                let Some(url) = test_postgres::database(stringify!($check)).await else {
                    return;
                };
                let url = url.parse().unwrap();
                let ended = super::CancellationToken::new();
                let (store, _) = super::Store::open_postgres(&url, "test", super::Make::IfMissing, super::Outbox::new(super::node_id()), ended).await.unwrap();
                super::$check(store).await;
            })+
        }
    };
}

on_both!(
    what_is_committed_is_seen,
    of_two_commits_on_one_state_one_succeeds,
    a_batch_succeeds_entity_by_entity,
    clearing_deletes_everything_older,
    values_come_in_the_order_of_their_bytes,
    many_or_large_values_are_loaded_when_they_are_asked_for,
    any_bytes_are_a_value,
    the_longest_names_and_keys_are_taken,
    entities_are_listed_by_their_keys,
    a_closed_store_has_committed_what_it_took,
    records_are_kept_with_the_commit,
    a_record_of_a_key_gives_way_once_its_time_is_over,
    a_commit_that_comes_too_late_is_void,
    what_was_swept_is_past,
    what_is_sent_leaves_with_the_commit,
    what_is_delivered_takes_effect_once,
    what_another_store_has_is_taken_over_once,
);
