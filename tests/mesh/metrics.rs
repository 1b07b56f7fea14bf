//! Each documented metric moves when what it counts happens, and none is documented that this test
//! has not seen move.

use std::collections::BTreeSet;
use std::path::Path;

use http::Method;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use crate::harness::{
    Client, Gate, Node, Plugins, Reader, Secret, Setup, State, stamped, until, wait_for_mesh,
};

const DOCUMENT: &str = include_str!("../../docs/http-api.md");

/// Header of the table of metrics in that document.
const TABLE: &str = "| metric | is |\n|---|---|\n";

/// The documented metrics as they are written there, such as `meshage_calls_total{stream}`.
fn documented() -> BTreeSet<String> {
    let (_, table) = DOCUMENT
        .split_once(TABLE)
        .expect("there is a table of metrics");
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    let names = rows.flat_map(|row| {
        row.split('|')
            .nth(1)
            .unwrap_or_default()
            .split('`')
            .skip(1)
            .step_by(2)
    });
    names.map(str::to_owned).collect()
}

/// The metric of this series as the document writes it: with the names of its labels, without their
/// values.
fn metric_of(series: &str) -> String {
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    // A series of a histogram.
    let name = name.strip_suffix("_count").unwrap_or(name);
    let labels: Vec<&str> = labels
        .split(',')
        .filter_map(|label| Some(label.split_once('=')?.0))
        .collect();
    if labels.is_empty() {
        name.to_owned()
    } else {
        format!("{name}{{{}}}", labels.join(", "))
    }
}

/// The metrics that have been seen to move.
#[derive(Default)]
struct Moved(BTreeSet<String>);

impl Moved {
    /// Runs `act`, and waits until it has made each of these series of the node grow.
    async fn by<T>(&mut self, act: impl Future<Output = T>, node: &Node, series: &[&str]) -> T {
        let mut before = Vec::new();
        for series in series {
            before.push(node.metric(series).await);
        }
        let done = act.await;
        for (series, before) in series.iter().zip(before) {
            // Shown if the wait times out.
            println!("{series} is more than {before}");
            until(|| async { node.metric(series).await > before }).await;
            self.0.insert(metric_of(series));
        }
        done
    }
}

/// POSTs over a new connection, which stays open until the returned client is dropped.
async fn post(node: &Node, path: &str) -> Client {
    let client = Client::new();
    client
        .request(Method::POST, &format!("http://{}{path}", node.http))
        .send()
        .await
        .ok();
    client
}

/// Those of entities.
async fn of_state(moved: &mut Moved) {
    let state = State::sqlite();
    let plugins = Plugins::empty().with("journal", "journal");
    let node = Setup::new(plugins).state(&state).ready().await;
    let append = async |id: &str| {
        let path = format!("/api/journal/k?append={id}");
        node.post(&path).send().await
    };
    let series = [
        r#"meshage_state_commits_total{outcome="committed"}"#,
        "meshage_state_batch_commits_count",
        "meshage_state_commit_duration_seconds_count",
        "meshage_state_loads_total",
        "meshage_state_active_entities",
        "meshage_state_cached_bytes",
    ];
    moved.by(append("a"), &node, &series).await.ok();
    // As if another node had committed.
    let own = Connection::open(state.file()).unwrap();
    own.execute("UPDATE meshage_entity SET commit_id = randomblob(16)", [])
        .unwrap();
    let series = ["meshage_state_reruns_total"];
    moved.by(append("b"), &node, &series).await.ok();
    // As if a node that is gone had left it.
    let late = "INSERT INTO meshage_send
        (id, stream, key, to_stream, to_key, due, wake_at, node, message)
        VALUES (randomblob(16), 'journal', 'k', 'journal', 'k', 1, 1, 'gone', 'POST ?append=c' || x'0d0a0d0a')";
    let left = async { own.execute(late, []).unwrap() };
    let series = [
        "meshage_sends_late_total",
        r#"meshage_sends_total{outcome="delivered"}"#,
    ];
    moved.by(left, &node, &series).await;
    let repeated = || {
        let request = node.post("/api/journal/k");
        request.header("idempotency-key", "one").send()
    };
    repeated().await.ok();
    let series = ["meshage_state_replays_total"];
    moved.by(repeated(), &node, &series).await.ok();
    // As if another process were stopped in a commit.
    own.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = async {
        let waiting = append("c");
        let refused = until(|| async { append("d").await.status == 503 });
        tokio::join!(waiting, refused).0
    };
    let series = ["meshage_state_refused_total"];
    let waited = moved.by(refused, &node, &series).await;
    waited.problem(503, "state-unavailable");
}

