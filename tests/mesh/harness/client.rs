//! An HTTP client that sends any request as given, valid or not.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::time::timeout;

use super::HANG;

#[derive(Clone)]
pub(crate) struct Client(hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>);

/// Requests in flight on one connection of a `Crowd`, below the 256 that a node allows per HTTP/2
/// connection.
const CROWD_REQUESTS_MAX: usize = 200;

/// HTTP/2 clients for many concurrent requests, over few enough connections that no process runs
/// out of file descriptors.
pub(crate) struct Crowd(Vec<Client>);

#[must_use]
pub(crate) struct Request<'a> {
    client: &'a Client,
    request: http::Request<Full<Bytes>>,
}

/// A response, read to the end.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Client {
    pub(crate) fn new() -> Self {
        Self(hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http())
    }

    /// Speaks HTTP/2 with prior knowledge (RFC 9113, section 3.3).
    pub(crate) fn http2() -> Self {
        Self(
            hyper_util::client::legacy::Client::builder(TokioExecutor::new())
                .http2_only(true)
                .build_http(),
        )
    }

    pub(crate) fn request(&self, method: Method, url: &str) -> Request<'_> {
        let request = http::Request::builder()
            .method(method)
            .uri(url)
            .body(Full::default())
            .unwrap();
        Request {
            client: self,
            request,
        }
    }
}

impl Crowd {
    /// A crowd for at most this many requests in flight.
    pub(crate) fn of(requests: usize) -> Self {
        Self(
            (0..requests.div_ceil(CROWD_REQUESTS_MAX))
                .map(|_| Client::http2())
                .collect(),
        )
    }

    /// The client for the request of this number, round robin.
    pub(crate) fn client(&self, number: usize) -> Client {
        self.0[number % self.0.len()].clone()
    }
}

impl Request<'_> {
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.request
            .headers_mut()
            .append(name, value.parse().unwrap());
        self
    }

    /// Sets a header whose value need not be text.
    pub(crate) fn set_header(&mut self, name: &'static str, value: &[u8]) {
        self.request
            .headers_mut()
            .insert(name, HeaderValue::from_bytes(value).unwrap());
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        *self.request.body_mut() = Full::new(body.into());
        self
    }

    pub(crate) fn json(self, body: &str) -> Self {
        self.header("content-type", "application/json")
            .body(body.to_owned())
    }

    /// The answer, whatever its status.
    pub(crate) async fn send(self) -> Answer {
        self.try_send().await.unwrap()
    }

    /// The answer, or the error if the connection failed. Panics after `HANG`.
    pub(crate) async fn try_send(self) -> Result<Answer, String> {
        let exchange = async {
            let response = self
                .client
                .0
                .request(self.request)
                .await
                .map_err(|error| format!("{error:?}"))?;
            Answer::of(response)
                .await
                .map_err(|error| format!("{error:?}"))
        };
        timeout(HANG, exchange).await.expect("a request hangs")
    }
}

impl Answer {
    /// Reads the body of a response to the end.
    pub(super) async fn of(response: Response<Incoming>) -> hyper::Result<Self> {
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Self {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The node that answered, as named in `meshage-node`.
    pub(crate) fn node(&self) -> &str {
        self.header("meshage-node")
            .expect("every answer names a node")
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The body of an answer whose status must be 200.
    #[track_caller]
    pub(crate) fn ok(&self) -> &str {
        assert_eq!(self.status, 200, "{}", self.text());
        self.text()
    }

    /// Checks a problem's status and type, and returns it.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json")
        );
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("urn:meshage:{kind}"), "{problem}");
        assert_eq!(problem["node"], self.node());
        for member in ["title", "detail"] {
            assert!(
                problem[member]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "no {member}: {problem}"
            );
        }
        assert!(problem["retryable"].is_boolean(), "{problem}");
        assert_eq!(
            self.header("retry-after").is_some(),
            status == 503,
            "Retry-After goes with 503: {problem}"
        );
        problem
    }
}
