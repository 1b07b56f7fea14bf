//! A mesh under load whose nodes are killed, hang, restart and join: only messages in flight on a
//! lost node are lost.

use std::time::Instant;

use rustix::process::Signal;

use crate::harness::{
    IN_FLIGHT_MAX, Node, Plugins, Secret, Sent, Setup, Traffic, mesh, refs, until, wait_for_mesh,
};

/// Waits until these see each other and nobody else.
async fn wait_until_gone(nodes: &[Node]) {
    let began = Instant::now();
    for node in nodes {
        until(|| async { node.view().await.len() == nodes.len() }).await;
    }
    println!("views agree after {:?}", began.elapsed());
}

/// Sends a broadcast to three nodes of which `n3` is lost: the other two answer, and `n3`
/// contributes a problem unless the view no longer has it.
async fn broadcasts(node: &Node) {
    let answer = node.post("/api/broadcast/echo/1").json("{}").send().await;
    let elements = answer.json();
    let (good, bad): (Vec<_>, Vec<_>) = elements
        .as_array()
        .unwrap()
        .iter()
        .partition(|element| element["echoed"].is_object());
    assert_eq!(good.len(), 2, "{elements}");
    assert!(
        bad.iter()
            .all(|problem| problem["node"] == "n3" && problem["status"].is_number()),
        "{elements}"
    );
}

/// Starts a node, and waits until it serves some of the messages sent to the others.
async fn start_and_serve(setup: Setup, id: &str, others: &[Node]) -> Node {
    let began = Instant::now();
    let node = setup.id(id).seeds(&refs(others)).start().await;
    until(|| async { node.served("echo").await > 0 }).await;
    println!("{id} serves {:?} after its start", began.elapsed());
    node
}

#[tokio::test]
async fn a_kill_costs_what_was_in_flight_on_the_victim_and_nothing_else() {
    let mut nodes = mesh(3).await;
    let mut victim = nodes.pop().unwrap();
    // The clients send to the survivors; the victim owns a third of their keys.
    let traffic = Traffic::start("echo", &refs(&nodes));
    traffic.wait_for(500).await;
    victim.kill().await;
    broadcasts(&nodes[0]).await;
    wait_until_gone(&nodes).await;
    let Sent {
        requests, failed, ..
    } = traffic.stop().await;
    // Each survivor detects the loss by itself, so a client may lose one request through each of
    // them.
    let in_flight_max = nodes.len() * IN_FLIGHT_MAX;
    assert!(
        failed.len() <= in_flight_max,
        "{} of {requests} failed, such as {:?}",
        failed.len(),
        failed[0]
    );
    assert!(
        failed
            .iter()
            .all(|failure| failure.contains("urn:meshage:lost")),
        "{failed:?}"
    );
    let told = nodes[0].event("failover").await;
    assert!(
        told.contains(r#""node":"n3""#) && told.contains(r#""because":"#),
        "{told}"
    );
    nodes[0].event("breaker-changed").await;
}

#[tokio::test]
async fn a_hang_costs_what_was_in_flight_on_the_victim_and_nothing_else() {
    let mut nodes = mesh(3).await;
    let victim = nodes.pop().unwrap();
    let traffic = Traffic::start("echo", &refs(&nodes));
    traffic.wait_for(500).await;
    victim.hang().await;
    broadcasts(&nodes[0]).await;
    wait_until_gone(&nodes).await;
    traffic.wait_for(500).await;
    let Sent {
        requests, failed, ..
    } = traffic.stop().await;
    assert!(
        failed.len() <= IN_FLIGHT_MAX,
        "{} of {requests} failed, such as {:?}",
        failed.len(),
        failed[0]
    );
    victim.signal(Signal::CONT);
    wait_for_mesh(&[&nodes[0], &nodes[1], &victim]).await;
}

/// Restarts each of three nodes in turn; `setup` is how they are started.
async fn restart_each(setup: impl Fn() -> Setup) {
    let mut nodes = Vec::new();
    for number in 1..=3 {
        let node = setup()
            .id(&format!("n{number}"))
            .seeds(&refs(&nodes))
            .start()
            .await;
        nodes.push(node);
    }
    wait_for_mesh(&refs(&nodes)).await;
    for number in 1..=3 {
        // The oldest node leaves; the clients send to the others.
        let mut leaver = nodes.remove(0);
        let traffic = Traffic::start("echo", &refs(&nodes));
        traffic.wait_for(200).await;
        leaver.signal(Signal::TERM);
        assert!(leaver.ended().await.success());
        let back = start_and_serve(setup(), &format!("n{number}"), &nodes).await;
        nodes.push(back);
        wait_for_mesh(&refs(&nodes)).await;
        traffic.wait_for(200).await;
        traffic.none_failed().await;
    }
}

#[tokio::test]
async fn every_node_is_restarted_in_turn_and_no_request_fails() {
    restart_each(|| Setup::new(Plugins::usual())).await;
}

#[tokio::test]
async fn every_node_of_a_mesh_with_a_secret_is_restarted_in_turn_and_no_request_fails() {
    let secret = Secret::shared();
    restart_each(|| Setup::new(Plugins::usual()).secret(&secret)).await;
}

#[tokio::test]
async fn nodes_that_join_get_their_share_and_no_request_fails() {
    let mut nodes = mesh(2).await;
    for number in 3..=4 {
        // The clients send to the nodes that are there already.
        let traffic = Traffic::start("echo", &refs(&nodes));
        traffic.wait_for(200).await;
        let joiner =
            start_and_serve(Setup::new(Plugins::usual()), &format!("n{number}"), &nodes).await;
        nodes.push(joiner);
        wait_for_mesh(&refs(&nodes)).await;
        traffic.wait_for(200).await;
        traffic.none_failed().await;
    }
}

#[tokio::test]
async fn a_node_that_was_killed_gets_its_share_back_at_once() {
    let mut nodes = mesh(3).await;
    let mut victim = nodes.pop().unwrap();
    victim.kill().await;
    // The others may still have its earlier incarnation in their views.
    let traffic = Traffic::start("echo", &refs(&nodes));
    let back = start_and_serve(Setup::new(Plugins::usual()), "n3", &nodes).await;
    nodes.push(back);
    wait_for_mesh(&refs(&nodes)).await;
    traffic.wait_for(200).await;
    traffic.none_failed().await;
}

#[tokio::test]
async fn a_second_node_that_claims_an_id_costs_no_request() {
    let nodes = mesh(2).await;
    let traffic = Traffic::start("echo", &refs(&nodes));
    let mut late = Setup::new(Plugins::usual())
        .id("n2")
        .seeds(&[&nodes[0]])
        .start()
        .await;
    // Waits for its last log line, not for the exit of the process, which may take the system long
    // under load.
    late.log_line("another live node has the id n2 already")
        .await;
    traffic.wait_for(200).await;
    traffic.none_failed().await;
    assert_eq!(late.ended().await.code(), Some(1));
    wait_for_mesh(&refs(&nodes)).await;
}

#[tokio::test]
async fn the_view_shows_the_breaker_of_each_peer() {
    let nodes = mesh(2).await;
    let breakers = async || -> Vec<String> {
        let cluster = nodes[0].admin("/cluster").await.json();
        cluster["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|node| node["breaker"].to_string())
            .collect()
    };
    until(|| async { breakers().await == ["null", "\"closed\""] }).await;
}
