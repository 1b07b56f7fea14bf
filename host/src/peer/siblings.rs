//! The connections to one peer: a failure of one makes the others suspect.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// A connection that may have to be probed because a sibling failed.
pub(super) trait Suspect: Send + Sync {
    /// Sends a ping, and accepts no more messages until the peer has answered it.
    fn suspect(&self);
}

/// The connections to one peer.
#[derive(Default)]
pub(super) struct Siblings {
    connections: Mutex<Vec<Weak<dyn Suspect>>>,
    /// Notified of every change that may matter to a message that waits for a connection.
    pub(super) changed: Arc<Notify>,
}

impl Siblings {
    /// Resolves at the next change after this call.
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

    /// Called when one connection was lost: mostly the peer is lost too, and the other connections
    /// will fail in a moment.
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
