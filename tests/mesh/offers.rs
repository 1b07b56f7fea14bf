//! Nodes may offer different streams; any node takes messages for all of them.

use crate::harness::{Plugins, Setup, wait_for_mesh};

#[tokio::test]
async fn a_stream_runs_only_where_it_is_offered() {
    let first = Setup::new(
        Plugins::empty()
            .with("echo", "echo")
            .with("only-here", "echo"),
    )
    .id("n1")
    .start()
    .await;
    let second = Setup::new(Plugins::empty().with("echo", "echo"))
        .id("n2")
        .seeds(&[&first])
        .start()
        .await;
    wait_for_mesh(&[&first, &second]).await;
    for key in 0..50 {
        for node in [&first, &second] {
            let answer = node.post(&format!("/api/only-here/{key}")).send().await;
            answer.ok();
            assert_eq!(answer.node(), "n1");
        }
    }
    assert_eq!(second.ranking("only-here", "1").await, ["n1"]);
    let view = second.view().await;
    assert_eq!(view["n1"].streams(), ["echo", "only-here"]);
    assert_eq!(view["n2"].streams(), ["echo"]);
}

#[tokio::test]
async fn a_node_without_plugins_is_a_way_into_the_mesh() {
    let first = Setup::new(Plugins::usual()).id("n1").start().await;
    let gateway = Setup::new(Plugins::empty())
        .id("gateway")
        .seeds(&[&first])
        .start()
        .await;
    wait_for_mesh(&[&first, &gateway]).await;
    let answer = gateway.post("/api/echo/1").send().await;
    answer.ok();
    assert_eq!(answer.node(), "n1");
    gateway
        .post("/api/nothing/1")
        .send()
        .await
        .problem(404, "no-candidate");
}

#[tokio::test]
async fn files_that_are_no_plugins_are_left_alone() {
    let plugins = Plugins::usual()
        .with_file("README.txt", "hello")
        .with_file("echo.wasm.new", "half");
    let node = Setup::new(plugins).ready().await;
    let listed = node.admin("/plugins").await.json();
    assert_eq!(listed["plugins"].as_array().unwrap().len(), 2, "{listed}");
}
