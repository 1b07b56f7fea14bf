//! Logs and counts gossip from outside this mesh: datagrams that are dropped, and requests and
//! answers of nodes of another cluster. Their addresses and cluster ids are unverified, and may be
//! forged.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chitchat::ChitchatMessage;
use metrics::counter;
use tracing::warn;

use crate::security::Rejected;
use crate::telemetry::{Throttle, names};

/// After this long without a datagram from a stranger, its next one is logged at once again, and
/// the intervals between log lines start over.
const ANEW_AFTER: Duration = Duration::from_secs(600);

/// Characters of a foreign cluster id that are logged; it may be as long as a datagram.
const CLUSTER_ID_CHARS_MAX: usize = 64;

const OTHER_CLUSTER: &str = "other-cluster";

pub(super) struct Strangers {
    cluster_id: Arc<str>,
    cluster_addr: SocketAddr,
    /// Keyed by what is wrong and the host of the sender.
    told: Throttle<(&'static str, IpAddr)>,
}

impl Strangers {
    /// For the node of this cluster id at this address; log lines state both.
    pub(super) fn new(cluster_id: Arc<str>, cluster_addr: SocketAddr) -> Self {
        Self {
            cluster_id,
            cluster_addr,
            told: Throttle::growing(ANEW_AFTER),
        }
    }

    /// Counts a dropped datagram, and logs it if the throttle allows.
    pub(super) fn rejected(&self, because: Rejected, from: SocketAddr) {
        let kind = because.kind();
        let Some(datagrams) = self.count(kind, kind, from) else {
            return;
        };
        warn!(
            event = "gossip-rejected",
            because = kind,
            datagrams,
            %from,
            cluster_addr = %self.cluster_addr,
            cluster_id = %self.cluster_id,
            "dropped what is no gossip of this mesh: {because}"
        );
    }

    /// Logs and counts a message whose sender is of another cluster. Chitchat still gets the
    /// message; it checks the cluster id too, and leaves its state unchanged.
    pub(super) fn look_at(&self, message: &ChitchatMessage, from: SocketAddr) {
        match message {
            ChitchatMessage::Syn { cluster_id, .. } if **cluster_id != *self.cluster_id => {
                let Some(messages) = self.count(OTHER_CLUSTER, OTHER_CLUSTER, from) else {
                    return;
                };
                warn!(
                    event = "other-cluster",
                    because = OTHER_CLUSTER,
                    messages,
                    %from,
                    their_cluster_id = beginning(cluster_id),
                    cluster_addr = %self.cluster_addr,
                    cluster_id = %self.cluster_id,
                    "refused a node of another cluster: all nodes of a mesh have the same --cluster-id"
                );
            }
            ChitchatMessage::BadCluster => {
                let Some(messages) = self.count(OTHER_CLUSTER, "other-cluster-answer", from) else {
                    return;
                };
                warn!(
                    event = "other-cluster",
                    because = OTHER_CLUSTER,
                    messages,
                    %from,
                    cluster_addr = %self.cluster_addr,
                    cluster_id = %self.cluster_id,
                    "a node that was asked is of another cluster, which its own log names: all nodes of a mesh have the same --cluster-id"
                );
            }
            _ => {}
        }
    }

    /// Counts an event from a host. Returns how many there were since the last log line, if it is
    /// time for another.
    fn count(&self, because: &'static str, kind: &'static str, from: SocketAddr) -> Option<u64> {
        counter!(names::GOSSIP_REJECTED, "because" => because).increment(1);
        self.told
            .note((kind, from.ip().to_canonical()), Instant::now())
    }
}

/// The part of a foreign cluster id that is logged.
fn beginning(cluster_id: &str) -> String {
    cluster_id.chars().take(CLUSTER_ID_CHARS_MAX).collect()
}
