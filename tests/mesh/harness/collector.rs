//! A collector of traces: takes spans as OpenTelemetry's do, over HTTP.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;

use super::until;

/// A collector, which keeps all that it got.
#[derive(Clone, Default)]
pub(crate) struct Collector {
    pub(crate) addr: String,
    got: Arc<Mutex<Got>>,
}

#[derive(Default)]
struct Got {
    spans: Vec<(String, Span)>,
    resources: Vec<String>,
    headers: Vec<HeaderMap>,
}

impl Collector {
    /// Listens at a port of its own.
    pub(crate) async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn on(listener: TcpListener) -> Self {
        let collector = Self {
            addr: listener.local_addr().unwrap().to_string(),
            got: Arc::default(),
        };
        let serving = collector.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                let service = service_fn(move |request| {
                    let serving = serving.clone();
                    async move { Ok::<_, Infallible>(serving.take(request).await) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        collector
    }

    async fn take(&self, request: http::Request<Incoming>) -> http::Response<Full<bytes::Bytes>> {
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else {
            return http::Response::new(Full::default());
        };
        let is_good = head.uri.path() == "/v1/traces"
            && head.headers["content-type"] == "application/x-protobuf";
        let read = ExportTraceServiceRequest::decode(body.to_bytes());
        let (true, Ok(read)) = (is_good, read) else {
            let mut answer = http::Response::new(Full::default());
            *answer.status_mut() = StatusCode::BAD_REQUEST;
            return answer;
        };
        let mut got = self.got.lock().unwrap();
        got.headers.push(head.headers);
        for resource in read.resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            let node = attribute(&attributes, "service.instance.id");
            got.resources.push(text_of(&attributes));
            let spans = resource
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans);
            got.spans.extend(spans.map(|span| (node.clone(), span)));
        }
        http::Response::new(Full::default())
    }

    /// Every span, with the node that sent it.
    pub(crate) fn spans(&self) -> Vec<(String, Span)> {
        self.got.lock().unwrap().spans.clone()
    }

    /// The attributes of those that sent something.
    pub(crate) fn resources(&self) -> Vec<String> {
        self.got.lock().unwrap().resources.clone()
    }

    /// The headers of all that was sent.
    pub(crate) fn headers(&self) -> Vec<HeaderMap> {
        self.got.lock().unwrap().headers.clone()
    }

    /// Waits until there is a span like this.
    pub(crate) async fn span(&self, is_it: impl Fn(&str, &Span) -> bool) -> (String, Span) {
        let find = || {
            self.spans()
                .into_iter()
                .find(|(node, span)| is_it(node, span))
        };
        until(|| async { find().is_some() }).await;
        find().unwrap()
    }
}

/// The value of an attribute, as text; empty if it is not there.
pub(crate) fn attribute(attributes: &[KeyValue], name: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == name);
    found.map_or_else(String::new, |attribute| value_of(attribute.value.as_ref()))
}

fn value_of(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn text_of(attributes: &[KeyValue]) -> String {
    let attributes = attributes
        .iter()
        .map(|attribute| format!("{}={}", attribute.key, value_of(attribute.value.as_ref())));
    attributes.collect::<Vec<_>>().join(" ")
}
