//! Leaving: the steps of a graceful shutdown, in order, and how long each may take.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::manager;
use super::parts::Parts;
use crate::config::Config;
use crate::membership::NodeState;

/// Minimum time for which a leaving node keeps serving, so that clients, and load balancers that
/// poll `/readyz`, can switch to other nodes.
const NOTICE: Duration = Duration::from_secs(1);

/// Maximum time for which it keeps serving until every peer has received its goodbye and closed its
/// connection. A peer that still waits for a reply has received it, too.
const PARTING_MAX: Duration = Duration::from_secs(3);

/// Added to the longest timeout of a message when draining.
const DRAIN_MARGIN: Duration = Duration::from_secs(1);

/// Maximum time for closing what remains: connections of peers take three seconds at most, gossip
/// one round; and again for the store, which commits what was handed over.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Allowance for delays between the steps on a busy machine.
const MARGIN: Duration = Duration::from_secs(10);

/// Maximum time that a node takes to leave.
pub fn leave_max(config: &Config) -> Duration {
    NOTICE + PARTING_MAX + drain_max(config) + STOP_MAX + STOP_MAX + NOTICE + MARGIN
}

fn drain_max(config: &Config) -> Duration {
    config.clients.timeout + DRAIN_MARGIN
}

/// Leaves so that no request fails: tells the others, keeps serving until they know, drains, stops.
pub(super) async fn leave(parts: Parts, config: &Config) {
    info!(
        event = "leaving",
        "leaving: telling the others, then finishing what is under way"
    );
    manager::leaves();
    tell_mesh(&parts).await;
    serve_until_known(&parts).await;
    parts.local.close();
    parts.public.stop();
    let Parts {
        gossip,
        server,
        entities,
        serving_peers,
        public,
        admin,
        ..
    } = parts;
    step("messages were still running", drain_max(config), async {
        tokio::join!(public.stopped(), server.drain())
    })
    .await;
    step(
        "connections of peers, or gossip, did not end",
        STOP_MAX,
        async {
            server.stop().await;
            let _ = serving_peers.await;
            gossip.stop().await;
        },
    )
    .await;
    step(
        "what was handed over to the store was not committed",
        STOP_MAX,
        entities.close(),
    )
    .await;
    admin.stop();
    // Operators lose nothing.
    let _ = timeout(NOTICE, admin.stopped()).await;
    info!(event = "left", "left");
}

/// Announces through gossip, and on the connections of peers, that the node leaves.
async fn tell_mesh(parts: &Parts) {
    parts.readiness.leaving();
    parts
        .gossip
        .announce(|own| own.state = NodeState::Leaving)
        .await;
    parts.dispatcher.follow(&parts.gossip.view());
    parts.server.say_goodbye();
}

/// Keeps serving until the peers have closed their connections, and clients have had time to
/// switch. A node without peers does not wait.
async fn serve_until_known(parts: &Parts) {
    if parts.gossip.view().borrow().others().next().is_none() {
        return;
    }
    let parting = timeout(PARTING_MAX, parts.server.parted());
    let (_, parted) = tokio::join!(sleep(NOTICE), parting);
    info!(
        event = "refusing",
        all_peers_parted = parted.is_ok(),
        "refusing what is new"
    );
}

/// Runs one step within a time limit. Past it, the rest of the step is cut off.
async fn step<T>(what: &'static str, max: Duration, work: impl Future<Output = T>) {
    if timeout(max, work).await.is_err() {
        warn!(event = "cut-off", "{what} after {max:?}; they are cut off");
    }
}
