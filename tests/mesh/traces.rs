//! Who has a slow request finds where its time went, across nodes and into the handler, in the tool that they use.

use std::time::Duration;

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::harness::{
    Collector, Node, Plugins, Setup, State, act, attribute, journal_setup, list, refs, until,
    wait_for_mesh,
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SENDER: &str = "00f067aa0ba902b7";

/// What a node is told that is to send its traces there, soon.
fn traced(setup: Setup, collector: &Collector) -> Setup {
    setup
        .variable(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            format!("http://{}", collector.addr),
        )
        .variable("OTEL_BSP_SCHEDULE_DELAY", "100")
}

async fn journal_mesh(collector: &Collector, state: &State) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for number in 1..=2 {
        let setup = traced(journal_setup(number, state), collector);
        nodes.push(setup.seeds(&refs(&nodes)).start().await);
    }
    wait_for_mesh(&refs(&nodes)).await;
    nodes
}

fn kind(span: &Span) -> SpanKind {
    SpanKind::try_from(span.kind).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The children of a span, by name.
fn children<'s>(spans: &'s [(String, Span)], parent: &Span) -> Vec<(&'s str, &'s str, &'s Span)> {
    let own = spans
        .iter()
        .filter(|(_, span)| span.parent_span_id == parent.span_id);
    let mut own: Vec<_> = own
        .map(|(node, span)| (&*span.name, &**node, span))
        .collect();
    own.sort_by_key(|(.., span)| span.start_time_unix_nano);
    own
}

fn names<'s>(children: &[(&'s str, &'s str, &Span)]) -> Vec<(&'s str, &'s str)> {
    children
        .iter()
        .map(|(name, node, _)| (*name, *node))
        .collect()
}

/// A span with all below it: when it began, how long it took, on which node.
fn tree(spans: &[(String, Span)], span: &Span, depth: usize, began: u64) -> String {
    let (node, _) = spans
        .iter()
        .find(|(_, own)| own.span_id == span.span_id)
        .unwrap();
    let micros = |nanos: u64| nanos / 1_000;
    let mut text = format!(
        "{:>6} {:>6} {node} {}{} ({:?})\n",
        micros(span.start_time_unix_nano.saturating_sub(began)),
        micros(span.end_time_unix_nano - span.start_time_unix_nano),
        "  ".repeat(depth),
        span.name,
        kind(span),
    );
    for (.., child) in children(spans, span) {
        text += &tree(spans, child, depth + 1, began);
    }
    text
}

#[tokio::test]
async fn a_forwarded_message_that_calls_another_is_one_trace() {
    let (collector, state) = (Collector::start().await, State::sqlite());
    let nodes = journal_mesh(&collector, &state).await;
    let far = nodes[0].key_owned_by("journal", "n2").await;
    let near = nodes[0].key_owned_by("journal", "n1").await;
    let parent = format!("00-{TRACE}-{SENDER}-01");
    let path = format!("/api/journal/{far}?append=x&call={near}&call_then=append");
    let answer = nodes[0]
        .post(&path)
        .header("traceparent", &parent)
        .send()
        .await;
    answer.ok();
    let is_root = |_: &str, span: &Span| hex(&span.parent_span_id) == SENDER;
    let (node, server) = collector.span(is_root).await;
    assert_eq!((node.as_str(), kind(&server)), ("n1", SpanKind::Server));
    assert_eq!(server.name, "POST /api/{stream}/{partitionKey}");
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/api/{stream}/{partitionKey}"),
        ("http.response.status_code", "200"),
        ("meshage.stream", "journal"),
        ("meshage.partition_key", ""),
    ] {
        assert_eq!(attribute(&server.attributes, name), value, "{name}");
    }
    // The owner's spans come with its own batch.
    collector
        .span(|node, span| node == "n2" && span.name == "commit")
        .await;
    let spans = collector.spans();
    assert!(
        spans.iter().all(|(_, span)| hex(&span.trace_id) == TRACE),
        "{spans:#?}"
    );
    let of_server = children(&spans, &server);
    assert_eq!(names(&of_server), [("forward", "n1")]);
    let of_forward = children(&spans, of_server[0].2);
    assert_eq!(names(&of_forward), [("forwarded", "n2")]);
    let at_owner = children(&spans, of_forward[0].2);
    let stages = names(&at_owner);
    for stage in ["wait", "run", "call", "commit"] {
        assert!(stages.contains(&(stage, "n2")), "{stages:?}");
    }
    let call = at_owner
        .iter()
        .find(|(name, ..)| *name == "call")
        .unwrap()
        .2;
    assert_eq!(kind(call), SpanKind::Client);
    let back = children(&spans, call);
    assert_eq!(names(&back), [("forward", "n2")]);
    let called = children(&spans, children(&spans, back[0].2)[0].2);
    assert!(names(&called).contains(&("run", "n1")), "{called:#?}");
    // Shown if the test fails; `docs/tracing.md` has it.
    println!("{}", tree(&spans, &server, 0, server.start_time_unix_nano));
    // Each lies within the one that it belongs to.
    for (_, span) in &spans {
        for (name, _, child) in children(&spans, span) {
            let margin = 2_000_000;
            assert!(
                child.start_time_unix_nano + margin >= span.start_time_unix_nano,
                "{name}"
            );
            assert!(
                child.end_time_unix_nano <= span.end_time_unix_nano + margin,
                "{name}"
            );
        }
    }
}