#[tokio::test]
async fn each_moves_when_what_it_counts_happens() {
    let mut moved = Moved::default();
    let (gate, secret, data) = (Gate::new().await, Secret::shared(), TempDir::new().unwrap());
    let manifest = format!("concurrency = 1\nqueue = 0\n{}", gate.manifest());
    let plugins = || Plugins::usual().with_file("fickle.toml", &manifest);
    let directory = plugins();
    let first = Setup::new(directory.clone()).id("n1").secret(&secret);
    let first = first
        .flag("--data-dir", data.path().to_str().unwrap())
        // Nobody is there.
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
        .variable("OTEL_BSP_SCHEDULE_DELAY", "50")
        .ready()
        .await;

    // Clients come and go.
    let client = moved
        .by(
            post(&first, "/api/echo/1"),
            &first,
            &[
                "meshage_client_connections",
                r#"meshage_spans_lost_total{because="not-taken"}"#,
            ],
        )
        .await;
    drop(client);
    first.wait_for_metric("meshage_client_connections 0").await;

    // Another node joins.
    let joining = async {
        Setup::new(plugins())
            .id("n2")
            .secret(&secret)
            .seeds(&[&first])
            .start()
            .await
    };
    let series = [
        r#"meshage_view_changes_total{change="seen"}"#,
        "meshage_peers",
        "meshage_peer_connections",
        r#"meshage_breaker_changes_total{state="closed"}"#,
        r#"meshage_gossip_bytes_total{direction="sent"}"#,
        r#"meshage_gossip_bytes_total{direction="received"}"#,
    ];
    let mut second = moved.by(joining, &first, &series).await;
    wait_for_mesh(&[&first, &second]).await;
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let junk = async { stranger.send_to(b"junk", &first.cluster).await.unwrap() };
    moved
        .by(
            junk,
            &first,
            &[r#"meshage_gossip_rejected_total{because="not-sealed"}"#],
        )
        .await;

    let lost = Setup::new(plugins())
        .id("n3")
        .secret(&secret)
        .flag("--seeds", "none.invalid:1")
        .start()
        .await;
    moved
        .by(
            async {},
            &lost,
            &[r#"meshage_seed_problems_total{because="not-resolved"}"#],
        )
        .await;
    // Nobody reads its log.
    lost.wait_until_ready().await;
    lost.log_reader(Reader::Pauses);
    let flooding = until(|| async {
        post(&lost, "/api/fickle/1?log_lines=2000").await;
        lost.metric("meshage_log_lines_dropped_total").await > 0
    });
    moved
        .by(flooding, &lost, &["meshage_log_lines_dropped_total"])
        .await;
    drop(lost);
    // Its access log has no room.
    let full = Setup::new(plugins())
        .flag("--access-log", "true")
        .stdout_to(Path::new("/dev/full"));
    let full = full.ready().await;
    let dropped = "meshage_access_log_lines_dropped_total";
    moved
        .by(post(&full, "/api/echo/1"), &full, &[dropped])
        .await;
    drop(full);

    // Messages run locally and on the other node, and one has no candidate.
    for (owner, route) in [("n1", "local"), ("n2", "forwarded")] {
        let key = first.key_owned_by("echo", owner).await;
        let series = [
            format!(r#"meshage_messages_total{{stream="echo",outcome="ok",route="{route}"}}"#),
            format!(r#"meshage_message_duration_seconds_count{{stream="echo",route="{route}"}}"#),
        ];
        moved
            .by(
                post(&first, &format!("/api/echo/{key}")),
                &first,
                &series.each_ref().map(String::as_str),
            )
            .await;
        let runs_on = if owner == "n1" { &first } else { &second };
        moved
            .by(
                post(&first, &format!("/api/echo/{key}")),
                runs_on,
                &[r#"meshage_calls_total{stream="echo"}"#],
            )
            .await;
    }
    let in_vain = first.post("/api/nothing/1").send();
    moved
        .by(
            in_vain,
            &first,
            &[r#"meshage_problems_total{type="no-candidate"}"#],
        )
        .await;

    // A plugin is added.
    let adding = async { directory.put("other.wasm", &stamped("echo", 1)) };
    let series = [
        r#"meshage_plugin_versions{stream="other"}"#,
        "meshage_components_compiled_total",
    ];
    moved.by(adding, &first, &series).await;

    // An instance crashes and is dropped, another one is made, runs a message, and is then idle.
    let local = format!("/api/fickle/{}", first.key_owned_by("fickle", "n1").await);
    first
        .post(&format!("{local}?panic=now"))
        .send()
        .await
        .problem(500, "crashed");
    moved
        .by(
            post(&first, &local),
            &first,
            &[r#"meshage_instances_made_total{stream="fickle"}"#],
        )
        .await;
    let (client, url) = (
        Client::new(),
        format!("http://{}{local}?{}", first.http, gate.act()),
    );
    let mut running = JoinSet::new();
    let starting = async {
        running.spawn(async move { client.request(Method::POST, &url).send().await });
        gate.wait_for(1).await;
    };
    moved
        .by(
            starting,
            &first,
            &[r#"meshage_instances{stream="fickle",state="running"}"#],
        )
        .await;
    let finishing = async {
        gate.open();
        running.join_next().await.unwrap().unwrap().ok();
        gate.close();
    };
    moved
        .by(
            finishing,
            &first,
            &[r#"meshage_instances{stream="fickle",state="idle"}"#],
        )
        .await;

    // The other node refuses a message when its queue is full. When it is killed, the message that
    // it runs fails over to this node.
    let remote = format!("/api/fickle/{}", first.key_owned_by("fickle", "n2").await);
    let (client, url) = (
        Client::new(),
        format!("http://{}{remote}?{}", first.http, gate.act()),
    );
    let running = tokio::spawn(async move { client.request(Method::PUT, &url).send().await });
    gate.wait_for(2).await;
    let refused = async { first.post(&remote).send().await.problem(503, "overloaded") };
    moved
        .by(
            refused,
            &second,
            &[r#"meshage_forwards_refused_total{because="queue-full"}"#],
        )
        .await;
    let series = [
        r#"meshage_failovers_total{stream="fickle",because="lost"}"#,
        r#"meshage_breaker_changes_total{state="open"}"#,
        "meshage_open_breakers",
        r#"meshage_view_changes_total{change="gone"}"#,
    ];
    moved.by(second.kill(), &first, &series).await;
    gate.open();
    running.await.unwrap().ok();
    first.wait_for_metric("meshage_peers 0").await;
    first.wait_for_metric("meshage_peer_connections 0").await;

    of_state(&mut moved).await;

    assert_eq!(
        moved.0,
        documented(),
        "what is documented, and what has been seen to move"
    );
}
