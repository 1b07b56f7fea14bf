//! Handles a request of the public API from its head to its answer: checks access, finds the
//! target, takes in the body and runs the message.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::header::{
    ACCESS_CONTROL_REQUEST_METHOD, ALLOW, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, ORIGIN,
    VARY,
};
use http::request::Parts;
use http::{HeaderValue, Method as HttpMethod, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use tokio::sync::watch;
use uuid::{NoContext, Timestamp, Uuid};

use super::access::Record;
use super::answer::{Answers, Content, HttpResponse};
use super::http::{Activity, AnswerBody, BodyError, Observed, collect, discard, framing_problem};
use super::message_headers;
use super::problem::{ApiError, Subject};
use super::target::{self, BadTarget, Target};
use crate::bodies::{BodyMemory, Reservation};
use crate::dispatch::Dispatcher;
use crate::message::{Message, Method, NodeId};
use crate::security::{
    AllowedOrigin, HostTrust, RequestSource, SEC_FETCH_SITE, ServerTls, Sites, Tokens,
};
use crate::telemetry::AccessLog;

pub struct PublicConfig {
    pub node_id: NodeId,
    /// Maximum size of a request body.
    pub body_bytes_max: usize,
    /// Maximum of concurrent connections; later ones wait until one ends.
    pub connections_max: usize,
    /// Maximum time for a request's head to arrive, and again for its body; also the idle timeout
    /// of a connection.
    pub request_timeout: Duration,
    /// Maximum time from a request's arrival to its answer.
    pub timeout: Duration,
    /// `None`: plain HTTP.
    pub tls: Option<watch::Receiver<Arc<ServerTls>>>,
    /// `None`: no token is required.
    pub tokens: Option<watch::Receiver<Arc<Tokens>>>,
    /// The sites whose pages may use the API, and the host names that it may be addressed by.
    pub sites: Sites,
    pub host_trust: HostTrust,
    pub access_log: Option<AccessLog>,
}

/// Handles the requests of all connections.
pub(super) struct Requests {
    pub(super) config: PublicConfig,
    dispatcher: Arc<Dispatcher>,
    answers: Answers,
    bodies: &'static BodyMemory,
}

/// One client's connection.
pub(super) struct Client {
    pub(super) requests: Arc<Requests>,
    pub(super) activity: Arc<Activity>,
    pub(super) socket: Arc<Observed>,
    /// The `Host` that was last found acceptable, as a cache: a client mostly keeps using the same
    /// one.
    pub(super) host: OnceLock<Box<[u8]>>,
}

/// The target of `OPTIONS *` (RFC 9110, section 9.3.7).
const EVERY_TARGET: &str = "*";

fn text(value: Option<&HeaderValue>) -> Option<&str> {
    value.and_then(|value| value.to_str().ok())
}

/// A request that passed the checks.
enum Admitted {
    Message(Method, Target),
    /// `OPTIONS` that the node answers itself: asks for the allowed methods (RFC 9110, section 9.3.7).
    Options,
}

/// A request that is answered with a problem.
struct RequestError {
    error: ApiError,
    stream: Option<String>,
    partition_key: Option<String>,
}

impl From<ApiError> for RequestError {
    fn from(error: ApiError) -> Self {
        Self {
            error,
            stream: None,
            partition_key: None,
        }
    }
}

impl From<BadTarget> for RequestError {
    fn from(
        BadTarget {
            error,
            stream,
            partition_key,
        }: BadTarget,
    ) -> Self {
        Self {
            error: ApiError::Target(error),
            stream,
            partition_key,
        }
    }
}

impl Client {
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        let open = self.activity.begin();
        let (mut head, mut body) = request.into_parts();
        let is_http1 = head.version <= Version::HTTP_11;
        let is_head = head.method == HttpMethod::HEAD;
        let mut record = Record::begin(self.requests.config.access_log.as_ref(), &head);
        let (mut response, is_whole) = match framing_problem(head.version, &head.uri, &head.headers)
        {
            None => {
                self.admit_and_answer(&mut head, &mut body, &mut record)
                    .await
            }
            // The end of this request is ambiguous, so the connection cannot be reused.
            Some(problem) => (
                self.requests
                    .answers
                    .problem(&ApiError::Framing(problem), Subject::default()),
                false,
            ),
        };
        if !is_whole && is_http1 {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
            self.socket.set_lingering();
        }
        finish(&mut response, is_head);
        record.is_answered(&response);
        response.map(|Content { bytes, reservation }| AnswerBody::new(bytes, open, reservation))
    }

    /// Returns the answer, and whether the request has been read to its end.
    async fn admit_and_answer(
        &self,
        head: &mut Parts,
        body: &mut Incoming,
        record: &mut Record<'_>,
    ) -> (HttpResponse, bool) {
        let checked = self.check_site(head);
        // Sent even with a problem: otherwise an allowed page could not read the error.
        let allowed_origin = checked.as_ref().ok().copied().flatten();
        let admitted = checked
            .map_err(RequestError::from)
            .and_then(|_| self.requests.admit(head));
        let (mut response, is_whole) = match admitted {
            Ok(Admitted::Options) => (
                options(head, allowed_origin.is_some()),
                discard(body, &head.headers).await,
            ),
            Ok(Admitted::Message(method, target)) => {
                self.requests
                    .take(method, &target, head, body, record)
                    .await
            }
            Err(RequestError {
                error,
                stream,
                partition_key,
            }) => {
                let subject = Subject {
                    stream: stream.as_deref(),
                    partition_key: partition_key.as_deref(),
                    message_id: None,
                };
                // A client that sends its whole body before it reads would not see the answer.
                let is_whole = discard(body, &head.headers).await;
                (self.requests.answers.problem(&error, subject), is_whole)
            }
        };
        if let Some(origin) = allowed_origin {
            origin.allow(response.headers_mut());
        }
        if self.requests.config.sites.tells_origins_apart() {
            // Caches must not serve this answer to another page.
            response
                .headers_mut()
                .append(VARY, HeaderValue::from_static("origin"));
        }
        (response, is_whole)
    }

    /// Checks whether the page that sends the request, if any, is allowed to. Returns the origin
    /// for the header that lets the page read the answer.
    fn check_site(&self, head: &Parts) -> Result<Option<AllowedOrigin<'_>>, ApiError> {
        let (mut host, mut origin, mut fetch_site) = (None, None, None);
        // There are few headers as a rule: one pass is cheaper than three look-ups.
        for (name, value) in &head.headers {
            let seen = match name {
                name if name == HOST => &mut host,
                name if name == ORIGIN => &mut origin,
                name if name == SEC_FETCH_SITE => &mut fetch_site,
                _ => continue,
            };
            seen.get_or_insert(value);
        }
        let is_of_tool = origin.is_none() && fetch_site.is_none();
        let host_is_known = || {
            host.zip(self.host.get())
                .is_some_and(|(host, known)| *host.as_bytes() == **known)
        };
        if is_of_tool && host_is_known() {
            return Ok(None);
        }
        let source = RequestSource {
            host: text(host).or_else(|| head.uri.authority().map(|authority| authority.as_str())),
            origin: text(origin),
            fetch_site: text(fetch_site),
        };
        let allowed = self
            .requests
            .config
            .sites
            .check(source, self.requests.config.host_trust)
            .map_err(ApiError::Site)?;
        if is_of_tool && let Some(host) = host {
            let _ = self.host.set(host.as_bytes().into());
        }
        Ok(allowed)
    }
}

