//! The log: a reader that is slow or gone blocks nobody, and what the log says can be relied upon.

use rustix::process::Signal;

use crate::harness::{Node, Plugins, Reader, Setup, threads, until};

/// A node whose log nobody reads, and which has begun to drop lines.
async fn node_that_nobody_reads() -> Node {
    let node = Setup::new(Plugins::usual().with("orders", "orders"))
        .ready()
        .await;
    node.log_reader(Reader::Pauses);
    until(|| async {
        node.post("/api/fickle/1?log_lines=2000").send().await.ok();
        node.metric("meshage_log_lines_dropped_total").await > 0
    })
    .await;
    node
}

#[tokio::test]
async fn who_does_not_read_the_log_stops_nobody() {
    let mut node = node_that_nobody_reads().await;
    for _ in 0..20 {
        node.post("/api/echo/1").json("{}").send().await.ok();
        node.post("/api/orders/ada")
            .json(r#"{"article":"tea","quantity":3}"#)
            .send()
            .await
            .ok();
    }
    assert_eq!(node.admin("/readyz").await.status, 200);
    node.log_reader(Reader::Reads);
    let told = node.event("log-dropped").await;
    assert!(told.contains("nobody took them"), "{told}");
    // The queue has room again, and a graceful shutdown loses nothing.
    node.post("/api/fickle/1?log=the-last-call")
        .send()
        .await
        .ok();
    node.signal(Signal::TERM);
    assert_eq!(node.ended().await.code(), Some(0));
    node.log_line("the-last-call").await;
    node.event("left").await;
}

#[tokio::test]
async fn a_reader_who_is_gone_costs_nothing() {
    let node = Setup::new(Plugins::usual()).ready().await;
    node.log_reader(Reader::Gone);
    // Log lines can no longer be written, and count as dropped.
    until(|| async {
        node.post("/api/fickle/1?log=nobody-hears-it")
            .send()
            .await
            .ok();
        node.metric("meshage_log_lines_dropped_total").await > 0
    })
    .await;
    let ticks = || {
        threads(&node)
            .into_values()
            .find_map(|(name, ticks)| (name == "log").then_some(ticks))
            .unwrap()
    };
    let before = ticks();
    for key in 0..1_000 {
        node.post(&format!("/api/echo/{key}"))
            .json("{}")
            .send()
            .await
            .ok();
    }
    let ticks = ticks() - before;
    assert!(
        ticks < 10,
        "the log's thread had the processor for {ticks} ticks, with nothing to write"
    );
}

#[tokio::test]
async fn a_signal_ends_a_node_whose_log_nobody_reads() {
    let mut node = node_that_nobody_reads().await;
    node.signal(Signal::TERM);
    assert_eq!(node.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_stranger_who_makes_the_node_log_stops_nobody() {
    let node = Setup::new(Plugins::usual())
        .flag("--log", "trace")
        .ready()
        .await;
    node.log_reader(Reader::Pauses);
    until(|| async {
        // Connections without a hello are refused, and debug and trace log much more about them.
        let _ = tokio::net::TcpStream::connect(&node.cluster).await;
        node.post("/api/fickle/1?log_lines=2000").send().await.ok();
        node.metric("meshage_log_lines_dropped_total").await > 0
    })
    .await;
    node.post("/api/echo/1").json("{}").send().await.ok();
}

#[tokio::test]
async fn a_wrong_start_is_told_in_the_format_of_the_log() {
    let (code, said) = Setup::new(Plugins::empty())
        .flag("--timeout", "soon")
        .fail()
        .await;
    assert_eq!((code, said.lines().count()), (2, 1), "{said}");
    let entry: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&entry["level"], &entry["event"]),
        (&"ERROR".into(), &"fatal".into())
    );
    assert!(
        entry["message"].as_str().unwrap().contains("timeout"),
        "{said}"
    );
    let (code, said) = Setup::new(Plugins::empty())
        .flag("--log-format", "text")
        .flag("--timeout", "soon")
        .fail()
        .await;
    assert_eq!(code, 2);
    assert!(
        said.starts_with("meshage-host: invalid timeout \"soon\""),
        "{said}"
    );
}

#[tokio::test]
async fn what_a_filter_hides_takes_nothing_from_what_a_handler_may_log() {
    let node = Setup::new(Plugins::usual())
        .flag("--log", "info,guest=warn")
        .ready()
        .await;
    // Thousands of lines at level info, which the filter hides, and then one that must appear.
    node.post("/api/fickle/1?log_lines_then_warn=2000")
        .send()
        .await
        .ok();
    node.log_line("told to warn").await;
    assert_eq!(node.log_lines("told to log line"), 0);
    assert_eq!(node.events("guest-log-cut-off"), 0);
    // The panic message is part of the host's entry about the crash, which the filter does not
    // hide.
    node.post("/api/fickle/1?panic=the-reason")
        .send()
        .await
        .problem(500, "crashed");
    let crash = node.event("handler-crashed").await;
    assert!(crash.contains("told to panic: the-reason"), "{crash}");
}

#[tokio::test]
async fn what_a_guest_logs_cannot_deceive_who_reads_it() {
    let node = Setup::new(Plugins::usual()).ready().await;
    node.post("/api/fickle/1?log_body")
        .body("a\u{0}\u{202e}\u{1b}[31mb\u{7f}\n")
        .send()
        .await
        .ok();
    let line = node.log_line("told to log the body").await;
    assert!(
        line.chars()
            .all(|letter| !letter.is_control() && letter != '\u{202e}'),
        "{line:?}"
    );
    let entry: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert!(
        entry["message"].as_str().unwrap().contains('\u{202e}'),
        "{entry}"
    );
}

#[tokio::test]
async fn a_space_does_not_silence_it() {
    let node = Setup::new(Plugins::usual())
        .variable("MESHAGE_LOG", "info ")
        .ready()
        .await;
    node.event("ready").await;
}