#[tokio::test]
async fn what_a_handler_sends_is_a_trace_that_is_linked_with_its_own() {
    let (collector, state) = (Collector::start().await, State::sqlite());
    let nodes = journal_mesh(&collector, &state).await;
    let to = nodes[0].key_owned_by("journal", "n2").await;
    let path = format!("/api/journal/a?append=x&send={to}&send_id=sent");
    let parent = format!("00-{TRACE}-{SENDER}-01");
    nodes[0]
        .post(&path)
        .header("traceparent", &parent)
        .send()
        .await
        .ok();
    until(|| async { list(&nodes[0], &to).await.contains("sent") }).await;
    let (_, delivery) = collector.span(|_, span| span.name == "deliver").await;
    assert_eq!(kind(&delivery), SpanKind::Consumer);
    assert_ne!(hex(&delivery.trace_id), TRACE);
    assert_eq!(hex(&delivery.links[0].trace_id), TRACE);
    let own = delivery.trace_id.clone();
    let run = collector
        .span(move |_, span| span.name == "run" && span.trace_id == own)
        .await;
    assert_eq!(attribute(&run.1.attributes, "meshage.partition_key"), "");
}

/// Answers one request, and tells its head.
async fn told_head(listener: TcpListener) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
    stream.write_all(answer).await.unwrap();
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn a_trace_goes_on_in_the_requests_of_handlers() {
    let collector = Collector::start().await;
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = other.local_addr().unwrap();
    let manifest = format!("allowed_hosts = [\"{addr}\"]\n");
    let plugins = Plugins::usual().with_file("fickle.toml", manifest);
    let node = traced(Setup::new(plugins).id("n1"), &collector)
        .ready()
        .await;
    let asked = tokio::spawn(told_head(other));
    let path = format!("/api/fickle/1?fetch={addr}/path");
    assert_eq!(node.post(&path).send().await.ok(), "hello");
    let (_, request) = collector.span(|_, span| span.name == "GET").await;
    assert_eq!(kind(&request), SpanKind::Client);
    for (name, value) in [
        ("http.request.method", "GET".to_owned()),
        ("server.address", addr.ip().to_string()),
        ("server.port", addr.port().to_string()),
        ("http.response.status_code", "200".to_owned()),
    ] {
        assert_eq!(attribute(&request.attributes, name), value, "{name}");
    }
    let head = asked.await.unwrap();
    let (trace, span) = (hex(&request.trace_id), hex(&request.span_id));
    let expected = format!("traceparent: 00-{trace}-{span}-01");
    assert!(head.contains(&expected), "{head}");
}

