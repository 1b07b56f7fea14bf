//! Handlers that keep a core busy take turns, on every core, and delay nobody else. The tests look
//! at the CPU time of each thread of a node.

use std::collections::BTreeMap;
use std::thread::available_parallelism;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::{Node, Plugins, Setup, skipped, threads, until};

/// In clock ticks of the system, 100 a second.
const HALF_A_SECOND: u64 = 50;

/// CPU time of each lane, or of each other thread, since `before`; the busiest first.
fn had_since(node: &Node, before: &BTreeMap<String, (String, u64)>, is_lane: bool) -> Vec<u64> {
    let now = threads(node);
    let had = now
        .iter()
        .filter(|(_, (name, _))| (name == "lane") == is_lane);
    let mut had: Vec<u64> = had
        .map(|(id, (_, ticks))| ticks - before.get(id).map_or(0, |(_, ticks)| *ticks))
        .collect();
    had.sort_unstable_by(|one, other| other.cmp(one));
    had
}

/// Opens a connection and starts a handler on it that never ends.
async fn spin(node: &Node) -> TcpStream {
    let mut stream = TcpStream::connect(&node.http).await.unwrap();
    stream
        .write_all(b"POST /api/fickle/1?spin HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    stream
}

#[tokio::test]
async fn two_busy_clients_use_two_cores_wherever_their_connections_are() {
    let cores = available_parallelism().unwrap().get();
    if cores < 2 {
        return skipped(
            "two_busy_clients_use_two_cores_wherever_their_connections_are",
            "two cores",
        );
    }
    let node = Setup::new(Plugins::usual())
        .flag("--timeout", "1h")
        .ready()
        .await;
    // Connections are spread over the lanes round robin, so these two share a lane.
    let first = spin(&node).await;
    let mut others = Vec::new();
    for number in 1..cores {
        others.push(TcpStream::connect(&node.http).await.unwrap());
        node.wait_for_metric(&format!("meshage_client_connections {}", number + 1))
            .await;
    }
    let second = spin(&node).await;
    node.wait_until_running("fickle", 2).await;
    let before = threads(&node);
    until(|| async {
        had_since(&node, &before, false)
            .get(1)
            .is_some_and(|had| *had >= HALF_A_SECOND)
    })
    .await;
    let lanes: u64 = had_since(&node, &before, true).iter().sum();
    assert!(
        lanes < HALF_A_SECOND,
        "lanes had {lanes} ticks: long calls are still there"
    );
    drop((first, second, others));
    node.wait_until_running("fickle", 0).await;
}

#[tokio::test]
async fn busy_handlers_keep_no_short_call_waiting() {
    let node = Setup::new(Plugins::usual())
        .flag("--timeout", "1h")
        .ready()
        .await;
    let mut busy = Vec::new();
    for _ in 0..8 {
        busy.push(spin(&node).await);
    }
    node.wait_until_running("fickle", 8).await;
    for key in 0..100 {
        node.post(&format!("/api/echo/{key}"))
            .json("{}")
            .send()
            .await
            .ok();
    }
    drop(busy);
    node.wait_until_running("fickle", 0).await;
}
