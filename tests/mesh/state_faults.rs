//! Entities when things go wrong: nodes that disagree about who owns one, handlers that fail in
//! every way, clients that go away, and stores that fail.

use std::time::Duration;

use futures_util::future::join_all;
use http::Method;
use nix::mount::{MsFlags, mount};
use rusqlite::{Connection, TransactionBehavior};
use serde_json::json;

use crate::harness::{
    Answer, Client, Gate, Node, Path, Setup, State, Wire, Writers, act, journal, list,
    on_both_stores, own_mounts, refs, skipped, until, wait_for_mesh,
};

on_both_stores!(
    both_sides_of_a_split_write_and_nothing_is_lost,
    of_two_owners_none_answers_from_state_that_the_other_has_replaced,
    a_handler_that_fails_leaves_nothing_behind,
    a_read_cannot_write,
    names_are_scanned_in_order_with_what_was_just_written,
    messages_of_a_key_run_one_after_the_other_and_reads_beside_them,
    a_client_that_goes_away_before_the_hand_over_leaves_nothing_behind,
    a_hot_key_holds_up_no_other,
    a_poisonous_message_harms_no_other,
    a_read_sees_one_version_of_all_values,
);

async fn one_node(state: &State) -> Node {
    Setup::new(journal()).id("n1").state(state).ready().await
}

/// Nodes on a network that can be cut, which share a store all the same.
async fn mesh_on(wire: &Wire, size: usize, state: &State) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for number in 1..=size {
        let setup = Setup::new(journal()).on(wire, number).state(state);
        nodes.push(setup.seeds(&refs(&nodes)).start().await);
    }
    wait_for_mesh(&refs(&nodes)).await;
    nodes
}

async fn wait_until_seen(by: &Node, count: usize) {
    until(|| async { by.view().await.len() == count }).await;
}

async fn both_sides_of_a_split_write_and_nothing_is_lost(state: State) {
    let wire = Wire::lay(3);
    let nodes = mesh_on(&wire, 3, &state).await;
    let writers = Writers::start(8, 3, &refs(&nodes));
    writers.wait_for(300).await;
    for _ in 0..3 {
        wire.between(&[1], &[2, 3], Path::Cut);
        wait_until_seen(&nodes[0], 1).await;
        writers.wait_for(600).await;
        wire.heal();
        wait_for_mesh(&refs(&nodes)).await;
        writers.wait_for(100).await;
    }
    let journal = writers.check(&nodes[0]).await;
    println!(
        "{} of {} answered, {:?}",
        journal.good(),
        journal.len(),
        journal.bad()
    );
    assert!(journal.good() * 2 > journal.len(), "{:?}", journal.bad());
}

