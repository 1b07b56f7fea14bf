//! Instances are reused only while they are good, and their number is bounded.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::Method;
use tokio::task::JoinSet;

use crate::harness::{Answer, Crowd, Gate, Node, Plugins, Setup, need_open_files};

/// Limit of a node's instances, for all plugins together.
const INSTANCES: usize = 1_000;

/// Messages of one plugin that wait at a gate, at most: it may have 64 outgoing requests in flight.
const AT_A_GATE: usize = 60;

/// Number of plugins whose waiting messages together can take every instance.
const HOLDERS: usize = INSTANCES.div_ceil(AT_A_GATE);

/// Far too little for the instance pool, which reserves terabytes, and more than enough for all
/// else.
#[cfg(target_os = "linux")]
const ADDRESS_SPACE_KB: u64 = 16 << 20;

async fn calls(node: &Node) -> u64 {
    node.post("/api/fickle/1?calls")
        .send()
        .await
        .ok()
        .parse()
        .unwrap()
}

async fn node(manifest: &str) -> Node {
    Setup::new(Plugins::usual().with_file("fickle.toml", manifest))
        .ready()
        .await
}

/// Runs this many messages of a stream concurrently, so that each has an instance of its own, and
/// leaves the gate open.
async fn run_at_once(node: &Node, stream: &str, gate: &Gate, count: usize) {
    let path = format!("/api/{stream}/1?{}", gate.act());
    let mut running: FuturesUnordered<_> = (0..count).map(|_| node.post(&path).send()).collect();
    tokio::select! {
        Some(answer) = running.next() => panic!("it should wait at the gate: {answer:?}"),
        () = gate.wait_for(count) => {}
    }
    gate.open();
    while let Some(answer) = running.next().await {
        answer.ok();
    }
}

