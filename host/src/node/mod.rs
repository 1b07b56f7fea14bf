//! One node, from its start to its end. The only place that knows every layer and wires them.

mod advertise;
mod ask;
mod check;
mod error;
mod health;
mod identity;
mod leave;
mod manager;
mod offer;
mod open_files;
mod parts;
mod releases;
mod secrets;
mod sockets;
mod vital;

use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::config::Config;
use crate::membership::GossipError;
use crate::telemetry::{Events, traces};
use parts::Parts;
use vital::vital;

pub use check::check;
pub use error::NodeError;
pub use health::health;
pub use leave::leave_max;
pub use releases::{list_releases, remove_release, use_file, use_release};
pub use sockets::BindError;

/// Runs a node until `leaving` is cancelled or a vital task ends.
///
/// # Errors
/// Why it could not start, or had to end.
pub async fn run(
    config: Config,
    events: Events,
    leaving: CancellationToken,
) -> Result<(), NodeError> {
    let ended = live(config, events, leaving).await;
    // The library waits for its own thread, which waits for the runtime.
    let _ = tokio::task::spawn_blocking(traces::finish).await;
    ended
}

async fn live(config: Config, events: Events, leaving: CancellationToken) -> Result<(), NodeError> {
    let (vital, mut ends) = vital();
    let node = Parts::start(&config, events, &vital).await?;
    let lanes = node.lanes.clone();
    let ended = tokio::select! {
        // A signal during the start is not an error: the node leaves in the same way.
        () = leaving.cancelled() => None,
        ended = node.gossip.ended() => {
            // The node may have been ready for a moment before it learned of the older node with
            // its id: it finishes the messages that it accepted.
            if matches!(ended, GossipError::Duplicate { .. }) {
                leave::leave(node, &config).await;
            }
            return Err(ended.into());
        }
        offering = node.offer_until(&config, &leaving) => offering?,
        task = ends.next() => Some(task),
        () = lanes.ended() => Some("a lane"),
    };
    if let Some(task) = ended {
        error!(
            event = "task-ended",
            task, "a task ended before its time, which is a bug: the node leaves"
        );
    }
    leave::leave(node, &config).await;
    ended.map_or(Ok(()), |task| Err(NodeError::Ended(task)))
}
