//! The dashboard tells the truth of the whole mesh, whichever node is asked, to who may know it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use http::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Client, Node, Plugins, Request, Setup, mesh, until};

const TOKEN: &str = "the-token-of-operators";

async fn overview(node: &Node) -> Value {
    node.admin("/overview").await.json()
}

fn node<'v>(overview: &'v Value, id: &str) -> &'v Value {
    let nodes = overview["nodes"].as_array().unwrap();
    nodes
        .iter()
        .find(|node| node["nodeId"] == id)
        .unwrap_or(&Value::Null)
}

/// The successes of a stream that all nodes that answer have counted.
fn successes(overview: &Value, stream: &str) -> u64 {
    let nodes = overview["nodes"].as_array().unwrap().iter();
    let streams = nodes.filter_map(|node| node["report"]["streams"].as_array());
    let own = streams.flatten().filter(|own| own["stream"] == stream);
    own.map(|own| own["messages"]["ok"].as_u64().unwrap_or_default())
        .sum()
}

#[tokio::test]
async fn any_node_shows_what_every_node_says_of_itself() {
    let mut nodes = mesh(3).await;
    for (number, node) in (0..9).zip(nodes.iter().cycle()) {
        node.post(&format!("/api/echo/{number}")).send().await.ok();
    }
    for asked in &nodes {
        until(|| async { successes(&overview(asked).await, "echo") == 9 }).await;
        let overview = overview(asked).await;
        assert_eq!(
            (&overview["self"], &overview["sends"]),
            (&json!(asked.id), &Value::Null)
        );
        for other in &nodes {
            let seen = node(&overview, &other.id);
            assert_eq!(
                (&seen["state"], &seen["problem"]),
                (&json!("ready"), &Value::Null),
                "{seen}"
            );
            assert_eq!(seen["isSelf"], asked.id == other.id);
            let report = &seen["report"];
            assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
            assert_eq!(report["plugins"][0]["stream"], "echo");
            assert_eq!(report["plugins"][0]["digest"].as_str().unwrap().len(), 64);
            assert_eq!(report["breakers"].as_object().unwrap().len(), 2);
            let buckets = report["streams"][0]["seconds"].as_array().unwrap();
            assert_eq!(
                buckets.len(),
                report["bounds"].as_array().unwrap().len() + 1
            );
            let taken: u64 = buckets.iter().map(|count| count.as_u64().unwrap()).sum();
            assert_eq!(taken, 3, "{report}");
        }
    }
    nodes[2].kill().await;
    until(|| async {
        let overview = overview(&nodes[0]).await;
        let gone = node(&overview, "n3");
        gone["state"] == "gone" && gone["since"].as_u64().unwrap() > 0
    })
    .await;
    let overview = overview(&nodes[0]).await;
    let events = node(&overview, "n1")["report"]["events"]
        .as_array()
        .unwrap();
    let told = events.iter().find(|event| event["event"] == "node-gone");
    assert!(
        told.unwrap()["text"].as_str().unwrap().contains("n3"),
        "{events:?}"
    );
}

#[tokio::test]
async fn what_operators_look_for_is_in_the_report() {
    let plugins = Plugins::usual().with_file("broken.wasm", "no component");
    let node_ = Setup::new(plugins).id("n1").ready().await;
    node_.event("plugin-failed").await;
    node_
        .post("/api/echo/1")
        .json("{")
        .send()
        .await
        .problem(400, "invalid");
    until(|| async {
        let overview = overview(&node_).await;
        let report = &node(&overview, "n1")["report"];
        report["problems"]["invalid"] == 1 && report["streams"][0]["messages"]["invalid"] == 1
    })
    .await;
    let overview = overview(&node_).await;
    let report = &node(&overview, "n1")["report"];
    let plugins = report["plugins"].as_array().unwrap();
    let broken = plugins
        .iter()
        .find(|plugin| plugin["stream"] == "broken")
        .unwrap();
    assert_eq!(broken["state"], "failed");
    assert!(
        broken["error"].as_str().unwrap().contains("WebAssembly"),
        "{broken}"
    );
    let events = report["events"].as_array().unwrap();
    assert!(
        events.iter().any(|event| event["event"] == "plugin-failed"),
        "{events:?}"
    );
    assert!(report["instances"]["made"].as_u64().unwrap() >= 1);
    assert!(report["bodies"]["max"].as_u64().unwrap() > 1 << 20);
    let connections = &report["clientConnections"];
    assert!(connections["open"].as_u64() < connections["max"].as_u64());
}