impl Requests {
    pub(super) fn new(
        config: PublicConfig,
        dispatcher: Arc<Dispatcher>,
        bodies: &'static BodyMemory,
    ) -> Self {
        Self {
            answers: Answers::new(config.node_id.clone()),
            config,
            dispatcher,
            bodies,
        }
    }

    fn admit(&self, head: &mut Parts) -> Result<Admitted, RequestError> {
        if head.method == HttpMethod::OPTIONS {
            // A preflight request carries no token.
            if head.uri.path() == EVERY_TARGET {
                return Ok(Admitted::Options);
            }
            let target = target::parse(head.uri.path())?;
            if is_preflight(head) || !self.dispatcher.takes_http(&target.stream) {
                return Ok(Admitted::Options);
            }
        }
        if let Some(tokens) = &self.config.tokens {
            // The token is for this node: it is removed so that no handler sees it.
            let authorization = head.headers.remove(AUTHORIZATION);
            if !tokens.borrow().allow(authorization.as_ref()) {
                return Err(ApiError::Unauthorized.into());
            }
        }
        let target = target::parse(head.uri.path())?;
        let Some(method) = Method::from_http(&head.method) else {
            return Err(RequestError {
                error: ApiError::Method {
                    method: head.method.to_string(),
                },
                stream: Some(target.stream.to_string()),
                partition_key: Some(target.partition_key.as_str().to_owned()),
            });
        };
        Ok(Admitted::Message(method, target))
    }