#[tokio::test]
async fn an_instance_is_reused_up_to_its_number_of_calls() {
    let node = node("max_calls_per_instance = 3\n").await;
    for expected in [1, 2, 3, 1, 2, 3, 1] {
        assert_eq!(calls(&node).await, expected);
    }
    node.wait_for_metric(r#"meshage_instances_made_total{stream="fickle"} 3"#)
        .await;
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
    // An instance that has grown beyond half of its memory limit is dropped; one that has grown
    // less is kept.
    node.post("/api/fickle/1?memory_mb=40").send().await.ok();
    assert_eq!(calls(&node).await, 1);
    node.post("/api/fickle/1?memory_mb=10").send().await.ok();
    assert_eq!(calls(&node).await, 3);
    // The same for handles that it does not give back: many, and few.
    node.post("/api/fickle/1?leak=130").send().await.ok();
    assert_eq!(calls(&node).await, 1);
    node.post("/api/fickle/1?leak=10").send().await.ok();
    assert_eq!(calls(&node).await, 3);
}

#[tokio::test]
async fn instances_that_are_not_needed_any_more_go() {
    let gate = Gate::new().await;
    let node = node(&gate.manifest()).await;
    run_at_once(&node, "fickle", &gate, 20).await;
    assert!(calls(&node).await > 1);
    let idle =
        |count: usize| format!(r#"meshage_instances{{stream="fickle",state="idle"}} {count}"#);
    assert!(
        !node
            .admin("/metrics")
            .await
            .text()
            .contains(&format!("{}\n", idle(1)))
    );
    // One idle instance stays, for the next message.
    node.wait_for_metric(&idle(1)).await;
    assert!(calls(&node).await > 1);
}

/// Makes this many more messages wait at the gate, round robin over the holders.
async fn hold(held: &mut JoinSet<Answer>, count: usize, node: &Node, crowd: &Crowd, gate: &Gate) {
    let all = held.len() + count;
    for number in held.len()..all {
        let url = format!(
            "http://{}/api/holder-{}/1?{}",
            node.http,
            number % HOLDERS,
            gate.act()
        );
        let client = crowd.client(number);
        held.spawn(async move { client.request(Method::POST, &url).send().await });
    }
    tokio::select! {
        Some(answer) = held.join_next() => panic!("it should wait at the gate: {answer:?}"),
        () = gate.wait_for(all) => {}
    }
}

#[tokio::test]
async fn when_instances_run_out_waiting_ones_go_first_and_then_messages_are_refused() {
    // A thousand messages need a thousand connections to the gate, which is in this process.
    need_open_files(4_096);
    let (warming, gate) = (Gate::new().await, Gate::new().await);
    let plugins = Plugins::empty()
        .with("echo", "echo")
        .with("fresh", "fickle")
        .with("warm", "fickle");
    let plugins = plugins
        .with_file("fresh.toml", "instances = \"fresh\"\n")
        .with_file("warm.toml", warming.manifest());
    let plugins = (0..HOLDERS).fold(plugins, |plugins, number| {
        let stream = format!("holder-{number}");
        plugins
            .with(&stream, "fickle")
            .with_file(&format!("{stream}.toml"), gate.manifest())
    });
    let node = Setup::new(plugins).flag("--timeout", "1h").ready().await;
    run_at_once(&node, "warm", &warming, AT_A_GATE).await;
    let fresh = async || node.post("/api/fresh/1").send().await;
    // Uses up the idle instance that was made when the plugin was loaded. From now on each message
    // needs a new one.
    fresh().await.ok();

    let (crowd, mut held) = (Crowd::of(INSTANCES), JoinSet::new());
    // The instance of `echo` and those of `warm` are idle, and there is room for one more.
    hold(
        &mut held,
        INSTANCES - 1 - AT_A_GATE - 1,
        &node,
        &crowd,
        &gate,
    )
    .await;
    fresh().await.ok();
    hold(&mut held, 1, &node, &crowd, &gate).await;
    // The limit is reached: idle instances are dropped to make room, but for one of each plugin.
    fresh().await.ok();
    node.wait_for_metric(r#"meshage_instances{stream="warm",state="idle"} 1"#)
        .await;
    hold(&mut held, AT_A_GATE - 1, &node, &crowd, &gate).await;
    let refused = fresh().await.problem(503, "overloaded");
    assert_eq!(refused["retryable"], true);
    // A plugin with an idle instance needs no room.
    for stream in ["echo", "warm"] {
        node.post(&format!("/api/{stream}/1")).send().await.ok();
    }
    gate.open();
    let answers = held.join_all().await;
    assert_eq!(answers.len(), INSTANCES - 2);
    for answer in answers {
        answer.ok();
    }
    // All instances are idle now, so there is room again.
    fresh().await.ok();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn without_address_space_for_a_pool_a_node_warns_and_serves_all_the_same() {
    let node = Setup::new(Plugins::usual())
        .address_space_kb_max(ADDRESS_SPACE_KB)
        .ready()
        .await;
    node.event("no-instance-pool").await;
    node.post("/api/echo/1").json("{}").send().await.ok();
    // An instance is reused, unless it has crashed or was stopped at a limit.
    assert_eq!([calls(&node).await, calls(&node).await], [1, 2]);
    for (act, kind) in [
        ("panic=now", "crashed"),
        ("memory_mb=100", "limit-exceeded"),
        ("recurse", "limit-exceeded"),
    ] {
        node.post(&format!("/api/fickle/1?{act}"))
            .send()
            .await
            .problem(500, kind);
        assert_eq!(calls(&node).await, 1, "after {act}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn without_a_pool_as_many_messages_run_at_once_as_with_one() {
    let gate = Gate::new().await;
    let plugins = Plugins::usual().with_file("fickle.toml", gate.manifest());
    let node = Setup::new(plugins)
        .address_space_kb_max(ADDRESS_SPACE_KB)
        .ready()
        .await;
    run_at_once(&node, "fickle", &gate, AT_A_GATE).await;
}