#[tokio::test]
async fn the_page_takes_nothing_from_elsewhere() {
    let node = Setup::new(Plugins::usual()).ready().await;
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/dashboard.css", "text/css; charset=utf-8"),
        ("/dashboard.js", "text/javascript; charset=utf-8"),
    ] {
        let answer = node.admin(path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("content-type"), Some(kind));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let policy = answer.header("content-security-policy").unwrap();
        for part in [
            "default-src 'none'",
            "frame-ancestors 'none'",
            "connect-src 'self'",
        ] {
            assert!(policy.contains(part), "{policy}");
        }
    }
    let answer = node.admin("/overview").await;
    assert_eq!(answer.header("meshage-session"), Some("none"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(log_in(&node, "x").await.status, 404);
}

fn post<'c>(client: &'c Client, node: &Node, path: &str) -> Request<'c> {
    client.request(Method::POST, &format!("http://{}{path}", node.admin))
}

async fn log_in(node: &Node, token: &str) -> Answer {
    let client = Client::new();
    let login =
        post(&client, node, "/login").header("content-type", "application/x-www-form-urlencoded");
    login.body(format!("token={token}")).send().await
}

/// The cookie that an answer sets, as a browser sends it back.
fn cookie(answer: &Answer) -> String {
    let cookie = answer.header("set-cookie").unwrap();
    cookie.split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn who_logs_in_may_look_until_the_session_ends() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tokens");
    let write = |token: &str| {
        fs::write(&file, token).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    };
    write(TOKEN);
    let node = Setup::new(Plugins::usual())
        .flag("--token-file", file.to_str().unwrap())
        .ready()
        .await;
    assert_eq!(node.admin("/").await.status, 200);
    assert_eq!(node.admin("/overview").await.status, 401);
    let wrong = log_in(&node, "some-other-token-0123").await;
    assert_eq!((wrong.status, wrong.header("set-cookie")), (401, None));

    let let_in = log_in(&node, TOKEN).await;
    assert_eq!(let_in.status, 204);
    let attributes = let_in.header("set-cookie").unwrap();
    for attribute in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
        assert!(attributes.contains(attribute), "{attributes}");
    }
    let own = cookie(&let_in);
    let port = node.admin.rsplit(':').next().unwrap();
    assert!(own.starts_with(&format!("meshage-{port}=")), "{own}");
    let look = |cookie: String, path: &'static str| {
        let request = node.request_admin(path).header("cookie", &cookie);
        async move { request.send().await }
    };
    for path in ["/overview", "/cluster", "/plugins", "/metrics"] {
        assert_eq!(look(own.clone(), path).await.status, 200, "{path}");
    }
    let seen = look(own.clone(), "/overview").await;
    assert_eq!(seen.header("meshage-session"), Some("yes"));
    assert_eq!(
        look(format!("other=1; {own}"), "/overview").await.status,
        200
    );
    assert_eq!(look(format!("{own}x"), "/overview").await.status, 401);

    // What changes something is for who has the token, or for the node's own page.
    let client = Client::new();
    let retry = || post(&client, &node, "/sends/retry").header("cookie", &own);
    assert_eq!(retry().send().await.status, 401);
    let foreign = retry().header("origin", "http://elsewhere.example");
    assert_eq!(foreign.send().await.status, 403);
    let same = retry()
        .header("origin", &format!("http://{}", node.admin))
        .header("sec-fetch-site", "same-origin");
    // There is no store that could have any.
    assert_eq!(same.send().await.status, 503);

    // It ends when somebody logs out, and with its token.
    let second = cookie(&log_in(&node, TOKEN).await);
    let out = post(&client, &node, "/logout")
        .header("cookie", &own)
        .send()
        .await;
    assert_eq!(out.status, 204);
    assert!(out.header("set-cookie").unwrap().contains("Max-Age=0"));
    assert_eq!(look(own, "/overview").await.status, 401);
    assert_eq!(look(second.clone(), "/overview").await.status, 200);
    write("a-new-token-for-operators");
    until(|| async { look(second.clone(), "/overview").await.status == 401 }).await;
}

#[tokio::test]
async fn tokens_cannot_be_guessed_quickly() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tokens");
    fs::write(&file, TOKEN).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let node = Setup::new(Plugins::usual())
        .flag("--token-file", file.to_str().unwrap())
        .ready()
        .await;
    for _ in 0..10 {
        assert_eq!(log_in(&node, "wrong").await.status, 401);
    }
    let refused = log_in(&node, TOKEN).await;
    assert_eq!(refused.status, 429);
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds));
    // Tools go on.
    let request = node.request_admin("/overview");
    let request = request.header("authorization", &format!("Bearer {TOKEN}"));
    assert_eq!(request.send().await.header("meshage-session"), Some("no"));
    let large = format!("{:0>9000}", 1);
    assert_eq!(log_in(&node, &large).await.status, 413);
}
