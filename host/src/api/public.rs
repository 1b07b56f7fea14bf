//! The public API: takes messages over HTTP/1.1 and HTTP/2 on one port, and answers them.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::header::{AUTHORIZATION, CONNECTION};
use http::{HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use metrics::gauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use uuid::{NoContext, Timestamp, Uuid};

use super::activity::{Activity, Quiet};
use super::answer::{Answers, HttpResponse};
use super::answer_body::AnswerBody;
use super::bodies::{Bodies, Held};
use super::body;
use super::connections::Connections;
use super::framing;
use super::patience::Patience;
use super::problem::{ApiError, Subject};
use super::stream::{ClientStream, Observed};
use super::target::{self, Rejected, Target};
use crate::dispatch::Dispatcher;
use crate::lanes::Lanes;
use crate::message::{Answer, Message, Method, NodeId};
use crate::security::{ServerTls, Tokens};
use crate::telemetry::names;

/// A request's line and headers together; more is answered with 431.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A TLS handshake is two round trips.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Requests at once on one HTTP/2 connection.
const HTTP2_STREAMS_MAX: u32 = 256;

/// For hyper to end an idle HTTP/1 connection first.
const QUIET_MARGIN: Duration = Duration::from_secs(1);

pub struct PublicConfig {
    pub node_id: NodeId,
    /// Longest body of a request.
    pub body_bytes_max: usize,
    /// Connections at once; later ones wait until one of these ends.
    pub connections_max: usize,
    /// For a request's head to arrive, and again for its body; also how long a connection may be idle.
    pub request_timeout: Duration,
    /// From a request's arrival to its answer.
    pub timeout: Duration,
    /// `None`: plain HTTP.
    pub tls: Option<watch::Receiver<Arc<ServerTls>>>,
    /// `None`: whoever reaches the API may use it.
    pub tokens: Option<watch::Receiver<Arc<Tokens>>>,
}

/// The public API of one node.
pub struct PublicApi {
    config: PublicConfig,
    dispatcher: Arc<Dispatcher>,
    answers: Answers,
    bodies: Arc<Bodies>,
    lanes: Lanes,
}

/// One client's connection.
struct Client {
    api: Arc<PublicApi>,
    activity: Arc<Activity>,
    stream: Arc<Observed>,
}

/// Runs the requests of HTTP/2 connections on the node's main runtime: one such connection may bring enough of
/// them for every core.
#[derive(Clone)]
struct OnRuntime(Handle);

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for OnRuntime {
    fn execute(&self, request: F) {
        self.0.spawn(request);
    }
}

impl PublicApi {
    pub fn new(config: PublicConfig, dispatcher: Arc<Dispatcher>, lanes: Lanes) -> Self {
        let bodies = Bodies::new(config.body_bytes_max);
        let answers = Answers::new(config.node_id.clone());
        Self { config, dispatcher, answers, bodies, lanes }
    }

    /// Serves until `stopping`; then finishes the requests that it has.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stopping: CancellationToken) {
        let connections = Connections::new(listener, "the public API (--max-connections)", self.config.connections_max);
        let builder = self.builder();
        let open = gauge!(names::CLIENT_CONNECTIONS);
        let serving = TaskTracker::new();
        while let Some((stream, place)) = stopping.run_until_cancelled(connections.next()).await {
            // A lane has an event loop of its own, which must get to know the stream.
            let stream = match stream.into_std() {
                Ok(stream) => stream,
                Err(error) => {
                    debug!(%error, "a client's connection broke");
                    continue;
                }
            };
            let (api, mut builder, open) = (self.clone(), builder.clone(), open.clone());
            builder.http1().timer(Patience::default());
            // One of its own: what all connections share is looked at by all cores.
            let stopping = stopping.child_token();
            let connection = async move {
                open.increment(1);
                match TcpStream::from_std(stream) {
                    Ok(stream) => api.secure_and_serve(stream, &builder, &stopping).await,
                    Err(error) => warn!(%error, "a client's connection was not accepted"),
                }
                open.decrement(1);
                drop(place);
            };
            serving.spawn_on(connection, self.lanes.next());
        }
        drop(connections);
        serving.close();
        serving.wait().await;
    }

    fn builder(&self) -> Builder<OnRuntime> {
        let mut builder = Builder::new(OnRuntime(Handle::current()));
        builder.http1().header_read_timeout(self.config.request_timeout).max_buf_size(HEAD_BYTES_MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(self.config.request_timeout)
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .max_concurrent_streams(HTTP2_STREAMS_MAX);
        builder
    }

    async fn secure_and_serve(
        self: Arc<Self>,
        stream: TcpStream,
        builder: &Builder<OnRuntime>,
        stopping: &CancellationToken,
    ) {
        let Some(tls) = self.config.tls.as_ref().map(|tls| tls.borrow().clone()) else {
            return self.serve_connection(stream, builder, stopping).await;
        };
        let handshake = timeout(self.config.request_timeout.min(HANDSHAKE_TIME_MAX), tls.accept(stream));
        match stopping.run_until_cancelled(handshake).await {
            Some(Ok(Ok(stream))) => self.serve_connection(stream, builder, stopping).await,
            Some(Ok(Err(error))) => debug!(%error, "a client's TLS handshake failed"),
            Some(Err(_)) => debug!("a client's TLS handshake took too long"),
            // There is no request yet that could be finished.
            None => {}
        }
    }

    async fn serve_connection<S>(self: Arc<Self>, stream: S, builder: &Builder<OnRuntime>, stopping: &CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let PublicConfig { request_timeout, timeout, .. } = self.config;
        let stalled_max = request_timeout + timeout;
        let (stream, observed) = ClientStream::new(stream, request_timeout, stalled_max);
        let client = Arc::new(Client { api: self, activity: Arc::default(), stream: observed });
        let service = service_fn({
            let client = client.clone();
            move |request| {
                let client = client.clone();
                async move { Ok::<_, Infallible>(client.answer(request).await) }
            }
        });
        // Pinned here, so that the stream is still there when its connection has ended.
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service).into_owned());
        // hyper knows what is idle in HTTP/1, to the moment, and says goodbye better.
        let quiet = || client.activity.quiet(request_timeout + QUIET_MARGIN, stalled_max);
        let end = || stopping.run_until_cancelled(quiet());
        // It is not looked at with every request, but when something has become of it.
        let mut ends = FuturesUnordered::from_iter([end()]);
        let mut is_ending = false;
        let ended = loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => break ended,
                Some(quiet) = ends.next() => {
                    debug!(?quiet, "a client's connection is ended");
                    match quiet {
                        Some(Quiet::Stalled) => return,
                        // It was told, and stays all the same.
                        Some(Quiet::Idle) if is_ending => return,
                        Some(Quiet::Idle) => ends.push(end()),
                        // The node leaves, which has an end of its own.
                        None => {}
                    }
                    is_ending = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        };
        if let Err(error) = ended {
            debug!(error = &*error, "a client's connection broke");
            if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_timeout) {
                client.stream.set_timed_out();
            }
        }
    }

    async fn answer(&self, mut request: Request<Incoming>, held: &mut Held) -> HttpResponse {
        if let Some(tokens) = &self.config.tokens {
            // It is this node's, and goes no further: no handler gets to see it.
            let authorization = request.headers_mut().remove(AUTHORIZATION);
            if !tokens.borrow().allow(authorization.as_ref()) {
                return self.answers.problem(&ApiError::Unauthorized, Subject::default());
            }
        }
        let target = match target::parse(request.uri().path()) {
            Ok(target) => target,
            Err(Rejected { error, stream, partition_key }) => {
                let subject = Subject {
                    stream: stream.as_deref(),
                    partition_key: partition_key.as_deref(),
                    ..Subject::default()
                };
                return self.answers.problem(&ApiError::Target(error), subject);
            }
        };
        let broadcast = target.broadcast;
        let message = match self.message(request, &target, held).await {
            Ok(message) => message,
            Err(error) => {
                let stream = Some(target.stream.as_str());
                let partition_key = Some(target.partition_key.as_str());
                return self.answers.problem(&error, Subject { stream, partition_key, message_id: None });
            }
        };
        // The time that the request took to arrive is the client's, not the message's.
        let deadline = Instant::now() + self.config.timeout;
        if !broadcast {
            return self.answers.send(&message, self.dispatcher.send(&message, deadline).await);
        }
        match self.dispatcher.broadcast(&message, deadline).await {
            Ok(answers) => self.answers.broadcast(&message, &answers),
            Err(fault) => {
                let node = self.config.node_id.clone();
                self.answers.send(&message, Answer { node, outcome: Err(fault) })
            }
        }
    }

    async fn message(&self, request: Request<Incoming>, target: &Target, held: &mut Held) -> Result<Message, ApiError> {
        let (head, body) = request.into_parts();
        let method =
            Method::from_http(&head.method).ok_or_else(|| ApiError::Method { method: head.method.to_string() })?;
        let PublicConfig { body_bytes_max, request_timeout, .. } = self.config;
        let body = body::collect(body, &head.headers, body_bytes_max, request_timeout, &self.bodies, held).await?;
        Ok(Message {
            // Without the counter that all threads would share: ids of one millisecond need no order.
            id: Uuid::new_v7(Timestamp::now(NoContext)),
            stream: target.stream.clone(),
            partition_key: target.partition_key.clone(),
            method,
            query: head.uri.query().unwrap_or_default().to_owned(),
            headers: head.headers,
            body,
        })
    }
}

impl Client {
    async fn answer(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        let open = self.activity.begin();
        let mut held = Held::default();
        let response = match self.framing(&request) {
            None => self.api.answer(request, &mut held).await,
            Some(problem) => {
                let mut response = self.api.answers.problem(&ApiError::Framing(problem), Subject::default());
                // Where this request ends is not certain.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                response
            }
        };
        held.answer(&self.api.bodies, response.body().len());
        response.map(|body| AnswerBody::new(body, open, held))
    }

    fn framing(&self, request: &Request<Incoming>) -> Option<&'static str> {
        let bytes = if request.version() == Version::HTTP_11 { self.stream.request() } else { None };
        let bytes = bytes.as_ref().map(|bytes| bytes.as_slice());
        framing::problem(request.version(), request.method(), request.uri(), request.headers(), bytes)
    }
}
