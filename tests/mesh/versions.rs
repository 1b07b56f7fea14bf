//! Nodes of adjacent versions work together: frames, features and faults that one does not know end
//! no connection.

#[cfg(target_os = "linux")]
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::frames::{
    AN_EXTENSION, CALL, CHUNK, Call, FAULT, HELLO, Hello, NO_EXTENSIONS, PING, PONG, REJECT, REPLY,
    frame, next_frame, say_hello, text, varint,
};
use crate::harness::{HandMade, Node, Plugins, Setup};
#[cfg(target_os = "linux")]
use crate::harness::{LaterVersions, Traffic, refs, wait_for_mesh};

/// Kinds of frames that a later version may have.
const LATER: [u8; 2] = [12, 200];

/// The generation of the fake peer; any will do.
const GENERATION: u64 = 77;

fn contains(bytes: &[u8], part: &str) -> bool {
    bytes
        .windows(part.len())
        .any(|window| window == part.as_bytes())
}

#[tokio::test]
async fn a_caller_of_a_later_version_is_served() {
    let node = Setup::new(Plugins::usual()).ready().await;
    let features = &["timers", "a-later-one"];
    let hello = Hello {
        versions: (2, 9),
        features,
        extensions: AN_EXTENSION,
        ..Hello::of("p1", 1)
    };
    let (mut stream, (kind, _)) = say_hello(&node.cluster, &hello).await;
    assert_eq!(kind, HELLO);
    for kind in LATER {
        stream
            .write_all(&frame(kind, b"whatever it is"))
            .await
            .unwrap();
    }
    let call = Call {
        extensions: AN_EXTENSION,
        body_bytes: 2,
        body: b"{}",
        ..Call::of(1, "POST", "echo")
    };
    stream.write_all(&call.frame()).await.unwrap();
    let (kind, reply) = next_frame(&mut stream).await.unwrap();
    assert!(
        kind == REPLY && reply.starts_with(&[0, 0, 0, 1]) && contains(&reply, "echoed"),
        "{kind} {reply:?}"
    );
    // A call that the node cannot read is refused by itself, even while its body still arrives.
    let call = Call {
        body_bytes: 1 << 30,
        body: b"x",
        ..Call::of(3, "POST", "echo")
    };
    stream.write_all(&call.frame()).await.unwrap();
    let chunk = [&3_u32.to_be_bytes()[..], b"more"].concat();
    stream.write_all(&frame(CHUNK, &chunk)).await.unwrap();
    let (kind, fault) = next_frame(&mut stream).await.unwrap();
    assert!(
        kind == FAULT && fault.starts_with(&[0, 0, 0, 3]) && contains(&fault, "not-understood")
    );
    stream
        .write_all(&Call::of(2, "LINK", "echo").frame())
        .await
        .unwrap();
    let (kind, fault) = next_frame(&mut stream).await.unwrap();
    assert!(
        kind == FAULT && fault.starts_with(&[0, 0, 0, 2]) && contains(&fault, "not-understood"),
        "{kind}"
    );
    stream
        .write_all(&frame(PING, b"with something behind it"))
        .await
        .unwrap();
    assert_eq!(next_frame(&mut stream).await.unwrap().0, PONG);
    assert_eq!(node.served("echo").await, 1);
}

