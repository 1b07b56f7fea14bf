//! Clients that flood a node, or do not read the answers that they asked for, are disconnected, and
//! others are served.

use std::time::Duration;

use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::harness::{Client, HANG, Node, Plugins, Setup, need_open_files, taken};

/// Growth of a node's memory that a flood may cause.
const GROWTH_MB_MAX: u64 = 64;

/// Frames of a flood, more than any client has a reason to send at once.
const FRAMES: usize = 100_000;

/// Makes a part of a flood, given a new id of an HTTP/2 stream.
type Part = fn(u32) -> Vec<u8>;

#[tokio::test]
async fn floods_of_http2_frames_end_by_themselves() {
    let node = Setup::new(Plugins::usual())
        .flag("--request-timeout", "500ms")
        .ready()
        .await;
    node.post("/api/echo/1").json("{}").send().await.ok();
    let before = taken(&node).resident_mb;
    let floods: [(&str, Part); 6] = [
        ("requests that are cancelled at once", |stream| {
            [
                request(stream, END_STREAM | END_HEADERS),
                frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()),
            ]
            .concat()
        }),
        ("settings", |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
        ("pings", |_| frame(PING, 0, 0, &[7; 8])),
        ("a head that does not end", |stream| match stream {
            1 => request(1, 0),
            _ => frame(
                CONTINUATION,
                0,
                1,
                &[&[0, 1, b'x', 100][..], &[b'y'; 100]].concat(),
            ),
        }),
        ("requests whose bodies do not begin", |stream| {
            request(stream, END_HEADERS)
        }),
        ("empty pieces of a body", |stream| match stream {
            1 => request(1, END_HEADERS),
            _ => frame(DATA, 0, 1, &[]),
        }),
    ];
    for (flood, part) in floods {
        let (mut reader, mut writer) = http2(&node).await.into_split();
        let sending = async {
            for chunk in 0..FRAMES / 1_000 {
                let parts = (0..1_000)
                    .flat_map(|index| part((chunk * 1_000 + index) as u32 * 2 + 1))
                    .collect::<Vec<u8>>();
                // The node may have closed the connection, as it is free to.
                if writer.write_all(&parts).await.is_err() {
                    return;
                }
            }
        };
        let others = async {
            for key in 0..50 {
                // Each request gets its own connection: the node may close a reused one as idle
                // just when it is used again.
                let url = format!("http://{}/api/echo/{key}", node.http);
                Client::new()
                    .request(Method::POST, &url)
                    .json("{}")
                    .send()
                    .await
                    .ok();
            }
        };
        let reading = async {
            let mut said = [0; 4096];
            while reader.read(&mut said).await.is_ok_and(|bytes| bytes > 0) {}
        };
        let all = async { tokio::join!(sending, others, reading) };
        timeout(HANG, all)
            .await
            .unwrap_or_else(|_| panic!("{flood}: the connection stays open"));
        node.wait_for_metric("meshage_client_connections 0").await;
        let after = taken(&node).resident_mb;
        assert!(
            after < before + GROWTH_MB_MAX,
            "{flood}: memory grows from {before} to {after} MB"
        );
    }
}

#[tokio::test]
async fn a_client_that_takes_no_answers_is_ended() {
    let node = Setup::new(Plugins::usual())
        .flag("--request-timeout", "500ms")
        .flag("--timeout", "500ms")
        .ready()
        .await;
    // Pipelined requests for more than the socket buffers hold.
    let mut stalled = TcpStream::connect(&node.http).await.unwrap();
    let requests =
        "GET /api/fickle/1?bytes=1000000 HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
    let sending = async { while stalled.write_all(requests.as_bytes()).await.is_ok() {} };
    timeout(HANG, sending)
        .await
        .expect("the connection stays open");
    node.wait_for_metric("meshage_client_connections 0").await;

    // In HTTP/2 an answer waits for flow control: the client never opens the window, but does
    // answer pings. Tried with a large answer, and with smaller ones and a window of one byte.
    for (bytes, window) in [(200_000, 65_535_u32), (5_000, 1), (50, 1)] {
        let mut stalled = http2(&node).await;
        let settings = frame(
            SETTINGS,
            0,
            0,
            &[&[0, 4], &window.to_be_bytes()[..]].concat(),
        );
        let request = request_for(bytes, 1, END_STREAM | END_HEADERS);
        stalled
            .write_all(&[settings, request].concat())
            .await
            .unwrap();
        ends_while_pings_are_answered(stalled).await;
        node.wait_for_metric("meshage_client_connections 0").await;
    }
    node.post("/api/echo/1").json("{}").send().await.ok();
}

