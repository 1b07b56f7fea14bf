//! Handlers in Python do what those in Rust do.

use serde_json::{Value, json};

use crate::harness::{
    Answer, Client, Node, Plugins, Sdk, Setup, check_requests, check_tally, examples,
    port_known_beforehand, until,
};

async fn act(node: &Node, body: &Value) -> Answer {
    let request = node.post("/api/misbehave/1");
    request.json(&body.to_string()).send().await
}

/// Its echo answers as the one in Rust.
async fn check_echo(node: &Node) {
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
        "18446744073709551615",
    ] {
        let mut answers = Vec::new();
        for stream in ["rust", "misbehave"] {
            let request = node
                .post(&format!("/api/{stream}/a%20%C3%BC?echo"))
                .json(body);
            let answer = request.send().await;
            let text = answer
                .ok()
                .replace(&format!(r#""stream":"{stream}""#), r#""stream":"-""#);
            answers.push((answer.header("content-type").map(str::to_owned), text));
        }
        assert_eq!(answers[0], answers[1], "{body}");
    }
    let deep = "[".repeat(200) + &"]".repeat(200);
    for body in ["no json", "{", "[1e400]", "NaN", "{\"a\":1,}", &deep] {
        for stream in ["rust", "misbehave"] {
            let request = node.post(&format!("/api/{stream}/1?echo")).json(body);
            request.send().await.problem(400, "invalid");
        }
    }
}

#[tokio::test]
async fn answers_coroutines_failures_and_imports() {
    let Some(python) = Sdk::python("answers_coroutines_failures_and_imports") else {
        return;
    };
    let (output, component) = python.try_build("src/misbehave.py");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("misbehave.py:") && said.contains("`threading.Thread` does not work"),
        "{said}"
    );
    let component = std::fs::read(component).unwrap();
    let plugins = Plugins::empty()
        .with("rust", "echo")
        .with_file("misbehave.wasm", &component);
    let node = Setup::new(plugins).ready().await;
    check_echo(&node).await;
    for (kind, status) in [
        ("invalid", 400),
        ("not-found", 404),
        ("conflict", 409),
        ("unavailable", 503),
    ] {
        for how in ["throw", "throwLater"] {
            act(&node, &json!({"act": how, "kind": kind}))
                .await
                .problem(status, kind);
        }
    }
    for how in ["throw", "throwLater"] {
        act(&node, &json!({"act": how, "kind": "error"}))
            .await
            .problem(500, "internal");
    }
    // One entry, with the place and its line.
    let line = node.log_line("ValueError: an error").await;
    assert!(
        line.contains("Traceback") && line.contains("raise THROWN"),
        "{line}"
    );
    assert_eq!(
        act(&node, &json!({"act": "delays"})).await.ok(),
        r#"{"waited":true}"#
    );
    act(&node, &json!({"act": "never"}))
        .await
        .problem(500, "internal");
    node.log_line("waits for something that nothing will ever wake up")
        .await;
    act(&node, &json!({"act": "recurse"}))
        .await
        .problem(500, "internal");
    node.log_line("RecursionError").await;
    assert_eq!(
        act(&node, &json!({"act": "lazily"})).await.ok(),
        "0123456789"
    );
    assert_eq!(act(&node, &json!({"act": "log"})).await.ok(), "logged");
    node.log_line("own: a warning [1]").await;
    let made = act(&node, &json!({"act": "reply"})).await;
    assert_eq!(
        (made.status, made.text(), made.header("x-own")),
        (201, "made", Some("1"))
    );
    assert_eq!(act(&node, &json!({"act": "nothing"})).await.status, 204);
    for bad in ["badStatus", "unknown", "thread"] {
        act(&node, &json!({"act": bad}))
            .await
            .problem(500, "internal");
    }
    let first = act(&node, &json!({"act": "random"})).await;
    assert_ne!(first.ok(), act(&node, &json!({"act": "random"})).await.ok());
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
    let _ = check_requests(component).await;
}

#[tokio::test]
async fn state_messages_timers_and_calls() {
    if let Some(python) = Sdk::python("state_messages_timers_and_calls") {
        check_tally(python.build("src/tally.py")).await;
    }
}

