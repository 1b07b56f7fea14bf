//! Each message of a stateful stream takes effect once: its client repeats it, its owner dies, hangs,
//! or comes back.

use futures_util::future::join_all;
use http::Method;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::harness::{
    Answer, Client, Gate, Node, Setup, State, Writers, act, journal, journal_mesh, journal_setup,
    list, on_both_stores, refs, until, wait_for_mesh,
};

on_both_stores!(
    a_repetition_with_its_key_gets_the_same_reply,
    a_key_is_forgotten_after_its_time,
    messages_with_one_key_at_once_take_effect_once,
    with_a_node_killed_again_and_again_no_request_to_the_others_fails,
    who_comes_back_finds_what_another_has_done_meanwhile,
    what_failed_elsewhere_does_not_succeed_afterwards,
    what_is_read_long_after_its_time_takes_no_effect,
    tables_without_records_get_them,
    a_reply_that_may_have_to_be_kept_has_its_limit,
);

const KEY: &str = "idempotency-key";

async fn act_with_key(node: &Node, entity: &str, key: &str, query: &str) -> Answer {
    let path = format!("/api/journal/{entity}?{query}");
    node.post(&path).header(KEY, key).send().await
}

async fn a_reply_that_may_have_to_be_kept_has_its_limit(state: State) {
    let nodes = journal_mesh(2, &state).await;
    for node in &nodes {
        let key = nodes[0].key_owned_by("journal", &node.id).await;
        let problem = act(&nodes[0], &key, "append=a&reply_bytes=1048575").await;
        let problem = problem.problem(500, "limit-exceeded");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("1 MiB in the reply"), "{detail}");
        assert_eq!(list(&nodes[0], &key).await, "[]");
        let fits = act_with_key(&nodes[0], &key, "one", "append=b&reply_bytes=1048574").await;
        assert!(!is_replayed(&fits));
        let again = act_with_key(&nodes[0], &key, "one", "append=b&reply_bytes=1048574").await;
        assert!(is_replayed(&again) && again.body == fits.body);
        // What only reads is not kept.
        let read = format!("/api/journal/{key}?reply_bytes=2000000");
        nodes[0].get(&read).send().await.ok();
    }
}

#[track_caller]
fn is_replayed(answer: &Answer) -> bool {
    answer.ok();
    answer.header("meshage-replayed").is_some()
}

