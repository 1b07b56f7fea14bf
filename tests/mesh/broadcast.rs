//! A broadcast runs on every candidate and answers with an array of one element per candidate,
//! ordered by node id.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::harness::{Plugins, Setup, mesh, wait_for_mesh};

#[tokio::test]
async fn one_two_and_three_nodes_answer_arrays() {
    for size in 1..=3 {
        let nodes = mesh(size).await;
        for node in &nodes {
            let answer = node
                .post("/api/broadcast/echo/4985")
                .json(r#"{"hello":"world"}"#)
                .send()
                .await;
            let one = r#"{"echoed":{"stream":"echo","partitionKey":"4985","hello":"world"}}"#;
            assert_eq!(answer.ok(), format!("[{}]", vec![one; size].join(",")));
            assert_eq!(
                answer.header("meshage-broadcast"),
                Some(format!("ok={size} failed=0").as_str())
            );
            assert_eq!(answer.header("content-type"), Some("application/json"));
            assert_eq!(answer.node(), node.id);
        }
    }
}

#[tokio::test]
async fn a_candidate_that_fails_contributes_its_problem() {
    // On the second of three nodes the handler of the stream is `orders`, which refuses this body.
    let first = Setup::new(Plugins::empty().with("s", "fickle"))
        .id("n1")
        .start()
        .await;
    let second = Setup::new(Plugins::empty().with("s", "orders"))
        .id("n2")
        .seeds(&[&first])
        .start()
        .await;
    let third = Setup::new(Plugins::empty().with("s", "fickle"))
        .id("n3")
        .seeds(&[&first])
        .start()
        .await;
    wait_for_mesh(&[&first, &second, &third]).await;
    for node in [&first, &second, &third] {
        let answer = node
            .post("/api/broadcast/s/1")
            .json(r#"{"a":1}"#)
            .send()
            .await;
        answer.ok();
        assert_eq!(answer.header("meshage-broadcast"), Some("ok=2 failed=1"));
        let elements = answer.json();
        assert_eq!(
            (&elements[0], &elements[2]),
            (&json!({ "a": 1 }), &json!({ "a": 1 }))
        );
        let problem = &elements[1];
        assert_eq!(
            (&problem["status"], &problem["node"]),
            (&400.into(), &"n2".into()),
            "{problem}"
        );
        assert_eq!(problem["type"], "urn:meshage:invalid");
    }
}

#[tokio::test]
async fn a_candidate_that_crashes_harms_no_other() {
    let nodes = mesh(2).await;
    let answer = nodes[0]
        .post("/api/broadcast/fickle/1?panic=now")
        .send()
        .await;
    assert_eq!(answer.header("meshage-broadcast"), Some("ok=0 failed=2"));
    let problems = answer.json();
    assert_eq!(problems[0]["node"], "n1");
    assert_eq!(problems[1]["node"], "n2");
    for problem in problems.as_array().unwrap() {
        assert_eq!(
            (&problem["status"], &problem["type"]),
            (&500.into(), &"urn:meshage:crashed".into())
        );
    }
    let answer = nodes[0]
        .post("/api/broadcast/fickle/1")
        .json("[]")
        .send()
        .await;
    assert_eq!(answer.ok(), "[[],[]]");
}

#[tokio::test]
async fn replies_that_are_no_json_come_in_base64() {
    let nodes = mesh(2).await;
    let answer = nodes[0]
        .post("/api/broadcast/fickle/1")
        .header("content-type", "text/plain")
        .body("hé")
        .send()
        .await;
    let element =
        json!({ "status": 200, "contentType": "text/plain", "base64": STANDARD.encode("hé") });
    assert_eq!(answer.json(), json!([element, element]));
    // So does a body that claims to be JSON and is not.
    let answer = nodes[0]
        .post("/api/broadcast/fickle/1")
        .json("{oops")
        .send()
        .await;
    assert_eq!(answer.json()[0]["base64"], STANDARD.encode("{oops"));
}

#[tokio::test]
async fn what_replies_say_beside_their_bodies_is_there() {
    let nodes = mesh(2).await;
    let answer = nodes[0]
        .post("/api/broadcast/fickle/1?status=404")
        .send()
        .await;
    let element =
        json!({ "status": 404, "contentType": "text/plain", "base64": STANDARD.encode("as told") });
    assert_eq!(answer.json(), json!([element, element]));
    assert_eq!(
        answer.header("meshage-broadcast"),
        Some("ok=2 failed=0"),
        "it is a reply"
    );
    let answer = nodes[0]
        .post("/api/broadcast/fickle/1?header=content-encoding:br")
        .send()
        .await;
    let element =
        json!({ "status": 200, "contentType": null, "contentEncoding": "br", "base64": "" });
    assert_eq!(answer.json(), json!([element, element]));
}

#[tokio::test]
async fn only_those_that_offer_the_stream_are_asked() {
    let first = Setup::new(Plugins::usual()).id("n1").start().await;
    let second = Setup::new(Plugins::empty().with("echo", "echo"))
        .id("n2")
        .seeds(&[&first])
        .start()
        .await;
    wait_for_mesh(&[&first, &second]).await;
    for node in [&first, &second] {
        let answer = node.post("/api/broadcast/fickle/1").json("1").send().await;
        assert_eq!(answer.ok(), "[1]");
    }
}
