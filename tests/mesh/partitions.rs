//! A mesh whose network fails: each side serves with the nodes that it sees, and the mesh recovers
//! by itself when the network does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{
    IN_FLIGHT_MAX, Node, Path, Plugins, Setup, Traffic, Wire, refs, until, wait_for_mesh,
};

/// Problems that a failing network may cause: messages in flight are lost or late.
const LOST_OR_LATE: [&str; 2] = ["urn:meshage:lost", "urn:meshage:deadline-exceeded"];

async fn mesh_on(wire: &Wire, size: usize) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for number in 1..=size {
        let setup = Setup::new(Plugins::usual())
            .on(wire, number)
            .seeds(&refs(&nodes));
        nodes.push(setup.flag("--timeout", "10s").start().await);
    }
    wait_for_mesh(&refs(&nodes)).await;
    nodes
}

/// A mesh with clients that send to every node.
async fn mesh_under_load(size: usize) -> (Wire, Vec<Node>, Traffic) {
    let wire = Wire::lay(size);
    let nodes = mesh_on(&wire, size).await;
    let traffic = Traffic::start("echo", &refs(&nodes));
    traffic.wait_for(200).await;
    (wire, nodes, traffic)
}

#[tokio::test]
async fn who_listens_everywhere_tells_the_address_from_which_it_reaches_the_seed() {
    let wire = Wire::lay(2);
    let setup = || Setup::new(Plugins::usual());
    // Without a seed there is the one private address of the host.
    let first = setup().everywhere_on(&wire, 1).start().await;
    let second = setup().everywhere_on(&wire, 2).seeds(&[&first]);
    let second = second.start().await;
    wait_for_mesh(&[&first, &second]).await;
    for (node, because) in [(&first, "private"), (&second, "seeds")] {
        let start: Value = serde_json::from_str(&node.event("starts").await).unwrap();
        let (port, place) = (node.cluster.split_once(':').unwrap().1, &node.http);
        let ip = place.split_once(':').unwrap().0;
        assert_eq!(start["advertised"], format!("{ip}:{port}"));
        let told = start["advertised_because"].as_str().unwrap();
        assert!(told.contains(because), "{told}");
    }
    for key in 0..10 {
        let path = format!("/api/echo/{key}");
        first.post(&path).json("{}").send().await.ok();
        second.post(&path).json("{}").send().await.ok();
    }
}

async fn wait_until_seen(by: &Node, count: usize) {
    until(|| async { by.view().await.len() == count }).await;
}

/// Checks that the node answers messages of many keys, and a broadcast with as many elements as
/// there are candidates in its view.
async fn serves(node: &Node, candidates: usize) {
    for key in 0..30 {
        node.post(&format!("/api/echo/key-{key}"))
            .json("{}")
            .send()
            .await
            .ok();
    }
    let answer = node.post("/api/broadcast/echo/1").json("{}").send().await;
    assert_eq!(
        answer.json().as_array().unwrap().len(),
        candidates,
        "{}",
        answer.text()
    );
    assert_eq!(
        answer.header("meshage-broadcast"),
        Some(format!("ok={candidates} failed=0").as_str())
    );
}

/// Checks that requests failed only because they were lost or late, and returns how many did.
async fn failed_on_the_way(traffic: Traffic) -> usize {
    let failed = traffic.stop().await.failed;
    let is_excused = |failure: &String| LOST_OR_LATE.iter().any(|kind| failure.contains(kind));
    assert!(failed.iter().all(is_excused), "{failed:?}");
    failed.len()
}

/// Opens all paths, waits until all nodes see each other and no breaker is open, and checks that
/// they serve.
async fn heals(wire: &Wire, nodes: &[Node]) {
    wire.heal();
    let healed = Instant::now();
    wait_for_mesh(&refs(nodes)).await;
    println!(
        "views agree {:?} after the network healed",
        healed.elapsed()
    );
    let ranking = nodes[0].ranking("echo", "a-key").await;
    for node in nodes {
        assert_eq!(node.ranking("echo", "a-key").await, ranking);
        until(|| async {
            breakers(node)
                .await
                .values()
                .all(|breaker| breaker != "open")
        })
        .await;
        serves(node, nodes.len()).await;
    }
}

