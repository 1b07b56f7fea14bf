//! Leaving: the steps of it, in order, and how long each may take.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::parts::Parts;
use crate::config::Config;
use crate::membership::NodeState;

/// How long a leaving node goes on as before at least, so that clients (and what balances their
/// load by `/readyz`) can turn to others.
const NOTICE: Duration = Duration::from_secs(1);

/// How long it goes on as before at most, until every peer has heard its goodbye and closed its
/// connection. A peer that still waits for a reply has heard it, too.
const PARTING_MAX: Duration = Duration::from_secs(3);

/// What a leaving node waits beyond the longest time that a message may take.
const DRAIN_MARGIN: Duration = Duration::from_secs(1);

/// For what is left when everything is done: connections of peers take three seconds at most,
/// gossip a round.
const STOP_MAX: Duration = Duration::from_secs(10);

/// For what is between the steps, on a machine that is busy.
const MARGIN: Duration = Duration::from_secs(10);

/// How long a node takes to leave at most.
pub fn leave_max(config: &Config) -> Duration {
    NOTICE + PARTING_MAX + drain_max(config) + STOP_MAX + NOTICE + MARGIN
}

fn drain_max(config: &Config) -> Duration {
    config.clients.timeout + DRAIN_MARGIN
}

/// Leaves so that no request fails: tells the others, goes on until they know, finishes, ends.
pub(super) async fn leave(parts: Parts, config: &Config) {
    info!(
        event = "leaving",
        "leaving: telling the others, then finishing what is under way"
    );
    tell_mesh(&parts).await;
    go_on_until_known(&parts).await;
    parts.local.close();
    parts.public.stop();
    let Parts {
        gossip,
        server,
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
    admin.stop();
    step(
        "connections of operators did not end",
        NOTICE,
        admin.stopped(),
    )
    .await;
    info!(event = "left", "left");
}

/// Says to gossip, and to the peers on their connections, that the node leaves.
async fn tell_mesh(parts: &Parts) {
    parts.readiness.leaving();
    parts
        .gossip
        .announce(|own| own.state = NodeState::Leaving)
        .await;
    parts.dispatcher.follow(&parts.gossip.view());
    parts.server.say_goodbye();
}

/// Goes on as before until the others have parted, and clients could turn to them. A node that is
/// alone waits for nobody.
async fn go_on_until_known(parts: &Parts) {
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

/// Does a part of it, within a limit. Past that, what is left of it is cut off.
async fn step<T>(what: &'static str, max: Duration, work: impl Future<Output = T>) {
    if timeout(max, work).await.is_err() {
        warn!(event = "cut-off", "{what} after {max:?}; they are cut off");
    }
}
