//! What happens to a mesh under load when its nodes go: only what was in flight on a node that is lost is lost.

use std::time::Instant;

use rustix::process::Signal;

use crate::harness::{IN_FLIGHT_MAX, Plugins, Setup, Traffic, mesh, refs, until, wait_for_mesh};

#[tokio::test]
async fn a_kill_costs_what_was_in_flight_on_the_victim_and_nothing_else() {
    let mut nodes = mesh(3).await;
    let mut victim = nodes.pop().unwrap();
    // Clients of the survivors: a third of their keys is the victim's.
    let traffic = Traffic::start("echo", &refs(&nodes));
    traffic.wait_for(500).await;
    victim.kill().await;
    for node in &nodes {
        until(|| async { node.view().await.len() == 2 }).await;
    }
    let (sent, failed) = traffic.stop().await;
    // The victim's connections end one after the other, a moment after it: a client that has lost a request on the one
    // may yet lose another on the other.
    let in_flight_max = nodes.len() * IN_FLIGHT_MAX;
    assert!(failed.len() <= in_flight_max, "{} of {sent} failed, such as {:?}", failed.len(), failed[0]);
    assert!(failed.iter().all(|failure| failure.contains("urn:meshage:lost")), "{failed:?}");
    let told = nodes[0].log_line("messages go on to the next in rank").await;
    assert!(told.contains(r#""node":"n3""#) && told.contains(r#""because":"#), "{told}");
    nodes[0].log_line("breaker changed").await;
}

#[tokio::test]
async fn a_hang_costs_what_was_in_flight_on_the_victim_and_nothing_else() {
    let mut nodes = mesh(3).await;
    let victim = nodes.pop().unwrap();
    let traffic = Traffic::start("echo", &refs(&nodes));
    traffic.wait_for(500).await;
    victim.signal(Signal::STOP);
    for node in &nodes {
        until(|| async { node.view().await.len() == 2 }).await;
    }
    traffic.wait_for(500).await;
    let (sent, failed) = traffic.stop().await;
    assert!(failed.len() <= IN_FLIGHT_MAX, "{} of {sent} failed, such as {:?}", failed.len(), failed[0]);
    victim.signal(Signal::CONT);
    wait_for_mesh(&[&nodes[0], &nodes[1], &victim]).await;
}

#[tokio::test]
async fn every_node_is_restarted_in_turn_and_no_request_fails() {
    let mut nodes = mesh(3).await;
    for number in 1..=3 {
        // The oldest leaves; the clients are those of the others.
        let mut leaver = nodes.remove(0);
        let traffic = Traffic::start("echo", &refs(&nodes));
        traffic.wait_for(200).await;
        leaver.signal(Signal::TERM);
        assert!(leaver.ended().await.success());
        let id = format!("n{number}");
        let back = Setup::new(Plugins::usual()).id(&id).seeds(&refs(&nodes)).start().await;
        nodes.push(back);
        wait_for_mesh(&refs(&nodes)).await;
        traffic.wait_for(200).await;
        traffic.none_failed().await;
    }
}

#[tokio::test]
async fn nodes_that_join_get_their_share_and_no_request_fails() {
    let mut nodes = mesh(2).await;
    for number in 3..=4 {
        // The clients are those of the nodes that are there.
        let traffic = Traffic::start("echo", &refs(&nodes));
        traffic.wait_for(200).await;
        let began = Instant::now();
        let joiner = Setup::new(Plugins::usual()).id(&format!("n{number}")).seeds(&refs(&nodes)).start().await;
        until(|| async { joiner.served("echo").await > 0 }).await;
        println!("n{number} serves {:?} after its start", began.elapsed());
        nodes.push(joiner);
        wait_for_mesh(&refs(&nodes)).await;
        traffic.wait_for(200).await;
        traffic.none_failed().await;
    }
}

#[tokio::test]
async fn the_view_shows_the_breaker_of_each_peer() {
    let nodes = mesh(2).await;
    let breakers = async || -> Vec<String> {
        let cluster = nodes[0].admin("/cluster").await.json();
        cluster["nodes"].as_array().unwrap().iter().map(|node| node["breaker"].to_string()).collect()
    };
    until(|| async { breakers().await == ["null", "\"closed\""] }).await;
}