async fn breakers(node: &Node) -> BTreeMap<String, String> {
    let cluster = node.admin("/cluster").await.json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    cluster["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (text(&node["nodeId"]), text(&node["breaker"])))
        .collect()
}

#[tokio::test]
async fn both_sides_of_a_split_serve_and_agree_again() {
    let (wire, nodes, traffic) = mesh_under_load(4).await;
    wire.between(&[1, 2], &[3, 4], Path::Cut);
    for node in &nodes {
        wait_until_seen(node, 2).await;
    }
    traffic.wait_for(200).await;
    for node in &nodes {
        serves(node, 2).await;
    }
    heals(&wire, &nodes).await;
    traffic.wait_for(200).await;
    // Only requests in flight when the paths were cut may have failed.
    assert!(failed_on_the_way(traffic).await <= IN_FLIGHT_MAX);
}

#[tokio::test]
async fn a_node_that_is_alone_serves_and_finds_back() {
    let (wire, nodes, traffic) = mesh_under_load(3).await;
    wire.between(&[1], &[2, 3], Path::Cut);
    for (node, seen) in nodes.iter().zip([1, 2, 2]) {
        wait_until_seen(node, seen).await;
        serves(node, seen).await;
    }
    heals(&wire, &nodes).await;
    // Only requests in flight when the paths were cut may have failed.
    assert!(failed_on_the_way(traffic).await <= IN_FLIGHT_MAX);
}

#[tokio::test]
async fn a_node_that_is_not_heard_is_served_around() {
    let (wire, nodes, traffic) = mesh_under_load(3).await;
    // Node 3 hears the others, but they do not hear it.
    wire.one_way(3, 1, Path::Cut);
    wire.one_way(3, 2, Path::Cut);
    for node in &nodes[..2] {
        wait_until_seen(node, 2).await;
        serves(node, 2).await;
    }
    // Its view of the others keeps changing; its messages are answered all the same.
    for key in 0..30 {
        nodes[2]
            .put(&format!("/api/echo/key-{key}"))
            .json("{}")
            .send()
            .await
            .ok();
    }
    heals(&wire, &nodes).await;
    // Only requests in flight when the paths were cut may have failed.
    assert!(failed_on_the_way(traffic).await <= IN_FLIGHT_MAX);
}

#[tokio::test]
async fn a_bad_network_makes_answers_late_but_every_request_gets_one() {
    let wire = Wire::lay(3);
    let nodes = mesh_on(&wire, 3).await;
    let bad = Path::Bad {
        percent_lost: 30,
        delay: Duration::from_millis(100),
    };
    for one in 1..=3 {
        wire.between(&[one], &[1, 2, 3], bad);
    }
    let traffic = Traffic::start("echo", &refs(&nodes));
    for number in 0..3 {
        for node in &nodes {
            let answer = node
                .post(&format!("/api/broadcast/echo/{number}"))
                .json("{}")
                .send()
                .await;
            // Every candidate contributes an element: its answer, or its problem.
            for element in answer.json().as_array().unwrap() {
                let kind = element["type"].as_str().unwrap_or_default();
                let is_known = LOST_OR_LATE.contains(&kind) || kind == "urn:meshage:unreachable";
                assert!(element["echoed"].is_object() || is_known, "{element}");
            }
        }
    }
    traffic.wait_for(200).await;
    heals(&wire, &nodes).await;
    failed_on_the_way(traffic).await;
}

#[tokio::test]
async fn a_peer_that_gossips_but_takes_no_messages_is_served_around() {
    let wire = Wire::lay(2);
    let nodes = mesh_on(&wire, 2).await;
    let key = nodes[0].key_owned_by("echo", "n2").await;
    wire.between(&[1], &[2], Path::CutForTcp);
    // A message sent now is lost; an idempotent one fails over to the next in rank.
    let put = nodes[0]
        .put(&format!("/api/echo/{key}"))
        .json("{}")
        .send()
        .await;
    put.ok();
    assert_eq!(put.node(), "n1");
    until(|| async { breakers(&nodes[0]).await["n2"] == "open" }).await;
    for _ in 0..20 {
        let answer = nodes[0]
            .post(&format!("/api/echo/{key}"))
            .json("{}")
            .send()
            .await;
        answer.ok();
        assert_eq!(answer.node(), "n1");
    }
    assert_eq!(nodes[0].view().await["n2"].state, "ready", "gossip is well");
    nodes[0].event("breaker-changed").await;
    heals(&wire, &nodes).await;
    let answer = nodes[0]
        .post(&format!("/api/echo/{key}"))
        .json("{}")
        .send()
        .await;
    assert_eq!((answer.ok(), answer.node()), (answer.text(), "n2"));
}
