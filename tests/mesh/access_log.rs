//! The access log has a line for each request, with where its time went.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Client, Plugins, Setup, State, act, journal_setup, until, wait_for_mesh};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let whole = text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    whole
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

async fn line_of(file: &Path, is_it: impl Fn(&Value) -> bool) -> Value {
    until(|| async { lines(file).iter().any(&is_it) }).await;
    lines(file).into_iter().find(is_it).unwrap()
}

#[tokio::test]
async fn each_request_has_a_line_with_where_its_time_went() {
    let (directory, state) = (TempDir::new().unwrap(), State::sqlite());
    let file = directory.path().join("access.log");
    let first = journal_setup(1, &state)
        .flag("--access-log", "true")
        .stdout_to(&file);
    let first = first.start().await;
    let second = journal_setup(2, &state).seeds(&[&first]).start().await;
    wait_for_mesh(&[&first, &second]).await;
    let own = first.key_owned_by("journal", "n1").await;
    let other = first.key_owned_by("journal", "n2").await;
    for key in [&own, &other] {
        let answer = act(&first, key, "append=secret").await;
        answer.ok();
        let path = format!("/api/journal/{key}");
        let line = line_of(&file, |line| {
            line["path"] == path && line["method"] == "POST"
        })
        .await;
        let expected = [
            ("status", json!(200)),
            ("stream", json!("journal")),
            ("owner", json!(answer.node())),
            ("response_bytes", json!(answer.body.len())),
            ("trace_id", Value::Null),
        ];
        for (name, value) in expected {
            assert_eq!(line[name], value, "{name} of {line}");
        }
        let seconds = |name: &str| line[name].as_f64().unwrap();
        // Forwarded ones, too: the owner tells.
        assert!(
            seconds("running") > 0.0 && seconds("committing") > 0.0,
            "{line}"
        );
        let stages = seconds("waiting") + seconds("running") + seconds("committing");
        assert!(stages <= seconds("seconds"), "{line}");
        assert!(!line.to_string().contains("secret"), "{line}");
        assert_eq!(line["message_id"].as_str().unwrap().len(), 36);
    }
    // What is no message has a line, too, and one whose client is gone.
    first
        .get("/nothing/here")
        .header("traceparent", &format!("00-{TRACE}-00f067aa0ba902b7-01"))
        .send()
        .await;
    let line = line_of(&file, |line| line["path"] == "/nothing/here").await;
    assert_eq!(
        (&line["status"], &line["trace_id"]),
        (&json!(404), &json!(TRACE))
    );
    assert!(line["stream"].is_null() && line.get("running").is_none());
    drop((first, second));
}

#[tokio::test]
async fn a_request_whose_client_goes_away_has_a_line() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("access.log");
    let node = Setup::new(Plugins::usual())
        .id("n1")
        .flag("--access-log", "true")
        .stdout_to(&file)
        .ready()
        .await;
    let client = Client::new();
    let url = format!("http://{}/api/fickle/1?sleep_ms=20000", node.http);
    let request = client.request(http::Method::POST, &url).send();
    assert!(
        tokio::time::timeout(Duration::from_millis(300), request)
            .await
            .is_err()
    );
    drop(client);
    let line = line_of(&file, |line| line["path"] == "/api/fickle/1").await;
    assert_eq!(
        (&line["status"], &line["owner"]),
        (&Value::Null, &Value::Null)
    );
    assert!(line["seconds"].as_f64().unwrap() < 15.0, "{line}");
}

#[tokio::test]
async fn without_the_flag_nothing_is_written() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("access.log");
    let node = Setup::new(Plugins::usual()).stdout_to(&file).ready().await;
    node.post("/api/echo/1").send().await.ok();
    drop(node);
    assert_eq!(fs::read_to_string(&file).unwrap(), "");
}

#[tokio::test]
async fn lines_that_nobody_takes_are_told() {
    let node = Setup::new(Plugins::usual())
        .flag("--access-log", "true")
        .stdout_to(Path::new("/dev/full"))
        .ready()
        .await;
    node.post("/api/echo/1").send().await.ok();
    node.event("access-log-dropped").await;
    node.wait_for_metric("meshage_access_log_lines_dropped_total 1")
        .await;
}
