//! Tells of those who gossip with this node, but not in its mesh: of what they send, and of what
//! they answer. Who they are is what they say, or may be forged.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chitchat::ChitchatMessage;
use metrics::counter;
use tracing::warn;

use crate::security::Rejected;
use crate::telemetry::{Throttle, names};

/// A stranger that was not heard for so long is told anew from the beginning.
const ANEW_AFTER: Duration = Duration::from_secs(600);

/// Of another's cluster id; it may be as long as a datagram.
const CLUSTER_ID_CHARS_MAX: usize = 64;

const OTHER_CLUSTER: &str = "other-cluster";

pub(super) struct Strangers {
    cluster_id: Arc<str>,
    cluster_addr: SocketAddr,
    /// By what is wrong, and the host from which it came.
    told: Throttle<(&'static str, IpAddr)>,
}

impl Strangers {
    /// Beside nodes of this cluster id, of which the one with this address is this one.
    pub(super) fn new(cluster_id: Arc<str>, cluster_addr: SocketAddr) -> Self {
        Self {
            cluster_id,
            cluster_addr,
            told: Throttle::growing(ANEW_AFTER),
        }
    }

    /// A datagram was dropped.
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

    /// Looks whether a message shows that its sender is of another cluster. Chitchat sees that too,
    /// and changes nothing by it.
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

    /// Counts what came from there. Returns how often it has since it was last told, if it is to be
    /// told now.
    fn count(&self, because: &'static str, kind: &'static str, from: SocketAddr) -> Option<u64> {
        counter!(names::GOSSIP_REJECTED, "because" => because).increment(1);
        self.told
            .note((kind, from.ip().to_canonical()), Instant::now())
    }
}

/// No more of a stranger's word than a log may have.
fn beginning(cluster_id: &str) -> String {
    cluster_id.chars().take(CLUSTER_ID_CHARS_MAX).collect()
}