#[tokio::test]
async fn a_broken_handler_says_where() {
    let Some(python) = Sdk::python("a_broken_handler_says_where") else {
        return;
    };
    for (source, expected) in [
        (
            "broken/syntax.py",
            "broken/syntax.py:4: '(' was never closed",
        ),
        ("broken/no_handler.py", "has no function with `@handler`"),
        ("broken/throws.py", "broken/throws.py\", line 3"),
        (
            "broken/missing.py",
            "missing.py:6: there is no module `a_package_that_is_not_there`",
        ),
        (
            "broken/parameter.py",
            "broken/parameter.py:5: a handler's parameters are message",
        ),
        ("broken/none.py", "broken/none.py cannot be read"),
    ] {
        let (output, component) = python.try_build(source);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{source}: {said}");
        assert!(said.contains(expected), "{source}: {said}");
        assert!(
            !said.contains("_prepare") && !component.exists(),
            "{source}: {said}"
        );
    }
}

#[test]
fn the_document_shows_what_works() {
    let Some(python) = Sdk::python("the_document_shows_what_works") else {
        return;
    };
    let examples = examples(include_str!("../../docs/python.md"), "python");
    let [echo, cart, prices, test, web] = &examples[..] else {
        panic!("five examples");
    };
    let folder = tempfile::TempDir::new().unwrap();
    for (name, text) in [
        ("echo", echo),
        ("cart", cart),
        ("prices", prices),
        ("web", web),
    ] {
        std::fs::write(folder.path().join(name).with_extension("py"), text).unwrap();
    }
    let others = r#"
assert open_stream("echo.py").post("a", {"b": 1}).json()["echoed"]["b"] == 1
assert open_stream("prices.py").post("a", {"urls": []}).json() == []
from meshage import _handler
_handler.forget()
from web import application
from meshage._wsgi import respond
key = ("meshage-partition-key", "ada")
assert respond(application, "GET", "/", "localhost", [key], b"") == (200, [("content-type", "text/plain")], b"Hello, ada!")
"#;
    let output = python.run(folder.path(), &format!("{test}{others}"));
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn it_is_typed() {
    let Some(python) = Sdk::python("it_is_typed") else {
        return;
    };
    let folder = tempfile::TempDir::new().unwrap();
    let right = r#"
from meshage import Entity, Invalid, Message, Reply, handler, http

@handler
async def handle(message: Message, entity: Entity) -> Reply:
    answer = await http.fetch("GET", "https://example.com/")
    entity.remind("again", 1.5)
    if answer.status != 200:
        raise Invalid("no")
    return Reply(entity.call("other", message.partition_key).json(), status=201)
"#;
    let wrong = right
        .replace("1.5", "\"soon\"")
        .replace("201", "None, headres={}");
    let mypy = |arguments: &str| {
        let program = format!("from mypy.main import main; main(args={arguments})");
        let output = python.run(folder.path(), &program);
        String::from_utf8(output.stdout).unwrap()
    };
    for (source, errors) in [(right, 0), (&wrong, 2)] {
        std::fs::write(folder.path().join("handler.py"), source).unwrap();
        let said = mypy("['--strict', 'handler.py']");
        assert!(
            said.starts_with("Success") || said.contains("error:"),
            "{said}"
        );
        assert_eq!(said.matches("error:").count(), errors, "{said}");
    }
    // The SDK itself.
    let sdk = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-sdk/python");
    let said = mypy(&format!(
        "['--config-file', '{sdk}/pyproject.toml', '{sdk}/src/meshage']"
    ));
    assert!(said.starts_with("Success"), "{said}");
}

#[tokio::test]
async fn a_handler_is_developed_as_plain_python() {
    let Some(python) = Sdk::python("a_handler_is_developed_as_plain_python") else {
        return;
    };
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("hello.py");
    let source = |text: &str| {
        format!(
            "from meshage import handler\n\n@handler\ndef handle(message, state):\n    state['n'] = state.get('n', 0) + 1\n    return [{text:?}, state['n']]\n"
        )
    };
    std::fs::write(&file, source("first")).unwrap();
    let port = port_known_beforehand();
    let mut command = tokio::process::Command::from(python.command());
    command
        .arg("dev")
        .arg(&file)
        .args(["--port", &port.to_string()]);
    let mut server = command.kill_on_drop(true).spawn().unwrap();
    let client = Client::new();
    let ask = async || {
        let url = format!("http://127.0.0.1:{port}/api/hello/1");
        let answer = client.request(hyper::Method::POST, &url).try_send().await;
        answer
            .map(|answer| answer.text().to_owned())
            .unwrap_or_default()
    };
    until(async || ask().await.contains("first")).await;
    std::fs::write(&file, source("second")).unwrap();
    // The next request sees it, and the state is still there.
    let answer = ask().await;
    assert!(
        answer.contains("second") && !answer.contains("1]"),
        "{answer}"
    );
    server.kill().await.unwrap();
}
