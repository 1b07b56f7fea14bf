//! Handlers that call others and wait for them: their chains, also those that cross.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{
    Answer, Gate, Node, Plugins, Setup, State, act, journal_mesh, list, on_both_stores, refs,
    until, wait_for_mesh,
};

on_both_stores!(
    a_chain_of_calls_takes_effect_everywhere,
    a_chain_that_comes_back_is_refused,
    two_entities_that_call_each_other_at_once_both_get_through,
    three_chains_in_a_circle_get_through,
    a_handler_that_runs_again_calls_once,
    a_handler_that_runs_again_on_other_state_makes_other_calls,
    a_handler_whose_message_comes_again_calls_once,
    nothing_is_called_on_state_that_another_node_has_replaced,
    each_node_of_a_broadcast_calls_for_itself,
    nothing_leaves_before_what_came_before_is_committed,
    handlers_without_state_call_and_send,
);

/// How often two entities call each other at once, in this many pairs.
const CROSSINGS: usize = 1_000;
const PAIRS: usize = 10;

/// Keys of `journal` that the nodes own in turn.
async fn keys(nodes: &[Node], count: usize) -> Vec<String> {
    let mut keys = Vec::new();
    let mut number = 0;
    while keys.len() < count {
        let key = format!("k{number}");
        let owner = &nodes[keys.len() % nodes.len()].id;
        if nodes[0].ranking("journal", &key).await[0] == *owner {
            keys.push(key);
        }
        number += 1;
    }
    keys
}

