//! A node that joins takes its share of the keys, and nothing moves between the others.

use std::collections::BTreeMap;

use crate::harness::{Node, Plugins, Setup, mesh, wait_for_mesh};

const KEYS: usize = 600;

async fn owners(node: &Node) -> BTreeMap<usize, String> {
    let mut owners = BTreeMap::new();
    for key in 0..KEYS {
        let answer = node.post(&format!("/api/echo/{key}")).send().await;
        answer.ok();
        owners.insert(key, answer.node().to_owned());
    }
    owners
}

#[tokio::test]
async fn joining_moves_about_a_share_of_the_keys_and_no_more() {
    let nodes = mesh(2).await;
    let before = owners(&nodes[0]).await;
    let third = Setup::new(Plugins::usual())
        .id("n3")
        .seeds(&[&nodes[1]])
        .start()
        .await;
    wait_for_mesh(&[&nodes[0], &nodes[1], &third]).await;
    let after = owners(&nodes[0]).await;
    assert_eq!(
        owners(&third).await,
        after,
        "the new node disagrees with the old ones"
    );
    let moved: Vec<_> = before
        .iter()
        .filter(|(key, owner)| after[key] != **owner)
        .collect();
    assert!(
        moved.iter().all(|(key, _)| after[key] == "n3"),
        "keys moved between nodes that stayed"
    );
    // A third, give or take four standard deviations of 600 keys.
    let share = moved.len() as f64 / KEYS as f64;
    assert!((0.256..0.411).contains(&share), "{share} of the keys moved");
}

#[tokio::test]
async fn a_node_gets_its_keys_back_when_it_returns_under_its_id() {
    let mut nodes = mesh(2).await;
    let before = owners(&nodes[0]).await;
    let mut gone = nodes.pop().unwrap();
    gone.signal(rustix::process::Signal::TERM);
    assert!(gone.ended().await.success());
    let back = Setup::new(Plugins::usual())
        .id("n2")
        .seeds(&[&nodes[0]])
        .start()
        .await;
    wait_for_mesh(&[&nodes[0], &back]).await;
    assert_eq!(owners(&nodes[0]).await, before);
}

#[tokio::test]
async fn a_node_that_is_killed_and_comes_back_at_once_is_taken_for_itself() {
    let mut nodes = mesh(3).await;
    for _ in 0..3 {
        let mut gone = nodes.pop().unwrap();
        gone.kill().await;
        let back = Setup::new(Plugins::usual())
            .id("n3")
            .seeds(&[&nodes[0], &nodes[1]])
            .start()
            .await;
        nodes.push(back);
        wait_for_mesh(&nodes.iter().collect::<Vec<_>>()).await;
    }
}

#[tokio::test]
async fn of_two_live_nodes_with_one_id_the_later_ends_and_says_why() {
    let nodes = mesh(2).await;
    // The late node need not be in contact with its elder: only the other node is its seed.
    let mut late = Setup::new(Plugins::usual())
        .id("n1")
        .seeds(&[&nodes[1]])
        .start()
        .await;
    assert_eq!(late.ended().await.code(), Some(1));
    let said = late.log_line("another live node has the id n1").await;
    assert!(
        said.contains(&nodes[0].cluster) && said.contains("--node-id"),
        "{said}"
    );
    // The elder keeps running and is back in the views.
    wait_for_mesh(&[&nodes[0], &nodes[1]]).await;
}
