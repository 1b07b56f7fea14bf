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

use super::options::prepare;
use crate::lanes::Lanes;
use crate::telemetry::Throttle;

/// Pause after a failed accept, which mostly means that no file descriptors are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Permission for one of the connections that a server may have at once; dropped when the
/// connection no longer counts.
pub(crate) type Permit = OwnedSemaphorePermit;

/// Accepts the connections of one server.
pub(crate) struct Acceptor {
    listener: TcpListener,
    /// The server's name, for the log.
    server: &'static str,
    permits: Arc<Semaphore>,
    connections_max: usize,
    when_full: WhenFull,
    /// Where connections are served; `None`: on the runtime of the caller.
    lanes: Option<Lanes>,
}

/// What happens to connections beyond the limit.
enum WhenFull {
    /// They wait until another connection ends. `setting` is what limits them, for the log.
    Wait {
        setting: &'static str,
        full: Throttle<()>,
    },
    /// They are closed, which this logs.
    Close(Box<dyn Fn(SocketAddr) + Send + Sync>),
}

impl Acceptor {
    /// Further connections than `connections_max` wait.
    pub(crate) fn new(listener: TcpListener, server: &'static str, connections_max: usize) -> Self {
        Self {
            listener,
            server,
            permits: Arc::new(Semaphore::new(connections_max)),
            connections_max,
            when_full: WhenFull::Wait {
                setting: "",
                full: Throttle::default(),
            },
            lanes: None,
        }
    }

    /// Names the setting that limits connections, as ` (--flag)`, for the log.
    pub(crate) fn limited_by(mut self, setting: &'static str) -> Self {
        let full = Throttle::default();
        self.when_full = WhenFull::Wait { setting, full };
        self
    }

    /// Closes connections beyond the limit instead of having them wait.
    pub(crate) fn close_beyond(mut self, log: impl Fn(SocketAddr) + Send + Sync + 'static) -> Self {
        self.when_full = WhenFull::Close(Box::new(log));
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
        serve: impl Fn(TcpStream, SocketAddr, Permit) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        while let Some((socket, addr, permit)) = stopped.run_until_cancelled(self.next()).await {
            let Some(lanes) = &self.lanes else {
                tasks.spawn(serve(socket, addr, permit));
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
                    tasks.spawn_on(serve(socket, addr, permit), lane);
                }
                Err(error) => self.log_failed(&error),
            }
        }
    }

    async fn next(&self) -> (TcpStream, SocketAddr, Permit) {
        let mut waited_for = match &self.when_full {
            WhenFull::Wait { setting, full } => Some(self.wait(setting, full).await),
            WhenFull::Close(_) => None,
        };
        loop {
            let (socket, addr) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.log_failed(&error);
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let permit = waited_for
                .take()
                .or_else(|| self.permits.clone().try_acquire_owned().ok());
            let Some(permit) = permit else {
                if let WhenFull::Close(log) = &self.when_full {
                    log(addr);
                }
                continue;
            };
            match prepare(&socket) {
                Ok(()) => return (socket, addr, permit),
                Err(error) => {
                    debug!(%error, %addr, "{}: a connection broke", self.server);
                    waited_for = Some(permit);
                }
            }
        }
    }

    async fn wait(&self, setting: &str, full: &Throttle<()>) -> Permit {
        if self.permits.available_permits() == 0
            && let Some(times) = full.note((), Instant::now())
        {
            let (server, connections) = (self.server, self.connections_max);
            warn!(
                event = "connections-full",
                connections,
                times,
                "{server}{setting} has as many connections as it may: others wait"
            );
        }
        let permit = self.permits.clone().acquire_owned().await;
        permit.expect("the semaphore is never closed")
    }

    fn log_failed(&self, error: &io::Error) {
        warn!(event = "accept-failed", %error, "{}: a connection was not accepted", self.server);
    }
}
