//! The commands of the README work, and a mesh gives the answers that it shows.

use serde_json::Value;

use crate::harness::{Plugins, Setup, State, mesh, port_known_beforehand, until, wait_for_mesh};

const README: &str = include_str!("../../README.md");

/// The commands of the README that post to a stream: path, body, and the answer that it shows.
fn shown_posts() -> Vec<(String, String, String)> {
    let mut lines = README.lines().map(str::trim).peekable();
    let mut posts = Vec::new();
    while let Some(line) = lines.next() {
        let Some(command) = line.strip_prefix("curl -sX POST http://localhost:") else {
            continue;
        };
        let path = &command[command.find('/').unwrap()..command.find(' ').unwrap()];
        let body = command
            .split('\'')
            .rfind(|part| part.starts_with('{'))
            .unwrap();
        let answer = lines
            .peek()
            .filter(|line| line.starts_with(['{', '[']))
            .expect("an answer follows");
        posts.push((path.to_owned(), body.to_owned(), (*answer).to_owned()));
    }
    posts
}

/// Whether a command answers differently when it is sent again.
fn is_stateful(path: &str) -> bool {
    ["/cart/", "/account/", "/transfer/"]
        .iter()
        .any(|stream| path.contains(stream))
}

/// What the README shows of a path that is read.
fn shown_read(path: &str) -> &str {
    let mut lines = README.lines().map(str::trim);
    let command = format!("curl -s http://localhost:8081{path}");
    lines.find(|line| *line == command).unwrap();
    lines.next().unwrap()
}

#[tokio::test]
async fn the_money_arrives() {
    let mut posts = shown_posts();
    posts.retain(|(path, ..)| is_stateful(path) && !path.contains("/cart/"));
    assert_eq!(posts.len(), 2, "{posts:?}");
    let state = State::sqlite();
    let plugins = Plugins::empty()
        .with("account", "account")
        .with("transfer", "transfer");
    let node = Setup::new(plugins).state(&state).ready().await;
    for (path, body, shown) in &posts {
        assert_eq!(node.post(path).json(body).send().await.ok(), shown);
    }
    for path in ["/api/transfer/t1", "/api/account/bob"] {
        let shown = shown_read(path);
        until(|| async { node.get(path).send().await.text() == shown }).await;
    }
}

#[tokio::test]
async fn the_cart_is_there_when_its_node_is_gone() {
    let mut posts = shown_posts();
    posts.retain(|(path, ..)| path.contains("/cart/"));
    let [(path, body, shown)] = posts.as_slice() else {
        panic!("{posts:?}")
    };
    let state = State::sqlite();
    let setup = |id| {
        let plugins = Plugins::empty().with("cart", "cart");
        Setup::new(plugins).id(id).state(&state)
    };
    let mut first = setup("n1").start().await;
    let second = setup("n2").seeds(&[&first]).start().await;
    wait_for_mesh(&[&first, &second]).await;
    assert_eq!(first.post(path).json(body).send().await.ok(), shown);
    assert_eq!(second.get(path).send().await.ok(), shown);
    first.kill().await;
    assert_eq!(second.get(path).send().await.ok(), shown);
}

#[tokio::test]
async fn the_commands_answer_as_written_from_either_node() {
    let mut posts = shown_posts();
    posts.retain(|(path, ..)| !is_stateful(path));
    assert!(posts.len() >= 3, "only {} commands found", posts.len());
    let plugins = || Plugins::usual().with("orders", "orders");
    let first = Setup::new(plugins()).id("n1").start().await;
    let second = Setup::new(plugins())
        .id("n2")
        .seeds(&[&first])
        .start()
        .await;
    wait_for_mesh(&[&first, &second]).await;
    for (path, body, shown) in posts {
        for node in [&first, &second] {
            let answer = node.post(&path).json(&body).send().await;
            assert_eq!(answer.ok(), shown, "{path} on {}", node.id);
        }
    }
}

#[tokio::test]
async fn the_example_answers_the_same_for_hundreds_of_keys_wherever_it_is_asked() {
    let nodes = mesh(2).await;
    let mut owned = [0; 2];
    for key in 0..400 {
        let path = format!("/api/echo/{key}");
        let expected =
            format!(r#"{{"echoed":{{"stream":"echo","partitionKey":"{key}","hello":"world"}}}}"#);
        let mut ran_on = Vec::new();
        for node in &nodes {
            let answer = node.post(&path).json(r#"{"hello":"world"}"#).send().await;
            assert_eq!(answer.ok(), expected);
            assert_eq!(answer.header("content-type"), Some("application/json"));
            ran_on.push(answer.node().to_owned());
        }
        assert_eq!(ran_on[0], ran_on[1], "key {key} has two owners");
        owned[usize::from(ran_on[0] == "n2")] += 1;
    }
    assert!(
        owned.iter().all(|count| *count > 120),
        "keys are not shared out: {owned:?}"
    );
}

/// The start commands of the README, with free ports instead of its own, because tests run
/// concurrently.
fn shown_starts() -> Vec<Setup> {
    let cluster_port = port_known_beforehand();
    README
        .lines()
        .filter_map(|line| line.strip_suffix(" meshage-host --plugins ./plugins"))
        .map(|variables| {
            variables.split(' ').fold(
                Setup::new(Plugins::usual()).own_ports(),
                |setup, variable| {
                    let (name, value) = variable.split_once('=').unwrap();
                    let value = match (name, value) {
                        ("CLUSTER_PORT", "9742") => cluster_port.to_string(),
                        ("SEEDS", "127.0.0.1:9742") => format!("127.0.0.1:{cluster_port}"),
                        // Not 0: the port of the admin API is derived from it.
                        ("HTTP_PORT", _) => port_with_room_above().to_string(),
                        _ => "0".to_owned(),
                    };
                    setup.variable(name, &value)
                },
            )
        })
        .collect()
}

/// A free port for which the one 1,000 above is free, too.
fn port_with_room_above() -> u16 {
    loop {
        let port = port_known_beforehand();
        if std::net::TcpListener::bind(("127.0.0.1", port + 1_000)).is_ok() {
            return port;
        }
    }
}

#[tokio::test]
async fn the_two_start_commands_work_as_written() {
    let mut starts = shown_starts();
    assert_eq!(starts.len(), 2);
    let (second, first) = (starts.pop().unwrap(), starts.pop().unwrap());
    let first = first.start().await;
    let second = second.start().await;
    let port = |addr: &str| addr.rsplit(':').next().unwrap().parse::<u16>().unwrap();
    assert_eq!(port(&first.admin), port(&first.http) + 1_000);
    wait_for_mesh(&[&first, &second]).await;
    // The default id of a node is made of its host name and its cluster port.
    assert!(
        first.id.ends_with(&format!("-{}", port(&first.cluster))),
        "{}",
        first.id
    );
    let cluster: Value = second.admin("/cluster").await.json();
    assert_eq!(cluster["nodes"].as_array().unwrap().len(), 2);
}