#[tokio::test]
async fn who_is_no_peer_is_told_why() {
    let node = Setup::new(Plugins::usual()).id("n1").ready().await;
    for (hello, said) in [
        (
            Hello {
                versions: (3, 9),
                ..Hello::of("p1", 1)
            },
            r#"node "p1" speaks 3 to 9, node "n1" 2"#,
        ),
        (
            Hello {
                versions: (1, 1),
                ..Hello::of("p1", 1)
            },
            r#"node "p1" speaks 1, node "n1" 2"#,
        ),
        (
            Hello {
                to_generation: Some(1),
                ..Hello::of("p1", 1)
            },
            "looks for generation 1 of node",
        ),
    ] {
        let (mut stream, (kind, reason)) = say_hello(&node.cluster, &hello).await;
        assert!(
            kind == REJECT && contains(&reason, said),
            "{kind} {}",
            String::from_utf8_lossy(&reason)
        );
        assert!(
            next_frame(&mut stream).await.is_none(),
            "the connection goes on"
        );
        // Of rejections that follow each other closely the log has the first one only.
        node.log_line(r#"speaks 3 to 9, node \"n1\" 2"#).await;
    }
    // A hello in an unknown format, except for the beginning that all versions share.
    let mut stream = TcpStream::connect(&node.cluster).await.unwrap();
    let hello = frame(HELLO, b"meshage\n\x07\x09\xff\xff\xff");
    stream.write_all(&hello).await.unwrap();
    let (kind, reason) = next_frame(&mut stream).await.unwrap();
    assert_eq!(kind, REJECT);
    assert!(contains(
        &reason,
        r#"the other node speaks 7 to 9, node "n1" 2"#
    ));
}

/// A node, and a fake one that is ready and offers the streams `echo` and `later`, the latter
/// alone. It answers each call with what `answers` makes of the call's id. Waits until the node has
/// logged the event `told`.
async fn with_peer(hello: Hello, answers: fn(&[u8]) -> Vec<u8>, told: &str) -> (Node, HandMade) {
    let node = Setup::new(Plugins::usual()).id("n1").ready().await;
    let (peer, connections) =
        HandMade::start("p1", GENERATION, "ready", &["later", "echo"], &[&node]).await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = connections.accept().await {
            tokio::spawn(serve(stream, hello.clone(), answers));
        }
    });
    // After this event, messages are routed to the fake node.
    node.event(told).await;
    (node, peer)
}

