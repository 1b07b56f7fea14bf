//! One client's connection, from its first byte to its end.

use std::convert::Infallible;
use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::rt::Executor;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::{Builder, HttpServerConnExec};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::activity::{Activity, Quiet};
use super::head_timer::HeadTimer;
use super::socket::{ClientSocket, Observed};

/// Lets hyper close an idle HTTP/1 connection first.
const QUIET_MARGIN: Duration = Duration::from_secs(1);

/// Runs the requests of HTTP/2 connections on the node's main runtime: one such connection may
/// carry enough requests for every core.
#[derive(Clone)]
pub(in crate::api) struct OnRuntime(Handle);

impl OnRuntime {
    /// The runtime of the caller.
    pub(in crate::api) fn current() -> Self {
        Self(Handle::current())
    }
}

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for OnRuntime {
    fn execute(&self, request: F) {
        self.0.spawn(request);
    }
}

/// How patient an API is with its clients.
#[derive(Debug, Clone, Copy)]
pub(in crate::api) struct Patience {
    /// How long a request's head may take to arrive, and how long a connection may be idle.
    pub(in crate::api) idle_max: Duration,
    /// How long a client may take to read the next piece of an answer.
    pub(in crate::api) stalled_max: Duration,
}

/// Serves a connection until its client closes it, it is idle or stalled for too long, or
/// `stopping` is cancelled; then the open requests are finished.
pub(in crate::api) async fn serve<I, S, B>(
    socket: I,
    mut builder: Builder<OnRuntime>,
    patience: Patience,
    stopping: &CancellationToken,
    service: impl FnOnce(&Arc<Activity>, &Arc<Observed>) -> S,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S::Future: 'static,
    B: Body + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
    OnRuntime: HttpServerConnExec<S::Future, B>,
{
    let Patience {
        idle_max,
        stalled_max,
    } = patience;
    let (socket, observed) = ClientSocket::new(socket, idle_max, stalled_max);
    let activity = Arc::new(Activity::default());
    let service = service(&activity, &observed);
    builder.http1().timer(HeadTimer::default());
    let conversation = async {
        // Pinned here, so that the socket is dropped only after the notes below, which
        // `ClientSocket` reads on drop.
        let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service));
        // hyper times idle HTTP/1 connections exactly, and closes them more cleanly.
        let quiet = || activity.quiet(idle_max + QUIET_MARGIN, stalled_max);
        let end = || stopping.run_until_cancelled(quiet());
        // In a set of its own, so that it is polled only when it is woken, not with every request.
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
                        // The client was asked to close the connection, and did not.
                        Some(Quiet::Idle) if is_ending => return,
                        Some(Quiet::Idle) => ends.push(end()),
                        // The node is leaving, which has its own deadline.
                        None => {}
                    }
                    is_ending = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        };
        if let Err(error) = ended {
            debug!(error = &*error, "a client's connection broke");
            let hyper_error = error.downcast_ref::<hyper::Error>();
            if hyper_error.is_some_and(hyper::Error::is_timeout) {
                observed.set_timed_out();
            }
            // hyper may have answered a request that it did not read to its end.
            observed.set_lingering();
        }
    };
    conversation.await;
    observed.linger().await;
}
