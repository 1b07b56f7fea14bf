//! A hostile guest cannot exceed its limits: its caller learns in time which one it hit, and nobody
//! else is affected.

use std::time::Instant;

use serde_json::Value;

use crate::harness::{HANG, Node, Plugins, Setup, Traffic, mesh};

/// What the guest does, and what its caller gets: status, type of problem, and a part of the
/// detail.
type Case = (&'static str, u16, &'static str, &'static str);

const TOO_SLOW: [Case; 2] = [
    ("spin", 504, "deadline-exceeded", "700 ms (timeout_ms)"),
    (
        "sleep_ms=600000",
        504,
        "deadline-exceeded",
        "700 ms (timeout_ms)",
    ),
];

const FATAL: [Case; 5] = [
    ("panic=on-purpose", 500, "crashed", "the node's log"),
    (
        "memory_mb=400",
        500,
        "limit-exceeded",
        "300 MiB of memory (memory_mb)",
    ),
    ("recurse", 500, "limit-exceeded", "2048 KiB of stack"),
    ("leak=2000", 500, "limit-exceeded", "500 open resources"),
    (
        "bytes=100000000",
        500,
        "limit-exceeded",
        "17 MiB handed to the host at once",
    ),
];

const TOO_LARGE: [Case; 3] = [
    (
        "bytes=17000000",
        500,
        "limit-exceeded",
        "16 MiB in the body of a reply",
    ),
    (
        "header_count=300",
        500,
        "limit-exceeded",
        "256 headers in a reply",
    ),
    (
        "header_bytes=70000",
        500,
        "limit-exceeded",
        "64 KiB of headers in a reply",
    ),
];

/// A node with the hostile guest under two manifests, a neighbour, and a guest that grows its table
/// without end.
async fn start(id: &str, seeds: &[&Node]) -> Node {
    let plugins = Plugins::usual()
        .with_file("fickle.toml", "memory_mb = 300\n")
        .with("slow", "fickle")
        .with_file("slow.toml", "timeout_ms = 700\n")
        .with_file(
            "bomb.wasm",
            handwritten::handler(handwritten::TABLE_BOMB).unwrap(),
        );
    Setup::new(plugins).id(id).seeds(seeds).ready().await
}

#[tokio::test]
async fn each_limit_is_named_and_hurts_nobody_else() {
    let first = start("n1", &[]).await;
    let second = start("n2", &[&first]).await;
    crate::harness::wait_for_mesh(&[&first, &second]).await;
    let neighbours = Traffic::start("echo", &[&first, &second]);
    for owner in [&first, &second] {
        let key = first.key_owned_by("fickle", &owner.id).await;
        for (stream, cases) in [
            ("slow", &TOO_SLOW[..]),
            ("fickle", &FATAL),
            ("fickle", &TOO_LARGE),
        ] {
            for (act, status, kind, detail) in cases {
                let began = Instant::now();
                let problem = first
                    .post(&format!("/api/{stream}/{key}?{act}"))
                    .send()
                    .await
                    .problem(*status, kind);
                assert!(
                    problem["detail"].as_str().unwrap().contains(detail),
                    "{act}: {problem}"
                );
                assert!(
                    began.elapsed() < HANG / 4,
                    "{act} took {:?}",
                    began.elapsed()
                );
                // An instance that was stopped is not reused; one that only asked for too much may
                // be.
                let calls = first.post(&format!("/api/fickle/{key}?calls")).send().await;
                if stream == "fickle" && cases.len() == FATAL.len() {
                    assert_eq!(calls.ok(), "1", "after {act}");
                }
                calls.ok();
            }
        }
        let problem = first
            .post(&format!("/api/bomb/{key}"))
            .send()
            .await
            .problem(500, "limit-exceeded");
        assert!(
            problem["detail"]
                .as_str()
                .unwrap()
                .contains("100000 table elements"),
            "{problem}"
        );
    }
    neighbours.none_failed().await;
}

#[tokio::test]
async fn what_it_was_doing_is_in_the_log_by_the_names_of_its_functions() {
    let node = start("n1", &[]).await;
    for (act, function, event) in [
        (
            "spin",
            "message-handler@0.1.0#handle",
            "handler-interrupted",
        ),
        ("recurse", "recurse", "handler-limit"),
        ("panic=on-purpose", "rust_panic", "handler-crashed"),
    ] {
        let answer = node.post(&format!("/api/slow/1?{act}")).send().await;
        let logged: Value = serde_json::from_str(&node.event(event).await).unwrap();
        let backtrace = logged["error"].as_str().unwrap();
        assert!(
            backtrace.contains(function),
            "{function} is not in the backtrace: {backtrace}"
        );
        // The id in the caller's problem leads to this log entry.
        assert_eq!(logged["stream"], "slow");
        let message_id = logged["message_id"].as_str().unwrap();
        assert_eq!(answer.json()["instance"], format!("urn:uuid:{message_id}"));
    }
}

#[tokio::test]
async fn a_message_whose_turn_does_not_come_did_not_run() {
    let plugins = Plugins::usual().with_file("fickle.toml", "concurrency = 1\n");
    let node = Setup::new(plugins).flag("--timeout", "1s").ready().await;
    // One at a time holds the only permit; the last ones wait until their deadline.
    let calls = futures_util::future::join_all(
        (0..8).map(|_| node.post("/api/fickle/1?sleep_ms=400").send()),
    );
    let answers = calls.await;
    let waited = answers
        .iter()
        .filter(|answer| answer.status == 504 && answer.json()["retryable"] == true)
        .count();
    assert!(waited >= 1, "{answers:?}");
    // All the others ran, and nothing else did.
    node.wait_for_metric(&format!(
        "meshage_calls_total{{stream=\"fickle\"}} {}",
        answers.len() - waited
    ))
    .await;
    node.post("/api/fickle/1").send().await.ok();
}

#[tokio::test]
async fn a_flood_of_log_entries_is_cut_off_and_the_log_says_so() {
    let node = Setup::new(Plugins::usual()).ready().await;
    node.post("/api/fickle/1?log_lines=100000")
        .send()
        .await
        .ok();
    node.event("guest-log-cut-off").await;
    node.post("/api/fickle/1?log=the-next-call")
        .send()
        .await
        .ok();
    node.log_line("told to log: the-next-call").await;
    let lines = node.log_lines("told to log line");
    assert!((10..1_000).contains(&lines), "{lines} lines were logged");
    assert!(node.log_lines("told to print line") >= 10);
}

#[tokio::test]
async fn what_is_not_granted_is_denied() {
    let nodes = mesh(1).await;
    for (act, denied) in [
        ("read=/", "Some"),
        ("read=.", "Some"),
        ("connect=127.0.0.1:1", "PermissionDenied"),
        ("send=127.0.0.1:0", "PermissionDenied"),
        ("connect=localhost:1", "Uncategorized"),
        ("fetch=127.0.0.1:1/", "HttpRequestDenied"),
    ] {
        let answer = nodes[0].post(&format!("/api/fickle/1?{act}")).send().await;
        assert!(
            answer.text().contains(denied),
            "{act}: {} {}",
            answer.status,
            answer.text()
        );
    }
    // Clocks and randomness need no grant.
    let get = async |act: &str| {
        nodes[0]
            .post(&format!("/api/fickle/1?{act}"))
            .send()
            .await
            .ok()
            .to_owned()
    };
    assert_ne!(get("random=16").await, get("random=16").await);
    assert!(get("now").await.starts_with("Ok("));
}

#[tokio::test]
async fn one_plugins_flood_leaves_room_for_the_others() {
    let node = Setup::new(Plugins::usual())
        .flag("--timeout", "1h")
        .ready()
        .await;
    // 64 endless loops, as many as may run at once, and another 64 in the queue.
    let flood =
        futures_util::future::join_all((0..128).map(|_| node.post("/api/fickle/1?spin").send()));
    let neighbours = async {
        node.wait_until_running("fickle", 64).await;
        for _ in 0..50 {
            node.post("/api/echo/1").send().await.ok();
        }
    };
    tokio::select! {
        _ = flood => panic!("the flood should go on"),
        () = neighbours => {}
    }
    // `select!` has dropped the clients of the flood, which stops the loops.
    node.wait_until_running("fickle", 0).await;
}
