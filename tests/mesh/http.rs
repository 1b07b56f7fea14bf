//! What HTTP promises to clients: HEAD without a body, OPTIONS that lists the methods, and refusals
//! that reach a client that is still sending.

use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{Answer, Client, HANG, Node, Plugins, Setup, mesh};

/// Sends the same request over HTTP/1.1 and over HTTP/2.
async fn both(node: &Node, method: Method, path: &str) -> [Answer; 2] {
    let url = format!("http://{}{path}", node.http);
    [
        Client::new().request(method.clone(), &url).send().await,
        Client::http2().request(method, &url).send().await,
    ]
}

#[tokio::test]
async fn a_head_is_that_of_a_get_and_has_no_body() {
    let nodes = mesh(2).await;
    for owner in ["n1", "n2"] {
        let key = nodes[0].key_owned_by("fickle", owner).await;
        for path in [
            format!("/api/fickle/{key}?bytes=100000"),
            format!("/api/broadcast/fickle/{key}"),
            "/nope".into(),
        ] {
            let gets = both(&nodes[0], Method::GET, &path).await;
            for (get, head) in gets.iter().zip(both(&nodes[0], Method::HEAD, &path).await) {
                assert_eq!((head.status, head.body.len()), (get.status, 0), "{path}");
                assert_eq!(head.header("content-type"), get.header("content-type"));
                // Not compared for problems, which carry the id of their message.
                if get.status == 200 {
                    assert_eq!(
                        head.header("content-length"),
                        Some(get.body.len().to_string().as_str()),
                        "{path}"
                    );
                }
                assert_eq!(head.node(), get.node());
            }
        }
    }
    assert_eq!(
        nodes[0]
            .post("/api/fickle/1?describe")
            .send()
            .await
            .ok()
            .split(' ')
            .next(),
        Some("POST")
    );
    for path in ["/livez", "/metrics", "/cluster"] {
        let url = format!("http://{}{path}", nodes[0].admin);
        let head = Client::new().request(Method::HEAD, &url).send().await;
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
    }
}

#[tokio::test]
async fn statuses_that_have_no_body_have_none_whatever_a_handler_says() {
    let nodes = mesh(1).await;
    for status in [204, 205, 304] {
        for answer in both(
            &nodes[0],
            Method::GET,
            &format!("/api/fickle/1?status={status}"),
        )
        .await
        {
            assert_eq!((answer.status, answer.text()), (status, ""));
        }
    }
}

