//! Bad input gets a clear error that names what was wrong, from whichever node, and nothing runs.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{HANG, Node, Plugins, Setup, mesh, need_open_files};

#[tokio::test]
async fn paths_that_lead_nowhere_are_404_and_show_the_routes() {
    let nodes = mesh(1).await;
    let paths = [
        "/",
        "/api",
        "/api/echo",
        "/api/echo/1/2",
        "/API/echo/1",
        "/api/broadcast/echo",
        "/favicon.ico",
    ];
    for path in paths {
        let problem = nodes[0].post(path).send().await.problem(404, "no-route");
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains("/api/{stream}/{partitionKey}"),
            "{path}: {detail}"
        );
        assert_eq!(problem["retryable"], false);
    }
}

#[tokio::test]
async fn a_stream_that_nobody_offers_is_404() {
    let nodes = mesh(2).await;
    for path in ["/api/nothing/1", "/api/broadcast/nothing/1"] {
        let problem = nodes[0]
            .post(path)
            .send()
            .await
            .problem(404, "no-candidate");
        assert_eq!(
            (&problem["stream"], &problem["partitionKey"]),
            (&"nothing".into(), &"1".into())
        );
        assert!(problem["detail"].as_str().unwrap().contains("nothing"));
    }
    nodes[0]
        .post("/api/no%20name/1")
        .send()
        .await
        .problem(404, "no-candidate");
}