#[tokio::test]
async fn failures_and_keys_are_in_the_spans_if_they_shall_be() {
    let collector = Collector::start().await;
    let node = traced(Setup::new(Plugins::usual()).id("n1"), &collector)
        .variable(
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment=test,service.name=shop",
        )
        .variable("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=secret")
        .flag("--trace-keys", "true")
        .ready()
        .await;
    node.post("/api/fickle/k?panic=1")
        .send()
        .await
        .problem(500, "crashed");
    let (_, span) = collector
        .span(|_, span| kind(span) == SpanKind::Server)
        .await;
    assert_eq!(attribute(&span.attributes, "meshage.partition_key"), "k");
    assert_eq!(
        attribute(&span.attributes, "http.response.status_code"),
        "500"
    );
    assert_eq!(attribute(&span.attributes, "error.type"), "500");
    assert_eq!(span.status.unwrap().code, StatusCode::Error as i32);
    assert!(span.parent_span_id.is_empty(), "it is a root");
    let resources = collector.resources();
    for part in [
        "service.name=shop",
        "deployment.environment=test",
        "service.instance.id=n1",
    ] {
        assert!(resources[0].contains(part), "{resources:?}");
    }
    assert_eq!(collector.headers()[0]["x-api-key"], "secret");
}

#[tokio::test]
async fn whether_a_request_is_traced_its_sender_and_the_sampler_decide() {
    let collector = Collector::start().await;
    let setup = |sampler: &str| {
        let setup = traced(Setup::new(Plugins::usual()), &collector);
        setup.id(sampler).variable("OTEL_TRACES_SAMPLER", sampler)
    };
    let off = setup("parentbased_always_off").ready().await;
    off.post("/api/echo/1").send().await.ok();
    let told_not = format!("00-{TRACE}-{SENDER}-00");
    off.post("/api/echo/2")
        .header("traceparent", &told_not)
        .send()
        .await
        .ok();
    let told = format!("00-{TRACE}-{SENDER}-01");
    off.post("/api/echo/3")
        .header("traceparent", &told)
        .send()
        .await
        .ok();
    let on = setup("always_on").ready().await;
    on.post("/api/echo/4")
        .header("traceparent", &told_not)
        .send()
        .await
        .ok();
    collector.span(|node, _| node == "always_on").await;
    collector
        .span(|node, _| node == "parentbased_always_off")
        .await;
    let servers = collector.spans();
    let servers = servers
        .iter()
        .filter(|(_, span)| kind(span) == SpanKind::Server);
    let mut nodes: Vec<&str> = servers.map(|(node, _)| node.as_str()).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["always_on", "parentbased_always_off"]);
}

#[tokio::test]
async fn a_sampler_that_says_no_says_so_on_every_node() {
    let collector = Collector::start().await;
    let mut nodes: Vec<Node> = Vec::new();
    for (id, sampler) in [("n1", "always_off"), ("n2", "traceidratio")] {
        let setup = traced(Setup::new(Plugins::usual()).id(id), &collector)
            .variable("OTEL_TRACES_SAMPLER", sampler)
            .variable("OTEL_TRACES_SAMPLER_ARG", "0");
        nodes.push(setup.seeds(&refs(&nodes)).start().await);
    }
    wait_for_mesh(&refs(&nodes)).await;
    let told = format!("00-{TRACE}-{SENDER}-01");
    for owner in ["n1", "n2"] {
        let path = format!("/api/echo/{}", nodes[0].key_owned_by("echo", owner).await);
        for node in &nodes {
            let asked = node.post(&path).header("traceparent", &told).send().await;
            asked.ok();
        }
    }
    for mut node in nodes {
        node.signal(rustix::process::Signal::TERM);
        assert!(node.ended().await.success());
    }
    assert_eq!(collector.spans(), []);
}

#[tokio::test]
async fn an_answer_of_a_handler_is_no_error_and_what_is_refused_is_a_span() {
    let collector = Collector::start().await;
    let mut nodes: Vec<Node> = Vec::new();
    for id in ["n1", "n2"] {
        let setup = traced(Setup::new(Plugins::usual()).id(id), &collector);
        nodes.push(setup.seeds(&refs(&nodes)).start().await);
    }
    wait_for_mesh(&refs(&nodes)).await;
    let far = nodes[0].key_owned_by("echo", "n2").await;
    let asked = nodes[0].post(&format!("/api/echo/{far}")).body("no JSON");
    asked.send().await.problem(400, "invalid");
    for name in ["forward", "forwarded"] {
        let (_, span) = collector.span(|_, span| span.name == name).await;
        assert_eq!(attribute(&span.attributes, "error.type"), "", "{name}");
        assert_eq!(span.status.unwrap_or_default().code, 0, "{name}");
    }
    let far = nodes[0].key_owned_by("fickle", "n2").await;
    let crashing = nodes[0].post(&format!("/api/fickle/{far}?panic=1"));
    crashing.send().await.problem(500, "crashed");
    for name in ["forward", "forwarded"] {
        let is_failed = |span: &Span| attribute(&span.attributes, "error.type") == "crashed";
        let (_, span) = collector
            .span(|_, span| span.name == name && is_failed(span))
            .await;
        assert_eq!(span.status.unwrap().code, StatusCode::Error as i32);
    }
    // Without a target there is no route, but a request.
    nodes[0]
        .post("/nothing")
        .send()
        .await
        .problem(404, "no-route");
    let (_, span) = collector.span(|_, span| span.name == "POST").await;
    assert_eq!(
        attribute(&span.attributes, "http.response.status_code"),
        "404"
    );
}