async fn of_two_owners_none_answers_from_state_that_the_other_has_replaced(state: State) {
    let wire = Wire::lay(2);
    let nodes = mesh_on(&wire, 2, &state).await;
    wire.between(&[1], &[2], Path::Cut);
    wait_until_seen(&nodes[0], 1).await;
    wait_until_seen(&nodes[1], 1).await;
    let (one, other) = (&nodes[0], &nodes[1]);
    // Both have it in memory.
    act(one, "k", "append=a").await.ok();
    assert_eq!(list(other, "k").await, r#"["a"]"#);
    act(other, "k", "append=b").await.ok();
    // A read, a message that writes nothing, a failure, and a write, each on what the other wrote.
    assert_eq!(list(one, "k").await, r#"["a","b"]"#);
    act(one, "k", "append=c").await.ok();
    let answer = act(other, "k", "").await;
    assert_eq!(answer.json()["list"].to_string(), r#"["a","b","c"]"#);
    act(one, "k", "append=d").await.ok();
    let failure = act(other, "k", "append=e&then=fail").await;
    let problem = failure.problem(409, "conflict");
    assert_eq!(problem["detail"], r#"["a","b","c","d","e"]"#);
    act(one, "k", "append=f").await.ok();
    act(other, "k", "append=g&then=trap")
        .await
        .problem(500, "crashed");
    act(other, "k", "append=h").await.ok();
    for node in &nodes {
        assert_eq!(list(node, "k").await, r#"["a","b","c","d","f","h"]"#);
    }
}

async fn a_handler_that_fails_leaves_nothing_behind(state: State) {
    let node = Setup::new(journal().with_file("journal.toml", "timeout_ms = 300"))
        .state(&state)
        .ready()
        .await;
    act(&node, "k", "append=a").await.ok();
    act(&node, "k", "clear=true&append=b&then=fail")
        .await
        .problem(409, "conflict");
    act(&node, "k", "append=c&then=trap")
        .await
        .problem(500, "crashed");
    act(&node, "k", "append=d&then=spin")
        .await
        .problem(504, "deadline-exceeded");
    act(&node, "k", "append=e&wait_ms=60000")
        .await
        .problem(504, "deadline-exceeded");
    let value = "set=v&bytes=1048577";
    let problem = act(&node, "k", value).await.problem(500, "limit-exceeded");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("1 MiB in a value"), "{detail}");
    let problem = act(&node, "k", "set=v&bytes=1000000&times=17").await;
    let problem = problem.problem(500, "limit-exceeded");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("16 MiB of writes"), "{detail}");
    let names = ["set=&bytes=1", "delete=a%00b", "get="];
    for name in names {
        act(&node, "k", name).await.problem(500, "limit-exceeded");
    }
    let long = "n".repeat(1025);
    act(&node, "k", &format!("set={long}"))
        .await
        .problem(500, "limit-exceeded");
    assert_eq!(list(&node, "k").await, r#"["a"]"#);
}

async fn a_read_cannot_write(state: State) {
    let node = one_node(&state).await;
    act(&node, "k", "append=a").await.ok();
    for query in ["append=b", "set=v&bytes=1", "delete=list", "clear=true"] {
        let answer = node.get(&format!("/api/journal/k?{query}")).send().await;
        let problem = answer.problem(500, "read-only");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("another method"), "{detail}");
    }
    let broadcast = node.post("/api/broadcast/journal/k?append=b").send().await;
    assert_eq!(broadcast.json()[0]["type"], "urn:meshage:read-only");
    assert_eq!(list(&node, "k").await, r#"["a"]"#);
}

async fn names_are_scanned_in_order_with_what_was_just_written(state: State) {
    let node = one_node(&state).await;
    act(&node, "k", "set=a&bytes=10&times=2500").await.ok();
    act(&node, "k", "set=b&bytes=10").await.ok();
    let all = |answer: Answer| -> Vec<String> {
        answer.ok();
        serde_json::from_value(answer.json()["names"].clone()).unwrap()
    };
    let names = all(act(&node, "k", "set=a0000x&bytes=1&delete=a0001&scan=a").await);
    assert_eq!(names.len(), 2500);
    assert!(names.is_sorted());
    assert_eq!(names[..3], ["a0000", "a0000x", "a0002"]);
    // On another node's start, none of it is in memory.
    let again = Setup::new(journal()).id("n2").state(&state).ready().await;
    let read = again.get("/api/journal/k?scan=").send().await;
    assert_eq!(all(read).len(), 2501);
    let answer = again.get("/api/journal/k?get=a2499").send().await;
    assert_eq!(answer.json()["bytes"], 10);
    let answer = again.get("/api/journal/k?get=none").send().await;
    assert!(answer.json()["bytes"].is_null());
    act(&again, "k", "clear=true").await.ok();
    assert_eq!(all(act(&again, "k", "scan=").await).len(), 0);
    assert_eq!(all(act(&node, "k", "scan=").await).len(), 0);
}

/// How many messages are in the queue of an entity.
async fn queued(node: &Node, key: &str) -> u64 {
    let answer = node.admin(&format!("/entities/journal/{key}")).await;
    answer.json()["queued"].as_u64().unwrap()
}

/// A node whose `journal` may wait at a gate.
async fn node_with_gate(gate: &Gate, more: &str, state: &State) -> Node {
    let manifest = gate.manifest() + more;
    let plugins = journal().with_file("journal.toml", manifest);
    Setup::new(plugins).id("n1").state(state).ready().await
}

async fn messages_of_a_key_run_one_after_the_other_and_reads_beside_them(state: State) {
    let gate = Gate::new().await;
    let node = node_with_gate(&gate, "queue_per_key = 3\n", &state).await;
    act(&node, "k", "append=a").await.ok();
    let held = format!("append=b&wait_for={}/", gate.addr);
    let held = act(&node, "k", &held);
    let others = async {
        gate.wait_for(1).await;
        assert_eq!(list(&node, "k").await, r#"["a"]"#, "not committed yet");
        act(&node, "other", "append=x").await.ok();
        let (second, third) = (act(&node, "k", "append=c"), act(&node, "k", "append=d"));
        let refused = async {
            until(|| async { queued(&node, "k").await == 3 }).await;
            act(&node, "k", "append=e").await.problem(503, "overloaded");
            gate.open();
        };
        let (second, third, ()) = tokio::join!(second, third, refused);
        second.ok();
        third.ok();
    };
    let (held, ()) = tokio::join!(held, others);
    held.ok();
    let list = list(&node, "k").await;
    assert!(list.starts_with(r#"["a","b","#), "{list}");
    assert!(list.contains(r#""c""#) && list.contains(r#""d""#), "{list}");
}

async fn a_client_that_goes_away_before_the_hand_over_leaves_nothing_behind(state: State) {
    let gate = Gate::new().await;
    let node = node_with_gate(&gate, "", &state).await;
    let url = format!(
        "http://{}/api/journal/k?append=a&wait_for={}/",
        node.http, gate.addr
    );
    let client = Client::new();
    let request = tokio::spawn(async move { client.request(Method::POST, &url).try_send().await });
    gate.wait_for(1).await;
    request.abort();
    // The next one does not wait for the gate.
    act(&node, "k", "append=b").await.ok();
    gate.open();
    assert_eq!(list(&node, "k").await, r#"["b"]"#);
}

/// Holds the lock of the file that a commit needs.
struct Lock(Connection);

impl Lock {
    fn hold(state: &State) -> Self {
        let connection = Connection::open(state.file()).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        Self(connection)
    }

    fn release(self) {
        self.0.execute_batch("COMMIT").unwrap();
    }
}

#[tokio::test]
async fn a_client_that_goes_away_after_the_hand_over_changes_nothing() {
    let state = State::sqlite();
    let node = one_node(&state).await;
    act(&node, "k", "append=a").await.ok();
    let lock = Lock::hold(&state);
    let url = format!("http://{}/api/journal/k?append=b", node.http);
    let client = Client::new();
    let request = tokio::spawn(async move { client.request(Method::POST, &url).try_send().await });
    // It has run, and waits for its commit.
    until(|| async { node.served("journal").await == 2 }).await;
    request.abort();
    lock.release();
    until(|| async { list(&node, "k").await == r#"["a","b"]"# }).await;
}

#[tokio::test]
async fn a_process_that_is_stopped_in_a_commit_holds_up_stateful_streams_alone() {
    let state = State::sqlite();
    let node = Setup::new(journal())
        .state(&state)
        .flag("--timeout", "20s")
        .ready()
        .await;
    act(&node, "k", "append=a").await.ok();
    let lock = Lock::hold(&state);
    // The first ones wait for the lock; once that takes too long, others are refused at once.
    let waiting = act(&node, "k", "append=b");
    let refused = async {
        until(|| async {
            let answer = act(&node, "other", "append=x").await;
            answer.status == 503
        })
        .await;
        let answer = act(&node, "other", "append=x").await;
        let problem = answer.problem(503, "state-unavailable");
        assert_eq!(problem["retryable"], true);
        node.post("/api/echo/1").json("{}").send().await.ok();
    };
    let (waited, ()) = tokio::join!(waiting, refused);
    waited.problem(503, "state-unavailable");
    lock.release();
    until(|| async { act(&node, "k", "append=c").await.status == 200 }).await;
    assert_eq!(list(&node, "k").await, r#"["a","c"]"#);
    node.event("state-unavailable").await;
    node.event("state-available").await;
}

#[tokio::test]
async fn one_commit_that_the_store_rejects_fails_alone() {
    let state = State::sqlite();
    let node = one_node(&state).await;
    act(&node, "k", "append=a").await.ok();
    // Somebody's own rule for a table.
    let own = Connection::open(state.file()).unwrap();
    own.execute_batch(
        "CREATE TRIGGER own BEFORE INSERT ON meshage_entity WHEN NEW.key = 'bad'
         BEGIN SELECT RAISE(ABORT, 'no'); END",
    )
    .unwrap();
    let lock = Lock::hold(&state);
    let keys: Vec<String> = (0..100).map(|number| format!("good-{number}")).collect();
    let good = keys.iter().map(|key| act(&node, key, "append=x"));
    let all = async {
        let bad = act(&node, "bad", "append=x");
        tokio::join!(bad, futures_util::future::join_all(good))
    };
    let release = async {
        until(|| async { node.served("journal").await >= 102 }).await;
        lock.release();
    };
    let ((bad, good), ()) = tokio::join!(all, release);
    bad.problem(500, "crashed");
    for answer in good {
        answer.ok();
    }
    node.event("commit-rejected").await;
    act(&node, "k", "append=b").await.ok();
}

#[tokio::test]
async fn a_file_of_a_later_version_is_left_alone() {
    let state = State::sqlite();
    let node = one_node(&state).await;
    act(&node, "k", "append=a").await.ok();
    let own = Connection::open(state.file()).unwrap();
    // A later version that this one can go on with.
    own.execute_batch("UPDATE meshage_store SET version = 3")
        .unwrap();
    act(&node, "k", "append=b").await.ok();
    own.execute_batch("UPDATE meshage_store SET version = 4, compatible = 4")
        .unwrap();
    let refused = act(&node, "k", "append=c").await;
    refused.problem(503, "state-unavailable");
    let told = node.event("state-unavailable").await;
    assert!(told.contains("upgrade it"), "{told}");
    // In the file itself: the node leaves a store that failed alone for a moment, reads included.
    let list: String = own
        .query_row(
            "SELECT value FROM meshage_value WHERE name = 'list'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(list, r#"["a","b"]"#);
}

#[tokio::test]
async fn state_that_was_set_back_counts() {
    let state = State::sqlite();
    let node = one_node(&state).await;
    act(&node, "k", "append=a").await.ok();
    let own = Connection::open(state.file()).unwrap();
    own.execute_batch(
        "CREATE TABLE backup AS SELECT * FROM meshage_entity;
         CREATE TABLE backup_values AS SELECT * FROM meshage_value;",
    )
    .unwrap();
    act(&node, "k", "append=b").await.ok();
    act(&node, "new", "append=x").await.ok();
    let mut own = own;
    let restore = own
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .unwrap();
    restore
        .execute_batch(
            "DELETE FROM meshage_entity; INSERT INTO meshage_entity SELECT * FROM backup;
             DELETE FROM meshage_value; INSERT INTO meshage_value SELECT * FROM backup_values;",
        )
        .unwrap();
    restore.commit().unwrap();
    act(&node, "k", "append=c").await.ok();
    assert_eq!(list(&node, "k").await, r#"["a","c"]"#);
    assert_eq!(list(&node, "new").await, "[]");
    act(&node, "new", "append=y").await.ok();
    assert_eq!(list(&node, "new").await, r#"["y"]"#);
}

async fn a_hot_key_holds_up_no_other(state: State) {
    let gate = Gate::new().await;
    let node = node_with_gate(&gate, "concurrency = 2\nqueue = 2000\n", &state).await;
    // One message of the hot key runs and holds its place; a hundred wait for their turn.
    let hot = format!("append=a&wait_for={}/", gate.addr);
    let waiting = (0..100).map(|number| {
        let query = if number == 0 {
            hot.clone()
        } else {
            "append=b".to_owned()
        };
        let node = &node;
        async move { act(node, "hot", &query).await }
    });
    let others = async {
        gate.wait_for(1).await;
        for number in 0..1_000 {
            act(&node, &format!("k{number}"), "append=x").await.ok();
        }
        gate.open();
    };
    let (hot, ()) = tokio::join!(futures_util::future::join_all(waiting), others);
    for answer in hot {
        answer.ok();
    }
}

#[tokio::test]
async fn a_key_with_a_zero_is_refused_and_no_store_means_no_stateful_streams() {
    let state = State::sqlite();
    let node = one_node(&state).await;
    act(&node, "a%00b", "append=a")
        .await
        .problem(400, "bad-partition-key");
    let without = Setup::new(journal()).flag("--state", "none").ready().await;
    act(&without, "k", "append=a")
        .await
        .problem(404, "no-candidate");
    without.post("/api/echo/1").json("{}").send().await.ok();
    let listed = without.admin("/plugins").await.text().to_owned();
    assert!(
        listed.contains("there is no store for that: --state is none"),
        "{listed}"
    );
}

#[tokio::test]
async fn a_full_disk_refuses_and_loses_nothing() {
    let test = "a_full_disk_refuses_and_loses_nothing";
    let state = State::sqlite();
    let disk = state.file().parent().unwrap().to_owned();
    let resize = |flags: MsFlags, size: &str| {
        let size = Some(format!("size={size}"));
        mount(Some("tmpfs"), &disk, Some("tmpfs"), flags, size.as_deref())
    };
    if !own_mounts() || resize(MsFlags::empty(), "2m").is_err() {
        skipped(test, "a mount namespace (root)");
        return;
    }
    let node = one_node(&state).await;
    let mut written = Vec::new();
    let refused = loop {
        let id = format!("{}", written.len());
        let query = format!("append={id}&set=v{id}&bytes=100000");
        let answer = act(&node, "k", &query).await;
        if answer.status != 200 {
            break answer;
        }
        written.push(id);
    };
    let problem = refused.problem(503, "state-unavailable");
    assert_eq!(problem["retryable"], true);
    assert!(!written.is_empty());
    let expected = serde_json::to_string(&written).unwrap();
    node.post("/api/echo/1").json("{}").send().await.ok();
    resize(MsFlags::MS_REMOUNT, "64m").unwrap();
    until(|| async { act(&node, "k", "delete=v0").await.status == 200 }).await;
    assert_eq!(list(&node, "k").await, expected);
    act(&node, "k", "append=late&set=v&bytes=1000000")
        .await
        .ok();
}

#[tokio::test]
async fn two_nodes_with_two_files_keep_one_truth() {
    let (first, second) = (State::sqlite(), State::sqlite());
    let elder = one_node(&first).await;
    let later = Setup::new(journal())
        .id("n2")
        .state(&second)
        .seeds(&[&elder])
        .ready()
        .await;
    later.event("state-not-shared").await;
    for number in 0..30 {
        let key = format!("k{}", number % 10);
        let node = [&elder, &later][number % 2];
        act(node, &key, &format!("append={number}")).await.ok();
    }
    assert_eq!(later.served("journal").await, 0);
    assert_eq!(list(&later, "k1").await, list(&elder, "k1").await);
}

async fn a_poisonous_message_harms_no_other(state: State) {
    let gate = Gate::new().await;
    let node = node_with_gate(&gate, "timeout_ms = 3000\n", &state).await;
    act(&node, "k", "append=a").await.ok();
    let first = format!("append=b&wait_for={}/", gate.addr);
    let first = act(&node, "k", &first);
    let others = async {
        gate.wait_for(1).await;
        let [trap, fail, spin] = ["trap", "fail", "spin"].map(|end| format!("append=x&then={end}"));
        let all = [&*trap, "append=c", &fail, "append=d", &spin];
        let mut sent = Vec::new();
        for (place, query) in all.into_iter().enumerate() {
            // One after the other, so that their order is known.
            let mut message = Box::pin(act(&node, "k", query));
            let is_queued = until(|| async { queued(&node, "k").await == place as u64 + 2 });
            tokio::select! {
                answer = &mut message => panic!("{query} did not wait: {}", answer.status),
                () = is_queued => {}
            }
            sent.push(message);
        }
        gate.open();
        join_all(sent).await
    };
    let (first, others) = tokio::join!(first, others);
    first.ok();
    let statuses: Vec<u16> = others.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [500, 200, 409, 200, 504]);
    // What waits behind one that spins uses up its own time; the key is free once that was stopped.
    act(&node, "k", "append=e").await.ok();
    assert_eq!(list(&node, "k").await, r#"["a","b","c","d","e"]"#);
}

async fn a_read_sees_one_version_of_all_values(state: State) {
    let gate = Gate::new().await;
    let node = node_with_gate(&gate, "", &state).await;
    act(&node, "k", "append=a&set=v&bytes=100000").await.ok();
    // With this one before it, `v` is not loaded together with the list.
    act(&node, "k", "set=m&bytes=70000").await.ok();
    drop(node);
    let node = node_with_gate(&gate, "", &state).await;
    let path = format!("/api/journal/k?wait_for={}/&get=v", gate.addr);
    let read = node.get(&path).send();
    let write = async {
        // It has the list, and asks for the value when the gate opens.
        gate.wait_for(1).await;
        act(&node, "k", "append=b&set=v&bytes=200000").await.ok();
        gate.open();
    };
    let (read, ()) = tokio::join!(read, write);
    read.ok();
    assert_eq!(read.json(), json!({ "bytes": 200_000, "list": ["a", "b"] }));
}

#[tokio::test]
async fn a_reader_that_is_stopped_holds_up_no_commit() {
    let state = State::sqlite();
    let node = one_node(&state).await;
    act(&node, "k", "append=a").await.ok();
    let reader = Connection::open(state.file()).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let count = |reader: &Connection| -> i64 {
        let sql = "SELECT count(*) FROM meshage_entity";
        reader.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(count(&reader), 1);
    // More than one checkpoint's worth of pages.
    for number in 0..150 {
        let query = format!("append={number}&set=v&bytes=900000");
        act(&node, &format!("k{}", number % 3), &query).await.ok();
    }
    assert_eq!(count(&reader), 1, "it sees what it saw");
}

#[tokio::test]
async fn a_busy_committer_lets_others_in() {
    let state = State::sqlite();
    // Two nodes that do not know of each other: both commit by themselves.
    let (busy, other) = (one_node(&state).await, one_node(&state).await);
    let writers = Writers::start(8, 4, &[&busy]);
    writers.wait_for(100).await;
    for number in 0..50 {
        act(&other, "own", &format!("append={number}")).await.ok();
    }
    let journal = writers.check(&busy).await;
    journal.must_be_good();
}

#[tokio::test]
async fn a_file_that_was_replaced_or_deleted_takes_nothing_more() {
    let state = State::sqlite();
    let node = one_node(&state).await;
    act(&node, "k", "append=a").await.ok();
    let (file, away) = (state.file(), state.file().with_file_name("away"));
    std::fs::rename(&file, &away).unwrap();
    act(&node, "k", "append=b")
        .await
        .problem(503, "state-unavailable");
    let told = node.event("state-unavailable").await;
    assert!(told.contains("replaced or deleted"), "{told}");
    std::fs::write(&file, "another one").unwrap();
    until(|| async { act(&node, "other", "append=b").await.status == 503 }).await;
    std::fs::rename(&away, &file).unwrap();
    until(|| async { act(&node, "k", "append=c").await.status == 200 }).await;
    assert_eq!(list(&node, "k").await, r#"["a","c"]"#);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_concerns_no_other() {
    let state = State::sqlite();
    let node = one_node(&state).await;
    act(&node, "good", "append=a").await.ok();
    // As somebody may have written by hand.
    let connection = Connection::open(state.file()).unwrap();
    let row = "INSERT INTO meshage_entity (stream, key, commit_id, state) VALUES ('journal', 'bad', x'0102', NULL)";
    connection.execute(row, []).unwrap();
    for number in 0..20 {
        act(&node, "bad", "append=x").await.problem(500, "crashed");
        // Of this entity nothing is in memory: it is looked up.
        act(&node, &format!("new{number}"), "append=y").await.ok();
    }
    let told = node.event("state-unreadable").await;
    assert!(told.contains("journal/bad"), "{told}");
    assert_eq!(node.events("state-unavailable"), 0);
}

#[tokio::test]
async fn a_process_that_stays_in_the_turnstile_is_not_waited_for() {
    let state = State::sqlite();
    let node = one_node(&state).await;
    act(&node, "k", "append=a").await.ok();
    let turnstile = state.file().with_file_name("state.db-turn");
    let turnstile = std::fs::File::open(turnstile).unwrap();
    turnstile.lock().unwrap();
    act(&node, "k", "append=b")
        .await
        .problem(503, "state-unavailable");
    let told = node.event("state-unavailable").await;
    assert!(told.contains("does not end its commit"), "{told}");
    turnstile.unlock().unwrap();
    until(|| async { act(&node, "k", "append=c").await.status == 200 }).await;
    assert_eq!(list(&node, "k").await, r#"["a","c"]"#);
}
