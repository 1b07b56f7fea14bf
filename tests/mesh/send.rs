//! A message runs once, on the owner of its key, whichever node receives it.

use http::Method;

use crate::harness::{Client, mesh};

#[tokio::test]
async fn a_message_runs_where_the_ranking_says() {
    let nodes = mesh(3).await;
    for key in 0..60 {
        let key = key.to_string();
        let ranking = nodes[0].ranking("echo", &key).await;
        assert_eq!(ranking.len(), 3);
        for node in &nodes {
            assert_eq!(
                node.ranking("echo", &key).await,
                ranking,
                "the nodes disagree about {key}"
            );
            let answer = node.post(&format!("/api/echo/{key}")).send().await;
            answer.ok();
            assert_eq!(answer.node(), ranking[0]);
        }
    }
}

#[tokio::test]
async fn entities_of_different_streams_with_one_key_meet_on_one_node() {
    let nodes = mesh(2).await;
    for key in 0..40 {
        let echo = nodes[0].post(&format!("/api/echo/{key}")).send().await;
        let fickle = nodes[1].post(&format!("/api/fickle/{key}")).send().await;
        assert_eq!(echo.node(), fickle.node(), "key {key}");
    }
}

#[tokio::test]
async fn every_method_reaches_the_handler_and_no_other() {
    let nodes = mesh(2).await;
    let local = nodes[0].key_owned_by("fickle", "n1").await;
    let remote = nodes[0].key_owned_by("fickle", "n2").await;
    for key in [local, remote] {
        for method in [
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ] {
            let path = format!("/api/fickle/{key}?describe");
            let answer = nodes[0]
                .request(method.clone(), &path)
                .body("abc")
                .send()
                .await;
            assert_eq!(answer.ok(), format!("{method} {key} 3"));
        }
        for method in [Method::TRACE, Method::from_bytes(b"BREW").unwrap()] {
            let answer = nodes[0]
                .request(method.clone(), &format!("/api/fickle/{key}"))
                .send()
                .await;
            let problem = answer.problem(405, "method-not-allowed");
            assert!(
                problem["detail"]
                    .as_str()
                    .unwrap()
                    .contains(method.as_str()),
                "{problem}"
            );
            assert_eq!(
                answer.header("allow"),
                Some("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
            );
        }
    }
}

#[tokio::test]
async fn http2_clients_are_served_on_the_same_port() {
    let nodes = mesh(2).await;
    let client = Client::http2();
    for key in 0..20 {
        let url = format!("http://{}/api/echo/{key}", nodes[0].http);
        let answer = client
            .request(Method::POST, &url)
            .json(r#"{"a":1}"#)
            .send()
            .await;
        assert_eq!(
            answer.ok(),
            format!(r#"{{"echoed":{{"stream":"echo","partitionKey":"{key}","a":1}}}}"#)
        );
    }
}
