//! A mixture of everything that strains a node, for `MESHAGE_SOAK_SECONDS` (a few seconds by
//! default): nothing grows, nothing leaks, and every error is one that was asked for.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::Method;
use tokio::time::interval;

use crate::harness::{
    Client, Plugins, Sdk, Setup, State, Traffic, guest, stamped, taken, wait_for_mesh,
};

/// The requests of the mixture, sent in a loop, and the status that each must get.
const MIXTURE: [(&str, u16); 8] = [
    ("fickle?calls", 200),
    ("fickle?panic", 500),
    ("slow?spin", 504),
    ("fickle?memory_mb=40", 200),
    ("fickle?memory_mb=200", 500),
    ("slow?sleep_ms=60000", 504),
    ("fickle?leak=130", 200),
    ("fresh?calls", 200),
];

#[tokio::test]
async fn what_is_worn_out_again_and_again_stays_as_it_is() {
    let seconds = std::env::var("MESHAGE_SOAK_SECONDS").map_or(6, |text| text.parse().unwrap());
    let plugins = Plugins::usual()
        .with("slow", "fickle")
        .with_file("slow.toml", "timeout_ms = 50\n")
        .with("fresh", "fickle")
        .with_file("fresh.toml", "instances = \"fresh\"\n");
    let first = Setup::new(plugins.clone()).id("n1").start().await;
    let second = Setup::new(plugins.clone())
        .id("n2")
        .seeds(&[&first])
        .start()
        .await;
    let nodes = [&first, &second];
    wait_for_mesh(&nodes).await;

    let end = Instant::now() + Duration::from_secs(seconds);
    let traffic = Traffic::start("echo", &nodes);
    let mixture = async {
        let mut asked = 0;
        while Instant::now() < end {
            for (number, (act, status)) in MIXTURE.iter().enumerate() {
                let (stream, act) = act.split_once('?').unwrap();
                let node = nodes[(asked + number) % 2];
                let answer = node
                    .post(&format!("/api/{stream}/key-{asked}?{act}"))
                    .send()
                    .await;
                assert_eq!(answer.status, *status, "{stream}?{act}: {}", answer.text());
            }
            asked += MIXTURE.len();
        }
        asked
    };
    let reloads = async {
        let mut reloaded = 0;
        let mut ticks = interval(Duration::from_millis(250));
        while Instant::now() < end {
            ticks.tick().await;
            // Cycles through a few versions, whose compiled code is cached.
            let guest = ["echo", "fickle"][reloaded % 2];
            let component = stamped(guest, (reloaded / 2 % 4) as u8);
            plugins.put(&format!("{guest}.wasm"), &component);
            reloaded += 1;
        }
        reloaded
    };
    let samples = async {
        let mut samples = Vec::new();
        let mut ticks = interval(Duration::from_secs(seconds.div_ceil(10)));
        while Instant::now() < end {
            ticks.tick().await;
            samples.push(nodes.map(taken));
        }
        samples
    };
    let (asked, reloaded, samples) = tokio::join!(mixture, reloads, samples);
    let sent = traffic.none_failed().await;
    println!("{sent} messages beside {asked} of the mixture and {reloaded} reloads");
    for sample in &samples {
        println!("{sample:?}");
    }

    for node in nodes {
        for stream in ["echo", "fickle", "slow", "fresh"] {
            node.wait_until_running(stream, 0).await;
            node.wait_for_metric(&format!(
                r#"meshage_plugin_versions{{stream="{stream}"}} 1"#
            ))
            .await;
        }
    }
    // The first quarter is the warm-up. A short run is still warming up at its end, and gets more
    // slack.
    let slack_mb = if seconds < 300 { 64 } else { 8 };
    for node in 0..2 {
        let (warm, last) = (
            samples[samples.len() / 4][node],
            samples[samples.len() - 1][node],
        );
        assert!(
            last.resident_mb <= warm.resident_mb * 5 / 4 + slack_mb,
            "memory grows: {samples:?}"
        );
        assert!(
            last.threads <= warm.threads + 8,
            "threads grow: {samples:?}"
        );
        assert!(
            last.files <= warm.files + 16,
            "open files grow: {samples:?}"
        );
    }
}

/// Handlers in every language that the tests have, each with eight clients.
#[tokio::test]
async fn handlers_of_every_language_take_no_more_and_more() {
    const CLIENTS: usize = 8;
    let test = "handlers_of_every_language_take_no_more_and_more";
    let seconds = std::env::var("MESHAGE_SOAK_SECONDS").map_or(3, |text| text.parse().unwrap());
    let mut components = vec![("cart", std::fs::read(guest("cart")).unwrap())];
    if let Some(javascript) = Sdk::javascript(test) {
        components.push(("javascript", javascript.build("src/tally.ts")));
    }
    if let Some(javascript) = Sdk::starling_monkey(test) {
        let flags = ["--engine", "starlingmonkey"];
        components.push((
            "starlingmonkey",
            javascript.build_with("src/tally.ts", &flags),
        ));
    }
    if let Some(python) = Sdk::python(test) {
        components.push(("python", python.build("src/tally.py")));
    }
    for (stream, component) in components {
        let state = State::sqlite();
        let plugins = Plugins::empty().with_file(&format!("{stream}.wasm"), component);
        let node = Setup::new(plugins).state(&state).ready().await;
        let end = Instant::now() + Duration::from_secs(seconds);
        let client = async |number: usize| {
            let url = format!("http://{}/api/{stream}/k{number}", node.http);
            let (client, mut answered) = (Client::new(), 0);
            while Instant::now() < end {
                let method = [Method::GET, Method::DELETE, Method::POST][answered % 3].clone();
                let body = r#"{"article":"tea","quantity":1,"cents":100,"by":1}"#;
                let answer = client.request(method, &url).json(body).send().await;
                assert!(answer.status < 300, "{stream}: {}", answer.text());
                answered += 1;
            }
            answered
        };
        let samples = async {
            let mut samples = Vec::new();
            let mut ticks = interval(Duration::from_millis(seconds * 100));
            while Instant::now() < end {
                ticks.tick().await;
                samples.push(taken(&node));
            }
            samples
        };
        let (answered, samples) = tokio::join!(join_all((0..CLIENTS).map(client)), samples);
        let answered: usize = answered.into_iter().sum();
        let memory: Vec<u64> = samples.iter().map(|sample| sample.resident_mb).collect();
        println!("{stream}: {answered} messages in {seconds} s, MiB: {memory:?}");
        let (warm, last) = (memory[memory.len() / 2], memory[memory.len() - 1]);
        let slack_mb = if seconds < 60 { 64 } else { 8 };
        assert!(
            last <= warm * 11 / 10 + slack_mb,
            "{stream}: memory grows: {memory:?}"
        );
    }
}
