//! SIGTERM and SIGINT: a node stops accepting, finishes what it has, and goes.

use rustix::process::Signal;

use crate::harness::{Plugins, Setup, mesh, until};

#[tokio::test]
async fn a_node_finishes_what_it_has_and_ends_with_success() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut node = Setup::new(Plugins::usual()).ready().await;
        let request = node.post("/api/fickle/1?sleep_ms=1500").body("done");
        let answer = async {
            let answering = request.send();
            tokio::pin!(answering);
            // Only once it runs is it something to finish.
            let running = until(|| async {
                node.admin("/metrics").await.text().contains(r#"meshage_instances{stream="fickle",state="running"} 1"#)
            });
            tokio::select! {
                () = running => {}
                answer = &mut answering => panic!("too early: {answer:?}"),
            }
            node.signal(signal);
            answering.await
        };
        assert_eq!(answer.await.ok(), "done");
        assert_eq!(node.ended().await.code(), Some(0));
        assert!(tokio::net::TcpStream::connect(&node.http).await.is_err(), "it still listens");
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut node = Setup::new(Plugins::usual()).ready().await;
    let request = node.post("/api/fickle/1?sleep_ms=25000");
    let ending = async {
        until(|| async { node.admin("/metrics").await.text().contains(r#"state="running"} 1"#) }).await;
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
