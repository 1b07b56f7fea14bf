//! The connections to one peer: what happens to one of them concerns the others.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// A connection that may be about to end.
pub(super) trait Suspect: Send + Sync {
    /// Gets no more messages until its peer has answered a ping.
    fn suspect(&self);
}

/// The connections to one peer.
#[derive(Default)]
pub(super) struct Siblings {
    connections: Mutex<Vec<Weak<dyn Suspect>>>,
    /// Told of whatever may matter to a message that waits for a connection.
    pub(super) changed: Arc<Notify>,
}

impl Siblings {
    /// Resolves when something has changed since this was called.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    pub(super) fn notify_changed(&self) {
        self.changed.notify_waiters();
    }

    pub(super) fn add(&self, connection: Weak<dyn Suspect>) {
        let mut connections = self.lock();
        connections.retain(|connection| connection.strong_count() > 0);
        connections.push(connection);
    }

    /// One was lost, which mostly means that the peer is, and that the others will end in a moment.
    pub(super) fn suspect(&self) {
        for connection in self.lock().iter().filter_map(Weak::upgrade) {
            connection.suspect();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<dyn Suspect>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
