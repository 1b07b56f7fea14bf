//! What handlers send: messages and timers, which take effect once, whatever dies.

use crate::harness::{
    Node, State, act, journal_mesh, journal_setup, list, on_both_stores, refs, until, wait_for_mesh,
};

on_both_stores!(
    what_is_sent_takes_effect_at_its_target,
    what_fails_sends_nothing,
    a_timer_comes_is_replaced_and_is_cancelled,
    timers_of_a_node_that_is_gone_come_all_the_same,
    what_is_sent_under_kill_takes_effect_once,
);

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