async fn a_repetition_with_its_key_gets_the_same_reply(state: State) {
    let mut nodes = journal_mesh(2, &state).await;
    let own = nodes[0].key_owned_by("journal", "n1").await;
    let other = nodes[0].key_owned_by("journal", "n2").await;
    for entity in [&own, &other] {
        let first = act_with_key(&nodes[0], entity, "one", "append=a").await;
        assert!(!is_replayed(&first));
        act(&nodes[0], entity, "append=b").await.ok();
        for node in &nodes {
            let again = act_with_key(node, entity, "one", "append=a").await;
            assert!(is_replayed(&again));
            assert_eq!(again.text(), first.text());
            assert_eq!(again.header("content-type"), first.header("content-type"));
        }
        // Another query, body, or method.
        let query = act_with_key(&nodes[1], entity, "one", "append=c").await;
        let path = format!("/api/journal/{entity}?append=a");
        let body = nodes[1].post(&path).header(KEY, "one").json("1");
        let method = nodes[1].put(&path).header(KEY, "one");
        for answer in [query, body.send().await, method.send().await] {
            let problem = answer.problem(422, "idempotency-key-reused");
            assert_eq!(problem["retryable"], false);
        }
        // Failures are not kept.
        act_with_key(&nodes[0], entity, "two", "append=c&then=fail")
            .await
            .problem(409, "conflict");
        let done = act_with_key(&nodes[0], entity, "two", "append=d").await;
        assert!(!is_replayed(&done));
        // Nothing was written, and the reply is the same all the same.
        let empty = act_with_key(&nodes[0], entity, "three", "").await;
        act(&nodes[0], entity, "append=e").await.ok();
        let again = act_with_key(&nodes[0], entity, "three", "").await;
        assert!(is_replayed(&again) && again.text() == empty.text());
    }
    // A node that begins knows as much.
    nodes[1].kill().await;
    let setup = journal_setup(2, &state);
    nodes[1] = setup.seeds(&[&nodes[0]]).start().await;
    wait_for_mesh(&refs(&nodes)).await;
    for (entity, node) in [(&own, &nodes[1]), (&other, &nodes[1]), (&other, &nodes[0])] {
        assert!(is_replayed(
            &act_with_key(node, entity, "one", "append=a").await
        ));
        assert_eq!(list(node, entity).await, r#"["a","b","d","e"]"#);
    }
}

async fn a_key_is_forgotten_after_its_time(state: State) {
    let node = journal_setup(1, &state)
        .flag("--idempotency-ttl", "200ms")
        .ready()
        .await;
    act_with_key(&node, "k", "one", "append=a").await.ok();
    until(|| async {
        let again = act_with_key(&node, "k", "one", "append=a").await;
        !is_replayed(&again)
    })
    .await;
    assert_eq!(list(&node, "k").await, r#"["a","a"]"#);
}

async fn messages_with_one_key_at_once_take_effect_once(state: State) {
    let nodes = journal_mesh(2, &state).await;
    for round in 0..10 {
        let entity = format!("k{round}");
        let acts = (0..16)
            .map(|number| act_with_key(&nodes[number % 2], &entity, "one", "append=a&wait_ms=1"));
        let answers = join_all(acts).await;
        let first = answers.iter().filter(|answer| !is_replayed(answer)).count();
        assert_eq!(first, 1);
        assert_eq!(list(&nodes[0], &entity).await, r#"["a"]"#);
    }
}

/// How often the node is killed. `MESHAGE_KILLS=30` is a minute.
fn kills() -> u32 {
    let kills = std::env::var("MESHAGE_KILLS").ok();
    kills.map_or(6, |kills| kills.parse().unwrap())
}

async fn with_a_node_killed_again_and_again_no_request_to_the_others_fails(state: State) {
    let mut nodes = journal_mesh(3, &state).await;
    let writers = Writers::start(16, 30, &refs(&nodes[..2]));
    writers.wait_for(200).await;
    for _ in 0..kills() {
        let began = Instant::now();
        nodes[2].kill().await;
        writers.wait_for(300).await;
        let setup = journal_setup(3, &state);
        nodes[2] = setup.seeds(&refs(&nodes[..2])).start().await;
        wait_for_mesh(&refs(&nodes)).await;
        writers.wait_for(300).await;
        println!("once more after {:?}", began.elapsed());
    }
    let replays: u64 = {
        let mut replays = 0;
        for node in &nodes[..2] {
            replays += node.metric("meshage_state_replays_total").await;
        }
        replays
    };
    let journal = writers.check(&nodes[0]).await;
    println!("{} answered, {replays} of them again", journal.good());
    journal.must_be_good();
}

/// Two nodes whose `journal` has this manifest.
async fn two_nodes(state: &State, manifest: &str) -> Vec<Node> {
    let mut nodes = Vec::new();
    for number in 1..=2 {
        let plugins = journal().with_file("journal.toml", manifest);
        let setup = Setup::new(plugins).id(&format!("n{number}")).state(state);
        nodes.push(setup.seeds(&refs(&nodes)).start().await);
    }
    wait_for_mesh(&refs(&nodes)).await;
    nodes
}

async fn who_comes_back_finds_what_another_has_done_meanwhile(state: State) {
    let gate = Gate::new().await;
    let manifest = gate.manifest();
    let nodes = two_nodes(&state, &manifest).await;
    let key = nodes[0].key_owned_by("journal", "n2").await;
    act(&nodes[0], &key, "append=a").await.ok();
    // Its owner hangs while the handler runs, and the first node does it itself.
    let query = format!("append=b&wait_for={}/", gate.addr);
    let meanwhile = async {
        gate.wait_for(1).await;
        nodes[1].hang().await;
        gate.wait_for(2).await;
        gate.open();
    };
    let (answer, ()) = tokio::join!(act(&nodes[0], &key, &query), meanwhile);
    answer.ok();
    assert_eq!(answer.node(), "n1");
    assert_eq!(list(&nodes[0], &key).await, r#"["a","b"]"#);
    nodes[1].signal(Signal::CONT);
    wait_for_mesh(&refs(&nodes)).await;
    act(&nodes[0], &key, "append=c").await.ok();
    for node in &nodes {
        assert_eq!(list(node, &key).await, r#"["a","b","c"]"#);
    }
}

/// The caller was told that nothing was left behind.
async fn what_failed_elsewhere_does_not_succeed_afterwards(state: State) {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = server.local_addr().unwrap();
    let manifest = format!("allowed_hosts = [\"{addr}\"]");
    let nodes = two_nodes(&state, &manifest).await;
    let key = nodes[0].key_owned_by("journal", "n2").await;
    act(&nodes[0], &key, "append=a").await.ok();
    let query = format!("append=b&wait_for={addr}/");
    let meanwhile = async {
        // The owner's handler waits for its answer, and hangs; that of the first node gets none.
        let (mut first, _) = server.accept().await.unwrap();
        let mut head = [0; 1024];
        assert!(first.read(&mut head).await.unwrap() > 0);
        nodes[1].hang().await;
        drop(server.accept().await.unwrap());
        drop(server);
        first
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nopen")
            .await
            .unwrap();
    };
    let (answer, ()) = tokio::join!(act(&nodes[0], &key, &query), meanwhile);
    answer.problem(500, "internal");
    assert_eq!(answer.node(), "n1");
    nodes[1].signal(Signal::CONT);
    wait_for_mesh(&refs(&nodes)).await;
    // Its run ends before this one.
    act(&nodes[1], &key, "append=c").await.ok();
    for node in &nodes {
        assert_eq!(list(node, &key).await, r#"["a","c"]"#);
    }
}

/// The owner is stopped with the message unread in its socket, for so long that even the record is
/// deleted when it reads it.
async fn what_is_read_long_after_its_time_takes_no_effect(state: State) {
    let mut nodes: Vec<Node> = Vec::new();
    for number in 1..=2 {
        let setup = journal_setup(number, &state).flag("--timeout", "3s");
        nodes.push(setup.seeds(&refs(&nodes)).start().await);
    }
    wait_for_mesh(&refs(&nodes)).await;
    let key = nodes[0].key_owned_by("journal", "n2").await;
    act(&nodes[0], &key, "append=a").await.ok();
    nodes[1].hang().await;
    let answer = act(&nodes[0], &key, "append=b").await;
    answer.ok();
    assert_eq!(answer.node(), "n1");
    until(|| async { state.records().await == 0 }).await;
    nodes[1].signal(Signal::CONT);
    wait_for_mesh(&refs(&nodes)).await;
    act(&nodes[0], &key, "append=c").await.ok();
    for node in &nodes {
        assert_eq!(list(node, &key).await, r#"["a","b","c"]"#);
    }
}

async fn tables_without_records_get_them(state: State) {
    let mut node = journal_setup(1, &state).ready().await;
    act(&node, "k", "append=a").await.ok();
    node.kill().await;
    // As the version before had them.
    let before = "DROP TABLE meshage_reply;
        DROP TABLE meshage_send;
        ALTER TABLE meshage_store DROP COLUMN swept_to;
        ALTER TABLE meshage_entity DROP COLUMN messages_until;
        ALTER TABLE meshage_entity DROP COLUMN keys_until;
        UPDATE meshage_store SET version = 1, compatible = 1";
    state.execute(before).await;
    let nodes = journal_mesh(2, &state).await;
    for node in &nodes {
        act_with_key(node, "k", "one", "append=b").await.ok();
        assert_eq!(list(node, "k").await, r#"["a","b"]"#);
    }
}

/// Its own connection is the only one that can repeat it.
#[tokio::test]
async fn a_first_attempt_on_the_owner_leaves_no_record() {
    let state = State::sqlite();
    let nodes = journal_mesh(2, &state).await;
    let own = nodes[0].key_owned_by("journal", "n1").await;
    let other = nodes[0].key_owned_by("journal", "n2").await;
    act(&nodes[0], &own, "append=a").await.ok();
    // A message that writes nothing has nothing to repeat.
    act(&nodes[0], &other, "").await.ok();
    list(&nodes[0], &other).await;
    assert_eq!(state.records().await, 0);
    act(&nodes[0], &other, "append=a").await.ok();
    assert_eq!(state.records().await, 1);
    let client = Client::new();
    let url = format!("http://{}/api/journal/{own}", nodes[0].http);
    let kept = client.request(Method::POST, &url).header(KEY, "one");
    kept.send().await.ok();
    assert_eq!(state.records().await, 2);
}
