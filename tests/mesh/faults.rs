//! Failures are reported accurately, the same whether local or forwarded, and affect nothing else.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Gate, Plugins, Setup, mesh, mesh_of, until, wait_for_mesh};

/// A problem without the members that must differ: key, node and message id.
fn without_place(mut problem: Value) -> Value {
    for member in ["partitionKey", "node", "instance"] {
        assert!(problem.as_object_mut().unwrap().remove(member).is_some());
    }
    problem
}

#[tokio::test]
async fn each_failure_has_its_status_local_and_forwarded() {
    let plugins = || Plugins::empty().with("orders", "orders");
    let first = Setup::new(plugins()).id("n1").start().await;
    let second = Setup::new(plugins())
        .id("n2")
        .seeds(&[&first])
        .start()
        .await;
    wait_for_mesh(&[&first, &second]).await;
    let local = first.key_owned_by("orders", "n1").await;
    let remote = first.key_owned_by("orders", "n2").await;
    for (order, status, kind, retryable) in [
        (r#"{"article":"tea","quantity":0}"#, 400, "invalid", false),
        (r#"{"article":"tea"}"#, 400, "invalid", false),
        (
            r#"{"article":"milk","quantity":1}"#,
            404,
            "not-found",
            false,
        ),
        (
            r#"{"article":"tea","quantity":2000}"#,
            409,
            "conflict",
            false,
        ),
        (
            r#"{"article":"cocoa","quantity":1}"#,
            503,
            "unavailable",
            true,
        ),
        (
            r#"{"article":"sugar","quantity":1}"#,
            500,
            "internal",
            false,
        ),
    ] {
        let mut problems = Vec::new();
        for key in [&local, &remote] {
            let problem = first
                .post(&format!("/api/orders/{key}"))
                .json(order)
                .send()
                .await
                .problem(status, kind);
            assert_eq!(problem["retryable"], retryable, "{problem}");
            let detail = problem["detail"]
                .as_str()
                .unwrap()
                .replace(key.as_str(), "KEY");
            let mut problem = without_place(problem);
            problem["detail"] = detail.into();
            problems.push(problem);
        }
        assert_eq!(problems[0], problems[1]);
    }
}

#[tokio::test]
async fn a_crash_is_500_its_reason_is_in_the_log_and_the_next_call_works() {
    let nodes = mesh(2).await;
    let local = nodes[0].key_owned_by("fickle", "n1").await;
    let remote = nodes[0].key_owned_by("fickle", "n2").await;
    for (key, node) in [(local, &nodes[0]), (remote, &nodes[1])] {
        for act in ["panic=the-reason", "status=99", "header=(no-name):x"] {
            let problem = nodes[0]
                .post(&format!("/api/fickle/{key}?{act}"))
                .send()
                .await
                .problem(500, "crashed");
            assert!(
                !problem.to_string().contains("the-reason"),
                "a caller learns too much: {problem}"
            );
            assert_eq!(problem["node"], node.id);
            nodes[0]
                .post(&format!("/api/fickle/{key}"))
                .send()
                .await
                .ok();
        }
        // The log has the guest's panic message, and a backtrace with the names of its functions.
        let said = node.log_line("told to panic: the-reason").await;
        assert!(
            said.contains(r#""stream":"fickle""#) && said.contains("message_id"),
            "{said}"
        );
        // One entry, although it was written in pieces.
        assert!(said.contains("panicked at"), "{said}");
        let crash = node.event("handler-crashed").await;
        assert!(
            crash.contains("message-handler@0.1.0#handle"),
            "no backtrace: {crash}"
        );
        // What the host's own is made of; the harness sets `RUST_BACKTRACE`.
        assert!(!crash.contains("tokio::"), "{crash}");
    }
}

#[tokio::test]
async fn a_failure_tells_its_beginning_however_long_it_is() {
    let nodes = mesh(2).await;
    for owner in ["n1", "n2"] {
        let key = nodes[0].key_owned_by("fickle", owner).await;
        let problem = nodes[0]
            .put(&format!("/api/fickle/{key}?fail_bytes=2000000"))
            .send()
            .await
            .problem(409, "conflict");
        assert_eq!(problem["detail"], "é".repeat(4096));
    }
    assert_eq!(nodes[0].events("peer-connection-lost"), 0);
}

#[tokio::test]
async fn a_handler_that_takes_too_long_is_stopped_at_the_deadline() {
    // The node that receives the request sets the deadline, wherever the handler runs.
    let start = |id: &'static str, timeout| {
        Setup::new(Plugins::usual())
            .id(id)
            .flag("--timeout", timeout)
    };
    let first = start("n1", "300ms").start().await;
    let second = start("n2", "1h").seeds(&[&first]).start().await;
    wait_for_mesh(&[&first, &second]).await;
    for owner in [&first, &second] {
        let key = first.key_owned_by("fickle", &owner.id).await;
        // A busy loop, and a blocking call of the host.
        for act in ["spin", "sleep_ms=20000"] {
            let began = Instant::now();
            let problem = first
                .post(&format!("/api/fickle/{key}?{act}"))
                .send()
                .await
                .problem(504, "deadline-exceeded");
            assert_eq!(problem["retryable"], false);
            assert!(
                began.elapsed() < Duration::from_secs(15),
                "{act} ended after {:?}",
                began.elapsed()
            );
            let path = format!("/api/fickle/{key}?{act}");
            let problem = first
                .get(&path)
                .send()
                .await
                .problem(504, "deadline-exceeded");
            assert_eq!(problem["retryable"], true, "a GET may run twice");
            owner.wait_until_running("fickle", 0).await;
        }
        first.post(&format!("/api/fickle/{key}")).send().await.ok();
    }
}

#[tokio::test]
async fn a_plugin_beyond_its_limits_refuses_early() {
    let gate = Gate::new().await;
    let manifest = format!("concurrency = 1\nqueue = 1\n{}", gate.manifest());
    let first = Setup::new(Plugins::usual().with_file("fickle.toml", manifest))
        .id("n1")
        .start()
        .await;
    let second = Setup::new(Plugins::empty())
        .id("n2")
        .seeds(&[&first])
        .start()
        .await;
    wait_for_mesh(&[&first, &second]).await;
    let path = format!("/api/fickle/1?{}", gate.act());
    let running = first.post(&path).send();
    let refused = async {
        gate.wait_for(1).await;
        // One message runs, one of these six is queued, and five are refused, local or forwarded.
        let late = (0..6).map(|number| if number % 2 == 0 { &first } else { &second });
        let mut late: FuturesUnordered<_> =
            late.map(|node| node.post("/api/fickle/1").send()).collect();
        for _ in 0..5 {
            let answer = late.next().await.unwrap();
            assert_eq!(answer.problem(503, "overloaded")["retryable"], true);
        }
        let count = r#"meshage_messages_total{stream="fickle",outcome="overloaded",route="local"}"#;
        assert!(first.metric(count).await >= 2);
        // The other plugin is not affected.
        first.post("/api/echo/1").send().await.ok();
        gate.open();
        late.next().await.unwrap().ok();
    };
    let (answer, ()) = tokio::join!(running, refused);
    answer.ok();
}

#[tokio::test]
async fn a_client_that_goes_away_stops_its_work_where_it_runs() {
    // So long that no deadline ends the call instead.
    let start = |id: &'static str| Setup::new(Plugins::usual()).id(id).flag("--timeout", "1h");
    let first = start("n1").start().await;
    let second = start("n2").seeds(&[&first]).start().await;
    wait_for_mesh(&[&first, &second]).await;
    for owner in [&first, &second] {
        let key = first.key_owned_by("fickle", &owner.id).await;
        let path = format!("/api/fickle/{key}?spin");
        tokio::select! {
            answer = first.post(&path).send() => panic!("it should spin: {answer:?}"),
            () = owner.wait_until_running("fickle", 1) => {}
        }
        // `select!` has dropped the request, and its connection with it.
        owner.wait_until_running("fickle", 0).await;
    }
}

#[tokio::test]
async fn when_a_node_dies_what_it_ran_is_lost_and_the_rest_goes_to_the_next_in_rank() {
    let gate = Gate::new().await;
    let careful = format!("idempotency_keys = true\n{}", gate.manifest());
    let plugins = [(); 2].map(|()| {
        let plugins = Plugins::usual().with_file("fickle.toml", gate.manifest());
        plugins
            .with("careful", "fickle")
            .with_file("careful.toml", &careful)
    });
    let mut nodes = mesh_of(&plugins).await;
    let key = nodes[0].key_owned_by("fickle", "n2").await;
    let mut victim = nodes.pop().unwrap();
    let survivor = &nodes[0];
    let path = |stream: &str| format!("/api/{stream}/{key}?{}", gate.act());
    let running = survivor.post(&path("fickle")).send();
    // The same by an idempotent method, and with an idempotency key: to a plugin that ignores such
    // keys, and to one that honours them.
    let put = survivor.put(&path("fickle")).send();
    let with_key = survivor
        .post(&path("fickle"))
        .header("idempotency-key", "a1")
        .send();
    let cared_for = survivor
        .post(&path("careful"))
        .header("idempotency-key", "a1")
        .send();
    let killed = async {
        gate.wait_for(4).await;
        victim.kill().await;
        gate.open();
    };
    let (lost, put, with_key, cared_for, ()) =
        tokio::join!(running, put, with_key, cared_for, killed);
    for answer in [put, cared_for] {
        answer.ok();
        assert_eq!(answer.node(), "n1");
    }
    for answer in [lost, with_key] {
        assert_eq!(answer.problem(502, "lost")["retryable"], false);
    }
    let seen = survivor
        .post("/api/careful/1?headers")
        .header("idempotency-key", "a1")
        .send()
        .await;
    assert_eq!(seen.ok(), "idempotency-key: a1");
    // Failover does not wait for gossip: the port refuses the connection, and the next in rank
    // answers.
    for _ in 0..20 {
        let answer = survivor.post(&format!("/api/fickle/{key}")).send().await;
        answer.ok();
        assert_eq!(answer.node(), "n1");
    }
    until(|| async { survivor.view().await.len() == 1 }).await;
    survivor.event("node-gone").await;
}

#[tokio::test]
async fn a_message_that_two_nodes_were_lost_with_is_not_given_to_a_third() {
    let gate = Gate::new().await;
    let plugins = [(); 3].map(|()| Plugins::usual().with_file("fickle.toml", gate.manifest()));
    let mut nodes = mesh_of(&plugins).await;
    let asked = nodes.remove(0);
    // The third in rank is the node that received the request: it could run the message itself, and
    // only the limit of two lost nodes keeps it from doing so.
    let key = asked.key_ranked("fickle", 2, "n1").await;
    let ranking = asked.ranking("fickle", &key).await;
    let path = format!("/api/fickle/{key}?{}", gate.act());
    let put = asked.put(&path).send();
    let killing = async {
        for (number, id) in (1..).zip(&ranking[..2]) {
            gate.wait_for(number).await;
            nodes
                .iter_mut()
                .find(|node| node.id == *id)
                .unwrap()
                .kill()
                .await;
        }
    };
    let answer = tokio::select! {
        (answer, ()) = async { tokio::join!(put, killing) } => answer,
        () = gate.wait_for(3) => panic!("it runs on a third node"),
    };
    // Whether the message ran is unknown, but a PUT may be retried.
    assert_eq!(answer.problem(502, "lost")["retryable"], true);
    assert_eq!(asked.served("fickle").await, 0);
    // The message failed over from the first node, and not from the second.
    assert_eq!(
        asked
            .metric(r#"meshage_failovers_total{stream="fickle",because="lost"}"#)
            .await,
        1
    );
    // Sent again by the client, it runs on the remaining node.
    gate.open();
    let again = asked.put(&path).send().await;
    again.ok();
    assert_eq!(again.node(), "n1");
}

#[tokio::test]
async fn a_node_that_hangs_is_taken_out_of_the_view() {
    let nodes = mesh(2).await;
    let key = nodes[0].key_owned_by("echo", "n2").await;
    nodes[1].hang().await;
    until(|| async { nodes[0].view().await.len() == 1 }).await;
    let answer = nodes[0].post(&format!("/api/echo/{key}")).send().await;
    answer.ok();
    assert_eq!(answer.node(), "n1");
    nodes[1].signal(Signal::CONT);
    wait_for_mesh(&[&nodes[0], &nodes[1]]).await;
    assert_eq!(
        nodes[0]
            .post(&format!("/api/echo/{key}"))
            .send()
            .await
            .node(),
        "n2"
    );
}