#[tokio::test]
async fn a_client_that_takes_little_at_a_time_gets_all() {
    const BYTES: usize = 6_000_000;
    // The two timeouts add up to a second.
    let node = Setup::new(Plugins::usual())
        .flag("--request-timeout", "300ms")
        .flag("--timeout", "700ms")
        .ready()
        .await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let mut slow = socket.connect(node.http.parse().unwrap()).await.unwrap();
    let request = format!(
        "GET /api/fickle/1?bytes={BYTES} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    );
    slow.write_all(request.as_bytes()).await.unwrap();
    // At this pace the whole answer takes ten seconds, far longer than the timeouts, and each piece
    // far less.
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    let (mut taken, mut piece) = (0, vec![0; 12 << 10]);
    loop {
        pace.tick().await;
        match slow.read(&mut piece).await.unwrap() {
            0 => break,
            bytes => taken += bytes,
        }
    }
    assert!(taken > BYTES, "only {taken} bytes");
}

#[tokio::test]
async fn an_idle_http2_connection_is_ended() {
    let node = Setup::new(Plugins::usual())
        .flag("--request-timeout", "300ms")
        .ready()
        .await;
    let idle = http2(&node).await;
    ends_while_pings_are_answered(idle).await;
    node.wait_for_metric("meshage_client_connections 0").await;
}

#[tokio::test]
async fn all_bodies_together_take_so_much_memory() {
    need_open_files(1_000);
    // A timeout so long that slow clients are not disconnected.
    let node = Setup::new(Plugins::usual())
        .flag("--request-timeout", "1h")
        .ready()
        .await;
    let before = taken(&node).resident_mb;
    let (bytes, clients) = (1 << 20, 300);
    let head =
        format!("POST /api/echo/1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {bytes}\r\n\r\n");
    let most_of_a_body = vec![b'x'; bytes - 1];
    let mut slow = Vec::new();
    for _ in 0..clients {
        let mut stream = TcpStream::connect(&node.http).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&most_of_a_body).await.unwrap();
        slow.push(stream);
    }
    // The memory for bodies, 256 MiB, has room for 256 of them: 44 are refused.
    node.wait_for_metric(r#"meshage_problems_total{type="overloaded"} 44"#)
        .await;
    let after = taken(&node).resident_mb;
    assert!(
        after < before + 400,
        "memory grows from {before} to {after} MB"
    );
    let problem = node
        .post("/api/echo/1")
        .body(vec![b'x'; 4096])
        .send()
        .await
        .problem(503, "overloaded");
    assert_eq!(problem["retryable"], true);
    assert!(
        problem["detail"].as_str().unwrap().contains("memory"),
        "{problem}"
    );
    // Small bodies (below 1 KiB) are not counted.
    node.post("/api/echo/1").json("{}").send().await.ok();
    drop(slow);
    node.wait_for_metric("meshage_client_connections 1").await;
    node.post("/api/fickle/1")
        .body(vec![b'x'; bytes])
        .send()
        .await
        .ok();
}

#[tokio::test]
async fn all_answers_together_take_so_much_memory() {
    let node = Setup::new(Plugins::usual()).ready().await;
    node.post("/api/echo/1").json("{}").send().await.ok();
    let before = taken(&node).resident_mb;
    let mut slow = Vec::new();
    let mut answers = [0, 0];
    for _ in 0..45 {
        let mut stream = TcpStream::connect(&node.http).await.unwrap();
        stream
            .write_all(b"GET /api/fickle/1?bytes=16000000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await
            .unwrap();
        let mut head = [0; 12];
        timeout(HANG, stream.read_exact(&mut head))
            .await
            .expect("no answer")
            .unwrap();
        match &head {
            b"HTTP/1.1 200" => answers[0] += 1,
            b"HTTP/1.1 503" => answers[1] += 1,
            other => panic!("{}", String::from_utf8_lossy(other)),
        }
        slow.push(stream);
    }
    let after = taken(&node).resident_mb;
    assert!(
        after < before + 400,
        "memory grows from {before} to {after} MB: {answers:?}"
    );
    // What the sockets have accepted of an answer is no longer counted.
    assert!(answers[0] >= 10 && answers[1] >= 10, "{answers:?}");
    // A broadcast combines only the replies for which there is memory.
    let broadcast = node
        .get("/api/broadcast/fickle/1?bytes=16000000")
        .send()
        .await;
    assert_eq!(
        broadcast.header("meshage-broadcast"),
        Some("ok=0 failed=1"),
        "{} bytes",
        broadcast.body.len()
    );
    assert_eq!(broadcast.json()[0]["status"], 503, "{}", broadcast.text());
    drop(slow);
    node.wait_for_metric("meshage_client_connections 1").await;
    assert_eq!(
        node.get("/api/fickle/1?bytes=16000000")
            .send()
            .await
            .body
            .len(),
        16_000_000
    );
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// A connection on which the client has sent the preface of HTTP/2.
async fn http2(node: &Node) -> TcpStream {
    let mut stream = TcpStream::connect(&node.http).await.unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    stream
}

/// An HTTP/2 frame (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The HEADERS of a request whose answer exceeds the initial flow-control window (HPACK, without
/// the dynamic table).
fn request(stream: u32, flags: u8) -> Vec<u8> {
    request_for(200_000, stream, flags)
}

fn request_for(bytes: usize, stream: u32, flags: u8) -> Vec<u8> {
    let path = format!("/api/fickle/1?bytes={bytes}");
    let head = [
        &[0x83, 0x86, 0x01, 9][..],
        b"localhost",
        &[0x04, path.len() as u8],
        path.as_bytes(),
    ]
    .concat();
    frame(HEADERS, flags, stream, &head)
}

/// Waits until the node closes an HTTP/2 connection on which the client only acknowledges PING and
/// SETTINGS.
async fn ends_while_pings_are_answered(mut stream: TcpStream) {
    let reading = async {
        let mut head = [0; 9];
        while stream.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            if stream.read_exact(&mut payload).await.is_err() {
                return;
            }
            let answer = match (head[3], head[4] & ACK) {
                (PING, 0) => frame(PING, ACK, 0, &payload),
                (SETTINGS, 0) => frame(SETTINGS, ACK, 0, &[]),
                _ => continue,
            };
            let _ = stream.write_all(&answer).await;
        }
    };
    timeout(HANG, reading)
        .await
        .expect("the connection stays open");
}