#[tokio::test]
async fn keys_are_decoded_once_and_checked() {
    let nodes = mesh(2).await;
    let mut sent = 0;
    for node in &nodes {
        for (segment, key) in [
            ("a%2Fb", "a/b"),
            ("a%252Fb", "a%2Fb"),
            ("%C3%BC", "ü"),
            ("a%20b+c", "a b+c"),
            ("%F0%9F%A6%80", "🦀"),
            ("%01", "\u{1}"),
            ("..%2F..", "../.."),
        ] {
            let answer = node.post(&format!("/api/echo/{segment}")).send().await;
            answer.ok();
            assert_eq!(answer.json()["echoed"]["partitionKey"], key, "{segment}");
            sent += 1;
        }
        for segment in ["%", "%2", "%zz", "%ff", "a%C3"] {
            let problem = node
                .post(&format!("/api/echo/{segment}"))
                .send()
                .await
                .problem(400, "bad-encoding");
            assert!(
                problem["detail"].as_str().unwrap().contains(segment),
                "{problem}"
            );
        }
        let zero = node.post("/api/echo/a%00b").send().await;
        zero.problem(400, "bad-partition-key");
        let longest = "k".repeat(1024);
        node.post(&format!("/api/echo/{longest}")).send().await.ok();
        // 513 characters of two bytes each: the limit counts bytes, after decoding.
        let problem = node
            .post(&format!("/api/echo/{}", "%C3%BC".repeat(513)))
            .send()
            .await;
        let problem = problem.problem(400, "bad-partition-key");
        assert!(
            problem["detail"]
                .as_str()
                .unwrap()
                .contains("1026 bytes; the limit is 1024"),
            "{problem}"
        );
        node.post("/api/echo/")
            .send()
            .await
            .problem(400, "bad-partition-key");
        node.post("/api/echo/1/").send().await.ok();
        sent += 2;
    }
    // Only the requests that succeeded have run.
    let mut ran = 0;
    for node in &nodes {
        let plugins = node.admin("/plugins").await.json();
        ran += plugins["plugins"][0]["calls"].as_u64().unwrap();
    }
    assert_eq!(ran, sent);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_413_and_the_limit_itself_is_not() {
    let node = Setup::new(Plugins::usual())
        .flag("--max-body", "1000")
        .ready()
        .await;
    node.post("/api/fickle/1")
        .body(vec![b'x'; 1000])
        .send()
        .await
        .ok();
    let problem = node
        .post("/api/fickle/1")
        .body(vec![b'x'; 1001])
        .send()
        .await
        .problem(413, "body-too-large");
    assert!(
        problem["detail"].as_str().unwrap().contains("1000 bytes"),
        "{problem}"
    );
    // So large that a client is still sending when the answer comes.
    node.post("/api/fickle/1")
        .body(vec![b'x'; 8 << 20])
        .send()
        .await
        .problem(413, "body-too-large");
    // Without a Content-Length the size is known only as the body arrives.
    let chunk = "x".repeat(1001);
    let request = format!(
        "POST /api/fickle/1 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n{chunk}\r\n0\r\n\r\n"
    );
    assert_eq!(raw(&node, &request).await, 413);
}

#[tokio::test]
async fn requests_that_are_no_http_are_refused() {
    let node = Setup::new(Plugins::usual()).ready().await;
    assert_eq!(raw(&node, "nonsense\r\n\r\n").await, 400);
    let long = format!(
        "GET /api/echo/1 HTTP/1.1\r\nHost: localhost\r\nx-long: {}\r\n\r\n",
        "x".repeat(70_000)
    );
    assert_eq!(raw(&node, &long).await, 431);
    node.post("/api/echo/1").send().await.ok();
}

#[tokio::test]
async fn requests_that_others_may_read_otherwise_are_refused() {
    let node = Setup::new(Plugins::usual()).ready().await;
    let host = "Host: localhost\r\n";
    let chunks = "2\r\n{}\r\n0\r\n\r\n";
    for (target, head, body) in [
        (
            "/api/echo/1",
            "Host: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n",
            "{}x",
        ),
        (
            "/api/echo/1",
            "Host: localhost\r\nContent-Length: +2\r\n",
            "{}",
        ),
        (
            "/api/echo/1",
            "Host: localhost\r\nContent-Length : 2\r\n",
            "{}",
        ),
        (
            "/api/echo/1",
            "Host: localhost\r\nX-A: b\r\n c\r\nContent-Length: 2\r\n",
            "{}",
        ),
        (
            "/api/echo/1",
            "Host: localhost\r\nX-A: b\rc\r\nContent-Length: 2\r\n",
            "{}",
        ),
        (
            "/api/echo/1",
            "Host: localhost\r\nX-A: b\0c\r\nContent-Length: 2\r\n",
            "{}",
        ),
        ("http://a/api/echo/1", host, ""),
        ("/api/echo/1", "", ""),
        ("/api/echo/1", "Host: localhost\r\nHost: b\r\n", ""),
        (
            "/api/echo/1",
            "Host: localhost\r\nTransfer-Encoding: gzip, chunked\r\n",
            chunks,
        ),
        (
            "/api/echo/1",
            "Host: localhost\r\nTransfer-Encoding: chunked, gzip\r\n",
            chunks,
        ),
        (
            "/api/echo/1",
            "Host: localhost\r\nTransfer-Encoding: xchunked\r\n",
            chunks,
        ),
        (
            "/api/echo/1",
            "Host: localhost\r\nTransfer-Encoding: chunked\r\n",
            "+2\r\n{}\r\n0\r\n\r\n",
        ),
        (
            "/api/echo/1",
            "Host: localhost\r\nTransfer-Encoding: chunked\r\n",
            "2\n{}\n0\n\n",
        ),
    ] {
        let request = format!("POST {target} HTTP/1.1\r\n{head}\r\n{body}");
        assert_eq!(raw(&node, &request).await, 400, "{request:?}");
    }
    assert_eq!(
        node.post("/api/fickle/1?calls").send().await.ok(),
        "1",
        "none of them has run"
    );
}

#[tokio::test]
async fn a_request_with_both_lengths_goes_by_its_chunks_and_is_the_last() {
    let node = Setup::new(Plugins::usual()).ready().await;
    let request = |head: &str, body: &str| {
        format!("POST /api/fickle/1?calls HTTP/1.1\r\nHost: localhost\r\n{head}\r\n{body}")
    };
    let (chunked, chunks) = ("Transfer-Encoding: chunked\r\n", "2\r\n{}\r\n0\r\n\r\n");
    let good = request("Content-Length: 2\r\n", "{}");
    for head in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\ncontent-length:4\r\n",
    ] {
        // A proxy that went by the length would take what follows for another request; this node
        // answers no more.
        let both = request(head, chunks);
        assert_eq!(
            all_answers(&node, &format!("{both}{good}")).await,
            [200],
            "{head:?}"
        );
        assert_eq!(
            all_answers(&node, &format!("{good}{both}{good}")).await,
            [200, 200]
        );
    }
    // A chunked request without a Content-Length keeps the connection open.
    let mut stream = TcpStream::connect(&node.http).await.unwrap();
    for _ in 0..2 {
        stream
            .write_all(request(chunked, chunks).as_bytes())
            .await
            .unwrap();
        let mut head = [0; 12];
        timeout(HANG, stream.read_exact(&mut head))
            .await
            .expect("no answer")
            .unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        let mut rest = [0; 4096];
        let _ = timeout(HANG, stream.read(&mut rest))
            .await
            .expect("no rest of the answer")
            .unwrap();
    }
    assert_eq!(node.post("/api/fickle/1?calls").send().await.ok(), "9");
}

