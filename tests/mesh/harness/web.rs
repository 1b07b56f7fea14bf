//! A web server that handlers ask, and what those in every language do with it.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Barrier, Semaphore};
use tokio::time::timeout;

use super::{Answer, HANG, Node, Plugins, Setup};

/// How many requests to `/together` are answered at once, and none before.
const TOGETHER: usize = 3;

/// More than an answer may have.
const TOO_LARGE: usize = (16 << 20) + 1;

struct Web {
    /// Where it listens, as `host:port`.
    addr: String,
    /// One for each request to `/never` whose sender is gone.
    ended: Arc<Semaphore>,
}

impl Web {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (ended, together) = (
            Arc::new(Semaphore::new(0)),
            Arc::new(Barrier::new(TOGETHER)),
        );
        let gone = ended.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (gone, together) = (gone.clone(), together.clone());
                let service =
                    service_fn(move |request| answer(request, gone.clone(), together.clone()));
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Self { addr, ended }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }
}

/// Adds a permit when it is dropped.
struct Gone(Arc<Semaphore>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

async fn answer(
    request: Request<Incoming>,
    gone: Arc<Semaphore>,
    together: Arc<Barrier>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap());
    match head.uri.path() {
        "/never" => {
            let _gone = Gone(gone);
            pending::<()>().await;
        }
        "/together" => {
            together.wait().await;
        }
        "/large" => return Ok(Response::new(vec![b'x'; TOO_LARGE].into())),
        "/redirect" => {
            let redirect = Response::builder().status(302).header("location", "/seen");
            return Ok(redirect.body(Full::default()).unwrap());
        }
        _ => {}
    }
    let body = body.collect().await.unwrap().to_bytes();
    let seen = json!({
        "method": head.method.as_str(),
        "path": head.uri.to_string(),
        "type": header("content-type"),
        "own": header("x-own"),
        "body": std::str::from_utf8(&body).unwrap(),
    });
    Ok(Response::new(seen.to_string().into()))
}

async fn act(node: &Node, act: &str, url: &str) -> Answer {
    let body = json!({"act": act, "url": url}).to_string();
    node.post("/api/misbehave/1").json(&body).send().await
}

/// Checks what the handler `misbehave` does with other hosts. Returns the node, and a function of the
/// server's addresses.
pub(crate) async fn check_requests(component: Vec<u8>) -> (Node, impl Fn(&str) -> String) {
    let web = Web::start().await;
    let refusing = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = refusing.local_addr().unwrap();
    drop(refusing);
    let manifest = format!("allowed_hosts = [\"{}\", \"{nobody}\"]\n", web.addr);
    let plugins = Plugins::empty()
        .with_file("misbehave.wasm", component)
        .with_file("misbehave.toml", &manifest);
    let node = Setup::new(plugins).ready().await;

    let urls: Vec<String> = (0..TOGETHER)
        .map(|number| web.url(&format!("/together?{number}")))
        .collect();
    let body = json!({"act": "get", "urls": urls}).to_string();
    let answers = node
        .post("/api/misbehave/1")
        .json(&body)
        .send()
        .await
        .json();
    for (number, answer) in answers.as_array().unwrap().iter().enumerate() {
        assert_eq!(answer[0], 200, "{answers}");
        let text = answer[1].as_str().unwrap();
        assert!(text.contains(&format!("/together?{number}")), "{answers}");
    }
    let seen = act(&node, "post", &web.url("/a%20b?c=d")).await.json();
    assert_eq!(
        (&seen["method"], &seen["path"]),
        (&json!("POST"), &json!("/a%20b?c=d"))
    );
    assert_eq!(
        (&seen["type"], &seen["own"]),
        (&json!("application/json"), &json!("1"))
    );
    let body: serde_json::Value = serde_json::from_str(seen["body"].as_str().unwrap()).unwrap();
    assert_eq!(body, json!({"a": "ä"}));

    // What nobody waits for any more ends: given up by a timer, given up, and left behind by its message.
    assert_eq!(
        act(&node, "giveUp", &web.url("/never")).await.ok(),
        "gave up"
    );
    assert_eq!(
        act(&node, "walkAway", &web.url("/never")).await.ok(),
        "done"
    );
    let ended = timeout(HANG, web.ended.acquire_many(3)).await;
    drop(ended.unwrap().unwrap());

    // One more than a call may have under way.
    let urls = vec![web.url("/never"); 65];
    let body = json!({"act": "get", "urls": urls}).to_string();
    let refused = node.post("/api/misbehave/1").json(&body).send().await;
    refused.problem(500, "internal");
    node.log_line("64 requests of this call are under way")
        .await;

    for (url, why) in [
        (
            "http://127.0.0.1:9/".to_owned(),
            "does not allow 127.0.0.1:9 (allowed_hosts)",
        ),
        (
            web.url("").replace("127.0.0.1", "localhost"),
            "does not allow localhost",
        ),
        (format!("http://{nobody}/"), "Connection refused"),
        (web.url("/large"), "limit"),
    ] {
        let said = act(&node, "failure", &url).await;
        assert!(said.ok().contains(why), "{url}: {}", said.text());
    }
    let url = web.url("");
    (node, move |path| format!("{url}{path}"))
}