#[tokio::test]
async fn options_tells_the_methods() {
    let nodes = mesh(1).await;
    for answer in both(&nodes[0], Method::OPTIONS, "/api/echo/1").await {
        assert_eq!((answer.status, answer.text()), (204, ""));
        assert_eq!(
            answer.header("allow"),
            Some("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
        );
    }
    for answer in both(
        &nodes[0],
        Method::from_bytes(b"PROPFIND").unwrap(),
        "/api/echo/1",
    )
    .await
    {
        answer.problem(405, "method-not-allowed");
        assert_eq!(
            answer.header("allow"),
            Some("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
        );
    }
    // `OPTIONS *` is about the node, not about a resource.
    let said = send_then_read(
        &nodes[0],
        "OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        0,
    )
    .await;
    assert!(
        said.starts_with("HTTP/1.1 204 ") && said.contains("allow: GET, HEAD"),
        "{said}"
    );
    assert_eq!(nodes[0].served("echo").await, 0);
}

#[tokio::test]
async fn headers_that_only_nodes_set_are_not_taken_from_clients() {
    let manifest = "headers = [\"x-list\", \"meshage-timer\"]\n";
    let plugins = Plugins::usual().with_file("fickle.toml", manifest);
    let node = Setup::new(plugins).ready().await;
    let answer = node
        .post("/api/fickle/k?headers")
        .header("Meshage-Timer", "statement")
        .header("x-list", "1")
        .send()
        .await;
    assert_eq!(answer.ok(), "x-list: 1");
}

#[tokio::test]
async fn cookies_of_http2_reach_the_handler_as_one() {
    let plugins = Plugins::usual().with_file("fickle.toml", "headers = [\"cookie\", \"x-list\"]\n");
    let node = Setup::new(plugins).ready().await;
    let url = format!("http://{}/api/fickle/1?headers", node.http);
    let client = Client::http2();
    let request = client
        .request(Method::GET, &url)
        .header("cookie", "a=1")
        .header("cookie", "b=2; c=3");
    let seen = request
        .header("x-list", "one")
        .header("x-list", "two")
        .send()
        .await;
    assert_eq!(seen.ok(), "cookie: a=1; b=2; c=3\nx-list: one\nx-list: two");
}

#[tokio::test]
async fn a_status_without_a_name_has_none() {
    let node = Setup::new(Plugins::usual()).ready().await;
    let mut stream = TcpStream::connect(&node.http).await.unwrap();
    stream
        .write_all(b"GET /api/fickle/1?status=599 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut line = [0; 15];
    timeout(HANG, stream.read_exact(&mut line))
        .await
        .expect("no answer")
        .unwrap();
    assert_eq!(std::str::from_utf8(&line), Ok("HTTP/1.1 599 \r\n"));
}

/// Sends a whole request before it reads anything, as many clients do, and returns all that is
/// answered.
async fn send_then_read(node: &Node, head: &str, body_bytes: usize) -> String {
    let mut stream = TcpStream::connect(&node.http).await.unwrap();
    let sending = async {
        stream.write_all(head.as_bytes()).await?;
        let piece = vec![b'x'; 64 * 1024];
        for _ in 0..body_bytes / piece.len() {
            stream.write_all(&piece).await?;
        }
        let mut said = String::new();
        stream.read_to_string(&mut said).await.map(|_| said)
    };
    timeout(HANG, sending)
        .await
        .expect("the connection stays open")
        .unwrap_or_else(|error| panic!("{head}: {error}"))
}

#[tokio::test]
async fn who_sends_before_he_listens_gets_to_see_why_he_is_refused() {
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("tokens");
    std::fs::write(&file, "good-token-0123456789").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let open = Setup::new(Plugins::usual()).ready().await;
    let guarded = Setup::new(Plugins::usual())
        .flag("--token-file", file.to_str().unwrap())
        .ready()
        .await;
    let bytes = 8 << 20;
    let head = format!("Host: localhost\r\nConnection: close\r\nContent-Length: {bytes}\r\n");
    for (node, line, more, status) in [
        (&open, "POST /nope HTTP/1.1", "", 404),
        (&open, "POST /api/echo/%zz HTTP/1.1", "", 400),
        (&open, "BREW /api/echo/1 HTTP/1.1", "", 405),
        (&open, "POST /api/echo/1 HTTP/1.1", "", 413),
        (
            &open,
            "POST /api/echo/1 HTTP/1.1",
            "Origin: https://evil.example\r\n",
            403,
        ),
        (
            &open,
            "POST /api/echo/1 HTTP/1.1",
            "Transfer-Encoding: gzip, chunked\r\n",
            400,
        ),
        (
            &guarded,
            "POST /api/echo/1 HTTP/1.1",
            "Authorization: Bearer wrong-token-0123456789\r\n",
            401,
        ),
    ] {
        let said = send_then_read(node, &format!("{line}\r\n{head}{more}\r\n"), bytes).await;
        assert!(
            said.starts_with(&format!("HTTP/1.1 {status} ")),
            "{line} {more}: {said}"
        );
    }
    // A head of a megabyte.
    let said = send_then_read(
        &open,
        "GET /api/echo/1 HTTP/1.1\r\nHost: localhost\r\nX-Long: ",
        1 << 20,
    )
    .await;
    assert!(said.starts_with("HTTP/1.1 431 "), "{said}");
}

#[tokio::test]
async fn a_connection_is_kept_after_a_refusal_or_says_that_it_is_not() {
    let node = Setup::new(Plugins::usual()).ready().await;
    let mut stream = TcpStream::connect(&node.http).await.unwrap();
    let refused = format!(
        "POST /nope HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n{}",
        "x".repeat(100_000)
    );
    let good = "GET /api/fickle/1?calls HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream
        .write_all(format!("{refused}{refused}{good}").as_bytes())
        .await
        .unwrap();
    let mut said = String::new();
    timeout(HANG, stream.read_to_string(&mut said))
        .await
        .expect("the connection stays open")
        .unwrap();
    let statuses: Vec<&str> = said
        .split("HTTP/1.1 ")
        .skip(1)
        .map(|answer| &answer[..3])
        .collect();
    assert_eq!(statuses, ["404", "404", "200"], "{said}");
    // A client that waits for `100 Continue` gets the refusal instead, and its connection is
    // closed.
    let mut stream = TcpStream::connect(&node.http).await.unwrap();
    let expecting = "POST /nope HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(expecting.as_bytes()).await.unwrap();
    let mut said = String::new();
    timeout(HANG, stream.read_to_string(&mut said))
        .await
        .expect("the connection stays open")
        .unwrap();
    assert!(
        said.starts_with("HTTP/1.1 404 ") && said.contains("connection: close\r\n"),
        "{said}"
    );
}
