//! Bodies pass through the mesh as opaque bytes; only the SDK interprets them.

#[cfg(target_os = "linux")]
use bytes::Bytes;
#[cfg(target_os = "linux")]
use futures_util::future::join_all;

use crate::harness::{Node, mesh};
#[cfg(target_os = "linux")]
use crate::harness::{Plugins, Setup, wait_for_mesh};

/// A key of each node: sent to `n1`, a message for the first runs locally, one for the second is
/// forwarded.
async fn keys(nodes: &[Node], stream: &str) -> [String; 2] {
    [
        nodes[0].key_owned_by(stream, "n1").await,
        nodes[0].key_owned_by(stream, "n2").await,
    ]
}

#[tokio::test]
async fn every_shape_of_json_is_merged_behind_the_address() {
    let nodes = mesh(2).await;
    for key in keys(&nodes, "echo").await {
        for (body, rest) in [
            (r#"{"z":1,"a":[true]}"#, r#","z":1,"a":[true]"#),
            (r#"[1,"two"]"#, r#","body":[1,"two"]"#),
            (r#""text""#, r#","body":"text""#),
            ("17", r#","body":17"#),
            ("null", r#","body":null"#),
            ("{}", ""),
            ("", ""),
            (
                r#"{"stream":"other","partitionKey":"other","a":1}"#,
                r#","a":1"#,
            ),
        ] {
            let answer = nodes[0]
                .post(&format!("/api/echo/{key}"))
                .json(body)
                .send()
                .await;
            let expected =
                format!(r#"{{"echoed":{{"stream":"echo","partitionKey":"{key}"{rest}}}}}"#);
            assert_eq!(answer.ok(), expected, "for the body {body:?}");
        }
    }
}

#[tokio::test]
async fn bytes_of_any_type_and_size_arrive_as_they_were_sent() {
    let nodes = mesh(2).await;
    let every_byte: Vec<u8> = (0..=255).collect();
    for key in keys(&nodes, "fickle").await {
        // Sizes around a chunk of the peer protocol (64 KiB), and up to the default limit (1 MiB).
        for size in [0, 1, 256, 65_535, 65_536, 65_537, 300_000, 1 << 20] {
            let body: Vec<u8> = every_byte.iter().copied().cycle().take(size).collect();
            let request = nodes[0]
                .post(&format!("/api/fickle/{key}"))
                .header("content-type", "image/x-test");
            let answer = request.body(body.clone()).send().await;
            assert_eq!(
                (answer.status, answer.header("content-type")),
                (200, Some("image/x-test"))
            );
            assert!(
                answer.body == body,
                "{size} bytes came back as {} others",
                answer.body.len()
            );
        }
        let over = nodes[0]
            .post(&format!("/api/fickle/{key}"))
            .body(vec![0; (1 << 20) + 1])
            .send()
            .await;
        over.problem(413, "body-too-large");
    }
}

/// The checksum that the guest `fickle` computes.
#[cfg(target_os = "linux")]
fn checksum(body: &[u8]) -> u64 {
    body.iter().fold(1, |sum: u64, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
    })
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn bodies_as_large_as_may_be_go_side_by_side() {
    const LARGEST: usize = 64 << 20;
    let start = |id: &str| {
        let plugins = Plugins::usual().with_file("fickle.toml", "memory_mb = 256\n");
        let setup = Setup::new(plugins)
            .id(id)
            .flag("--max-body", &LARGEST.to_string());
        // So long that no timeout interferes.
        setup
            .flag("--timeout", "1h")
            .flag("--request-timeout", "1h")
    };
    // With one core the first node has one connection to the second. Two of these bodies fit on it
    // at once (128 MiB), and the third waits.
    let first = start("n1").one_core().start().await;
    let second = start("n2").seeds(&[&first]).start().await;
    wait_for_mesh(&[&first, &second]).await;
    let key = first.key_owned_by("fickle", "n2").await;
    // The period of the pattern (251 bytes) does not divide the chunk size, so that the checksum
    // shows swapped chunks.
    let body: Bytes = (0..=250).cycle().take(LARGEST).collect();
    let expected = checksum(&body).to_string();
    let path = format!("/api/fickle/{key}?checksum");
    let large = join_all((0..3).map(|_| first.post(&path).body(body.clone()).send()));
    let small = async {
        for _ in 0..20 {
            first
                .post(&format!("/api/echo/{key}"))
                .json("{}")
                .send()
                .await
                .ok();
        }
    };
    let (answers, ()) = tokio::join!(large, small);
    for answer in answers {
        assert_eq!((answer.ok(), answer.node()), (expected.as_str(), "n2"));
    }
    // Replies have a limit of their own: 16 MiB.
    let reply = first
        .post(&format!("/api/fickle/{key}?bytes={}", 16 << 20))
        .send()
        .await;
    assert_eq!(
        (reply.status, reply.node(), reply.body.len()),
        (200, "n2", 16 << 20)
    );
}

#[tokio::test]
async fn a_handlers_status_and_headers_reach_the_caller() {
    let nodes = mesh(2).await;
    for key in keys(&nodes, "fickle").await {
        let path = format!("/api/fickle/{key}");
        for status in [200, 201, 302, 404, 503] {
            let answer = nodes[0]
                .post(&format!("{path}?status={status}"))
                .send()
                .await;
            assert_eq!((answer.status, answer.text()), (status, "as told"));
        }
        assert_eq!(
            nodes[0]
                .post(&format!("{path}?status=204"))
                .send()
                .await
                .status,
            204
        );
        let answer = nodes[0]
            .post(&format!("{path}?header=x-made-up:by+me"))
            .send()
            .await;
        assert_eq!(answer.header("x-made-up"), Some("by+me"));
        // Headers that only the host may set are left out.
        let answer = nodes[0]
            .post(&format!("{path}?header=meshage-made-up:x"))
            .send()
            .await;
        assert_eq!((answer.ok(), answer.header("meshage-made-up")), ("", None));
        let answer = nodes[0]
            .post(&format!("{path}?header=content-length:5"))
            .send()
            .await;
        assert_eq!(answer.header("content-length"), Some("0"));
    }
}
