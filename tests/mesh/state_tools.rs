//! State is moved to another store, and written out, without a node.

use std::process::{Command, Output};

use crate::harness::{Node, Plugins, Setup, State, act, binary, journal_mesh, list, until};
use serde_json::{Value, json};

/// Runs `meshage-host state …`.
fn state(arguments: &[&str]) -> Output {
    Command::new(binary())
        .arg("state")
        .args(arguments)
        .output()
        .unwrap()
}

fn copy(from: &str, to: &str) -> Output {
    state(&["copy", "--from", from, "--to", to])
}

/// What `state export` says, a line each.
fn export(from: &str, more: &[&str]) -> Vec<String> {
    let output = state(&[&["export", "--from", from], more].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    said.lines().map(str::to_owned).collect()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

/// A node with the streams `journal` and `other`, which is the same plugin.
async fn node(state: &State) -> Node {
    let plugins = Plugins::empty()
        .with("journal", "journal")
        .with("other", "journal");
    Setup::new(plugins).state(state).ready().await
}

async fn post(node: &Node, path: &str) {
    node.post(&format!("/api/{path}")).send().await.ok();
}

/// A store with entities of every kind.
async fn filled() -> State {
    let state = State::sqlite();
    let mut node = node(&state).await;
    for key in ["a", "b", "ü"] {
        post(&node, &format!("journal/{key}?append=1")).await;
        post(&node, &format!("journal/{key}?append=2")).await;
    }
    post(&node, "other/a?append=x").await;
    // More than one page of values, of names and of bytes.
    post(&node, "journal/many?set=n&bytes=3&times=1500").await;
    post(&node, "journal/large?set=n&bytes=700000&times=5").await;
    post(&node, "journal/empty?append=1").await;
    post(&node, "journal/empty?clear=true").await;
    // More entities than are read at once.
    for number in 0..300 {
        post(&node, &format!("other/k{number}?append={number}")).await;
    }
    let path = "/api/journal/repeated?append=1&remind=t&after_ms=3600000";
    let repeated = node.post(path).header("idempotency-key", "one");
    repeated.send().await.ok();
    node.kill().await;
    state
}

#[tokio::test]
async fn state_is_copied_to_another_store_and_back() {
    let Some(there) = State::postgres("state_is_copied_to_another_store_and_back").await else {
        return;
    };
    let (first, back) = (filled().await, State::sqlite());
    let (from, to) = (first.location(), there.location());
    let copied = copy(&from, &to);
    assert_eq!(copied.status.code(), Some(0), "{copied:?}");
    assert_eq!(
        stdout(&copied),
        "308 entities were copied; 0 were there already\n\
         1 kept replies, and 1 messages and timers without an answer, were copied\n"
    );
    let lines = export(&from, &[]);
    assert_eq!(lines.len(), 308);
    assert!(lines == export(&to, &[]));
    let copied = copy(&to, &back.location());
    assert_eq!(copied.status.code(), Some(0), "{copied:?}");
    assert!(lines == export(&back.location(), &[]));
    // Again: nothing is to be done.
    let again = copy(&from, &to);
    assert_eq!(
        stdout(&again),
        "0 entities were copied; 308 were there already\n\
         0 kept replies, and 0 messages and timers without an answer, were copied\n"
    );
    // What was written since is left as it is.
    let node = node(&there).await;
    let path = "/api/journal/repeated?append=1&remind=t&after_ms=3600000";
    let repeated = node.post(path).header("idempotency-key", "one");
    let repeated = repeated.send().await;
    assert!(repeated.header("meshage-replayed").is_some());
    let list = node.get("/api/journal/a").send().await;
    assert_eq!(list.json()["list"], json!(["1", "2"]));
    post(&node, "journal/a?append=3").await;
    let late = copy(&from, &to);
    assert_eq!(late.status.code(), Some(1), "{late:?}");
    assert!(
        stdout(&late).contains("1 are there with another last commit"),
        "{late:?}"
    );
    assert!(stdout(&late).contains("journal/a"), "{late:?}");
    let list = node.get("/api/journal/a").send().await;
    assert_eq!(list.json()["list"], json!(["1", "2", "3"]));
}

#[tokio::test]
async fn state_is_written_out_as_lines_of_json() {
    let state = filled().await;
    let lines = export(&state.location(), &["--stream", "journal"]);
    let entities: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let key = |entity: &Value| entity["partitionKey"].as_str().unwrap().to_owned();
    let keys: Vec<String> = entities.iter().map(key).collect();
    assert_eq!(keys, ["a", "b", "empty", "large", "many", "repeated", "ü"]);
    assert_eq!(entities[0]["stream"], "journal");
    assert_eq!(entities[0]["values"][0]["json"], json!(["1", "2"]));
    assert_eq!(entities[2]["values"], json!([]));
    assert_eq!(entities[3]["values"].as_array().unwrap().len(), 5);
    assert_eq!(entities[4]["values"].as_array().unwrap().len(), 1500);
}

#[test]
fn what_cannot_be_copied_says_why() {
    let directory = tempfile::TempDir::new().unwrap();
    let missing = format!("sqlite:{}", directory.path().join("missing.db").display());
    let empty = directory.path().join("empty.db");
    std::fs::write(&empty, "").unwrap();
    let empty = format!("sqlite:{}", empty.display());
    let text = directory.path().join("text.db");
    std::fs::write(&text, "no database, but longer than its header").unwrap();
    let text = format!("sqlite:{}", text.display());
    for (from, to, code, parts) in [
        (&*missing, &*empty, 1, &["missing.db", "No such file"][..]),
        (&*empty, &*missing, 1, &["empty.db", "no state of meshage"]),
        (&*text, &*missing, 1, &["text.db", "not a database"]),
        ("none", &*empty, 1, &["none"]),
        (
            "oracle:x",
            &*empty,
            2,
            &["--from", "oracle:x", "expected sqlite:FILE"],
        ),
        (
            &*missing,
            "file",
            2,
            &["--to", "\"file\"", "expected sqlite:FILE"],
        ),
        (
            "postgres://ada:hunter2@127.0.0.1:1/carts",
            &*empty,
            1,
            &["postgres://127.0.0.1:1/carts", "refused"],
        ),
    ] {
        let output = copy(from, to);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{from} {said}");
        for part in parts {
            assert!(said.contains(part), "{from}, {to}: {said}");
        }
        assert!(!said.contains("hunter2"), "{said}");
    }
    assert!(!directory.path().join("missing.db").exists());
}

#[tokio::test]
async fn a_store_is_not_copied_to_itself() {
    let state = filled().await;
    let output = copy(&state.location(), &state.location());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("both are the same store"), "{said}");
}

#[tokio::test]
async fn a_key_that_was_written_by_hand_is_named() {
    let state = State::sqlite();
    let node = node(&state).await;
    post(&node, "journal/a?append=1").await;
    let connection = rusqlite::Connection::open(state.file()).unwrap();
    let row = "INSERT INTO meshage_entity (stream, key, commit_id, state) VALUES ('journal', ?1, zeroblob(16), NULL)";
    let long = "0".repeat(10_000);
    connection.execute(row, [&long]).unwrap();
    let listed = node.admin("/entities/journal").await.json();
    assert_eq!(listed["entities"][0]["partitionKey"], *long, "{listed}");
    assert_eq!(listed["entities"][1]["partitionKey"], "a", "{listed}");
    let to = State::sqlite();
    let late = copy(&state.location(), &to.location());
    let said = String::from_utf8_lossy(&late.stderr);
    assert_eq!(late.status.code(), Some(1), "{late:?}");
    assert!(said.contains("the row journal/0"), "{said}");
    connection
        .execute("DELETE FROM meshage_entity WHERE key = ?1", [&long])
        .unwrap();
    let copied = copy(&state.location(), &to.location());
    assert_eq!(copied.status.code(), Some(0), "{copied:?}");
}

#[tokio::test]
async fn messages_that_are_stuck_are_shown_and_delivered_again() {
    let store = State::sqlite();
    let nodes = journal_mesh(1, &store).await;
    let location = store.location();
    let sends = |more: &[&str]| -> Vec<Value> {
        let output = state(&[&["sends", "--from", &location], more].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let lines = stdout(&output).lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    act(&nodes[0], "a", "remind=t&after_ms=3600000").await.ok();
    act(&nodes[0], "a", "send=b&send_id=x&send_then=trap")
        .await
        .ok();
    until(|| async { sends(&[]).iter().any(|sent| sent["tries"] == 1) }).await;
    assert_eq!(sends(&[]).len(), 2);
    assert_eq!(sends(&["--stuck"]).len(), 0);
    // The next one is the last.
    store
        .execute("UPDATE meshage_send SET tries = 19, wake_at = 1 WHERE name IS NULL")
        .await;
    until(|| async { sends(&["--stuck"]).len() == 1 }).await;
    let stuck = &sends(&["--stuck"])[0];
    assert_eq!(
        stuck["to"],
        json!({ "stream": "journal", "partitionKey": "b" })
    );
    assert_eq!(stuck["problem"], "the handler crashed");
    let id = stuck["id"].as_str().unwrap();
    for (arguments, said) in [
        (
            vec!["retry", "--from", &location, id],
            "1 messages are delivered again\n",
        ),
        // The timer was not tried yet.
        (
            vec!["retry", "--from", &location],
            "0 messages are delivered again\n",
        ),
    ] {
        let output = state(&arguments);
        assert_eq!(stdout(&output), said, "{output:?}");
    }
    until(|| async { sends(&[]).iter().any(|sent| sent["tries"] == 1) }).await;
    assert_eq!(list(&nodes[0], "b").await, "[]");
}
