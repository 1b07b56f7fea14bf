//! Seeds: where to look for the mesh. Addresses go to chitchat; names are resolved here again and
//! again, so that a seed may appear, move, or be a name for many nodes.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use chitchat::ChitchatHandle;
use tracing::warn;

/// How often names are resolved: a node that was started before its seeds finds them this soon.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(2);

/// Seeds in the two forms in which they are given.
#[derive(Debug, Default)]
pub(super) struct Seeds {
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) names: Vec<String>,
}

impl Seeds {
    /// Sorts `host:port` texts into addresses and names, leaving out this node's own addresses.
    pub(super) fn new(seeds: &[String], own: &[SocketAddr]) -> Self {
        let mut sorted = Self::default();
        for seed in seeds {
            match seed.parse() {
                Ok(address) if own.contains(&address) => {}
                Ok(address) => sorted.addresses.push(address),
                Err(_) => sorted.names.push(seed.clone()),
            }
        }
        sorted
    }

    pub(super) fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.names.is_empty()
    }
}

/// Gossips with whatever the names resolve to, for as long as chitchat runs.
pub(super) async fn resolve_again_and_again(names: Vec<String>, own: Vec<SocketAddr>, chitchat: &ChitchatHandle) {
    if names.is_empty() {
        return std::future::pending().await;
    }
    let mut ticks = tokio::time::interval(RESOLVE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut unresolved = HashSet::new();
    loop {
        ticks.tick().await;
        for name in &names {
            let addresses = match tokio::net::lookup_host(name).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    // Once for each time that it begins.
                    if unresolved.insert(name) {
                        warn!(seed = %name, %error, "a seed's name does not resolve; trying again and again");
                    }
                    continue;
                }
            };
            unresolved.remove(name);
            for address in addresses.filter(|address| !own.contains(address)) {
                if chitchat.gossip(address).is_err() {
                    return;
                }
            }
        }
    }
}
