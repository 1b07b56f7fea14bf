//! Routes: the candidates of each stream, computed once for each view.

use std::collections::HashMap;
use std::sync::Arc;

use crate::bodies::ReplySize;
use crate::membership::{Node, NodeState, View};
use crate::message::{Message, NodeId, StreamName, StreamProperties};
use crate::peer::Peer;
use crate::placement::{self, Seed};
use crate::telemetry::StreamMetrics;

/// The candidates of all streams. An immutable snapshot.
pub(super) struct Routes {
    pub(super) own_state: NodeState,
    pub(super) streams: HashMap<StreamName, Arc<StreamRoute>>,
}

pub(super) struct StreamRoute {
    /// At least one; sorted by node id, as placement and broadcast need them.
    pub(super) candidates: Vec<Candidate>,
    /// This node while it is leaving: used only if no other candidate can be reached.
    pub(super) last_resort: Option<Candidate>,
    /// The properties that all candidates share: it is unknown which of them ran a lost message.
    pub(super) properties: StreamProperties,
    pub(super) metrics: Arc<StreamMetrics>,
    /// The expected size of replies from other nodes.
    pub(super) reply_expected: Arc<ReplySize>,
}

pub(super) struct Candidate {
    pub(super) node_id: NodeId,
    pub(super) target: Target,
    seed: Seed,
}

pub(super) enum Target {
    Local,
    Peer(Arc<Peer>),
}

impl StreamRoute {
    /// The owner of the message's key. There always is one: a stream without candidates has no
    /// route.
    pub(super) fn owner(&self, message: &Message) -> &Candidate {
        let key = message.partition_key.as_str();
        let owner = placement::owner(&self.candidates, key, Candidate::seed);
        &self.candidates[owner.unwrap_or_default()]
    }
}

impl Candidate {
    pub(super) fn seed(&self) -> Seed {
        self.seed
    }
}

impl Default for Routes {
    fn default() -> Self {
        Self {
            own_state: NodeState::Starting,
            streams: HashMap::new(),
        }
    }
}

impl Routes {
    /// `peers` are those of the view. Metrics and expected reply sizes are kept from the `previous`
    /// routes.
    pub(super) fn new(view: &View, peers: &HashMap<NodeId, Arc<Peer>>, previous: &Self) -> Self {
        let mut candidates = view.candidates();
        let leaving = view
            .nodes
            .get(&view.self_id)
            .filter(|own| own.state == NodeState::Leaving);
        if let Some(own) = leaving {
            // A leaving node that is the last to offer a stream serves it until it stops.
            for stream in own.streams.keys() {
                candidates.entry(stream).or_insert_with(|| vec![own]);
            }
        }
        let streams = candidates
            .into_iter()
            .map(|(stream, nodes)| {
                let (metrics, reply_expected) = match previous.streams.get(stream) {
                    Some(route) => (route.metrics.clone(), route.reply_expected.clone()),
                    None => (Arc::new(StreamMetrics::new(stream.clone())), Arc::default()),
                };
                let offers = nodes.iter().chain(&leaving);
                let properties = offers
                    .map(|node| node.streams.get(stream).map(|offer| offer.properties))
                    .map(Option::unwrap_or_default)
                    .reduce(StreamProperties::and)
                    .unwrap_or_default();
                let candidates = nodes
                    .into_iter()
                    .filter_map(|node| candidate(node, view, peers))
                    .collect();
                let last_resort = leaving.filter(|own| own.streams.contains_key(stream));
                let last_resort = last_resort.and_then(|own| candidate(own, view, peers));
                (
                    stream.clone(),
                    Arc::new(StreamRoute {
                        candidates,
                        last_resort,
                        properties,
                        metrics,
                        reply_expected,
                    }),
                )
            })
            .filter(|(_, route): &(_, Arc<StreamRoute>)| !route.candidates.is_empty())
            .collect();
        Self {
            own_state: view.own_state(),
            streams,
        }
    }
}

fn candidate(node: &Node, view: &View, peers: &HashMap<NodeId, Arc<Peer>>) -> Option<Candidate> {
    let target = if node.node_id == view.self_id {
        Target::Local
    } else {
        // A peer's departure notice arrives before gossip.
        Target::Peer(
            peers
                .get(&node.node_id)
                .filter(|peer| !peer.has_left())?
                .clone(),
        )
    };
    Some(Candidate {
        node_id: node.node_id.clone(),
        seed: Seed::of(&node.node_id),
        target,
    })
}