#[tokio::test]
async fn hundreds_of_slow_clients_do_not_keep_a_good_one_waiting() {
    need_open_files(1_000);
    // A timeout so long that slow clients are not disconnected.
    let node = Setup::new(Plugins::usual())
        .flag("--request-timeout", "1h")
        .ready()
        .await;
    let mut slow = Vec::new();
    for number in 0..300 {
        let mut stream = TcpStream::connect(&node.http).await.unwrap();
        // Half a head, half a body, or nothing at all.
        let half_a_body =
            "POST /api/echo/1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{";
        stream
            .write_all(["POST /api/echo/1 HT", half_a_body, ""][number % 3].as_bytes())
            .await
            .unwrap();
        slow.push(stream);
    }
    node.wait_for_metric("meshage_client_connections 300").await;
    for key in 0..200 {
        node.post(&format!("/api/echo/{key}"))
            .json("{}")
            .send()
            .await
            .ok();
    }
    // All slow connections are still open, and did not delay the good client.
    node.wait_for_metric("meshage_client_connections 301").await;
}

#[tokio::test]
async fn a_request_that_does_not_arrive_in_time_is_408() {
    let node = Setup::new(Plugins::usual())
        .flag("--request-timeout", "300ms")
        .ready()
        .await;
    assert_eq!(
        raw(&node, "POST /api/echo/1 HTTP/1.1\r\nHost: localhost\r\n").await,
        408
    );
    assert_eq!(
        raw(
            &node,
            "POST /api/echo/1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nab"
        )
        .await,
        408
    );
    // A connection on which nothing arrives, or too little to tell the version of HTTP, is closed
    // without an answer.
    for opening in ["", "P", "PRI * HTTP/2"] {
        let mut silent = TcpStream::connect(&node.http).await.unwrap();
        silent.write_all(opening.as_bytes()).await.unwrap();
        let mut said = Vec::new();
        timeout(HANG, silent.read_to_end(&mut said))
            .await
            .expect("the connection stays open")
            .unwrap();
    }
    // So is an idle connection.
    let mut idle = TcpStream::connect(&node.http).await.unwrap();
    idle.write_all(b"GET /api/echo/1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut said = Vec::new();
    timeout(HANG, idle.read_to_end(&mut said))
        .await
        .expect("the connection stays open")
        .unwrap();
    assert_eq!(
        said.windows(9)
            .filter(|bytes| bytes == b"HTTP/1.1 ")
            .count(),
        1
    );
}

#[tokio::test]
async fn what_a_handler_calls_invalid_is_400_wherever_it_runs() {
    let nodes = mesh(2).await;
    let local = nodes[0].key_owned_by("echo", "n1").await;
    let remote = nodes[0].key_owned_by("echo", "n2").await;
    for key in [local, remote] {
        let answer = nodes[0]
            .post(&format!("/api/echo/{key}"))
            .json("{not json")
            .send()
            .await;
        let problem = answer.problem(400, "invalid");
        assert!(
            problem["detail"].as_str().unwrap().contains("not JSON"),
            "{problem}"
        );
        assert_eq!(
            (&problem["stream"], &problem["partitionKey"]),
            (&"echo".into(), &key.into())
        );
        assert_eq!(problem["retryable"], false);
    }
}

/// Sends these bytes and returns the status of the answer.
async fn raw(node: &Node, request: &str) -> u16 {
    let mut stream = TcpStream::connect(&node.http).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    timeout(HANG, stream.read_exact(&mut head))
        .await
        .expect("no answer")
        .unwrap();
    // The rest of the answer is not read, so closing resets the connection in any case.
    stream.set_zero_linger().unwrap();
    std::str::from_utf8(&head[9..]).unwrap().parse().unwrap()
}

/// The statuses of all answers until the node closes the connection.
async fn all_answers(node: &Node, requests: &str) -> Vec<u16> {
    let mut stream = TcpStream::connect(&node.http).await.unwrap();
    stream.write_all(requests.as_bytes()).await.unwrap();
    let mut said = String::new();
    timeout(HANG, stream.read_to_string(&mut said))
        .await
        .expect("the connection stays open")
        .unwrap();
    said.split("HTTP/1.1 ")
        .skip(1)
        .map(|answer| answer[..3].parse().unwrap())
        .collect()
}
