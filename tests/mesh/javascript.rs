//! Handlers in JavaScript and TypeScript do what those in Rust do.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::harness::{
    Answer, Client, HANG, Node, Plugins, Sdk, Setup, State, binary, check_cart, check_requests,
    check_tally, examples, kill_again_and_again, mesh_of, port_known_beforehand, until,
};

async fn act(node: &Node, stream: &str, key: &str, body: &Value) -> Answer {
    let request = node.post(&format!("/api/{stream}/{key}"));
    request.json(&body.to_string()).send().await
}

#[tokio::test]
async fn the_example_of_meshage_for_node_answers_as_the_one_in_rust() {
    let test = "the_example_of_meshage_for_node_answers_as_the_one_in_rust";
    let Some(javascript) = Sdk::javascript(test) else {
        return;
    };
    let plugins = || {
        let rust = Plugins::empty().with("rust", "echo");
        rust.with_file("js.wasm", javascript.build("src/echo.js"))
    };
    let nodes = mesh_of(&[plugins(), plugins()]).await;
    for body in [
        "",
        "{}",
        r#"{"hello":"world"}"#,
        r#"{"stream":"forged","partitionKey":1,"a":[1,2.5,"ä€😀",null,true,{"b":{}}]}"#,
        "[1,2]",
        "\"text\"",
        "-17.25",
        "null",
        "\u{feff}{\"mark\":1}",
        "9007199254740991",
    ] {
        let mut answers = Vec::new();
        for stream in ["rust", "js"] {
            let request = nodes[0]
                .post(&format!("/api/{stream}/a%20%C3%BC"))
                .json(body);
            let answer = request.send().await;
            let text = answer
                .ok()
                .replace(&format!(r#""stream":"{stream}""#), r#""stream":"-""#);
            answers.push((answer.header("content-type").map(str::to_owned), text));
        }
        assert_eq!(answers[0], answers[1], "{body}");
    }
    for body in [
        "no json",
        "{",
        "[1e400]",
        "18446744073709551616",
        "{\"a\":1,}",
    ] {
        for stream in ["rust", "js"] {
            let request = nodes[0].post(&format!("/api/{stream}/1")).json(body);
            request.send().await.problem(400, "invalid");
        }
    }
    let deep = "[".repeat(200) + &"]".repeat(200);
    let request = nodes[0].post("/api/js/1").json(&deep);
    request.send().await.problem(400, "invalid");
}

#[tokio::test]
async fn promises_timers_failures_and_what_the_web_has() {
    let test = "promises_timers_failures_and_what_the_web_has";
    let Some(javascript) = Sdk::javascript(test) else {
        return;
    };
    let component = javascript.build("src/misbehave.ts");
    let plugins = Plugins::empty().with_file("misbehave.wasm", component);
    let node = Setup::new(plugins).ready().await;
    let ask = async |body: Value| act(&node, "misbehave", "1", &body).await;
    for (kind, status) in [
        ("invalid", 400),
        ("not-found", 404),
        ("conflict", 409),
        ("unavailable", 503),
    ] {
        for how in ["throw", "throwLater"] {
            let problem = ask(json!({"act": how, "kind": kind})).await;
            let text = problem.problem(status, kind)["detail"].clone();
            assert_eq!(
                text.as_str().unwrap().split(' ').count(),
                if kind == "unavailable" {
                    1
                } else {
                    2 + usize::from(kind == "invalid")
                }
            );
        }
    }
    for kind in ["error", "number"] {
        ask(json!({"act": "throw", "kind": kind}))
            .await
            .problem(500, "internal");
        ask(json!({"act": "throwLater", "kind": kind}))
            .await
            .problem(500, "internal");
    }
    let line = node.log_line("Error: an error").await;
    assert!(line.contains("src/misbehave.ts:14:"), "{line}");
    assert_eq!(
        ask(json!({"act": "delays"})).await.ok(),
        r#"{"waited":true}"#
    );
    assert_eq!(ask(json!({"act": "iterate"})).await.ok(), "[0,1,2]");
    ask(json!({"act": "never"})).await.problem(500, "internal");
    node.log_line("awaits a promise that nothing will ever settle")
        .await;
    assert_eq!(ask(json!({"act": "floating"})).await.ok(), "done");
    node.log_line("nobody waits").await;
    let expected = json!({
        "url": "https://example.org:8443/a?b=c#d",
        "search": ["1", "2"],
        "text": "zä€😀",
        "uuid": true,
        "random": true,
        "clone": 0,
    });
    assert_eq!(ask(json!({"act": "globals"})).await.json(), expected);
    let made = ask(json!({"act": "reply"})).await;
    assert_eq!(
        (made.status, made.text(), made.header("x-own")),
        (201, "made", Some("1"))
    );
    assert_eq!(ask(json!({"act": "nothing"})).await.status, 204);
    for bad in ["badStatus", "unknown"] {
        ask(json!({"act": bad})).await.problem(500, "internal");
    }
    ask(json!({"act": "recurse"}))
        .await
        .problem(500, "limit-exceeded");
    assert_eq!(ask(json!({"act": "log"})).await.ok(), "logged");
    let line = node.log_line("a warning").await;
    assert!(
        line.contains(r#"{\"with\":[\"members\"]}"#) || line.contains(r#"{"with":["members"]}"#),
        "{line}"
    );
    let request = node
        .put("/api/misbehave/1?a=b%20c&a=2")
        .json(r#"{"act":"see"}"#);
    let seen = request.send().await;
    assert_eq!(
        seen.ok(),
        r#"["PUT",{"a":["b c","2"]},"application/json","misbehave"]"#
    );
    let bytes: Vec<u8> = (0..=255).collect();
    let request = node.post("/api/misbehave/1?raw").body(bytes.clone());
    let answer = request.send().await;
    assert_eq!((answer.status, &answer.body[..]), (200, &bytes[..]));
    assert_eq!(
        answer.header("content-type"),
        Some("application/octet-stream")
    );
    // What one message has left behind is nothing to the next.
    assert_eq!(ask(json!({"act": "leftover"})).await.ok(), "done");
    assert_eq!(
        ask(json!({"act": "delays"})).await.ok(),
        r#"{"waited":true}"#
    );
    assert_eq!(node.log_lines("a timer of an earlier message"), 0);
    assert_eq!(ask(json!({"act": "keep"})).await.ok(), "done");
    assert_eq!(ask(json!({"act": "settleKept"})).await.ok(), "settled");
    assert_eq!(node.log_lines("code of an earlier message"), 0);
}

#[tokio::test]
async fn requests_to_other_hosts() {
    let Some(javascript) = Sdk::javascript("requests_to_other_hosts") else {
        return;
    };
    let (node, url) = check_requests(javascript.build("src/misbehave.ts")).await;
    let ask = async |act: &str, path: &str| {
        let body = json!({"act": act, "url": url(path)}).to_string();
        node.post("/api/misbehave/1").json(&body).send().await
    };
    let seen = ask("redirected", "/redirect").await.json();
    assert_eq!(
        (&seen["redirected"], &seen["at"]),
        (&json!(true), &json!("/seen"))
    );
    let seen = &seen["seen"];
    assert_eq!(
        (&seen["method"], &seen["body"]),
        (&json!("GET"), &json!(""))
    );
    assert_eq!((&seen["type"], &seen["own"]), (&Value::Null, &json!("2")));
    assert!(ask("passOn", "/x").await.ok().contains("/x"));
    let made = ask("response", "/").await;
    assert_eq!((made.status, made.text()), (202, "{\"a\":1}"));
}

#[tokio::test]
async fn instances_do_not_share_their_random_numbers() {
    let test = "instances_do_not_share_their_random_numbers";
    let Some(javascript) = Sdk::javascript(test) else {
        return;
    };
    let plugins = Plugins::empty()
        .with_file("misbehave.wasm", javascript.build("src/misbehave.ts"))
        .with_file("misbehave.toml", "instances = \"fresh\"\n");
    let node = Setup::new(plugins).ready().await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..10 {
        let answer = act(&node, "misbehave", "1", &json!({"act": "randoms"})).await;
        assert!(seen.insert(answer.ok().to_owned()), "{}", answer.text());
    }
}

#[tokio::test]
async fn state_messages_timers_and_calls() {
    if let Some(javascript) = Sdk::javascript("state_messages_timers_and_calls") {
        check_tally(javascript.build("src/tally.ts")).await;
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_there_once_whatever_dies() {
    let test = "what_was_acknowledged_is_there_once_whatever_dies";
    let Some(javascript) = Sdk::javascript(test) else {
        return;
    };
    let (component, state) = (javascript.build("src/journal.ts"), State::sqlite());
    let setup = |number: usize| {
        let plugins = Plugins::empty().with_file("journal.wasm", &component);
        Setup::new(plugins).id(&format!("n{number}")).state(&state)
    };
    kill_again_and_again(2, 150, setup).await;
}

#[tokio::test]
async fn state_messages_timers_and_calls_with_starling_monkey() {
    let test = "state_messages_timers_and_calls_with_starling_monkey";
    if let Some(javascript) = Sdk::starling_monkey(test) {
        let flags = ["--engine", "starlingmonkey"];
        check_tally(javascript.build_with("src/tally.ts", &flags)).await;
    }
}

#[tokio::test]
async fn a_broken_handler_says_where() {
    let Some(javascript) = Sdk::javascript("a_broken_handler_says_where") else {
        return;
    };
    for (source, expected) in [
        ("broken/syntax.ts", "broken/syntax.ts:2:0"),
        (
            "broken/no_handler.js",
            "there is no handler: `export default",
        ),
        ("broken/throws.ts", "broken/throws.ts:4:"),
        (
            "broken/missing.js",
            "Could not resolve \"a-package-that-is-not-there\"",
        ),
        ("broken/await.js", "Top-level await"),
        ("broken/node.js", "node:fs is of Node.js"),
        ("broken/none.js", "there is no broken/none.js"),
    ] {
        let (output, component) = javascript.try_build(source);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{source}: {said}");
        assert!(said.contains(expected), "{source}: {said}");
        assert!(
            !said.contains("    at file:") && !component.exists(),
            "{source}: {said}"
        );
    }
}

#[tokio::test]
async fn the_document_shows_what_works() {
    let Some(javascript) = Sdk::javascript("the_document_shows_what_works") else {
        return;
    };
    let document = include_str!("../../docs/javascript.md");
    let [echo, cart] = [
        examples(document, "js").remove(0),
        examples(document, "ts").remove(0),
    ];
    javascript.build_text("echo.js", &echo);
    check_cart(javascript.build_text("cart.ts", &cart)).await;
    // As those who used the original have it.
    let common =
        "const { register } = require(\"meshage\");\nregister(\"echo\", () => \"common\");";
    javascript.build_text("common.cjs", common);
    let [original, visits] = &examples(include_str!("../../docs/from-node.md"), "js")[..] else {
        panic!("two examples");
    };
    let plugins = Plugins::empty()
        .with_file("echo.wasm", javascript.build_text("echo.js", original))
        .with_file("visits.wasm", javascript.build_text("visits.js", visits));
    let state = State::sqlite();
    let node = Setup::new(plugins).state(&state).ready().await;
    let echoed = act(&node, "echo", "4985", &json!({"hello": "world"})).await;
    let expected = r#"{"echoed":{"stream":"echo","partitionKey":"4985","hello":"world"}}"#;
    assert_eq!(echoed.ok(), expected);
    for count in 1..=2 {
        let visited = act(&node, "visits", "1", &json!({})).await;
        assert_eq!(visited.json(), json!({"count": count}));
    }
}

#[tokio::test]
async fn what_is_saved_is_built_and_served() {
    let Some(javascript) = Sdk::javascript("what_is_saved_is_built_and_served") else {
        return;
    };
    let folder = tempfile::TempDir::new().unwrap();
    let source = folder.path().join("hello.js");
    let save = |text: &str| {
        std::fs::write(&source, format!("export default () => {text};")).unwrap();
    };
    save("'first'");
    let [http, cluster, admin] = std::array::from_fn(|_| port_known_beforehand().to_string());
    let mut command = tokio::process::Command::from(javascript.command());
    command.arg("dev").arg(&source).arg("--out");
    command.arg(folder.path().join("plugins/hello.wasm"));
    command.args(["--", "--http-port", &http, "--cluster-port", &cluster]);
    command
        .args(["--admin-port", &admin, "--data-dir"])
        .arg(folder.path().join("data"));
    let mut dev = command
        .env("MESHAGE_HOST", binary())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let client = Client::new();
    let says = async |expected: &str| {
        let url = format!("http://127.0.0.1:{http}/api/hello/1");
        let answer = client.request(hyper::Method::POST, &url).try_send().await;
        answer.is_ok_and(|answer| answer.text() == expected)
    };
    until(async || says("first").await).await;
    // A mistake changes nothing, and the next saving mends it.
    save("(");
    save("'second'");
    until(async || says("second").await).await;
    let pid = Pid::from_raw(dev.id().unwrap() as i32).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    // It ends with its node.
    timeout(HANG, dev.wait()).await.unwrap().unwrap();
}

#[test]
fn the_contract_is_the_same_in_each_sdk() {
    let contract = include_str!("../../wit/mesh.wit");
    assert_eq!(include_str!("../../guest-sdk/wit/mesh.wit"), contract);
    assert_eq!(include_str!("../../guest-sdk/js/wit/mesh.wit"), contract);
    assert_eq!(
        include_str!("../../guest-sdk/python/src/meshage/wit/mesh.wit"),
        contract
    );
}
