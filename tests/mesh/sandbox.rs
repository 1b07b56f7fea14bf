//! A handler sees what its manifest declares, and nothing else.

use crate::harness::{Plugins, Setup, mesh, wait_for_mesh};

#[tokio::test]
async fn a_handler_sees_the_content_type_and_no_header_that_it_did_not_declare() {
    let nodes = mesh(2).await;
    for owner in ["n1", "n2"] {
        let key = nodes[0].key_owned_by("fickle", owner).await;
        let answer = nodes[0]
            .post(&format!("/api/fickle/{key}?headers"))
            .header("authorization", "Bearer secret")
            .header("cookie", "a=b")
            .json("{}")
            .send()
            .await;
        assert_eq!(answer.ok(), "content-type: application/json");
    }
}

#[tokio::test]
async fn declared_headers_arrive_even_by_way_of_a_node_that_knows_nothing_of_them() {
    let plugins = Plugins::usual().with_file(
        "fickle.toml",
        "headers = [\"Authorization\", \"x-tenant\"]\n",
    );
    let first = Setup::new(plugins).id("n1").start().await;
    let gateway = Setup::new(Plugins::empty())
        .id("n2")
        .seeds(&[&first])
        .start()
        .await;
    wait_for_mesh(&[&first, &gateway]).await;
    for node in [&first, &gateway] {
        let answer = node
            .post("/api/fickle/1?headers")
            .header("authorization", "Bearer secret")
            .header("x-tenant", "a")
            .header("x-tenant", "b")
            .header("x-other", "c")
            .send()
            .await;
        assert_eq!(
            answer.ok(),
            "authorization: Bearer secret\nx-tenant: a\nx-tenant: b"
        );
    }
}

#[tokio::test]
async fn a_declared_header_that_is_no_text_is_refused_by_its_name() {
    let plugins = Plugins::usual().with_file("fickle.toml", "headers = [\"x-tenant\"]\n");
    let first = Setup::new(plugins).id("n1").start().await;
    let gateway = Setup::new(Plugins::empty())
        .id("n2")
        .seeds(&[&first])
        .start()
        .await;
    wait_for_mesh(&[&first, &gateway]).await;
    for node in [&first, &gateway] {
        let mut request = node.post("/api/fickle/1?calls");
        request.set_header("x-tenant", &[b'a', 0xe4]);
        let problem = request.send().await.problem(400, "invalid");
        assert!(
            problem["detail"]
                .as_str()
                .unwrap()
                .contains("\"x-tenant\" is not UTF-8"),
            "{problem}"
        );
        // A header that the handler did not declare may hold any bytes.
        let mut request = node.post("/api/fickle/1?headers");
        request.set_header("x-other", &[0xe4]);
        assert_eq!(request.send().await.ok(), "");
    }
}

#[tokio::test]
async fn a_handler_sees_nothing_of_the_nodes_environment() {
    let node = Setup::new(Plugins::usual())
        .variable("SECRET", "of the node")
        .ready()
        .await;
    assert_eq!(node.post("/api/fickle/1?environment").send().await.ok(), "");
}

#[tokio::test]
async fn what_a_handler_logs_and_prints_is_in_the_log_with_its_stream() {
    let node = Setup::new(Plugins::usual()).ready().await;
    for (act, level) in [("log=aloud", "WARN"), ("print=aloud", "INFO")] {
        node.post(&format!("/api/fickle/1?{act}")).send().await.ok();
        let line = node
            .log_line(&format!(
                "told to {}: aloud",
                act.split('=').next().unwrap()
            ))
            .await;
        for part in [
            r#""stream":"fickle""#,
            r#""message_id":""#,
            &format!(r#""level":"{level}""#),
        ] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }
}
