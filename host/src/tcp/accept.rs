//! The accept loop of every server: the public API, the admin API and the cluster port.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::prepare;
use crate::lanes::Lanes;
use crate::telemetry::Throttle;

/// Pause after a failed accept, which mostly means that no file descriptors are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts the connections of one server.
pub(crate) struct Acceptor {
    listener: TcpListener,
    /// The server's name, for the log.
    server: &'static str,
    bound: Option<Bound>,
    /// Where connections are served; `None`: on the runtime of the caller.
    lanes: Option<Lanes>,
}

/// Limits concurrent connections. Further ones wait until another ends.
struct Bound {
    connections_max: usize,
    permits: Arc<Semaphore>,
    full: Throttle<()>,
}

impl Acceptor {
    pub(crate) fn new(listener: TcpListener, server: &'static str) -> Self {
        Self {
            listener,
            server,
            bound: None,
            lanes: None,
        }
    }

    /// Limits concurrent connections.
    pub(crate) fn at_most(mut self, connections_max: usize) -> Self {
        self.bound = Some(Bound {
            connections_max,
            permits: Arc::new(Semaphore::new(connections_max)),
            full: Throttle::default(),
        });
        self
    }

    /// Distributes connections over the lanes, round-robin.
    pub(crate) fn on(mut self, lanes: Lanes) -> Self {
        self.lanes = Some(lanes);
        self
    }

    /// Serves each connection as a task, until `stopped`; then the listener is closed.
    pub(crate) async fn run<F>(
        self,
        stopped: &CancellationToken,
        tasks: &TaskTracker,
        serve: impl Fn(TcpStream, SocketAddr) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        while let Some((socket, addr, permit)) = stopped.run_until_cancelled(self.next()).await {
            let Some(lanes) = &self.lanes else {
                let serving = serve(socket, addr);
                tasks.spawn(async move {
                    let _permit = permit;
                    serving.await;
                });
                continue;
            };
            // A lane has its own event loop, with which the socket must be registered anew.
            let lane = lanes.next();
            let registered = {
                let _entered = lane.enter();
                socket.into_std().and_then(TcpStream::from_std)
            };
            match registered {
                Ok(socket) => {
                    let serving = serve(socket, addr);
                    let serving = async move {
                        let _permit = permit;
                        serving.await;
                    };
                    tasks.spawn_on(serving, lane);
                }
                Err(error) => self.log_failed(&error),
            }
        }
    }

    async fn next(&self) -> (TcpStream, SocketAddr, Option<OwnedSemaphorePermit>) {
        let permit = match &self.bound {
            Some(bound) => Some(self.permit(bound).await),
            None => None,
        };
        loop {
            match self.listener.accept().await {
                Ok((socket, addr)) => match prepare(&socket) {
                    Ok(()) => return (socket, addr, permit),
                    Err(error) => debug!(%error, %addr, "{}: a connection broke", self.server),
                },
                Err(error) => {
                    self.log_failed(&error);
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn permit(&self, bound: &Bound) -> OwnedSemaphorePermit {
        let permits = &bound.permits;
        if permits.available_permits() == 0
            && let Some(times) = bound.full.note((), Instant::now())
        {
            let (server, connections) = (self.server, bound.connections_max);
            warn!(
                event = "connections-full",
                connections, times, "{server} has as many connections as it may: others wait"
            );
        }
        let permit = permits.clone().acquire_owned().await;
        permit.expect("the semaphore is never closed")
    }

    fn log_failed(&self, error: &io::Error) {
        warn!(event = "accept-failed", %error, "{}: a connection was not accepted", self.server);
    }
}
