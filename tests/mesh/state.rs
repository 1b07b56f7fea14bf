//! Entities have state: it is committed before the reply, once, in order, and nobody sees an older
//! one.

use rustix::process::Signal;

use crate::harness::{
    Node, Setup, State, Writers, journal, journal_mesh, journal_setup, kill_again_and_again, list,
    on_both_stores, refs, stamped, wait_for_mesh,
};

on_both_stores!(
    what_was_written_is_there_on_every_node_and_after_all_have_ended,
    eight_clients_on_few_keys_over_three_nodes,
    owners_are_killed_again_and_again,
    every_node_is_restarted_in_turn_and_no_request_fails,
    a_plugin_that_is_replaced_again_and_again_loses_nothing,
);

async fn append(node: &Node, key: &str, id: &str) {
    let answer = node
        .post(&format!("/api/journal/{key}?append={id}"))
        .send()
        .await;
    answer.ok();
}

async fn what_was_written_is_there_on_every_node_and_after_all_have_ended(state: State) {
    let mut nodes = journal_mesh(2, &state).await;
    for (i, id) in ["a", "b", "c"].iter().enumerate() {
        append(&nodes[i % 2], "k", id).await;
    }
    for node in &nodes {
        assert_eq!(list(node, "k").await, r#"["a","b","c"]"#);
    }
    for node in &mut nodes {
        node.kill().await;
    }
    let again = journal_mesh(1, &state).await;
    assert_eq!(list(&again[0], "k").await, r#"["a","b","c"]"#);
}

async fn eight_clients_on_few_keys_over_three_nodes(state: State) {
    let nodes = journal_mesh(3, &state).await;
    let writers = Writers::start(8, 3, &refs(&nodes));
    writers.wait_for(3_000).await;
    let journal = writers.check(&nodes[0]).await;
    journal.must_be_good();
}

async fn owners_are_killed_again_and_again(state: State) {
    kill_again_and_again(3, 300, |number| journal_setup(number, &state)).await;
}

async fn every_node_is_restarted_in_turn_and_no_request_fails(state: State) {
    let mut nodes = journal_mesh(3, &state).await;
    let mut writers = Writers::start(8, 3, &refs(&nodes));
    for number in 1..=3 {
        let mut leaver = nodes.remove(0);
        writers.send_to(&refs(&nodes));
        writers.wait_for(200).await;
        leaver.signal(Signal::TERM);
        assert!(leaver.ended().await.success());
        let back = journal_setup(number, &state)
            .seeds(&refs(&nodes))
            .start()
            .await;
        nodes.push(back);
        wait_for_mesh(&refs(&nodes)).await;
        writers.send_to(&refs(&nodes));
        writers.wait_for(200).await;
    }
    let journal = writers.check(&nodes[0]).await;
    journal.must_be_good();
}

async fn a_plugin_that_is_replaced_again_and_again_loses_nothing(state: State) {
    let plugins = journal();
    let setup = |id: &str| Setup::new(plugins.clone()).id(id).state(&state);
    let first = setup("n1").ready().await;
    let second = setup("n2").seeds(&[&first]).ready().await;
    wait_for_mesh(&[&first, &second]).await;
    let writers = Writers::start(8, 3, &[&first, &second]);
    for version in 0..20 {
        plugins.put("journal.wasm", &stamped("journal", version));
        writers.wait_for(150).await;
    }
    let journal = writers.check(&first).await;
    journal.must_be_good();
}

#[tokio::test]
async fn a_node_that_is_killed_two_hundred_times_loses_nothing() {
    const KILLS: usize = 200;
    let state = State::sqlite();
    let mut node = journal_setup(1, &state).ready().await;
    let mut writers = Writers::start(8, 5, &[&node]);
    for _ in 0..KILLS {
        writers.wait_for(40).await;
        node.kill().await;
        node = journal_setup(1, &state).ready().await;
        writers.send_to(&[&node]);
    }
    writers.wait_for(100).await;
    let journal = writers.check(&node).await;
    println!(
        "{} of {} answered, {:?}",
        journal.good(),
        journal.len(),
        journal.bad()
    );
    assert!(journal.good() > KILLS * 10, "{:?}", journal.bad());
}
