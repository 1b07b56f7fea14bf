//! Traces, sent to an OpenTelemetry collector. Whether a message is traced is decided before anything
//! is made for it; what is not traced costs one look at a variable.

mod export;
mod queue;
mod sampler;

use std::borrow::Cow;
use std::sync::OnceLock;
use std::time::Duration;

use http::{HeaderMap, Method, Request, StatusCode, Uri};
use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, TraceFlags,
    TraceState, Tracer, TracerProvider,
};
use opentelemetry::{Context, Key, KeyValue, SpanId, TraceId, Value};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, IdGenerator, RandomIdGenerator, Sampler as SdkSampler,
    SdkTracer, SdkTracerProvider,
};
use rustls::pki_types::TrustAnchor;
use tokio::runtime::Handle;

use crate::message::{Fault, Message, NodeId, TRACEPARENT, TRACESTATE, Trace};
use export::Exporter;
use queue::{Counted, Queue};

pub use sampler::{Root, Sampler};

/// What the environment says of traces; the rest of it the library reads itself.
#[derive(Debug, Clone)]
pub struct TracesConfig {
    pub sampler: Sampler,
    /// By whose certificates the collector is known, instead of the public ones.
    pub collector_roots: Option<Vec<TrustAnchor<'static>>>,
    /// How long the collector may take for one batch.
    pub timeout: Duration,
    /// How many spans may wait to be sent.
    pub queue_max: usize,
    /// Whether spans have the partition keys of their messages, and what else may contain them.
    pub has_keys: bool,
}

/// How long the last spans may take on their way out.
const LAST_MAX: Duration = Duration::from_secs(2);

/// The tracer of this process, if it has one.
static TRACES: OnceLock<Traces> = OnceLock::new();

struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    sampler: Sampler,
    has_keys: bool,
}

/// Why there can be no traces.
#[derive(Debug, thiserror::Error)]
#[error("traces cannot be exported: {0}")]
pub struct TracesError(String);

/// A span that lasts until this is dropped; none if the message is not traced.
#[derive(Debug, Default)]
pub struct Span(Option<Box<opentelemetry_sdk::trace::Span>>);

/// Starts to send traces.
///
/// # Errors
/// If a variable of OpenTelemetry has a value that cannot be used.
pub fn start(config: TracesConfig, node: &NodeId, runtime: Handle) -> Result<(), TracesError> {
    let http = Exporter::new(config.timeout, config.collector_roots, runtime);
    let problem = http.problem();
    let exporter = SpanExporter::builder()
        .with_http()
        .with_timeout(config.timeout)
        .with_http_client(http)
        .build()
        .map_err(|error| TracesError(error.to_string()))?;
    let queue = Queue::new(config.queue_max);
    let exporter = queue::Exporting::new(exporter, queue.clone(), problem);
    let batches = BatchSpanProcessor::builder(exporter)
        .with_batch_config(
            BatchConfigBuilder::default()
                .with_max_queue_size(config.queue_max)
                .build(),
        )
        .build();
    let mut resource = Resource::builder();
    if is_unnamed(&Resource::builder().build()) {
        resource = resource.with_service_name("meshage");
    }
    let resource = resource
        .with_attribute(KeyValue::new("service.instance.id", node.to_string()))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(Counted::new(batches, queue))
        .with_id_generator(Ids(config.sampler))
        .with_resource(resource)
        // Only what is traced is told to the library.
        .with_sampler(SdkSampler::AlwaysOn)
        .build();
    let traces = Traces {
        tracer: provider.tracer("meshage"),
        provider,
        sampler: config.sampler,
        has_keys: config.has_keys,
    };
    TRACES
        .set(traces)
        .map_err(|_| TracesError("they are already".into()))
}

/// Whether the environment names no service.
fn is_unnamed(resource: &Resource) -> bool {
    let name = resource.get(&Key::from_static_str("service.name"));
    name.is_none_or(|name| name.as_str().starts_with("unknown_service"))
}

/// Sends what is left. May take [`LAST_MAX`].
pub fn finish() {
    if let Some(traces) = TRACES.get() {
        let _ = traces.provider.shutdown_with_timeout(LAST_MAX);
    }
}

