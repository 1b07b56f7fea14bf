//! Bodies pass through the mesh as bytes; the SDK makes sense of them.

use crate::harness::{Node, mesh};

/// A key on each node: what is asked of `n1` runs there, or is forwarded.
async fn keys(nodes: &[Node], stream: &str) -> [String; 2] {
    [nodes[0].key_owned_by(stream, "n1").await, nodes[0].key_owned_by(stream, "n2").await]
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
            (r#"{"stream":"other","partitionKey":"other","a":1}"#, r#","a":1"#),
        ] {
            let answer = nodes[0].post(&format!("/api/echo/{key}")).json(body).send().await;
            let expected = format!(r#"{{"echoed":{{"stream":"echo","partitionKey":"{key}"{rest}}}}}"#);
            assert_eq!(answer.ok(), expected, "for the body {body:?}");
        }
    }
}

#[tokio::test]
async fn bytes_of_any_type_and_size_arrive_as_they_were_sent() {
    let nodes = mesh(2).await;
    let every_byte: Vec<u8> = (0..=255).collect();
    for key in keys(&nodes, "fickle").await {
        // Around a chunk of the peer path, and the default limit.
        for size in [0, 1, 256, 65_535, 65_536, 65_537, 300_000, 1 << 20] {
            let body: Vec<u8> = every_byte.iter().copied().cycle().take(size).collect();
            let request = nodes[0].post(&format!("/api/fickle/{key}")).header("content-type", "image/x-test");
            let answer = request.body(body.clone()).send().await;
            assert_eq!((answer.status, answer.header("content-type")), (200, Some("image/x-test")));
            assert!(answer.body == body, "{size} bytes came back as {} others", answer.body.len());
        }
        let over = nodes[0].post(&format!("/api/fickle/{key}")).body(vec![0; (1 << 20) + 1]).send().await;
        over.problem(413, "body-too-large");
    }
}

#[tokio::test]
async fn a_handlers_status_and_headers_reach_the_caller() {
    let nodes = mesh(2).await;
    for key in keys(&nodes, "fickle").await {
        let path = format!("/api/fickle/{key}");
        for status in [200, 201, 302, 404, 503] {
            let answer = nodes[0].post(&format!("{path}?status={status}")).send().await;
            assert_eq!((answer.status, answer.text()), (status, "as told"));
        }
        assert_eq!(nodes[0].post(&format!("{path}?status=204")).send().await.status, 204);
        let answer = nodes[0].post(&format!("{path}?header=x-made-up:by+me")).send().await;
        assert_eq!(answer.header("x-made-up"), Some("by+me"));
        // Those that are the host's to say are left out.
        let answer = nodes[0].post(&format!("{path}?header=meshage-made-up:x")).send().await;
        assert_eq!((answer.ok(), answer.header("meshage-made-up")), ("", None));
        let answer = nodes[0].post(&format!("{path}?header=content-length:5")).send().await;
        assert_eq!(answer.header("content-length"), Some("0"));
    }
}
