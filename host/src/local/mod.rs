//! The local service: runs messages on this node. `dispatch` uses it for the keys that this node
//! owns, and the peer server for messages from other nodes: both use the same trait and
//! implementation. It runs a message here or refuses it; it cannot send it anywhere else.

mod service;

use std::sync::Arc;
use std::time::Instant;

use crate::message::{Message, Outcome, Refusal};

pub use service::Local;

/// Runs messages on this node.
pub trait LocalService: Send + Sync + 'static {
    /// An admitted message, with its place among those that run or wait. Dropping it frees the
    /// place.
    type Admitted: Send + 'static;

    /// Decides whether the message may run here, and reserves a place for it. It never waits, so
    /// messages are admitted in the order in which they arrive.
    ///
    /// # Errors
    /// Why the message may not run here. Nothing of it has run.
    fn admit(
        &self,
        message: Arc<Message>,
        deadline: Instant,
        origin: Origin,
    ) -> Result<Self::Admitted, Refusal>;

    /// Runs an admitted message. Dropping the future stops the handler. The future owns all its
    /// data, so a step that must not be cancelled can be moved to a task of its own.
    fn run(
        self: Arc<Self>,
        admitted: Self::Admitted,
    ) -> impl Future<Output = Outcome> + Send + 'static;
}

/// How a message came to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A client sent it, and dispatch routed it to this node.
    Client,
    /// Another node forwarded it.
    Peer,
}