async fn a_chain_of_calls_takes_effect_everywhere(state: State) {
    let nodes = journal_mesh(3, &state).await;
    let keys = keys(&nodes, 4).await;
    let query = format!("append=a&call={}", keys[1..].join(","));
    let answer = act(&nodes[2], &keys[0], &query).await;
    answer.ok();
    let mut called = &answer.json()["called"];
    for _ in &keys[1..] {
        assert_eq!(called["list"].to_string(), r#"["a"]"#);
        called = &called["called"];
    }
    for key in &keys {
        assert_eq!(list(&nodes[0], key).await, r#"["a"]"#);
    }
    // A read can read.
    let read = format!("/api/journal/{}?call={}", keys[0], keys[1]);
    let read = nodes[1].get(&read).send().await;
    assert_eq!(read.json()["called"]["list"].to_string(), r#"["a"]"#);
    // But nothing else.
    let write = format!("/api/journal/{}?call={}&append=b", keys[0], keys[1]);
    nodes[1].get(&write).send().await.problem(500, "read-only");
    // A failure of the other is one of the caller, and leaves nothing with it.
    let failing = "append=b&call=other&call_then=fail";
    act(&nodes[0], &keys[0], failing)
        .await
        .problem(409, "conflict");
    assert_eq!(list(&nodes[0], &keys[0]).await, r#"["a"]"#);
}

async fn a_chain_that_comes_back_is_refused(state: State) {
    let nodes = journal_mesh(2, &state).await;
    let keys = keys(&nodes, 5).await;
    for length in [1, 2, 5] {
        let mut called: Vec<&str> = keys[1..length].iter().map(String::as_str).collect();
        called.push(&keys[0]);
        let query = format!("append=a&call={}", called.join(","));
        let problem = act(&nodes[1], &keys[0], &query).await.problem(508, "cycle");
        let chain: Vec<String> = [keys[0].as_str()]
            .into_iter()
            .chain(called)
            .map(|key| format!("journal/{key}"))
            .collect();
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(&chain.join(" → ")), "{detail}");
        assert_eq!(problem["retryable"], false);
    }
    for key in &keys {
        assert_eq!(list(&nodes[0], key).await, "[]");
    }
    // A chain has its limit.
    let many: Vec<String> = (0..40).map(|number| format!("m{number}")).collect();
    let query = format!("append=a&call={}", many.join(","));
    act(&nodes[0], &keys[0], &query)
        .await
        .problem(500, "internal");
}

/// The entities of each pair call each other at the same time.
async fn two_entities_that_call_each_other_at_once_both_get_through(state: State) {
    let nodes = journal_mesh(2, &state).await;
    let keys = keys(&nodes, 2 * PAIRS).await;
    let pairs = keys.chunks(2).map(async |pair| {
        for round in 0..CROSSINGS / PAIRS {
            let both = [(0, 1), (1, 0)].map(|(from, to)| {
                let query = format!("append={round}-{from}&call={}", pair[to]);
                let node = &nodes[round % 2];
                let key = &pair[from];
                async move { act(node, key, &query).await.ok().to_owned() }
            });
            join_all(both).await;
        }
    });
    join_all(pairs).await;
    for key in &keys {
        let found = ids(&nodes[0], key).await;
        let once: BTreeSet<&String> = found.iter().collect();
        assert_eq!(found.len(), 2 * CROSSINGS / PAIRS, "{found:?}");
        assert_eq!(once.len(), found.len(), "{found:?}");
    }
}

async fn ids(node: &Node, key: &str) -> Vec<String> {
    serde_json::from_str(&list(node, key).await).unwrap()
}

/// Each waits for the next, and the last for the first.
async fn three_chains_in_a_circle_get_through(state: State) {
    let nodes = journal_mesh(3, &state).await;
    let keys = keys(&nodes, 3).await;
    for round in 0..5 {
        let chains = [0, 1, 2].map(|first: usize| {
            let [a, b, c] = [0, 1, 2].map(|step| &keys[(first + step) % 3]);
            let query = format!("append={round}-{first}&call={b},{c}");
            let node = &nodes[first];
            async move { act(node, a, &query).await }
        });
        for answer in join_all(chains).await {
            answer.ok();
        }
    }
    for key in &keys {
        assert_eq!(ids(&nodes[0], key).await.len(), 15);
    }
}

async fn gated(state: &State) -> (Gate, Vec<Node>) {
    let gate = Gate::new().await;
    let mut nodes: Vec<Node> = Vec::new();
    for number in 1..=2 {
        let plugins = Plugins::empty()
            .with("journal", "journal")
            .with_file("journal.toml", gate.manifest());
        let setup = Setup::new(plugins).id(&format!("n{number}")).state(state);
        nodes.push(setup.seeds(&refs(&nodes)).start().await);
    }
    wait_for_mesh(&refs(&nodes)).await;
    (gate, nodes)
}

async fn a_handler_that_runs_again_calls_once(state: State) {
    let (gate, nodes) = gated(&state).await;
    let keys = keys(&nodes, 2).await;
    act(&nodes[0], &keys[0], "append=before").await.ok();
    let query = format!("append=a&call={}&wait_for={}/", keys[1], gate.addr);
    let asking = async {
        let answer = act(&nodes[0], &keys[0], &query).await;
        answer.ok();
        answer.json()
    };
    let disturbing = async {
        gate.wait_for(1).await;
        state.commit_elsewhere(&keys[0]).await;
        gate.open();
    };
    let (answer, ()) = tokio::join!(asking, disturbing);
    gate.wait_for(2).await;
    assert_eq!(answer["called"]["list"].to_string(), r#"["a"]"#);
    assert_eq!(list(&nodes[1], &keys[1]).await, r#"["a"]"#);
    assert_eq!(list(&nodes[1], &keys[0]).await, r#"["before","a"]"#);
}

/// What the first run called stays called: a call is no part of what its caller commits.
async fn a_handler_that_runs_again_on_other_state_makes_other_calls(state: State) {
    let (gate, nodes) = gated(&state).await;
    let keys = keys(&nodes, 3).await;
    act(&nodes[0], &keys[0], &format!("append={}", keys[1]))
        .await
        .ok();
    let query = format!("append=a&call=last&wait_for={}/", gate.addr);
    let asking = async { act(&nodes[0], &keys[0], &query).await.ok().to_owned() };
    let disturbing = async {
        gate.wait_for(1).await;
        let list = format!(r#"["{}","{}"]"#, keys[1], keys[2]);
        state.set_elsewhere(&keys[0], "list", &list).await;
        gate.open();
    };
    tokio::join!(asking, disturbing);
    let list_of = async |number: usize| list(&nodes[1], &keys[number]).await;
    assert_eq!(
        list_of(0).await,
        format!(r#"["{}","{}","a"]"#, keys[1], keys[2])
    );
    assert_eq!(
        (list_of(1).await, list_of(2).await),
        (r#"["a"]"#.into(), r#"["a"]"#.into())
    );
}

/// Its earlier runs left nothing behind but what they called.
async fn a_handler_whose_message_comes_again_calls_once(state: State) {
    let nodes = journal_mesh(2, &state).await;
    let keys = keys(&nodes, 4).await;
    for (sender, target) in [(0, 1), (1, 0)] {
        let called = &keys[2 + sender];
        let query = format!(
            "send={}&send_id=s{sender}&send_then=trap&send_call={called}",
            keys[target]
        );
        act(&nodes[0], &keys[sender], &query).await.ok();
    }
    let failed = || async {
        let sends = nodes[0].admin("/sends").await.json();
        let sends = sends["sends"].as_array().unwrap().clone();
        sends.iter().all(|sent| sent["tries"].as_u64() > Some(1))
    };
    until(failed).await;
    // A client that repeats what failed.
    for _ in 0..3 {
        let path = format!(
            "/api/journal/{}?append=r&call={}&then=fail",
            keys[0], keys[2]
        );
        let repeated = nodes[1].post(&path).header("idempotency-key", "one");
        repeated.send().await.problem(409, "conflict");
    }
    assert_eq!(list(&nodes[0], &keys[2]).await, r#"["s0","r"]"#);
    assert_eq!(list(&nodes[0], &keys[3]).await, r#"["s1"]"#);
    assert_eq!(list(&nodes[0], &keys[0]).await, "[]");
}

async fn nothing_is_called_on_state_that_another_node_has_replaced(state: State) {
    let nodes = journal_mesh(2, &state).await;
    let keys = keys(&nodes, 4).await;
    for owner in 0..2 {
        let other = &keys[2];
        let first = format!("append={other}");
        act(&nodes[0], &keys[owner], &first).await.ok();
        // The owner has it in memory.
        let list_now = format!(r#"["{}"]"#, keys[3]);
        state.set_elsewhere(&keys[owner], "list", &list_now).await;
        let query = "append=a&call=last".to_owned();
        act(&nodes[0], &keys[owner], &query).await.ok();
        assert_eq!(list(&nodes[1], other).await, "[]");
    }
    assert_eq!(list(&nodes[1], &keys[3]).await, r#"["a","a"]"#);
}

async fn each_node_of_a_broadcast_calls_for_itself(state: State) {
    let mut nodes: Vec<Node> = Vec::new();
    for number in 1..=2 {
        let plugins = Plugins::empty()
            .with("journal", "journal")
            .with("caller", "caller");
        let setup = Setup::new(plugins).id(&format!("n{number}")).state(&state);
        nodes.push(setup.seeds(&refs(&nodes)).start().await);
    }
    wait_for_mesh(&refs(&nodes)).await;
    let body = to("journal", "k", json!({ "append": "called" }));
    let all = nodes[0].post("/api/broadcast/caller/a").json(&body);
    all.send().await.ok();
    assert_eq!(list(&nodes[0], "k").await, r#"["called","called"]"#);
}

/// A call shows others what a handler saw: it waits until that cannot be lost any more.
async fn nothing_leaves_before_what_came_before_is_committed(state: State) {
    let State::Sqlite(_) = &state else { return };
    let (gate, nodes) = gated(&state).await;
    gate.open();
    let keys = keys(&nodes, 2).await;
    act(&nodes[0], &keys[0], "append=before").await.ok();
    act(&nodes[0], &keys[1], "append=before").await.ok();
    let file = rusqlite::Connection::open(state.file()).unwrap();
    let call = format!("append=call&call={}", keys[1]);
    let fetch = format!("append=fetch&wait_for={}/", gate.addr);
    for query in [call, fetch] {
        let before = nodes[0].served("journal").await;
        let others = nodes[1].served("journal").await;
        file.execute_batch("BEGIN IMMEDIATE").unwrap();
        // This one cannot be committed now, and the next one sees what it wrote.
        let first = act(&nodes[0], &keys[0], "append=first");
        let next = async {
            until(|| async { nodes[0].served("journal").await > before }).await;
            act(&nodes[0], &keys[0], &query).await
        };
        let watching = async {
            until(|| async { nodes[0].served("journal").await == before + 2 }).await;
            nodes[0].wait_until_running("journal", 1).await;
            assert_eq!(nodes[1].served("journal").await, others);
            assert_eq!(gate.arrived(), 0);
            file.execute_batch("COMMIT").unwrap();
        };
        let (first, next, ()) = tokio::join!(first, next, watching);
        first.ok();
        next.ok();
    }
    assert_eq!(gate.arrived(), 1);
}

fn to(stream: &str, key: &str, body: Value) -> String {
    json!({ "stream": stream, "key": key, "body": body }).to_string()
}

async fn ask(node: &Node, key: &str, body: &str) -> Answer {
    let path = format!("/api/caller/{key}");
    node.post(&path).json(body).send().await
}

async fn handlers_without_state_call_and_send(state: State) {
    let mut nodes: Vec<Node> = Vec::new();
    for number in 1..=2 {
        let plugins = Plugins::empty()
            .with("journal", "journal")
            .with("caller", "caller")
            .with_file(
                "caller.toml",
                "concurrency = 2\nqueue = 200\nheaders = [\"traceparent\"]\n",
            );
        let setup = Setup::new(plugins).id(&format!("n{number}")).state(&state);
        nodes.push(setup.seeds(&refs(&nodes)).start().await);
    }
    wait_for_mesh(&refs(&nodes)).await;
    let keys = keys(&nodes, 2).await;
    for (number, key) in keys.iter().enumerate() {
        let body = to("journal", key, json!({ "append": "called" }));
        let called = ask(&nodes[0], "a", &body).await;
        assert_eq!(called.json()["list"].to_string(), r#"["called"]"#);
        let mut send: Value =
            serde_json::from_str(&to("journal", key, json!({ "append": "sent" }))).unwrap();
        send["send"] = true.into();
        let sent = ask(&nodes[number], "a", &send.to_string()).await;
        assert_eq!(sent.status, 202);
        assert_eq!(list(&nodes[1], key).await, r#"["called","sent"]"#);
        // It is answered, and so it is not sent again.
        send["body"] = json!({ "append": "x", "then": "fail" });
        let sent = ask(&nodes[number], "a", &send.to_string()).await;
        assert_eq!(sent.status, 202);
    }
    // Its failures are those of its caller.
    let body = to("journal", "k", json!({ "append": "x", "then": "fail" }));
    ask(&nodes[0], "a", &body).await.problem(409, "conflict");
    ask(&nodes[0], "a", &to("nobody", "k", json!({})))
        .await
        .problem(503, "unavailable");
    // The trace goes on, over two calls.
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let inner =
        json!({ "stream": "caller", "key": "c", "body": { "stream": "", "key": "", "body": 0 } });
    let outer = to("caller", "b", inner);
    let request = nodes[0].post("/api/caller/a").json(&outer);
    let traced = request.header("traceparent", trace).send().await;
    assert_eq!(traced.ok(), format!("\"{trace}\""));
    // 64 callers of their own stream, which runs two at once.
    let calls = (0..64).map(|number| {
        let last = json!({ "stream": "", "key": "", "body": 0 });
        let body = to("caller", &format!("to{number}"), last);
        let node = &nodes[number % 2];
        async move { ask(node, &format!("from{number}"), &body).await }
    });
    for answer in join_all(calls).await {
        answer.ok();
    }
}