/// The span of a request, if it is to be traced; its sender may say whether it is.
pub fn request(method: &Method, uri: &Uri, headers: &HeaderMap) -> Span {
    let Some(traces) = TRACES.get() else {
        return Span::default();
    };
    let sender = Trace::of(headers);
    if !traces.sampler.samples(sender.as_ref()) {
        return Span::default();
    }
    let name = method_name(method);
    let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Server);
    let mut span = Span::start(traces, builder, sender.as_ref());
    span.set("http.request.method", || name);
    if traces.has_keys {
        span.set("url.path", || uri.path().to_owned());
    }
    span
}

/// The span of a message that another node, or a handler, has sent with this trace.
fn child(parent: Option<&Trace>, kind: SpanKind, name: Cow<'static, str>) -> Span {
    match (TRACES.get(), parent) {
        (Some(traces), Some(parent)) => {
            let builder = SpanBuilder::from_name(name).with_kind(kind);
            Span::start(traces, builder, Some(parent))
        }
        _ => Span::default(),
    }
}

/// The span that a message comes with, if what is done for it is traced here, too: the sampler comes to
/// the same as on the node, or for the message, that it is from.
fn sender(headers: &HeaderMap) -> Option<(&'static Traces, Trace)> {
    let traces = TRACES.get()?;
    let sender = Trace::of(headers)?;
    let is_traced = sender.is_recorded && traces.sampler.samples(Some(&sender));
    is_traced.then_some((traces, sender))
}

/// The span of a message that goes to another node.
pub fn forward(message: &Message, to: &NodeId) -> Span {
    let mut span = child(message.trace.as_ref(), SpanKind::Client, "forward".into());
    span.describe(message);
    span.set("meshage.to", || to.to_string());
    span
}

/// The span of a message that comes from another node; the message goes on with it.
pub fn forwarded(message: &mut Message) -> Span {
    let Some((traces, sender)) = sender(&message.headers) else {
        return Span::default();
    };
    let builder = SpanBuilder::from_name("forwarded").with_kind(SpanKind::Server);
    let mut span = Span::start(traces, builder, Some(&sender));
    span.describe(message);
    span.goes_on_in(message);
    span
}

/// The span of a call by a handler. The called message goes on with it, unless the handler has named
/// another trace: then it goes on with that.
pub fn call(name: &'static str, caller: &Message, called: &mut Message) -> Span {
    if TRACES.get().is_none() {
        return Span::default();
    }
    let mut span = child(caller.trace.as_ref(), SpanKind::Client, name.into());
    span.describe(called);
    if called.headers.get(TRACEPARENT) == caller.headers.get(TRACEPARENT) {
        span.goes_on_in(called);
    } else {
        called.trace = sender(&called.headers).map(|(_, own)| own);
    }
    span
}

/// The span of a delivery, in a trace of its own that is linked with that of the message whose handler
/// has sent it.
pub fn delivery(message: &mut Message) -> Span {
    let Some((traces, sender)) = sender(&message.headers) else {
        return Span::default();
    };
    let builder = SpanBuilder::from_name("deliver")
        .with_kind(SpanKind::Consumer)
        .with_links(vec![Link::with_context(context_of(&sender))]);
    let mut span = Span::start(traces, builder, None);
    span.describe(message);
    span.goes_on_in(message);
    span
}

/// The span of an HTTP request of a handler, which goes on there, unless the handler has named another
/// trace.
pub fn outbound<B>(parent: Option<&Trace>, request: &mut Request<B>) -> Span {
    let name = method_name(request.method());
    let mut span = child(parent, SpanKind::Client, name.into());
    let Some(trace) = span.trace() else {
        return span;
    };
    let uri = request.uri();
    span.set("http.request.method", || name);
    let is_https = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
    span.set("server.port", || i64::from(port));
    if let Some(host) = uri.host() {
        span.set("server.address", || host.to_owned());
        if TRACES.get().is_some_and(|traces| traces.has_keys) {
            let scheme = if is_https { "https" } else { "http" };
            span.set("url.full", || {
                format!("{scheme}://{host}:{port}{}", uri.path())
            });
        }
    }
    if !request.headers().contains_key(TRACEPARENT) {
        trace.name_in(request.headers_mut());
    }
    span
}

