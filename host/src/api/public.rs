//! The public API: takes messages over HTTP/1.1 and HTTP/2 on one port, and answers them.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use metrics::{Gauge, gauge};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::activity::Quiet;
use super::answer::Answers;
use super::connections::Connections;
use super::patience::Patience;
use super::requests::Client;
use super::stream::ClientStream;
use crate::bodies::Bodies;
use crate::dispatch::Dispatcher;
use crate::lanes::Lanes;
use crate::message::NodeId;
use crate::security::{Names, ServerTls, Sites, Tokens};
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
    /// For a request's head to arrive, and again for its body; also how long a connection may be
    /// idle.
    pub request_timeout: Duration,
    /// From a request's arrival to its answer.
    pub timeout: Duration,
    /// `None`: plain HTTP.
    pub tls: Option<watch::Receiver<Arc<ServerTls>>>,
    /// `None`: whoever reaches the API may use it.
    pub tokens: Option<watch::Receiver<Arc<Tokens>>>,
    /// Whose pages may use the API, and by which names it is called.
    pub sites: Sites,
    pub names: Names,
}

/// The public API of one node.
pub struct PublicApi {
    pub(super) config: PublicConfig,
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) answers: Answers,
    pub(super) bodies: &'static Bodies,
    lanes: Lanes,
}

/// Runs the requests of HTTP/2 connections on the node's main runtime: one such connection may
/// bring enough of them for every core.
#[derive(Clone)]
struct OnRuntime(Handle);

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for OnRuntime {
    fn execute(&self, request: F) {
        self.0.spawn(request);
    }
}

/// One of the open connections, for as long as it is.
struct Open(Gauge);

impl Open {
    fn count(open: Gauge) -> Self {
        open.increment(1);
        Self(open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

impl PublicApi {
    pub fn new(
        config: PublicConfig,
        dispatcher: Arc<Dispatcher>,
        bodies: &'static Bodies,
        lanes: Lanes,
    ) -> Self {
        let answers = Answers::new(config.node_id.clone());
        Self {
            config,
            dispatcher,
            answers,
            bodies,
            lanes,
        }
    }

    /// Serves until `stopping`; then finishes the requests that it has.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stopping: CancellationToken) {
        let connections = Connections::new(
            listener,
            "the public API (--max-connections)",
            self.config.connections_max,
        );
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
                let _open = Open::count(open);
                match TcpStream::from_std(stream) {
                    Ok(stream) => api.secure_and_serve(stream, &builder, &stopping).await,
                    Err(error) => {
                        warn!(event = "accept-failed", %error, "a client's connection was not accepted")
                    }
                }
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
        builder
            .http1()
            .header_read_timeout(self.config.request_timeout)
            .max_buf_size(HEAD_BYTES_MAX);
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
        let handshake = timeout(
            self.config.request_timeout.min(HANDSHAKE_TIME_MAX),
            tls.accept(stream),
        );
        match stopping.run_until_cancelled(handshake).await {
            Some(Ok(Ok(stream))) => self.serve_connection(stream, builder, stopping).await,
            Some(Ok(Err(error))) => debug!(%error, "a client's TLS handshake failed"),
            Some(Err(_)) => debug!("a client's TLS handshake took too long"),
            // There is no request yet that could be finished.
            None => {}
        }
    }

    async fn serve_connection<S>(
        self: Arc<Self>,
        stream: S,
        builder: &Builder<OnRuntime>,
        stopping: &CancellationToken,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let PublicConfig {
            request_timeout,
            timeout,
            ..
        } = self.config;
        let stalled_max = request_timeout + timeout;
        let (stream, observed) = ClientStream::new(stream, request_timeout, stalled_max);
        let client = Arc::new(Client {
            api: self,
            activity: Arc::default(),
            stream: observed,
            host: OnceLock::new(),
        });
        let service = service_fn({
            let client = client.clone();
            move |request| {
                let client = client.clone();
                async move { Ok::<_, Infallible>(client.answer(request).await) }
            }
        });
        let conversation = async {
            // Pinned here, so that the stream is still there when its connection has ended.
            let mut connection = pin!(
                builder
                    .serve_connection(TokioIo::new(stream), service)
                    .into_owned()
            );
            // hyper knows what is idle in HTTP/1, to the moment, and says goodbye better.
            let quiet = || {
                client
                    .activity
                    .quiet(request_timeout + QUIET_MARGIN, stalled_max)
            };
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
                if error
                    .downcast_ref::<hyper::Error>()
                    .is_some_and(hyper::Error::is_timeout)
                {
                    client.stream.set_timed_out();
                }
                // hyper may have answered what it did not read to its end.
                client.stream.set_lingering();
            }
        };
        conversation.await;
        client.stream.linger().await;
    }
}