    /// Takes in the body, and runs the message. Also returns whether the request has been read to
    /// its end.
    async fn take(
        &self,
        method: Method,
        target: &Target,
        head: &mut Parts,
        body: &mut Incoming,
        record: &mut Record<'_>,
    ) -> (HttpResponse, bool) {
        record.is_of_route(&head.method, route(target));
        let mut reservation = Reservation::default();
        let collected = collect(
            body,
            self.config.body_bytes_max,
            self.config.request_timeout,
            self.bodies,
            &mut reservation,
        );
        let bytes = match collected.await {
            Ok(bytes) => bytes,
            Err(error) => {
                // The rest of the body is discarded, so it needs no reservation.
                drop(reservation);
                let is_whole = match &error {
                    BodyError::TooLarge { .. } | BodyError::NoRoom => {
                        discard(body, &head.headers).await
                    }
                    BodyError::Late(_) | BodyError::Broken(_) => false,
                };
                let subject = Subject {
                    stream: Some(target.stream.as_str()),
                    partition_key: Some(target.partition_key.as_str()),
                    message_id: None,
                };
                return (self.answers.problem(&error.into(), subject), is_whole);
            }
        };
        let headers = message_headers::of(head);
        let mut message = Message {
            // Without the counter, which all threads would contend for: ids of the same millisecond
            // need no order.
            id: Uuid::new_v7(Timestamp::now(NoContext)),
            stream: target.stream.clone(),
            partition_key: target.partition_key.clone(),
            // Of a broadcast's answer the bodies are the point.
            method: if target.broadcast {
                method.for_messages()
            } else {
                method
            },
            path: target.path.clone(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            headers,
            body: bytes,
            is_broadcast: target.broadcast,
            not_after: OnceLock::new(),
            is_repeated: OnceLock::new(),
            is_sent: false,
            chain: None,
            trace: None,
            watched: None,
        };
        record.goes_on_in(&mut message);
        let message = Arc::new(message);
        record.is_of(&message);
        let response = self.run(&message).await;
        // The reservation of the request's body, which was in memory until now.
        drop(reservation);
        (response, true)
    }

    async fn run(&self, message: &Arc<Message>) -> HttpResponse {
        // The deadline starts here: the time that the request took to arrive does not count.
        let deadline = Instant::now() + self.config.timeout;
        if !message.is_broadcast {
            return self
                .answers
                .send(message, self.dispatcher.send(message, deadline).await);
        }
        match self.dispatcher.broadcast(message, deadline) {
            Ok(answers) => self.answers.broadcast(message, answers, self.bodies).await,
            Err(answer) => self.answers.send(message, *answer),
        }
    }
}

/// As the semantic conventions of OpenTelemetry have it: without what makes each request another.
fn route(target: &Target) -> &'static str {
    if target.broadcast {
        "/api/broadcast/{stream}/{partitionKey}"
    } else {
        "/api/{stream}/{partitionKey}"
    }
}

/// Whether a browser asks beforehand whether a page may send its request.
fn is_preflight(head: &Parts) -> bool {
    head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Answers `OPTIONS` with the allowed methods, and a preflight also with the headers that the page
/// may send.
fn options(head: &Parts, is_preflight: bool) -> HttpResponse {
    let mut response = Response::new(Content::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(Method::ALLOWED));
    if is_preflight {
        crate::security::answer_preflight(&head.headers, Method::ALLOWED, response.headers_mut());
    }
    response
}

/// Adapts an answer to the rules of HTTP, whatever the handler set: hyper does so for HTTP/1 only.
fn finish(response: &mut HttpResponse, is_head: bool) {
    let status = response.status();
    let has_content = !matches!(
        status,
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
    );
    let length = response.body().bytes.len();
    // A handler that knows of HEAD may have left the body out.
    if is_head && has_content && length > 0 {
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    if is_head || !has_content {
        *response.body_mut() = Content::default();
    }
    if status.canonical_reason().is_none() {
        response
            .extensions_mut()
            .insert(ReasonPhrase::from_static(b""));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_finished(status: u16, is_head: bool, body: &str, length: Option<&str>) {
        let mut response = Response::new(Content::from(b"body".to_vec()));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        finish(&mut response, is_head);
        assert_eq!(response.body().bytes, body, "{status}");
        let found = response
            .headers()
            .get(CONTENT_LENGTH)
            .map(|value| value.to_str().unwrap());
        assert_eq!(found, length, "{status}");
    }

    #[test]
    fn there_is_no_body_where_there_must_be_none() {
        check_finished(200, false, "body", None);
        check_finished(200, true, "", Some("4"));
        check_finished(404, true, "", Some("4"));
        // A handler that knows of HEAD has left the body out: what its length would be is not known.
        let mut response = Response::new(Content::default());
        finish(&mut response, true);
        assert!(!response.headers().contains_key(CONTENT_LENGTH));
        for status in [204, 205, 304] {
            check_finished(status, false, "", None);
            check_finished(status, true, "", None);
        }
    }
}