#[tokio::test]
async fn what_the_queue_has_no_room_for_is_told_once() {
    let collector = Collector::start().await;
    let node = traced(Setup::new(Plugins::usual()), &collector)
        .variable("OTEL_BSP_MAX_QUEUE_SIZE", "1")
        .ready()
        .await;
    let lost = r#"meshage_spans_lost_total{because="queue-full"}"#;
    until(|| async {
        node.post("/api/echo/1").send().await.ok();
        node.metric(lost).await > 0
    })
    .await;
    assert_eq!(node.events("traces-queue-full"), 1);
}

#[tokio::test]
async fn a_collector_that_is_away_is_told_once_and_costs_no_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let mut node = Setup::new(Plugins::usual())
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{addr}"))
        .variable("OTEL_BSP_SCHEDULE_DELAY", "50")
        .ready()
        .await;
    node.post("/api/echo/1").send().await.ok();
    node.event("traces-not-taken").await;
    for number in 0..20 {
        node.post(&format!("/api/echo/{number}")).send().await.ok();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(node.events("traces-not-taken"), 1);
    // When it is there it gets what comes then.
    let Ok(listener) = TcpListener::bind(addr).await else {
        return;
    };
    let collector = Collector::on(listener);
    until(|| async {
        node.post("/api/echo/1").send().await.ok();
        !collector.spans().is_empty()
    })
    .await;
    node.event("traces-taken").await;
    // The last ones get there, too.
    let last = format!("00-{TRACE}-{SENDER}-01");
    node.post("/api/echo/last")
        .header("traceparent", &last)
        .send()
        .await
        .ok();
    node.signal(rustix::process::Signal::TERM);
    assert!(node.ended().await.success());
    collector.span(|_, span| hex(&span.trace_id) == TRACE).await;
}

#[tokio::test]
async fn variables_that_cannot_be_used_are_named() {
    for (name, value, told) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "4318"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "otlp or none"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote", "always_on"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "milliseconds"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "gzip or none"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/none.pem", "PEM"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "key.pem", "no certificate"),
        ("OTEL_PROPAGATORS", "b3", "tracecontext"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "from 1 to"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "99999999999999", "from 1 to"),
        ("OTEL_BSP_SCHEDULE_DELAY", "0", "from 1 up"),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", "x", "a whole number"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "nonsense", "http://"),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "http://127.0.0.1:99999",
            "URL",
        ),
        ("OTEL_EXPORTER_OTLP_HEADERS", "host=evil", "connection"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=%0d%0aX: y", "name=value"),
        ("OTEL_RESOURCE_ATTRIBUTES", "garbage", "key=value"),
        ("OTEL_SDK_DISABLED", "yes", "true or false"),
    ] {
        let setup = Setup::new(Plugins::usual())
            .variable("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
            .variable(name, value);
        let (code, said) = setup.fail().await;
        assert_eq!(code, 2, "{said}");
        assert!(said.contains(name) && said.contains(told), "{said}");
    }
}

#[tokio::test]
async fn nothing_is_sent_unless_it_is_said_where_to() {
    let collector = Collector::start().await;
    for (name, value) in [
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_EXPORTER", "none"),
    ] {
        let setup = traced(Setup::new(Plugins::usual()), &collector);
        let mut node = setup.variable(name, value).ready().await;
        node.post("/api/echo/1").send().await.ok();
        node.signal(rustix::process::Signal::TERM);
        assert!(node.ended().await.success());
    }
    assert!(collector.spans().is_empty());
    let state = State::sqlite();
    let node = journal_setup(1, &state).ready().await;
    act(&node, "a", "append=x").await.ok();
}
