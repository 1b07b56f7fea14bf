//! SIGTERM, SIGINT and SIGHUP: a node stops accepting, finishes its work in progress, and exits.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::Method;
use rustix::process::Signal;
use tokio::net::TcpStream;

use crate::harness::{Client, Gate, Http2, Node, Plugins, Setup, mesh, mesh_of, until};

const RUNNING: &str = r#"meshage_instances{stream="fickle",state="running"} 1"#;

/// A signal sooner after the first than this counts as the same one: tools such as GNU `timeout`
/// signal a process and then its group.
const IMPATIENT_AFTER: Duration = Duration::from_millis(500);

/// HTTP/2 connections to a leaving node, and concurrent requests on each.
const CONNECTIONS: usize = 4;
const STREAMS: usize = 4;

/// Plugins of which `fickle` may wait at the gate.
fn plugins(gate: &Gate) -> Plugins {
    Plugins::usual().with_file("fickle.toml", gate.manifest())
}

async fn listens_no_more(node: &Node) {
    until(|| async { TcpStream::connect(&node.http).await.is_err() }).await;
}

/// Sends all these signals at once to a node that runs a call, and checks that the call finishes
/// before the node exits.
async fn finishes_what_it_has(signals: &[Signal]) {
    let gate = Gate::new().await;
    let mut node = Setup::new(plugins(&gate)).ready().await;
    let path = format!("/api/fickle/1?{}", gate.act());
    let request = node.post(&path).body("done");
    let leaving = async {
        // The call must be running before the signals arrive.
        gate.wait_for(1).await;
        // Signals to a stopped process stay pending, and are delivered together when it continues.
        node.hang().await;
        for signal in signals {
            node.signal(*signal);
        }
        node.signal(Signal::CONT);
        until(|| async { node.admin("/readyz").await.status == 503 }).await;
        listens_no_more(&node).await;
        // The call still runs.
        node.wait_for_metric(RUNNING).await;
        gate.open();
    };
    let (answer, ()) = tokio::join!(request.send(), leaving);
    assert_eq!(answer.ok(), "done");
    assert_eq!(node.ended().await.code(), Some(0), "{signals:?}");
}

#[tokio::test]
async fn a_node_finishes_what_it_has_and_ends_with_success() {
    for signal in [Signal::TERM, Signal::INT] {
        finishes_what_it_has(&[signal]).await;
    }
}

#[tokio::test]
async fn a_hangup_is_no_reason_to_drop_anything() {
    finishes_what_it_has(&[Signal::HUP]).await;
}

#[tokio::test]
async fn signals_that_come_together_are_one() {
    // Of each kind the system keeps only one pending signal, so these are of different kinds.
    for signals in [[Signal::TERM, Signal::INT], [Signal::INT, Signal::HUP]] {
        finishes_what_it_has(&signals).await;
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let gate = Gate::new().await;
    let mut node = Setup::new(plugins(&gate)).ready().await;
    let (client, url) = (
        Client::new(),
        format!("http://{}/api/fickle/1?{}", node.http, gate.act()),
    );
    let request = client.request(Method::POST, &url);
    let ending = async {
        gate.wait_for(1).await;
        let began = Instant::now();
        (node.signal_until_ended(Signal::TERM).await, began.elapsed())
    };
    let (answer, (status, took)) = tokio::join!(request.try_send(), ending);
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(status.code(), Some(130));
    assert!(took >= IMPATIENT_AFTER, "it ended after {took:?}");
}

#[tokio::test]
async fn what_peers_have_sent_is_finished_too() {
    let gate = Gate::new().await;
    let mut nodes = mesh_of(&[plugins(&gate), plugins(&gate)]).await;
    let key = nodes[0].key_owned_by("fickle", "n2").await;
    let mut leaver = nodes.pop().unwrap();
    let path = format!("/api/fickle/{key}?{}", gate.act());
    // Large enough to take more than one write.
    let body = vec![b'x'; 1 << 20];
    let request = nodes[0].post(&path).body(body.clone());
    let leaving = async {
        gate.wait_for(1).await;
        leaver.signal(Signal::TERM);
        // The node no longer waits for its peers to close their connections.
        leaver.event("refusing").await;
        gate.open();
    };
    let (answer, ()) = tokio::join!(request.send(), leaving);
    assert_eq!((answer.status, answer.node()), (200, "n2"));
    assert!(answer.body == body);
    assert_eq!(leaver.ended().await.code(), Some(0));
}

#[tokio::test]
async fn the_others_take_over_and_no_request_fails() {
    let mut nodes = mesh(2).await;
    let key = nodes[0].key_owned_by("echo", "n2").await;
    let mut leaver = nodes.pop().unwrap();
    let node = &nodes[0];
    leaver.signal(Signal::TERM);
    let path = format!("/api/echo/{key}");
    let ended = leaver.ended();
    tokio::pin!(ended);
    let mut served = 0;
    loop {
        tokio::select! {
            biased;
            status = &mut ended => {
                assert!(status.success());
                break;
            }
            answer = node.post(&path).send() => {
                answer.ok();
                served += 1;
            }
        }
    }
    assert!(served > 0);
    let answer = node.post(&path).send().await;
    answer.ok();
    assert_eq!(answer.node(), "n1");
}

/// Sends one request after the other until GOAWAY, and returns how many were answered.
async fn send_until_goodbye(client: Http2, node: &Node) -> usize {
    let mut sent = 0;
    while let Some(answer) = client
        .post(&format!("http://{}/api/echo/key-{sent}", node.http), "{}")
        .await
    {
        answer.ok();
        sent += 1;
    }
    sent
}

#[tokio::test]
async fn what_http2_clients_have_sent_is_answered_before_their_connections_end() {
    let gate = Gate::new().await;
    let mut nodes = mesh_of(&[plugins(&gate), plugins(&gate)]).await;
    let keys = [
        nodes[0].key_owned_by("fickle", "n1").await,
        nodes[0].key_owned_by("fickle", "n2").await,
    ];
    let mut leaver = nodes.pop().unwrap();
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(Http2::over(TcpStream::connect(&leaver.http).await.unwrap()).await);
    }
    // Requests begun before GOAWAY and finished after it, one on each node.
    let held = join_all(keys.iter().map(|key| {
        let url = format!("http://{}/api/fickle/{key}?{}", leaver.http, gate.act());
        let client = &clients[0];
        async move { client.post(&url, "held").await }
    }));
    let busy = join_all((0..CONNECTIONS * STREAMS).map(|number| {
        let client = clients[number % CONNECTIONS].clone();
        send_until_goodbye(client, &leaver)
    }));
    let leaving = async {
        gate.wait_for(keys.len()).await;
        leaver.signal(Signal::TERM);
    };
    let goodbye = async {
        let (sent, ()) = tokio::join!(busy, leaving);
        // A client that reconnects after GOAWAY is not let in.
        listens_no_more(&leaver).await;
        gate.open();
        sent
    };
    let (held, sent) = tokio::join!(held, goodbye);
    for (answer, node) in held.iter().zip(["n1", "n2"]) {
        let answer = answer.as_ref().expect("it was sent before the goodbye");
        assert_eq!((answer.ok(), answer.node()), ("held", node));
    }
    assert!(sent.iter().all(|sent| *sent > 0), "{sent:?}");
    assert_eq!(leaver.ended().await.code(), Some(0));
}
