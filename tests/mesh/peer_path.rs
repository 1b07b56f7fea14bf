//! Connections between nodes: many concurrent messages, and no strangers.

use futures_util::future::join_all;
#[cfg(target_os = "linux")]
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
#[cfg(target_os = "linux")]
use tokio::task::JoinSet;
use tokio::time::timeout;

#[cfg(target_os = "linux")]
use crate::harness::{Crowd, Gate};
use crate::harness::{HANG, Plugins, Setup, mesh, need_open_files, wait_for_mesh};

/// Calls that may wait for their replies on one connection.
#[cfg(target_os = "linux")]
const CALLS_MAX: usize = 8_192;

/// Calls sent beyond that limit.
#[cfg(target_os = "linux")]
const CALLS_BEYOND: usize = 100;

#[tokio::test]
async fn large_and_small_messages_share_the_connection_and_none_is_mixed_up() {
    need_open_files(1_000);
    let nodes = mesh(2).await;
    let key = nodes[0].key_owned_by("fickle", "n2").await;
    let path = format!("/api/fickle/{key}");
    let calls = (0..300usize).map(|number| {
        let (node, path) = (&nodes[0], &path);
        async move {
            let size = if number % 10 == 0 { 1 << 20 } else { number };
            let body = vec![number as u8; size];
            let answer = node.post(path).body(body.clone()).send().await;
            assert_eq!((answer.status, answer.node()), (200, "n2"));
            assert!(answer.body == body, "message {number} came back as another");
        }
    });
    join_all(calls).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_connection_takes_so_many_calls_and_each_one_more_is_refused() {
    let gate = Gate::new().await;
    // One call runs, and all others wait for it. The queue of the plugin has room for more than the
    // connection.
    let manifest = format!(
        "concurrency = 1\nqueue = {}\n{}",
        2 * CALLS_MAX,
        gate.manifest()
    );
    let plugins = Plugins::empty()
        .with("fickle", "fickle")
        .with_file("fickle.toml", manifest);
    let start = |id: &str, plugins| Setup::new(plugins).id(id).flag("--timeout", "1h");
    let first = start("n1", Plugins::empty().with("echo", "echo"))
        .one_core()
        .start()
        .await;
    let second = start("n2", plugins).seeds(&[&first]).start().await;
    wait_for_mesh(&[&first, &second]).await;
    first.wait_for_metric("meshage_peer_connections 1").await;
    let (crowd, mut calls) = (Crowd::of(CALLS_MAX + CALLS_BEYOND), JoinSet::new());
    for number in 0..CALLS_MAX + CALLS_BEYOND {
        let act = if number == 0 {
            gate.act()
        } else {
            String::new()
        };
        let (client, url) = (
            crowd.client(number),
            format!("http://{}/api/fickle/1?{act}", first.http),
        );
        calls.spawn(async move { client.request(Method::POST, &url).send().await });
        if number == 0 {
            gate.wait_for(1).await;
        }
    }
    for _ in 0..CALLS_BEYOND {
        let answer = calls.join_next().await.unwrap().unwrap();
        assert_eq!(answer.problem(503, "overloaded")["retryable"], true);
    }
    // A local message needs no connection, and is served as before.
    first.post("/api/echo/1").json("{}").send().await.ok();
    gate.open();
    let answers = calls.join_all().await;
    assert_eq!(answers.len(), CALLS_MAX);
    for answer in answers {
        assert_eq!((answer.ok(), answer.node()), ("", "n2"));
    }
}

#[tokio::test]
async fn a_connection_on_which_only_replies_come_stays() {
    let nodes = mesh(2).await;
    let key = nodes[0].key_owned_by("fickle", "n2").await;
    // All are sent at once. From then on the caller has no more calls to send, for longer (12 s)
    // than a connection may be silent (10 s).
    let calls = (1..=30).map(|number| {
        let path = format!("/api/fickle/{key}?sleep_ms={}", number * 400);
        let node = &nodes[0];
        async move { node.post(&path).body("done").send().await }
    });
    for answer in join_all(calls).await {
        assert_eq!(answer.ok(), "done");
    }
}

#[tokio::test]
async fn nodes_of_another_cluster_are_ignored() {
    let first = Setup::new(Plugins::usual()).id("n1").ready().await;
    let other = Setup::new(Plugins::usual())
        .id("n2")
        .flag("--cluster-id", "other")
        .seeds(&[&first])
        .ready()
        .await;
    // By now the other node has finished its first gossip round with `first` as its seed, and has
    // given up on it.
    assert_eq!(first.view().await.len(), 1);
    assert_eq!(other.view().await.len(), 1);
}

#[tokio::test]
async fn junk_on_the_cluster_port_harms_nothing() {
    let nodes = mesh(2).await;
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for length in [0, 1, 17, 500, 1400] {
        udp.send_to(&vec![0x5a; length], &nodes[0].cluster)
            .await
            .unwrap();
    }
    for junk in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 64],
        &[0, 0, 0, 2, 3, 0],
    ] {
        let mut stream = TcpStream::connect(&nodes[0].cluster).await.unwrap();
        stream.write_all(junk).await.unwrap();
        // The node closes the connection, and at most says why.
        let mut said = Vec::new();
        let _ = timeout(HANG, stream.read_to_end(&mut said))
            .await
            .expect("the connection stays open");
    }
    wait_for_mesh(&[&nodes[0], &nodes[1]]).await;
    let key = nodes[1].key_owned_by("echo", "n1").await;
    nodes[1].post(&format!("/api/echo/{key}")).send().await.ok();
}