/// As the semantic conventions have it: a method that not all know would be one of any number.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        Method::TRACE => "TRACE",
        Method::CONNECT => "CONNECT",
        _ => "_OTHER",
    }
}

/// The span of a part of a message's way.
pub(super) fn stage(message: &Message, name: &'static str) -> Span {
    child(message.trace.as_ref(), SpanKind::Internal, name.into())
}

fn context_of(trace: &Trace) -> SpanContext {
    SpanContext::new(
        TraceId::from(trace.trace_id),
        SpanId::from(trace.span_id),
        TraceFlags::SAMPLED,
        true,
        TraceState::NONE,
    )
}

impl Span {
    fn start(traces: &Traces, builder: SpanBuilder, parent: Option<&Trace>) -> Self {
        let context = match parent {
            Some(parent) => Context::new().with_remote_span_context(context_of(parent)),
            None => Context::new(),
        };
        let span = traces.tracer.build_with_context(builder, &context);
        Self(Some(Box::new(span)))
    }

    /// What its children belong to.
    pub fn trace(&self) -> Option<Trace> {
        let context = self.0.as_ref()?.span_context();
        Some(Trace {
            trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
            span_id: u64::from_be_bytes(context.span_id().to_bytes()),
            is_recorded: true,
        })
    }

    /// What is done for a message from here on belongs to this span.
    pub fn goes_on_in(&self, message: &mut Message) {
        let Some(trace) = self.trace() else {
            return;
        };
        // What the headers say besides is of the trace that they named.
        let named = Trace::of(&message.headers);
        if named.is_none_or(|named| named.trace_id != trace.trace_id) {
            message.headers.remove(TRACESTATE);
        }
        trace.name_in(&mut message.headers);
        message.trace = Some(trace);
    }

    /// Says which of the routes it is.
    pub fn is_of_route(&mut self, method: &Method, route: &'static str) {
        if let Some(span) = &mut self.0 {
            span.update_name(format!("{} {route}", method_name(method)));
            span.set_attribute(KeyValue::new("http.route", route));
        }
    }

    pub fn set<V: Into<Value>>(&mut self, name: &'static str, value: impl FnOnce() -> V) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new(name, value()));
        }
    }

    /// Names the message that it is about.
    pub fn describe(&mut self, message: &Message) {
        if self.0.is_none() {
            return;
        }
        self.set("meshage.stream", || message.stream.to_string());
        self.set("meshage.message_id", || message.id.to_string());
        if TRACES.get().is_some_and(|traces| traces.has_keys) {
            self.set("meshage.partition_key", || {
                message.partition_key.as_str().to_owned()
            });
        }
    }

    /// Notes the status of an answer that a node has given.
    pub fn answered(&mut self, status: StatusCode) {
        self.has_status(status);
        if status.is_server_error() {
            self.fail(status.as_str());
        }
    }

    /// Notes the status of an answer to a request of a handler, who is told of its own mistakes, too.
    pub fn is_answered(&mut self, status: StatusCode) {
        self.has_status(status);
        if status.is_server_error() || status.is_client_error() {
            self.fail(status.as_str());
        }
    }

    fn has_status(&mut self, status: StatusCode) {
        let code = i64::from(status.as_u16());
        self.set("http.response.status_code", || code);
    }

    /// Notes how a message ended. That a handler finds it wrong, or nothing, is an answer.
    pub fn ended<T>(&mut self, outcome: &Result<T, Fault>) {
        if let (Some(_), Err(fault)) = (&self.0, outcome) {
            let problem = fault.problem_type();
            if problem.status.is_server_error() {
                self.fail(problem.name);
            }
        }
    }

    /// Says that it failed, and how: one of few words.
    pub fn fail(&mut self, error: &str) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new("error.type", error.to_owned()));
            span.set_status(Status::error(""));
        }
    }
}

/// Ids of traces, so that who decides by them comes to what was decided before they were made.
#[derive(Debug)]
struct Ids(Sampler);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        TraceId::from(self.0.new_trace_id())
    }

    fn new_span_id(&self) -> SpanId {
        RandomIdGenerator::default().new_span_id()
    }
}
