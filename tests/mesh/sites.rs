//! Web pages of other sites cannot use a node through a browser, unless its operator allows them.

use http::Method;

use crate::harness::{Client, Node, Plugins, Setup};

const EVIL: &str = "https://evil.example";
const APP: &str = "https://app.example";

async fn status(node: &Node, headers: &[(&'static str, &str)]) -> u16 {
    let request = node
        .post("/api/fickle/1?calls")
        .header("content-type", "text/plain")
        .body("x");
    headers
        .iter()
        .fold(request, |request, (name, value)| {
            request.header(name, value)
        })
        .send()
        .await
        .status
}

#[tokio::test]
async fn pages_of_other_sites_make_nothing_run() {
    let node = Setup::new(Plugins::usual()).ready().await;
    for headers in [
        &[("origin", EVIL)][..],
        &[("origin", "null")],
        &[("origin", EVIL), ("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        // DNS rebinding: the name of their own site resolves to this node.
        &[
            ("host", "evil.example:8080"),
            ("origin", "http://evil.example:8080"),
            ("sec-fetch-site", "same-origin"),
        ],
        &[
            ("host", "evil.example:8080"),
            ("sec-fetch-site", "same-origin"),
        ],
        // Over plain HTTP to a name other than that of loopback, a browser sends no
        // `Sec-Fetch-Site`, and with some requests no Origin either.
        &[("host", "evil.example:8080")],
    ] {
        assert_eq!(status(&node, headers).await, 403, "{headers:?}");
    }
    let refused = node
        .post("/api/fickle/1")
        .header("origin", EVIL)
        .send()
        .await;
    let problem = refused.problem(403, "other-site");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("--allowed-origins"),
        "{problem}"
    );
    assert_eq!(refused.header("access-control-allow-origin"), None);
    let preflight = node
        .request(Method::OPTIONS, "/api/fickle/1")
        .header("origin", EVIL);
    preflight
        .header("access-control-request-method", "POST")
        .send()
        .await
        .problem(403, "other-site");
    // Requests of tools, of users who type the address, and of pages that the node itself has
    // served.
    let own = format!("http://{}", node.http);
    for headers in [
        &[][..],
        &[("host", "[::1]:8080")],
        &[("sec-fetch-site", "none")],
        &[("origin", &own), ("sec-fetch-site", "same-origin")],
    ] {
        assert_eq!(status(&node, headers).await, 200, "{headers:?}");
    }
    assert_eq!(
        node.post("/api/fickle/1?calls").send().await.ok(),
        "5",
        "something else has run"
    );
}

#[tokio::test]
async fn pages_of_allowed_origins_may_ask_and_read() {
    let node = Setup::new(Plugins::usual())
        .flag("--allowed-origins", APP)
        .ready()
        .await;
    let preflight = node
        .request(Method::OPTIONS, "/api/fickle/1")
        .header("origin", APP);
    let preflight = preflight.header("access-control-request-method", "PUT");
    let preflight = preflight
        .header("access-control-request-headers", "content-type,x-mine")
        .send()
        .await;
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.header("access-control-allow-origin"), Some(APP));
    assert!(
        preflight
            .header("access-control-allow-methods")
            .unwrap()
            .contains("PUT")
    );
    assert_eq!(
        preflight.header("access-control-allow-headers"),
        Some("content-type,x-mine")
    );
    for (path, expected) in [("/api/fickle/1", 200), ("/nope", 404)] {
        let answer = node
            .put(path)
            .header("origin", APP)
            .header("sec-fetch-site", "cross-site")
            .send()
            .await;
        assert_eq!(answer.status, expected);
        assert_eq!(answer.header("access-control-allow-origin"), Some(APP));
        assert_eq!(answer.header("vary"), Some("origin"));
    }
    assert_eq!(status(&node, &[("origin", EVIL)]).await, 403);
    // The name in an allowed origin may also be the Host, such as that of a proxy in front of the
    // node.
    assert_eq!(status(&node, &[("host", "app.example")]).await, 200);
    assert_eq!(status(&node, &[("host", "evil.example")]).await, 403);
    let any = Setup::new(Plugins::usual())
        .flag("--allowed-origins", "*")
        .ready()
        .await;
    let answer = any
        .post("/api/fickle/1")
        .header("origin", EVIL)
        .send()
        .await;
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (200, Some("*"))
    );
}

#[tokio::test]
async fn what_asks_whether_a_node_lives_may_call_it_as_it_likes() {
    let node = Setup::new(Plugins::usual()).ready().await;
    for path in ["/livez", "/readyz"] {
        let url = format!("http://{}{path}", node.admin);
        for (name, value) in [("host", "node.example:9080"), ("origin", EVIL)] {
            Client::new()
                .request(Method::GET, &url)
                .header(name, value)
                .send()
                .await
                .ok();
        }
    }
}
