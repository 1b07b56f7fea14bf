//! Ten times what a plugin can do, for as long as `MESHAGE_OVERLOAD_SECONDS` says (a few seconds by default): what it
//! can do it does, the rest is refused early and truthfully, and nothing is left over.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::harness::{Client, Node, Plugins, Setup, mesh_of, taken};

/// What two nodes can do with a message that takes 20 ms, four at a time each.
const CAPACITY: u64 = 400;

/// What a client's connection may take.
const CONNECTION_KB_MAX: u64 = 32;

const TICK: Duration = Duration::from_millis(10);

/// How requests were answered, and how long the slowest of each kind took.
#[derive(Debug, Default)]
struct Answers {
    good: u64,
    refused: u64,
    slowest_good: Duration,
    slowest_refusal: Duration,
}

/// Sends so many requests a second, whether or not the earlier ones have been answered.
async fn flood(nodes: &[&Node], per_second: u64, seconds: u64) -> Answers {
    let client = Client::new();
    let mut requests = JoinSet::new();
    let mut ticks = tokio::time::interval(TICK);
    // What was missed is sent at once: the rate is kept.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let per_tick = per_second * TICK.as_millis() as u64 / 1_000;
    for number in 0..per_second * seconds {
        if number % per_tick == 0 {
            ticks.tick().await;
        }
        let node = nodes[number as usize % nodes.len()];
        let url = format!("http://{}/api/fickle/key-{number}?sleep_ms=20", node.http);
        let client = client.clone();
        requests.spawn(async move {
            let began = Instant::now();
            let answer = client.request(http::Method::POST, &url).send().await;
            (answer, began.elapsed())
        });
    }
    let mut answers = Answers::default();
    while let Some(answered) = requests.join_next().await {
        let (answer, time) = answered.unwrap();
        if answer.status == 200 {
            answers.good += 1;
            answers.slowest_good = answers.slowest_good.max(time);
        } else {
            // Says when to come back, and that nothing has happened.
            assert_eq!(answer.problem(503, "overloaded")["retryable"], true);
            answers.refused += 1;
            answers.slowest_refusal = answers.slowest_refusal.max(time);
        }
    }
    answers
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_room() {
    let node = Setup::new(Plugins::usual()).flag("--max-connections", "2").ready().await;
    // Each keeps its connection.
    let clients = [(); 3].map(|()| Client::new());
    let request = |client: &Client| {
        let url = format!("http://{}/api/echo/1", node.http);
        let client = client.clone();
        async move { client.request(http::Method::POST, &url).send().await }
    };
    for client in &clients[..2] {
        request(client).await.ok();
    }
    node.wait_for_metric("meshage_client_connections 2").await;
    let [first, _second, third] = clients;
    let waiting = request(&third);
    tokio::pin!(waiting);
    tokio::select! {
        answer = &mut waiting => panic!("there should be no room: {answer:?}"),
        _ = node.log_line("--max-connections") => {}
    }
    drop(first);
    waiting.await.ok();
    node.wait_for_metric("meshage_client_connections 2").await;
}

#[tokio::test]
async fn what_is_too_much_is_refused_and_the_rest_is_done() {
    let seconds = std::env::var("MESHAGE_OVERLOAD_SECONDS").map_or(3, |text| text.parse().unwrap());
    let plugins = Plugins::usual().with_file("fickle.toml", "concurrency = 4\nqueue = 64\n");
    let nodes = mesh_of(&[plugins.clone(), plugins]).await;
    let nodes = [&nodes[0], &nodes[1]];
    let calm = flood(&nodes, CAPACITY * 8 / 10, seconds).await;
    let before = nodes.map(taken);
    let began = Instant::now();
    let flooded = flood(&nodes, CAPACITY * 10, seconds).await;
    let flood_seconds = began.elapsed().as_secs_f64();
    let after = nodes.map(taken);
    // All that was asked has been answered: there is room again.
    let began = Instant::now();
    for answer in join_all(nodes.map(|node| node.post("/api/fickle/1?sleep_ms=20").send())).await {
        answer.ok();
    }
    println!("calm: {calm:?}");
    println!("flood: {flooded:?}, {:.0} good answers a second", flooded.good as f64 / flood_seconds);
    println!("well again after {:?}; {before:?} became {after:?}", began.elapsed());
    assert_eq!(calm.refused, 0, "{calm:?}");
    assert!(flooded.refused > 0 && flooded.good > 0, "{flooded:?}");
    for (before, after) in before.iter().zip(&after) {
        // What is refused holds nothing but its connection.
        let connections_mb = after.files as u64 * CONNECTION_KB_MAX / 1024;
        let bound_mb = before.resident_mb + 64 + connections_mb;
        assert!(after.resident_mb <= bound_mb, "memory grows: {before:?} became {after:?}");
    }
    // Neither the plugin's queue nor its instances have grown beyond what its manifest says.
    for node in nodes {
        node.wait_until_running("fickle", 0).await;
        let metrics = node.admin("/metrics").await;
        let idle = metrics.text().lines().find_map(|line| {
            line.strip_prefix(r#"meshage_instances{stream="fickle",state="idle"} "#)?.parse::<u64>().ok()
        });
        assert!(idle.is_some_and(|idle| idle <= 4), "{idle:?}");
    }
}
