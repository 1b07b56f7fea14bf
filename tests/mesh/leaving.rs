//! SIGTERM and SIGINT: a node stops accepting, finishes what it has, and goes.

use rustix::process::Signal;
use tokio::net::TcpStream;

use crate::harness::{Plugins, Setup, mesh, until};

const RUNNING: &str = r#"meshage_instances{stream="fickle",state="running"} 1"#;

#[tokio::test]
async fn a_node_finishes_what_it_has_and_ends_with_success() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut node = Setup::new(Plugins::usual()).ready().await;
        let request = node.post("/api/fickle/1?sleep_ms=2000").body("done");
        let leaving = async {
            // Only once it runs is it something to finish.
            node.wait_for_metric(RUNNING).await;
            node.signal(signal);
            until(|| async { node.admin("/readyz").await.status == 503 }).await;
            until(|| async { TcpStream::connect(&node.http).await.is_err() }).await;
            // It listens no more, and still runs.
            node.wait_for_metric(RUNNING).await;
        };
        let (answer, ()) = tokio::join!(request.send(), leaving);
        assert_eq!(answer.ok(), "done");
        assert_eq!(node.ended().await.code(), Some(0));
    }
}

#[tokio::test]
async fn what_peers_have_sent_is_finished_too() {
    let mut nodes = mesh(2).await;
    let key = nodes[0].key_owned_by("fickle", "n2").await;
    let mut leaver = nodes.pop().unwrap();
    // For longer than a leaving node waits for anything else.
    let path = format!("/api/fickle/{key}?sleep_ms=4000");
    // Large enough to be on its way for more than one write.
    let body = vec![b'x'; 1 << 20];
    let request = nodes[0].post(&path).body(body.clone());
    let leaving = async {
        leaver.wait_for_metric(RUNNING).await;
        leaver.signal(Signal::TERM);
    };
    let (answer, ()) = tokio::join!(request.send(), leaving);
    assert_eq!((answer.status, answer.node()), (200, "n2"));
    assert!(answer.body == body);
    assert_eq!(leaver.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut node = Setup::new(Plugins::usual()).ready().await;
    let request = node.post("/api/fickle/1?sleep_ms=25000");
    let ending = async {
        node.wait_for_metric(RUNNING).await;
        node.signal(Signal::TERM);
        node.log_line("leaving").await;
        node.signal(Signal::TERM);
    };
    let (answer, ()) = tokio::join!(request.try_send(), ending);
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(node.ended().await.code(), Some(130));
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
