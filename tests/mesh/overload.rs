//! A plugin under overload serves what it can, refuses the rest early and accurately, and leaves
//! nothing behind. The flood is ten times what the mesh can do, for `MESHAGE_OVERLOAD_SECONDS` (a
//! few seconds by default).

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::harness::{Answer, Client, Gate, Node, Plugins, Setup, mesh_of, need_open_files, taken};

/// Messages that run at once on each node, and that may be queued, as set in the plugin's manifest.
const CONCURRENCY: usize = 4;
const QUEUE: usize = 64;

/// Messages a second that two nodes can serve when each takes 20 ms.
const CAPACITY: u64 = 2 * CONCURRENCY as u64 * 50;

/// Unanswered requests of a flood, at most: each holds a connection.
const UNANSWERED_MAX: usize = 2_000;

/// Requests that each client of `calm` sends, one after the other.
const CALM_REQUESTS: usize = 10;

/// Memory that a client's connection may take.
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

impl Answers {
    fn note(&mut self, answer: &Answer, took: Duration) {
        if answer.status == 200 {
            self.good += 1;
            self.slowest_good = self.slowest_good.max(took);
        } else {
            // A refusal says when to retry (Retry-After), and that nothing has run.
            assert_eq!(answer.problem(503, "overloaded")["retryable"], true);
            self.refused += 1;
            self.slowest_refusal = self.slowest_refusal.max(took);
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            good: self.good + other.good,
            refused: self.refused + other.refused,
            slowest_good: self.slowest_good.max(other.slowest_good),
            slowest_refusal: self.slowest_refusal.max(other.slowest_refusal),
        }
    }
}

fn manifest() -> String {
    format!("concurrency = {CONCURRENCY}\nqueue = {QUEUE}\n")
}

/// As many clients as a single node has room for, so that none is refused even if one node owns all
/// their keys.
async fn calm(nodes: &[&Node]) -> Answers {
    let clients = join_all((0..CONCURRENCY + QUEUE).map(|client| async move {
        let mut answers = Answers::default();
        for number in 0..CALM_REQUESTS {
            let node = nodes[number % nodes.len()];
            let began = Instant::now();
            let answer = node
                .post(&format!("/api/fickle/key-{client}-{number}?sleep_ms=20"))
                .send()
                .await;
            answers.note(&answer, began.elapsed());
        }
        answers
    }));
    clients
        .await
        .into_iter()
        .fold(Answers::default(), Answers::and)
}

/// Sends at a fixed rate, whether or not the earlier requests have been answered.
async fn flood(nodes: &[&Node], per_second: u64, seconds: u64) -> Answers {
    let client = Client::new();
    let (mut requests, mut answers) = (JoinSet::new(), Answers::default());
    let mut ticks = tokio::time::interval(TICK);
    // Missed ticks are caught up at once, which keeps the rate.
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
        if requests.len() >= UNANSWERED_MAX
            && let Some(answered) = requests.join_next().await
        {
            let (answer, took) = answered.unwrap();
            answers.note(&answer, took);
        }
    }
    for (answer, took) in requests.join_all().await {
        answers.note(&answer, took);
    }
    answers
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_room() {
    let node = Setup::new(Plugins::usual())
        .flag("--max-connections", "2")
        .ready()
        .await;
    // Each client keeps its connection open.
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
        _ = node.event("connections-full") => {}
    }
    drop(first);
    waiting.await.ok();
    node.wait_for_metric("meshage_client_connections 2").await;
}

#[tokio::test]
async fn what_finds_no_room_is_refused_whoever_is_asked_and_the_rest_is_done() {
    need_open_files(1_000);
    let gate = Gate::new().await;
    let plugins = Plugins::usual().with_file("fickle.toml", manifest() + &gate.manifest());
    let nodes = mesh_of(&[plugins.clone(), plugins]).await;
    let keys = [
        nodes[0].key_owned_by("fickle", "n1").await,
        nodes[0].key_owned_by("fickle", "n2").await,
    ];
    // For each owner four times as many messages as it has room for, sent to itself and to the
    // other node.
    let room = keys.len() * (CONCURRENCY + QUEUE);
    let client = Client::new();
    let mut requests = JoinSet::new();
    for number in 0..4 * room {
        let (node, key) = (&nodes[number % 2], &keys[number / 2 % 2]);
        let (client, url) = (
            client.clone(),
            format!("http://{}/api/fickle/{key}?{}", node.http, gate.act()),
        );
        requests.spawn(async move { client.request(http::Method::POST, &url).send().await });
    }
    // No message finishes before the gate is open, so the number of refusals is exact.
    while requests.len() > room {
        let answer = requests.join_next().await.unwrap().unwrap();
        assert_eq!(answer.problem(503, "overloaded")["retryable"], true);
    }
    gate.open();
    for answer in requests.join_all().await {
        answer.ok();
    }
}

#[tokio::test]
async fn what_is_too_much_is_refused_and_the_rest_is_done() {
    need_open_files(2 * UNANSWERED_MAX as u64);
    let seconds = std::env::var("MESHAGE_OVERLOAD_SECONDS").map_or(3, |text| text.parse().unwrap());
    let plugins = Plugins::usual().with_file("fickle.toml", manifest());
    let nodes = mesh_of(&[plugins.clone(), plugins]).await;
    let nodes = [&nodes[0], &nodes[1]];
    let calm = calm(&nodes).await;
    let before = nodes.map(taken);
    let began = Instant::now();
    let flooded = flood(&nodes, CAPACITY * 10, seconds).await;
    let flood_seconds = began.elapsed().as_secs_f64();
    let after = nodes.map(taken);
    // All requests have been answered, so there is room again.
    let began = Instant::now();
    for answer in join_all(nodes.map(|node| node.post("/api/fickle/1?sleep_ms=20").send())).await {
        answer.ok();
    }
    println!("calm: {calm:?}");
    println!(
        "flood: {flooded:?}, {:.0} good answers a second",
        flooded.good as f64 / flood_seconds
    );
    println!(
        "well again after {:?}; {before:?} became {after:?}",
        began.elapsed()
    );
    assert_eq!(calm.refused, 0, "{calm:?}");
    // How many were refused depends on the speed of the machine.
    assert!(flooded.good > 0, "{flooded:?}");
    for (before, after) in before.iter().zip(&after) {
        // A refused request holds nothing but its connection.
        let connections_mb = after.files as u64 * CONNECTION_KB_MAX / 1024;
        let bound_mb = before.resident_mb + 64 + connections_mb;
        assert!(
            after.resident_mb <= bound_mb,
            "memory grows: {before:?} became {after:?}"
        );
    }
    // Neither the plugin's queue nor its instances have grown beyond what its manifest says.
    for node in nodes {
        node.wait_until_running("fickle", 0).await;
        let metrics = node.admin("/metrics").await;
        let idle = metrics.text().lines().find_map(|line| {
            line.strip_prefix(r#"meshage_instances{stream="fickle",state="idle"} "#)?
                .parse::<u64>()
                .ok()
        });
        assert!(
            idle.is_some_and(|idle| idle <= CONCURRENCY as u64),
            "{idle:?}"
        );
    }
}
