//! The public API: accepts messages over HTTP/1.1 and HTTP/2 on one port.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use hyper_util::server::conn::auto::Builder;
use metrics::{Gauge, gauge};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::http::{self, Activity, Observed, OnRuntime, Patience};
use super::requests::{Client, PublicConfig, Requests};
use crate::bodies::BodyMemory;
use crate::dispatch::Dispatcher;
use crate::lanes::Lanes;
use crate::tcp::{Acceptor, Permit};
use crate::telemetry::names;

/// Maximum size of request line and headers together; more is answered with 431.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Generous: a TLS handshake takes two round trips.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Concurrent requests on one HTTP/2 connection.
const HTTP2_STREAMS_MAX: u32 = 256;

/// The public API of one node.
pub struct PublicApi {
    requests: Arc<Requests>,
    lanes: Lanes,
}

/// Counts one open connection until it is dropped.
struct OpenConnection {
    open: Gauge,
    _permit: Permit,
}

impl OpenConnection {
    fn count(open: Gauge, permit: Permit) -> Self {
        open.increment(1);
        Self {
            open,
            _permit: permit,
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.open.decrement(1);
    }
}

impl PublicApi {
    pub fn new(
        config: PublicConfig,
        dispatcher: Arc<Dispatcher>,
        bodies: &'static BodyMemory,
        lanes: Lanes,
    ) -> Self {
        let requests = Arc::new(Requests::new(config, dispatcher, bodies));
        Self { requests, lanes }
    }

    /// Serves until `stopping`; then finishes the open requests.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stopping: CancellationToken) {
        let (builder, open) = (self.builder(), gauge!(names::CLIENT_CONNECTIONS));
        let connections_max = self.requests.config.connections_max;
        let acceptor = Acceptor::new(listener, "the public API", connections_max)
            .limited_by(" (--max-connections)")
            .on(self.lanes.clone());
        let connections = TaskTracker::new();
        let serve = |socket, _, permit| {
            let (api, builder, open) = (self.clone(), builder.clone(), open.clone());
            // A child token for each connection: all cores would contend for a shared one.
            let stopping = stopping.child_token();
            let open = OpenConnection::count(open, permit);
            api.secure_and_serve(socket, builder, stopping, open)
        };
        acceptor.run(&stopping, &connections, serve).await;
        connections.close();
        connections.wait().await;
    }

    fn builder(&self) -> Builder<OnRuntime> {
        let mut builder = Builder::new(OnRuntime::current());
        builder
            .http1()
            .header_read_timeout(self.requests.config.request_timeout)
            .max_buf_size(HEAD_BYTES_MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(self.requests.config.request_timeout)
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .max_concurrent_streams(HTTP2_STREAMS_MAX);
        builder
    }

    async fn secure_and_serve(
        self: Arc<Self>,
        socket: TcpStream,
        builder: Builder<OnRuntime>,
        stopping: CancellationToken,
        _open: OpenConnection,
    ) {
        let Some(tls) = self
            .requests
            .config
            .tls
            .as_ref()
            .map(|tls| tls.borrow().clone())
        else {
            return self.serve_connection(socket, builder, &stopping).await;
        };
        let handshake_max = self.requests.config.request_timeout.min(HANDSHAKE_TIME_MAX);
        let handshake = timeout(handshake_max, tls.accept(socket));
        match stopping.run_until_cancelled(handshake).await {
            Some(Ok(Ok(socket))) => self.serve_connection(socket, builder, &stopping).await,
            Some(Ok(Err(error))) => debug!(%error, "a client's TLS handshake failed"),
            Some(Err(_)) => debug!("a client's TLS handshake took too long"),
            // Cancelled during the handshake: there is no request to finish yet.
            None => {}
        }
    }

    fn serve_connection<S>(
        self: Arc<Self>,
        socket: S,
        builder: Builder<OnRuntime>,
        stopping: &CancellationToken,
    ) -> impl Future<Output = ()> + Send
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let PublicConfig {
            request_timeout,
            timeout,
            ..
        } = self.requests.config;
        let patience = Patience {
            idle_max: request_timeout,
            stalled_max: request_timeout + timeout,
        };
        let service = move |activity: &Arc<Activity>, observed: &Arc<Observed>| {
            let client = Arc::new(Client {
                requests: self.requests.clone(),
                activity: activity.clone(),
                socket: observed.clone(),
                host: OnceLock::new(),
            });
            service_fn(move |request| {
                let client = client.clone();
                async move { Ok::<_, Infallible>(client.answer(request).await) }
            })
        };
        http::serve(socket, builder, patience, stopping, service)
    }
}
