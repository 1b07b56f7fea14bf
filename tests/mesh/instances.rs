//! Instances are reused as long as they are good, and no longer.

use crate::harness::{Node, Plugins, Setup};

async fn calls(node: &Node) -> u64 {
    node.post("/api/fickle/1?calls").send().await.ok().parse().unwrap()
}

async fn node(manifest: &str) -> Node {
    Setup::new(Plugins::usual().with_file("fickle.toml", manifest)).ready().await
}

#[tokio::test]
async fn an_instance_is_reused_up_to_its_number_of_calls() {
    let node = node("max_calls_per_instance = 3\n").await;
    for expected in [1, 2, 3, 1, 2, 3, 1] {
        assert_eq!(calls(&node).await, expected);
    }
    node.wait_for_metric(r#"meshage_instances_made_total{stream="fickle"} 3"#).await;
}

#[tokio::test]
async fn fresh_instances_see_one_message_each() {
    let node = node("instances = \"fresh\"\n").await;
    for _ in 0..5 {
        assert_eq!(calls(&node).await, 1);
    }
}

#[tokio::test]
async fn an_instance_that_has_grown_or_leaks_is_not_used_again() {
    let node = node("memory_mb = 64\n").await;
    assert_eq!([calls(&node).await, calls(&node).await], [1, 2]);
    // More than half of what it may grow to, and less than that.
    node.post("/api/fickle/1?memory_mb=40").send().await.ok();
    assert_eq!(calls(&node).await, 1);
    node.post("/api/fickle/1?memory_mb=10").send().await.ok();
    assert_eq!(calls(&node).await, 3);
    // Handles that it does not give back.
    node.post("/api/fickle/1?leak=130").send().await.ok();
    assert_eq!(calls(&node).await, 1);
    node.post("/api/fickle/1?leak=10").send().await.ok();
    assert_eq!(calls(&node).await, 3);
}

#[tokio::test]
async fn instances_that_are_not_needed_any_more_go() {
    let node = node("").await;
    futures_util::future::join_all((0..20).map(|_| node.post("/api/fickle/1?sleep_ms=500").send())).await;
    assert!(calls(&node).await > 1);
    let idle = |count: usize| format!(r#"meshage_instances{{stream="fickle",state="idle"}} {count}"#);
    assert!(!node.admin("/metrics").await.text().contains(&format!("{}\n", idle(1))));
    // One stays, for the next message.
    node.wait_for_metric(&idle(1)).await;
    assert!(calls(&node).await > 1);
}
