//! Components that export `wasi:http/incoming-handler` are streams: they see a message as the
//! request that it was.

use hyper::Method;

use crate::harness::{Answer, Node, Plugins, Setup, State, mesh_of, other, refs, wait_for_mesh};

const MANIFEST: &str = "headers = [\"*\", \"cookie\"]\ntimeout_ms = 1000\ninstances = \"reuse\"\n";

fn plugins() -> Plugins {
    let site = Plugins::empty().with("site", "site").with("plain", "site");
    site.with_file("site.toml", MANIFEST).with("echo", "echo")
}

/// Two nodes, and a key of `site` for each: sent to the first node, a message for the second is
/// forwarded.
async fn nodes_and_keys() -> (Vec<Node>, [String; 2]) {
    let nodes = mesh_of(&[plugins(), plugins()]).await;
    let keys = [
        nodes[0].key_owned_by("site", "n1").await,
        nodes[0].key_owned_by("site", "n2").await,
    ];
    (nodes, keys)
}

async fn get(node: &Node, path: &str) -> Answer {
    node.get(path).send().await
}

#[tokio::test]
async fn a_handler_of_http_sees_the_request_below_its_entity() {
    let (nodes, keys) = nodes_and_keys().await;
    let node = &nodes[0];
    let host = node.http.clone();
    for key in &keys {
        for (path, seen) in [
            ("", "/"),
            ("/", "/"),
            ("?a=b%20c", "/?a=b%20c"),
            ("/x/%2f%C3%BC/", "/x/%2f%C3%BC/"),
            ("//x?", "//x"),
            ("/x?q=/y?z", "/x?q=/y?z"),
        ] {
            let answer = get(node, &format!("/api/site/{key}{path}")).await;
            let first = answer.ok().lines().next();
            assert_eq!(first, Some(&*format!("GET {seen}")), "{key}{path}");
        }
        let request = node.put(&format!("/api/site/{key}/a"));
        let request = request
            .header("content-type", "text/plain")
            .header("accept", "x/y")
            .header("cookie", "a=b")
            .header("authorization", "secret")
            .header("meshage-stream", "forged")
            .header("meshage-base-path", "forged");
        let answer = request.body("12345").send().await;
        let text: Vec<&str> = answer.ok().lines().collect();
        let has = |line: &str| assert!(text.contains(&line), "{line} in {text:?}");
        has("PUT /a");
        has(&format!("at {host}"));
        has("accept: x/y");
        has("content-type: text/plain");
        has("content-length: 5");
        has("cookie: a=b");
        has("meshage-stream: site");
        has(&format!("meshage-partition-key: {key}"));
        has(&format!("meshage-base-path: /api/site/{key}"));
        assert!(!answer.text().contains("secret") && !answer.text().contains("forged"));
    }
    // Names are encoded, and only what the manifest names is seen.
    let plain = node
        .get("/api/plain/a%2Fb%20%C3%BC-._~")
        .header("accept", "x/y");
    let plain = plain.send().await;
    assert!(
        plain
            .ok()
            .contains("meshage-partition-key: a%2Fb%20%C3%BC-._~\n"),
        "{}",
        plain.text()
    );
    assert!(
        plain
            .text()
            .contains("meshage-base-path: /api/plain/a%2Fb%20%C3%BC-._~\n")
    );
    assert!(!plain.text().contains("accept"), "{}", plain.text());
}

#[tokio::test]
async fn a_handler_of_http_gets_every_method() {
    let (nodes, keys) = nodes_and_keys().await;
    for key in &keys {
        for method in [
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
            Method::OPTIONS,
        ] {
            let request = nodes[0].request(method.clone(), &format!("/api/site/{key}/m"));
            let answer = request.send().await;
            let first = answer.ok().lines().next();
            assert_eq!(first, Some(&*format!("{method} /m")));
        }
        let request = nodes[0].request(Method::HEAD, &format!("/api/site/{key}/m"));
        let head = request.send().await;
        let length = head.header("content-length").map(str::parse::<usize>);
        assert!(
            head.ok().is_empty() && matches!(length, Some(Ok(1..))),
            "{length:?}"
        );
        // What a browser asks beforehand is for the node.
        let request = nodes[0].request(Method::OPTIONS, &format!("/api/site/{key}/m"));
        let request = request.header("access-control-request-method", "PUT");
        assert_eq!(request.send().await.status, 204);
    }
    let options = nodes[0]
        .request(Method::OPTIONS, "/api/echo/1")
        .send()
        .await;
    assert_eq!(options.status, 204);
}

#[tokio::test]
async fn bodies_and_answers_of_http_are_whole() {
    let (nodes, keys) = nodes_and_keys().await;
    for key in &keys {
        for size in [0, 1, 4_097, 65_537, 1 << 20] {
            let body: Vec<u8> = (0..=255).cycle().take(size).collect();
            let request = nodes[0].post(&format!("/api/site/{key}/body"));
            let answer = request.body(body.clone()).send().await;
            assert_eq!((answer.status, &answer.body[..]), (200, &body[..]));
            assert_eq!(answer.header("content-type"), Some("image/x-test"));
        }
        let path = |path: &str| format!("/api/site/{key}/{path}");
        let answer = get(&nodes[0], &path("status/404")).await;
        assert_eq!((answer.status, answer.header("x-own")), (404, Some("1")));
        assert_eq!(answer.header("meshage-forged"), None);
        for bad in [
            "nothing",
            "nothing-kept",
            "error",
            "unfinished",
            "too-short",
            "status/101",
            "afterwards-crash",
        ] {
            let answer = get(&nodes[0], &path(bad)).await;
            answer.problem(500, "crashed");
        }
        get(&nodes[0], &path("large"))
            .await
            .problem(500, "limit-exceeded");
        get(&nodes[0], &path("afterwards-endless"))
            .await
            .problem(504, "deadline-exceeded");
        // The instances that are left are well.
        assert_eq!(get(&nodes[0], &path("afterwards")).await.ok(), "answered");
    }
    nodes[0].log_line("response-outparam.set").await;
    nodes[0].log_line("DestinationNotFound").await;
    nodes[0].log_line("went on").await;
}

