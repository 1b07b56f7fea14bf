//! The connections that an API takes: so many at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tracing::warn;

use crate::tcp;
use crate::telemetry::Throttle;

/// After a failed accept (no file descriptors left, mostly) the next attempt waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Takes connections. Those that are too many wait until another ends.
pub(super) struct Connections {
    listener: TcpListener,
    /// What is served there, for the log, and how many connections it may have.
    api: &'static str,
    max: usize,
    room: Arc<Semaphore>,
    full: Throttle<()>,
}

/// A connection's place among those that there may be: free again when it is dropped.
pub(super) type Place = OwnedSemaphorePermit;

impl Connections {
    pub(super) fn new(listener: TcpListener, api: &'static str, max: usize) -> Self {
        Self {
            listener,
            api,
            max,
            room: Arc::new(Semaphore::new(max)),
            full: Throttle::default(),
        }
    }

    pub(super) async fn next(&self) -> (TcpStream, Place) {
        if self.room.available_permits() == 0
            && let Some(times) = self.full.note((), Instant::now())
        {
            warn!(
                event = "connections-full",
                connections = self.max,
                times,
                "{} has as many connections as it may: others wait",
                self.api
            );
        }
        let place = self
            .room
            .clone()
            .acquire_owned()
            .await
            .expect("nobody closes the room");
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match tcp::prepare(&stream) {
                    Ok(()) => return (stream, place),
                    Err(error) => tracing::debug!(%error, "a client's connection broke"),
                },
                Err(error) => {
                    warn!(event = "accept-failed", %error, "a client's connection was not accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}
