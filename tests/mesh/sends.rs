//! What handlers send: messages and timers, which take effect once, whatever dies.

use std::collections::BTreeSet;
use std::time::SystemTime;

use http::Method;
use serde_json::{Value, json};

use crate::harness::{
    Answer, Client, Gate, Node, Setup, State, act, guest, journal, journal_mesh, journal_setup,
    list, on_both_stores, refs, skipped, until, wait_for_mesh,
};

on_both_stores!(
    what_is_sent_takes_effect_at_its_target,
    what_fails_sends_nothing,
    a_timer_comes_is_replaced_and_is_cancelled,
    timers_of_a_node_that_is_gone_come_all_the_same,
    what_is_sent_under_kill_takes_effect_once,
    what_nobody_offers_waits_until_somebody_does,
    what_is_refused_is_told,
    what_always_fails_is_stuck_and_can_be_retried,
    an_entity_can_send_to_itself,
    timers_come_once_with_a_node_killed_in_between,
    what_is_cancelled_or_replaced_while_it_waits_for_its_turn_takes_no_effect,
    a_timer_that_sets_itself_again_comes_again,
    a_client_cannot_pretend_to_be_a_timer,
    what_cannot_be_sent_is_named,
    timers_that_are_due_at_once_come_at_once,
    a_timer_that_never_comes_is_shown_all_the_same,
);

/// Timers of this many entities, so many each, all of them within ten seconds.
const TIMED: u64 = 200;
const TIMERS: u64 = 50;
const EVERY_MS: u64 = 200;

/// For so long after the kill timers of the node that is gone may wait for others.
const HELD_UP_MS: u64 = 3_500;

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_millis() as u64
}

async fn wait_for_list(node: &Node, key: &str, expected: &str) {
    until(|| async { list(node, key).await == expected }).await;
}

