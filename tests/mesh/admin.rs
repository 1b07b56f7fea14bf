//! The admin API tells operators and tests the truth.

use std::fs::{self, File};

use serde_json::json;
use tempfile::TempDir;

use tokio::io::AsyncWriteExt;

use crate::harness::frames::{Call, FAULT, Hello, next_frame, say_hello};
use crate::harness::{Plugins, Setup, mesh};

#[tokio::test]
async fn the_view_has_every_live_node_with_addresses_and_digests() {
    let nodes = mesh(2).await;
    for node in &nodes {
        let cluster = node.admin("/cluster").await.json();
        assert_eq!(
            (&cluster["self"], &cluster["clusterId"]),
            (&json!(node.id), &json!("meshage"))
        );
        for (index, seen) in cluster["nodes"].as_array().unwrap().iter().enumerate() {
            assert_eq!(seen["nodeId"], nodes[index].id);
            assert_eq!(seen["state"], "ready");
            assert_eq!(seen["httpAddr"], nodes[index].http);
            assert_eq!(seen["clusterAddr"], nodes[index].cluster);
            assert!(seen["generation"].as_u64().unwrap() > 0);
            assert_eq!(
                seen["streams"]["echo"].as_str().unwrap().len(),
                64,
                "a SHA-256"
            );
        }
    }
}

#[tokio::test]
async fn the_owner_of_a_key_is_told_with_the_whole_ranking() {
    let nodes = mesh(2).await;
    let owner = nodes[0].admin("/cluster/owner/echo/a%2Fb").await.json();
    assert_eq!(
        (&owner["stream"], &owner["partitionKey"]),
        (&json!("echo"), &json!("a/b"))
    );
    assert_eq!(owner["ranking"].as_array().unwrap().len(), 2);
    assert_eq!(
        nodes[0].post("/api/echo/a%2Fb").send().await.node(),
        owner["owner"].as_str().unwrap()
    );
    assert_eq!(nodes[0].admin("/cluster/owner/nothing/1").await.status, 404);
    assert_eq!(
        nodes[0]
            .admin(&format!("/cluster/owner/echo/{}", "k".repeat(1025)))
            .await
            .status,
        400
    );
}

#[tokio::test]
async fn plugins_are_listed_with_state_digest_calls_and_limits() {
    let node = Setup::new(Plugins::usual().with_file("echo.toml", "timeout_ms = 1234\n"))
        .ready()
        .await;
    for _ in 0..3 {
        node.post("/api/echo/1").send().await.ok();
    }
    let plugins = node.admin("/plugins").await.json();
    let echo = &plugins["plugins"][0];
    assert_eq!(
        (&echo["stream"], &echo["state"], &echo["error"]),
        (&json!("echo"), &json!("ready"), &json!(null))
    );
    assert_eq!(
        (&echo["calls"], &echo["limits"]["timeoutMs"]),
        (&json!(3), &json!(1234))
    );
    assert!(echo["file"].as_str().unwrap().ends_with("/echo.wasm"));
    assert_eq!(echo["digest"].as_str().unwrap().len(), 64);
    assert!(echo["loadedAt"].as_str().unwrap().ends_with('Z'));
}

#[tokio::test]
async fn metrics_count_messages_by_stream_outcome_and_route() {
    let nodes = mesh(2).await;
    let local = nodes[0].key_owned_by("echo", "n1").await;
    let remote = nodes[0].key_owned_by("echo", "n2").await;
    for key in [&local, &remote, &remote] {
        nodes[0].post(&format!("/api/echo/{key}")).send().await.ok();
    }
    let problem = nodes[0]
        .post(&format!("/api/echo/{local}"))
        .json("{")
        .send()
        .await
        .problem(400, "invalid");
    assert!(
        problem["instance"]
            .as_str()
            .unwrap()
            .starts_with("urn:uuid:"),
        "{problem}"
    );
    nodes[0]
        .post("/api/made-up-by-a-client/1")
        .send()
        .await
        .problem(404, "no-candidate");
    let metrics = nodes[0].admin("/metrics").await;
    assert_eq!(
        metrics.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    for line in [
        r#"meshage_messages_total{stream="echo",outcome="ok",route="local"} 1"#,
        r#"meshage_messages_total{stream="echo",outcome="ok",route="forwarded"} 2"#,
        r#"meshage_messages_total{stream="echo",outcome="invalid",route="local"} 1"#,
        r#"meshage_message_duration_seconds_count{stream="echo",route="forwarded"} 2"#,
        r#"meshage_calls_total{stream="echo"} 2"#,
        r#"meshage_problems_total{type="no-candidate"} 1"#,
        "meshage_peers 1",
    ] {
        assert!(
            metrics.text().lines().any(|found| found == line),
            "{line} is not in\n{}",
            metrics.text()
        );
    }
    // One for each link, so the number depends on the cores of the machine.
    assert!(nodes[0].metric("meshage_peer_connections").await > 0);
    assert!(
        !metrics.text().contains("made-up"),
        "clients must not make time series"
    );
    assert!(
        nodes[1]
            .admin("/metrics")
            .await
            .text()
            .contains(r#"meshage_calls_total{stream="echo"} 2"#)
    );
}

#[tokio::test]
async fn a_node_lives_before_it_is_ready() {
    let (plugins, data) = (
        Plugins::empty().with("echo", "echo"),
        TempDir::new().unwrap(),
    );
    let node = || Setup::new(plugins.clone()).flag("--data-dir", data.path().to_str().unwrap());
    node().ready().await.kill().await;
    // Of the nodes that share a data directory, one compiles a component under a file lock, and the
    // others wait for it, up to 30 s. Here the test holds the locks that the first node left
    // behind, which keeps the second node from becoming ready.
    let turns: Vec<File> = fs::read_dir(data.path().join("compiling"))
        .unwrap()
        .map(|turn| File::open(turn.unwrap().path()).unwrap())
        .inspect(|turn| turn.lock().unwrap())
        .collect();
    let node = node().start().await;
    assert_eq!(node.admin("/livez").await.status, 200);
    let ready = node.admin("/readyz").await;
    assert_eq!((ready.status, ready.text()), (503, "plugins are loading\n"));
    node.post("/api/echo/1")
        .send()
        .await
        .problem(503, "starting");
    let (mut stream, _) = say_hello(&node.cluster, &Hello::of("p1", 1)).await;
    stream
        .write_all(&Call::of(1, "GET", "echo").frame())
        .await
        .unwrap();
    let (kind, fault) = next_frame(&mut stream).await.unwrap();
    assert_eq!(kind, FAULT);
    assert!(String::from_utf8_lossy(&fault).contains("starting"));
    drop(turns);
    node.wait_until_ready().await;
    node.post("/api/echo/1").send().await.ok();
}