async fn serve(mut stream: TcpStream, hello: Hello, answers: fn(&[u8]) -> Vec<u8>) {
    while let Some((kind, rest)) = next_frame(&mut stream).await {
        let answer = match kind {
            // A later version sends more frames than were asked for.
            HELLO => [
                hello.frame(),
                frame(LATER[0], b""),
                frame(LATER[1], b"more"),
            ]
            .concat(),
            PING => frame(PONG, b""),
            CALL => answers(&rest[..4]),
            _ => continue,
        };
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

fn reply(id: &[u8]) -> Vec<u8> {
    frame(
        REPLY,
        &[
            id,
            &varint(201),
            &varint(0),
            &varint(2),
            AN_EXTENSION,
            b"ok",
        ]
        .concat(),
    )
}

/// What it says of itself is not asked of one that would not answer.
#[tokio::test]
async fn a_node_that_cannot_be_asked_is_shown_as_such() {
    let (node, _peer) = with_peer(Hello::of("p1", GENERATION), reply, "peer-connected").await;
    let overview = node.admin("/overview").await.json();
    let peer = &overview["nodes"][1];
    assert_eq!(
        (&peer["nodeId"], &peer["problem"], &peer["report"]),
        (
            &json!("p1"),
            &json!("an older version, which cannot be asked"),
            &Value::Null
        )
    );
    assert_eq!(node.post("/api/later/1").send().await.status, 201);
}

#[tokio::test]
async fn a_callee_of_a_later_version_is_asked() {
    let hello = Hello {
        versions: (2, 9),
        features: &["timers"],
        extensions: AN_EXTENSION,
        ..Hello::of("p1", GENERATION)
    };
    let (node, _peer) = with_peer(hello, reply, "peer-connected").await;
    for _ in 0..3 {
        let answer = node.post("/api/later/1").send().await;
        assert_eq!((answer.status, answer.text()), (201, "ok"));
    }
    let told = node.event("peer-connected").await;
    assert!(told.contains(r#""version":2"#), "{told}");
}

/// A fault whose name this version does not know.
fn later_fault(id: &[u8]) -> Vec<u8> {
    let head = [
        text("of-a-later-version"),
        varint(503),
        vec![1, 0],
        text("others were quicker"),
        vec![0],
        AN_EXTENSION.to_vec(),
    ];
    frame(FAULT, &[id, &head.concat(), b"and more"].concat())
}

#[tokio::test]
async fn a_fault_of_a_later_version_is_an_answer() {
    let (node, _peer) = with_peer(Hello::of("p1", GENERATION), later_fault, "peer-connected").await;
    for _ in 0..2 {
        let problem = node
            .post("/api/later/1")
            .send()
            .await
            .problem(503, "of-a-later-version");
        assert_eq!(
            (&problem["detail"], &problem["retryable"]),
            (&"others were quicker".into(), &true.into())
        );
    }
    assert_eq!(node.events("peer-connection-lost"), 0);
}

fn not_owner(id: &[u8]) -> Vec<u8> {
    let head = [
        text("not-owner"),
        varint(503),
        vec![1, 1],
        text("by its view another node is"),
        vec![0],
        NO_EXTENSIONS.to_vec(),
    ];
    frame(FAULT, &[id, &head.concat()].concat())
}

#[tokio::test]
async fn a_message_goes_on_from_a_node_that_is_not_its_owner_by_its_own_view() {
    let (node, _peer) = with_peer(Hello::of("p1", GENERATION), not_owner, "peer-connected").await;
    let key = node.key_owned_by("echo", "p1").await;
    let answer = node.post(&format!("/api/echo/{key}")).send().await;
    assert_eq!((answer.status, answer.node()), (200, "n1"));
    node.wait_for_metric(r#"meshage_failovers_total{stream="echo",because="not-owner"} 1"#)
        .await;
    let problem = node.post("/api/later/1").send().await;
    let problem = problem.problem(503, "not-owner");
    assert_eq!(problem["retryable"], true);
}

#[tokio::test]
async fn a_peer_that_cannot_be_reached_is_logged_with_what_the_system_says() {
    let node = Setup::new(Plugins::usual()).ready().await;
    let (_peer, connections) = HandMade::start("p1", GENERATION, "ready", &[], &[&node]).await;
    drop(connections);
    let logged = node.event("peer-unreachable").await;
    assert!(logged.contains(r#""cause":""#), "{logged}");
}

/// A reply without its head.
fn no_reply(id: &[u8]) -> Vec<u8> {
    frame(REPLY, id)
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_ends_its_own_call_only() {
    let (node, _peer) = with_peer(Hello::of("p1", GENERATION), no_reply, "peer-connected").await;
    for _ in 0..2 {
        let problem = node
            .post("/api/later/1")
            .send()
            .await
            .problem(502, "unreadable-answer");
        assert_eq!(problem["retryable"], false);
    }
    assert_eq!(node.events("peer-connection-lost"), 0);
}

#[tokio::test]
async fn who_has_no_version_in_common_is_not_asked_and_the_log_says_why() {
    let hello = Hello {
        versions: (8, 9),
        extensions: NO_EXTENSIONS,
        ..Hello::of("p1", GENERATION)
    };
    let (node, _peer) = with_peer(hello, reply, "peer-unreachable").await;
    node.post("/api/later/1")
        .send()
        .await
        .problem(503, "unreachable");
    let told = node.event("peer-unreachable").await;
    assert!(
        told.contains(r#"node \"p1\" speaks 8 to 9, node \"n1\" 2"#),
        "{told}"
    );
}

#[tokio::test]
async fn a_connection_is_to_one_life_of_a_node() {
    let (node, _peer) = with_peer(Hello::of("p1", GENERATION + 1), reply, "peer-unreachable").await;
    node.post("/api/later/1")
        .send()
        .await
        .problem(503, "unreachable");
    let told = node.event("peer-unreachable").await;
    assert!(
        told.contains("it is another life of the node, of generation 78, expected 77"),
        "{told}"
    );
}

// Other systems have only one loopback address.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_mesh_is_upgraded_node_by_node_and_no_request_fails() {
    let mesh = LaterVersions::between(3).await;
    let mut nodes = Vec::new();
    for number in 1..=3 {
        nodes.push(mesh.setup(number).start().await);
    }
    wait_for_mesh(&refs(&nodes)).await;
    for number in 1..=3 {
        let mut old = nodes.remove(0);
        let traffic = Traffic::start("echo", &refs(&nodes));
        traffic.wait_for(200).await;
        old.signal(Signal::TERM);
        assert!(old.ended().await.success());
        mesh.upgrade(number);
        let later = mesh.setup(number).start().await;
        nodes.push(later);
        wait_for_mesh(&refs(&nodes)).await;
        traffic.wait_for(500).await;
        traffic.none_failed().await;
        for node in &nodes {
            assert_eq!(node.events("peer-connection-lost"), 0);
            assert_eq!(node.events("calls-not-understood"), 0);
        }
    }
    let [calls, replies] = mesh.rewritten();
    assert!(
        calls > 0 && replies > 0,
        "{calls} calls and {replies} replies were of a later version"
    );
}