async fn what_is_sent_takes_effect_at_its_target(state: State) {
    let nodes = journal_mesh(2, &state).await;
    let own = nodes[0].key_owned_by("journal", "n1").await;
    let other = nodes[0].key_owned_by("journal", "n2").await;
    let mut expected = Vec::new();
    for (number, from) in [&own, &other].into_iter().enumerate() {
        let id = format!("s{number}");
        let query = format!("append=a&send={other}&send_id={id}");
        act(&nodes[0], from, &query).await.ok();
        expected.push(id);
    }
    until(|| async {
        let found = list(&nodes[1], &other).await;
        expected.iter().all(|id| found.contains(id))
    })
    .await;
    until(|| async { state.sends().await == 0 }).await;
    assert_eq!(list(&nodes[0], &own).await, r#"["a"]"#);
}

async fn what_is_refused_is_told(state: State) {
    let nodes = journal_mesh(1, &state).await;
    let query = "append=a&send=b&send_id=x&send_then=fail";
    act(&nodes[0], "a", query).await.ok();
    let line = nodes[0].event("send-refused").await;
    assert!(line.contains(r#""stream":"journal""#), "{line}");
    until(|| async { state.sends().await == 0 }).await;
    assert_eq!(list(&nodes[0], "b").await, "[]");
}

async fn sends(node: &Node, query: &str) -> Vec<Value> {
    let listed = node.admin(&format!("/sends{query}")).await;
    listed.ok();
    listed.json()["sends"].as_array().unwrap().clone()
}

async fn retry(node: &Node, path: &str) -> Answer {
    let url = format!("http://{}/sends{path}", node.admin);
    Client::new().request(Method::POST, &url).send().await
}

async fn what_nobody_offers_waits_until_somebody_does(state: State) {
    let plugins = journal();
    let setup = Setup::new(plugins.clone()).id("n1").state(&state);
    let node = setup.ready().await;
    act(&node, "a", "send=k&send_id=x&send_to=late").await.ok();
    until(|| async {
        let sends = sends(&node, "").await;
        sends
            .iter()
            .any(|sent| sent["problem"] == "no node offers the stream")
    })
    .await;
    assert_eq!(sends(&node, "?stuck=true").await.len(), 0);
    plugins.put("late.wasm", &std::fs::read(guest("journal")).unwrap());
    let read = || node.get("/api/late/k").send();
    until(|| async { read().await.status == 200 }).await;
    let id = sends(&node, "").await[0]["id"].clone();
    let path = format!("/{}/retry", id.as_str().unwrap());
    assert_eq!(retry(&node, &path).await.ok(), r#"{"retried":1}"#);
    until(|| async { read().await.json()["list"] == json!(["x"]) }).await;
    until(|| async { state.sends().await == 0 }).await;
}

async fn what_always_fails_is_stuck_and_can_be_retried(state: State) {
    let nodes = journal_mesh(2, &state).await;
    let to = nodes[0].key_owned_by("journal", "n2").await;
    let send = |then: &str| format!("send={to}&send_id=x&send_then={then}");
    // That is an answer.
    act(&nodes[0], "a", &send("fail")).await.ok();
    until(|| async { state.sends().await == 0 }).await;
    act(&nodes[0], "a", &send("trap")).await.ok();
    let tries = || async { sends(&nodes[0], "").await[0]["tries"].as_u64() };
    until(|| async { tries().await == Some(1) }).await;
    let waiting = &sends(&nodes[1], "").await[0];
    assert_eq!(
        (&waiting["state"], &waiting["problem"]),
        (&"waiting".into(), &"the handler crashed".into())
    );
    assert!(waiting["nextTry"].is_string());
    state
        .execute("UPDATE meshage_send SET tries = 19, wake_at = 1")
        .await;
    until(|| async { sends(&nodes[0], "?stuck=true").await.len() == 1 }).await;
    let stuck = &sends(&nodes[0], "?stuck=true").await[0];
    assert_eq!(
        (stuck["tries"].as_u64(), &stuck["nextTry"]),
        (Some(20), &Value::Null)
    );
    assert_eq!(retry(&nodes[1], "/retry").await.ok(), r#"{"retried":1}"#);
    until(|| async { tries().await == Some(1) }).await;
    let unknown = retry(&nodes[0], "/01900000-0000-7000-8000-000000000000/retry").await;
    assert_eq!(unknown.status, 404);
    assert_eq!(retry(&nodes[0], "/x/retry").await.status, 400);
    assert_eq!(list(&nodes[0], &to).await, "[]");
}

/// It is not for everybody who can connect.
#[tokio::test]
async fn only_the_own_host_can_retry_without_a_token() {
    let Some(addr) = own_address() else {
        return skipped(
            "only_the_own_host_can_retry_without_a_token",
            "a network interface besides loopback",
        );
    };
    let setup = Setup::new(journal()).state(&State::sqlite());
    let node = setup
        .flag("--admin-bind", "0.0.0.0")
        .flag("--insecure", "true")
        .ready()
        .await;
    let port = node.admin.rsplit(':').next().unwrap();
    for (host, status) in [("127.0.0.1".to_owned(), 200), (addr, 403)] {
        let url = format!("http://{host}:{port}/sends");
        let client = Client::new();
        assert_eq!(client.request(Method::GET, &url).send().await.status, 200);
        let url = format!("{url}/retry");
        let answer = client.request(Method::POST, &url).send().await;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
}

/// An address of this host that is not loopback. Nothing is sent.
fn own_address() -> Option<String> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let addr = socket.local_addr().ok()?.ip();
    (!addr.is_loopback()).then(|| addr.to_string())
}

async fn timers_come_once_with_a_node_killed_in_between(state: State) {
    let mut nodes = journal_mesh(3, &state).await;
    let began = now_ms();
    // The first ones are due when all are set.
    for number in 0..TIMED {
        let after_ms = (began + 5_000 + number % EVERY_MS).saturating_sub(now_ms());
        let query = format!("timers={TIMERS}&every_ms={EVERY_MS}&after_ms={after_ms}");
        let node = &nodes[number as usize % 3];
        act(node, &format!("k{number}"), &query).await.ok();
    }
    let middle = TIMED * TIMERS / 2;
    until(|| async { state.sends().await <= middle }).await;
    let killed_at = now_ms();
    nodes[2].kill().await;
    until(|| async { state.sends().await == 0 }).await;
    // How late they were: those before the kill, those that it held up, and those afterwards.
    let mut late = [const { Vec::new() }; 3];
    for number in 0..TIMED {
        let list = list(&nodes[0], &format!("k{number}")).await;
        let list: Vec<String> = serde_json::from_str(&list).unwrap();
        let dues: BTreeSet<u64> = list
            .iter()
            .map(|entry| {
                let (due, ms) = entry.split_once('+').unwrap();
                let (due, ms): (u64, u64) = (due.parse().unwrap(), ms.parse().unwrap());
                late[match due {
                    _ if due + ms < killed_at => 0,
                    _ if due < killed_at + HELD_UP_MS => 1,
                    _ => 2,
                }]
                .push(ms);
                due
            })
            .collect();
        assert_eq!(list.len() as u64, TIMERS, "k{number}: {list:?}");
        assert_eq!(dues.len() as u64, TIMERS, "k{number}: {list:?}");
    }
    for (name, late) in ["before", "across", "after"].into_iter().zip(&mut late) {
        late.sort_unstable();
        let at = |share: usize| late.get(late.len() * share / 100).copied();
        eprintln!(
            "{name} the kill: {} timers, p50 {:?} ms, p99 {:?} ms, at most {:?} ms late",
            late.len(),
            at(50),
            at(99),
            late.last()
        );
    }
}

/// The timer is due while the message that cancels it runs.
async fn what_is_cancelled_or_replaced_while_it_waits_for_its_turn_takes_no_effect(state: State) {
    let gate = Gate::new().await;
    let plugins = journal().with_file("journal.toml", gate.manifest());
    let node = Setup::new(plugins).id("n1").state(&state).ready().await;
    let mut waiting = 0;
    for (query, expected) in [
        ("cancel=t", r#"["a"]"#),
        ("remind=t&after_ms=1", r#"["a","timer-t"]"#),
    ] {
        waiting += 1;
        let key = format!("k{waiting}");
        act(&node, &key, "remind=t&after_ms=200").await.ok();
        gate.close();
        let query = format!("append=a&{query}&wait_for={}/", gate.addr);
        let holding = async { act(&node, &key, &query).await.ok().to_owned() };
        let opening = async {
            gate.wait_for(waiting).await;
            // Its delivery is behind the message that runs.
            let path = format!("/entities/journal/{key}");
            until(|| async { node.admin(&path).await.json()["queued"] == 2 }).await;
            gate.open();
        };
        tokio::join!(holding, opening);
        until(|| async { state.sends().await == 0 }).await;
        assert_eq!(list(&node, &key).await, expected);
    }
}

async fn a_timer_that_sets_itself_again_comes_again(state: State) {
    let nodes = journal_mesh(2, &state).await;
    for node in &nodes {
        let key = nodes[0].key_owned_by("journal", &node.id).await;
        act(&nodes[0], &key, "remind=t&after_ms=1&again=3")
            .await
            .ok();
        wait_for_list(
            &nodes[0],
            &key,
            r#"["timer-t","timer-t","timer-t","timer-t"]"#,
        )
        .await;
        until(|| async { state.sends().await == 0 }).await;
    }
}

async fn what_cannot_be_sent_is_named(state: State) {
    let nodes = journal_mesh(1, &state).await;
    for (query, part) in [
        ("send=&send_id=x", "cannot send to the key \"\""),
        (
            "send=k&send_id=x&send_to=a%20b",
            "cannot send to the stream \"a b\"",
        ),
        ("remind=a%0Ab", "a timer cannot be named \"a\\nb\""),
    ] {
        let problem = act(&nodes[0], "k", query).await.problem(500, "internal");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(part), "{detail}");
    }
}

/// They come before their own node has heard that they are committed, or after. None of them waits for
/// another node to find it.
async fn timers_that_are_due_at_once_come_at_once(state: State) {
    let nodes = journal_mesh(2, &state).await;
    for number in 0..60 {
        let key = format!("k{}", number % 20);
        act(&nodes[number % 2], &key, "timers=1").await.ok();
    }
    until(|| async { state.sends().await == 0 }).await;
    for node in &nodes {
        assert_eq!(node.metric("meshage_sends_late_total").await, 0);
    }
}

async fn a_timer_that_never_comes_is_shown_all_the_same(state: State) {
    let nodes = journal_mesh(1, &state).await;
    let query = format!("remind=never&after_ms={}", u64::MAX);
    act(&nodes[0], "k", &query).await.ok();
    let sends = sends(&nodes[0], "").await;
    assert!(sends[0]["due"].is_string(), "{sends:?}");
    act(&nodes[0], "k", "cancel=never").await.ok();
    assert_eq!(state.sends().await, 0);
}

async fn a_client_cannot_pretend_to_be_a_timer(state: State) {
    let nodes = journal_mesh(2, &state).await;
    for key in ["a", "b", "c", "d"] {
        let path = format!("/api/journal/{key}?append=x");
        let request = nodes[0].post(&path).header("meshage-timer", "t");
        request
            .header("meshage-from", "journal/a")
            .send()
            .await
            .ok();
        assert_eq!(list(&nodes[1], key).await, r#"["x"]"#);
    }
}

async fn an_entity_can_send_to_itself(state: State) {
    let nodes = journal_mesh(2, &state).await;
    for node in &nodes {
        let key = nodes[0].key_owned_by("journal", &node.id).await;
        let query = format!("append=a&send={key}&send_id=b");
        act(&nodes[0], &key, &query).await.ok();
        wait_for_list(&nodes[0], &key, r#"["a","b"]"#).await;
    }
}

async fn what_fails_sends_nothing(state: State) {
    let nodes = journal_mesh(1, &state).await;
    for (end, status, kind) in [("fail", 409, "conflict"), ("trap", 500, "crashed")] {
        let query = format!("append=a&send=to&send_id=x&remind=t&then={end}");
        act(&nodes[0], "k", &query).await.problem(status, kind);
    }
    // A read cannot send.
    let read = nodes[0]
        .get("/api/journal/k?send=to&send_id=x")
        .send()
        .await;
    read.problem(500, "read-only");
    assert_eq!(state.sends().await, 0);
    assert_eq!(list(&nodes[0], "to").await, "[]");
}

async fn a_timer_comes_is_replaced_and_is_cancelled(state: State) {
    let nodes = journal_mesh(2, &state).await;
    for node in &nodes {
        let key = nodes[0].key_owned_by("journal", &node.id).await;
        act(&nodes[0], &key, "remind=a&after_ms=300").await.ok();
        act(&nodes[0], &key, "remind=b&after_ms=3600000").await.ok();
        act(&nodes[0], &key, "remind=c&after_ms=3600000").await.ok();
        act(&nodes[0], &key, "remind=c&after_ms=10").await.ok();
        wait_for_list(node, &key, r#"["timer-c","timer-a"]"#).await;
        assert_eq!(state.sends().await, 1);
        act(&nodes[0], &key, "cancel=b").await.ok();
        assert_eq!(state.sends().await, 0);
    }
}

async fn timers_of_a_node_that_is_gone_come_all_the_same(state: State) {
    let mut nodes = journal_mesh(2, &state).await;
    let key = nodes[0].key_owned_by("journal", "n2").await;
    for number in 0..5 {
        let query = format!("remind=t{number}&after_ms=500");
        act(&nodes[0], &key, &query).await.ok();
    }
    nodes[1].kill().await;
    until(|| async { list(&nodes[0], &key).await.matches("timer-t").count() == 5 }).await;
    until(|| async { state.sends().await == 0 }).await;
}

async fn what_is_sent_under_kill_takes_effect_once(state: State) {
    let mut nodes = journal_mesh(3, &state).await;
    let mut sent = Vec::new();
    for round in 0..4 {
        for number in 0..50 {
            let id = format!("{round}-{number}");
            let query = format!("send=to{}&send_id={id}", number % 5);
            let from = format!("from{}", number % 7);
            act(&nodes[number % 2], &from, &query).await.ok();
            sent.push((format!("to{}", number % 5), id));
        }
        nodes[2].kill().await;
        let setup = journal_setup(3, &state);
        nodes[2] = setup.seeds(&refs(&nodes[..2])).start().await;
        wait_for_mesh(&refs(&nodes)).await;
    }
    until(|| async { state.sends().await == 0 }).await;
    for (to, id) in &sent {
        let found = list(&nodes[0], to).await;
        let times = found.matches(&format!("\"{id}\"")).count();
        assert_eq!(times, 1, "{id} is in {found}");
    }
}
