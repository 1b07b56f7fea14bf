//! The public API: takes messages over HTTP/1.1 and HTTP/2 on one port, and answers them.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Request;
use http::header::AUTHORIZATION;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use metrics::gauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use uuid::Uuid;

use super::answer::{self, HttpResponse};
use super::body;
use super::framing;
use super::lanes::Lanes;
use super::problem::{ApiError, Subject};
use super::stream::ClientStream;
use super::target::{self, Rejected, Target};
use crate::dispatch::Dispatcher;
use crate::message::{Answer, Message, Method, NodeId};
use crate::security::{ServerTls, Tokens};
use crate::telemetry::{Throttle, names};

/// A request's line and headers together; more is answered with 431.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A TLS handshake is two round trips.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Requests at once on one HTTP/2 connection.
const HTTP2_STREAMS_MAX: u32 = 256;

/// After a failed accept (no file descriptors left, mostly) the next attempt waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
    lanes: Lanes,
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
    /// # Errors
    /// If the system gives no threads for the lanes.
    pub fn new(config: PublicConfig, dispatcher: Arc<Dispatcher>) -> io::Result<Self> {
        Ok(Self { config, dispatcher, lanes: Lanes::start()? })
    }

    /// Serves until `stopping`; then finishes the requests that it has.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stopping: CancellationToken) {
        let mut builder = Builder::new(OnRuntime(Handle::current()));
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.config.request_timeout)
            .max_buf_size(HEAD_BYTES_MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(self.config.request_timeout)
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .max_concurrent_streams(HTTP2_STREAMS_MAX);
        let connections = GracefulShutdown::new();
        let room = Arc::new(Semaphore::new(self.config.connections_max));
        let full = Throttle::default();
        let open = gauge!(names::CLIENT_CONNECTIONS);
        let accepting = async {
            loop {
                if room.available_permits() == 0
                    && let Some(times) = full.note((), Instant::now())
                {
                    let connections = self.config.connections_max;
                    warn!(
                        connections,
                        times, "there are as many connections of clients as may be (--max-connections): others wait"
                    );
                }
                let Ok(place) = room.clone().acquire_owned().await else { return };
                let stream = match listener.accept().await {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        warn!(%error, "a client's connection was not accepted");
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                // A lane has an event loop of its own, which must get to know the stream.
                let stream = match stream.set_nodelay(true).and_then(|()| stream.into_std()) {
                    Ok(stream) => stream,
                    Err(error) => {
                        debug!(%error, "a client's connection broke");
                        continue;
                    }
                };
                let (api, builder, watcher) = (self.clone(), builder.clone(), connections.watcher());
                let (open, stopping) = (open.clone(), stopping.clone());
                self.lanes.next().spawn(async move {
                    open.increment(1);
                    match TcpStream::from_std(stream) {
                        Ok(stream) => api.secure_and_serve(stream, &builder, watcher, &stopping).await,
                        Err(error) => warn!(%error, "a client's connection was not accepted"),
                    }
                    open.decrement(1);
                    drop(place);
                });
            }
        };
        stopping.run_until_cancelled(accepting).await;
        drop(listener);
        connections.shutdown().await;
    }

    async fn secure_and_serve(
        self: Arc<Self>,
        stream: TcpStream,
        builder: &Builder<OnRuntime>,
        watcher: Watcher,
        stopping: &CancellationToken,
    ) {
        let Some(tls) = self.config.tls.as_ref().map(|tls| tls.borrow().clone()) else {
            return self.serve_connection(stream, builder, watcher).await;
        };
        let handshake = timeout(self.config.request_timeout.min(HANDSHAKE_TIME_MAX), tls.accept(stream));
        match stopping.run_until_cancelled(handshake).await {
            Some(Ok(Ok(stream))) => self.serve_connection(stream, builder, watcher).await,
            Some(Ok(Err(error))) => debug!(%error, "a client's TLS handshake failed"),
            Some(Err(_)) => debug!("a client's TLS handshake took too long"),
            // There is no request yet that could be finished.
            None => {}
        }
    }

    async fn serve_connection<S>(self: Arc<Self>, stream: S, builder: &Builder<OnRuntime>, watcher: Watcher)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let opening_max = self.config.request_timeout;
        let service = service_fn(move |request| {
            let api = self.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        let (stream, timed_out) = ClientStream::new(stream, opening_max);
        let connection = watcher.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned());
        // Pinned here, so that the stream is still there when its connection has ended.
        let connection = pin!(connection);
        if let Err(error) = connection.await {
            debug!(error = &*error, "a client's connection broke");
            if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_timeout) {
                timed_out.set();
            }
        }
    }

    async fn answer(&self, mut request: Request<Incoming>) -> HttpResponse {
        if let Some(problem) = framing::problem(request.version(), request.uri(), request.headers()) {
            return self.problem(&ApiError::Framing(problem), Subject::default());
        }
        if let Some(tokens) = &self.config.tokens {
            // It is this node's, and goes no further: no handler gets to see it.
            let authorization = request.headers_mut().remove(AUTHORIZATION);
            if !tokens.borrow().allow(authorization.as_ref()) {
                return self.problem(&ApiError::Unauthorized, Subject::default());
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
                return self.problem(&ApiError::Target(error), subject);
            }
        };
        let broadcast = target.broadcast;
        let message = match self.message(request, &target).await {
            Ok(message) => message,
            Err(error) => {
                let stream = Some(target.stream.as_str());
                let partition_key = Some(target.partition_key.as_str());
                return self.problem(&error, Subject { stream, partition_key, message_id: None });
            }
        };
        // The time that the request took to arrive is the client's, not the message's.
        let deadline = Instant::now() + self.config.timeout;
        if !broadcast {
            return answer::send(&message, self.dispatcher.send(&message, deadline).await);
        }
        match self.dispatcher.broadcast(&message, deadline).await {
            Ok(answers) => answer::broadcast(&message, &answers, &self.config.node_id),
            Err(fault) => {
                let node = self.config.node_id.clone();
                answer::send(&message, Answer { node, outcome: Err(fault) })
            }
        }
    }

    async fn message(&self, request: Request<Incoming>, target: &Target) -> Result<Message, ApiError> {
        let (head, body) = request.into_parts();
        let method =
            Method::from_http(&head.method).ok_or_else(|| ApiError::Method { method: head.method.to_string() })?;
        let body = body::collect(body, &head.headers, self.config.body_bytes_max, self.config.request_timeout).await?;
        Ok(Message {
            id: Uuid::now_v7(),
            stream: target.stream.clone(),
            partition_key: target.partition_key.clone(),
            method,
            query: head.uri.query().unwrap_or_default().to_owned(),
            headers: head.headers,
            body,
        })
    }

    /// An answer to a request that became no message.
    fn problem(&self, error: &ApiError, subject: Subject<'_>) -> HttpResponse {
        answer::problem(error, subject, &self.config.node_id)
    }
}