#[tokio::test]
async fn a_handler_of_messages_has_nothing_below_its_keys() {
    let (nodes, _) = nodes_and_keys().await;
    for owner in ["n1", "n2"] {
        let key = nodes[0].key_owned_by("echo", owner).await;
        let request = nodes[0].post(&format!("/api/echo/{key}/below")).json("{}");
        let problem = request.send().await.problem(404, "no-route");
        assert_eq!(problem["retryable"], false);
        let request = nodes[0].post(&format!("/api/echo/{key}/")).json("{}");
        request.send().await.ok();
    }
}

#[tokio::test]
async fn a_broadcast_reaches_every_handler_of_http() {
    let (nodes, _) = nodes_and_keys().await;
    let answer = get(&nodes[0], "/api/broadcast/site/k/all?x").await;
    // "GET /all?x", in Base64.
    let parts = answer.ok().matches(r#""base64":"R0VUIC9hbGw/eA"#);
    assert_eq!(parts.count(), 2, "{}", answer.text());
}

#[tokio::test]
async fn a_component_of_http_passes_the_check() {
    let node = Setup::new(plugins()).id("n1").ready().await;
    for (stream, instances) in [("plain", "fresh"), ("site", "reuse"), ("echo", "reuse")] {
        let listed = node.admin("/plugins").await.json();
        let mut listed = listed["plugins"].as_array().unwrap().iter();
        let plugin = listed.find(|plugin| plugin["stream"] == stream).unwrap();
        assert_eq!(plugin["limits"]["instances"], instances, "{plugin}");
    }
    assert_eq!(node.view().await["n1"].streams(), ["echo", "plain", "site"]);
    let plugins = node.admin("/plugins").await;
    assert!(
        plugins.ok().contains(r#""headers":["*","cookie"]"#),
        "{}",
        plugins.text()
    );
}

/// Handlers that are written with these SDKs, with an instance for each request and with instances that
/// are used again.
const SDKS: [&str; 3] = ["spin", "waki", "wstd"];

fn others() -> Plugins {
    SDKS.iter().fold(Plugins::empty(), |plugins, sdk| {
        let component = std::fs::read(other(sdk)).unwrap();
        plugins
            .with_file(&format!("{sdk}.wasm"), &component)
            .with_file(&format!("{sdk}-reused.wasm"), &component)
            .with_file(&format!("{sdk}-reused.toml"), "instances = \"reuse\"\n")
    })
}

#[tokio::test]
async fn what_was_built_for_other_hosts_is_served_as_it_is() {
    let nodes = mesh_of(&[others(), others()]).await;
    let body = "x".repeat(100_000);
    for sdk in SDKS {
        for stream in [sdk.to_owned(), format!("{sdk}-reused")] {
            for owner in ["n1", "n2"] {
                let key = nodes[0].key_owned_by(&stream, owner).await;
                let at = |path: &str| format!("/api/{stream}/{key}{path}");
                for _ in 0..20 {
                    let answer = get(&nodes[0], &at("/hello?q=1")).await;
                    assert_eq!(answer.ok(), format!("/hello?q=1 of {key}"), "{stream}");
                    assert_eq!(get(&nodes[0], &at("/other")).await.status, 404);
                    let echo = nodes[0].post(&at("/echo")).body(body.clone());
                    assert_eq!(echo.send().await.ok(), body, "{stream}");
                }
            }
        }
    }
    assert_eq!(nodes[0].events("handler-crashed"), 0);
}

#[tokio::test]
async fn a_handler_of_http_that_imports_state_has_it() {
    let state = State::sqlite();
    let mut nodes = Vec::new();
    for id in ["n1", "n2"] {
        let plugins = Plugins::empty().with("visits", "visits");
        let setup = Setup::new(plugins).id(id).state(&state);
        nodes.push(setup.seeds(&refs(&nodes)).ready().await);
    }
    wait_for_mesh(&refs(&nodes)).await;
    for owner in ["n1", "n2"] {
        let key = nodes[0].key_owned_by("visits", owner).await;
        let at = |path: &str| format!("/api/visits/{key}{path}");
        for count in ["1", "2"] {
            assert_eq!(nodes[0].post(&at("/a")).send().await.ok(), count);
        }
        // What failed is not kept, and a read cannot write.
        nodes[0]
            .post(&at("/crash"))
            .send()
            .await
            .problem(500, "crashed");
        get(&nodes[0], &at("/write"))
            .await
            .problem(500, "read-only");
        for node in &nodes {
            assert_eq!(get(node, &at("/")).await.ok(), "2");
        }
        // A repetition is known by its path, too.
        let keyed = |path: &str| nodes[0].post(&at(path)).header("idempotency-key", &key);
        assert_eq!(keyed("/b").send().await.ok(), "3");
        assert_eq!(keyed("/b").send().await.ok(), "3");
        keyed("/c")
            .send()
            .await
            .problem(422, "idempotency-key-reused");
    }
}
