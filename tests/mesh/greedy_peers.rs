//! Peers that ask for more than they read, or announce more than they send: the memory that they
//! can take is bounded.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::frames::{Call, FAULT, HELLO, Hello, PING, frame, next_frame, say_hello};
use crate::harness::{HANG, Node, Plugins, Setup, mesh, taken};

/// Growth of a node's memory: what it buffers for a peer that reads nothing, and the test's own
/// connection.
const GROWTH_MB_MAX: u64 = 200;

/// A connection after the exchange of hellos.
async fn greeted(node: &Node) -> TcpStream {
    let (stream, (kind, _)) = say_hello(&node.cluster, &Hello::of("p1", 1)).await;
    assert_eq!(kind, HELLO, "it is not welcome");
    stream
}

#[tokio::test]
async fn a_peer_that_asks_and_takes_nothing_is_ended() {
    let nodes = mesh(1).await;
    let before = taken(&nodes[0]).resident_mb;
    let (_reader, mut writer) = greeted(&nodes[0]).await.into_split();
    let pings = frame(PING, &[]).repeat(100_000);
    let asking = async { while writer.write_all(&pings).await.is_ok() {} };
    timeout(HANG, asking)
        .await
        .expect("the connection stays open");
    let after = taken(&nodes[0]).resident_mb;
    assert!(
        after < before + GROWTH_MB_MAX,
        "memory grows from {before} to {after} MB"
    );
    nodes[0].log_line("it has taken nothing for too long").await;
    nodes[0].post("/api/echo/1").json("{}").send().await.ok();
}

#[tokio::test]
async fn a_peer_that_shows_signs_of_life_and_takes_nothing_is_ended() {
    let node = Setup::new(Plugins::usual()).ready().await;
    let (_reader, mut writer) = greeted(&node).await.into_split();
    // GETs of 16 MB each from `fickle`: more than the socket buffers hold.
    for id in 1..=4_u32 {
        let call = Call {
            query: "bytes=16000000",
            ..Call::of(id, "GET", "fickle")
        };
        writer.write_all(&call.frame()).await.unwrap();
    }
    let living = async {
        let mut pings = tokio::time::interval(Duration::from_millis(500));
        while writer.write_all(&frame(PING, &[])).await.is_ok() {
            pings.tick().await;
        }
    };
    timeout(HANG, living)
        .await
        .expect("the connection stays open");
    node.log_line("it has taken nothing for too long").await;
    assert_eq!(node.served("fickle").await, 4);
}

#[tokio::test]
async fn what_peers_announce_takes_its_room() {
    let node = Setup::new(Plugins::usual()).ready().await;
    let mut stream = greeted(&node).await;
    // A POST to `echo` that announces 64 MiB and sends one byte: there is memory for four such
    // bodies.
    for id in 1..=5_u32 {
        let call = Call {
            body_bytes: 64 << 20,
            body: b"x",
            ..Call::of(id, "POST", "echo")
        };
        stream.write_all(&call.frame()).await.unwrap();
    }
    let (kind, rest) = next_frame(&mut stream).await.expect("no answer");
    assert_eq!((kind, &rest[..4]), (FAULT, &5_u32.to_be_bytes()[..]));
    let problem = node
        .post("/api/echo/1")
        .body(vec![b'x'; 4096])
        .send()
        .await
        .problem(503, "overloaded");
    assert!(
        problem["detail"].as_str().unwrap().contains("memory"),
        "{problem}"
    );
    // The calls end with their connection and free their memory.
    drop(stream);
    crate::harness::until(|| async {
        node.post("/api/fickle/1")
            .body(vec![b'x'; 4096])
            .send()
            .await
            .status
            == 200
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_uses_an_id_twice_is_ended() {
    let node = Setup::new(Plugins::usual()).ready().await;
    let arriving = Call {
        body_bytes: 2,
        body: b"{",
        ..Call::of(1, "POST", "echo")
    };
    let running = Call {
        query: "sleep_ms=5000",
        ..Call::of(1, "GET", "fickle")
    };
    for call in [arriving, running] {
        let mut stream = greeted(&node).await;
        for _ in 0..2 {
            stream.write_all(&call.frame()).await.unwrap();
        }
        assert!(next_frame(&mut stream).await.is_none());
    }
    node.log_line("the call id 1 is in use").await;
}

#[tokio::test]
async fn a_call_that_comes_without_time_is_not_run() {
    let node = Setup::new(Plugins::usual()).ready().await;
    let mut stream = greeted(&node).await;
    let call = Call {
        remaining: Duration::ZERO,
        body_bytes: 2,
        body: b"{}",
        ..Call::of(1, "POST", "echo")
    };
    stream.write_all(&call.frame()).await.unwrap();
    let (kind, rest) = next_frame(&mut stream).await.expect("no answer");
    assert_eq!((kind, &rest[..4]), (FAULT, &1_u32.to_be_bytes()[..]));
    assert_eq!(node.served("echo").await, 0);
}

#[tokio::test]
async fn a_message_that_did_not_leave_the_node_may_be_sent_again() {
    let start = |id: &'static str| {
        let setup = Setup::new(Plugins::usual())
            .id(id)
            .flag("--max-body", "67108864");
        setup.flag("--timeout", "400ms")
    };
    let first = start("n1").start().await;
    let second = start("n2").seeds(&[&first]).start().await;
    crate::harness::wait_for_mesh(&[&first, &second]).await;
    let key = first.key_owned_by("fickle", "n2").await;
    second.hang().await;
    // More than the kernel buffers for a peer that reads nothing.
    let answer = first
        .post(&format!("/api/fickle/{key}?describe"))
        .body(vec![b'x'; 48 << 20])
        .send()
        .await;
    second.signal(rustix::process::Signal::CONT);
    // Status 200 if the breaker has opened already: then the next in rank has answered.
    if answer.status != 200 {
        let problem = answer.problem(504, "deadline-exceeded");
        assert_eq!(problem["retryable"], true, "{problem}");
    }
    crate::harness::wait_for_mesh(&[&first, &second]).await;
    assert_eq!(second.served("fickle").await, 0);
}
