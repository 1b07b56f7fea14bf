//! The view: what one node believes about the mesh. Pure data and pure decisions.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::message::{NodeId, Offer, SharedReleases, StreamName};

/// What one node believes: the live nodes, itself included, by node id. An immutable snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pub self_id: NodeId,
    pub cluster_id: Arc<str>,
    pub nodes: BTreeMap<NodeId, Node>,
}

/// What a node gossips about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    pub node_id: NodeId,
    /// Start time in nanoseconds since 1970: of two nodes with the same id the higher is the newer.
    pub generation: u64,
    pub state: NodeState,
    pub http_addr: SocketAddr,
    pub cluster_addr: SocketAddr,
    pub streams: BTreeMap<StreamName, Offer>,
    /// The store that its stateful streams use, while it offers any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<Uuid>,
    /// What it knows of the plugins that the mesh shares, if it takes part in that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub releases: Option<SharedReleases>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Loading its plugins, or waiting for its first gossip round.
    Starting,
    Ready,
    /// Draining: it gets no new messages.
    Leaving,
}

impl Node {
    /// Of two incarnations of a node id the view keeps the higher: a ready one before any other,
    /// then the newer one. A second node that claims an id may never become ready, and leaves once
    /// it has heard of the first.
    fn rank(&self) -> (bool, u64) {
        (self.state == NodeState::Ready, self.generation)
    }

    /// Of two live nodes with the same id the lower stays. A node that has finished starting was
    /// there before one that has not, whatever their clocks say. A leaving node goes anyway: it may
    /// never have been ready, and may be leaving because of the other. The clocks decide only
    /// between two nodes in the same state: both are starting, or a network split has healed.
    fn seniority(&self) -> (u8, u64, SocketAddr) {
        let rank = match self.state {
            NodeState::Ready => 0,
            NodeState::Leaving => 1,
            NodeState::Starting => 2,
        };
        (rank, self.generation, self.cluster_addr)
    }

    /// Whether this node came first, and so stays, of two live nodes with the same id.
    pub(super) fn came_before(&self, other: &Self) -> bool {
        // Gossip about the same incarnation is an older state of this node itself, not a rival.
        let life = |node: &Self| (node.generation, node.cluster_addr);
        life(self) != life(other) && self.seniority() < other.seniority()
    }
}

impl View {
    /// Merges this node's own state with what it heard about the others. Of several generations of
    /// a node id the newest ready one counts, or the newest if none is ready. Gossip about this
    /// node itself is ignored.
    pub fn merge(cluster_id: Arc<str>, own: Node, heard: impl IntoIterator<Item = Node>) -> Self {
        let self_id = own.node_id.clone();
        let mut nodes = BTreeMap::from([(self_id.clone(), own)]);
        for node in heard {
            if node.node_id == self_id {
                continue;
            }
            match nodes.get(&node.node_id) {
                Some(known) if known.rank() >= node.rank() => {}
                _ => {
                    nodes.insert(node.node_id.clone(), node);
                }
            }
        }
        Self {
            self_id,
            cluster_id,
            nodes,
        }
    }

    /// The live nodes other than this one, by node id.
    pub fn others(&self) -> impl Iterator<Item = &Node> {
        self.nodes
            .values()
            .filter(|node| node.node_id != self.self_id)
    }

    /// Whether another live node has this cluster address.
    pub(super) fn has_other_at(&self, cluster_addr: SocketAddr) -> bool {
        self.others().any(|node| node.cluster_addr == cluster_addr)
    }

    /// The candidates of each stream that has any: the ready nodes that offer it, ordered by node
    /// id.
    pub fn candidates(&self) -> BTreeMap<&StreamName, Vec<&Node>> {
        let mut candidates: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for node in self
            .nodes
            .values()
            .filter(|node| node.state == NodeState::Ready)
        {
            for stream in node.streams.keys() {
                candidates.entry(stream).or_default().push(node);
            }
        }
        candidates
    }

    /// The nodes that keep this one from offering stateful streams on `store`: a mesh has one store,
    /// that of the node that offered such streams first. A node that does not offer any yet gives
    /// way to all others; of two that began while they did not see each other, the later one does.
    pub fn store_elders(&self, store: Uuid) -> Vec<NodeId> {
        let own = self.nodes.get(&self.self_id);
        let age = |node: &Node| (node.generation, node.node_id.clone());
        let offering = own.filter(|own| own.store.is_some()).map(age);
        self.others()
            .filter(|other| other.store.is_some_and(|other| other != store))
            .filter(|other| offering.as_ref().is_none_or(|own| age(other) < *own))
            .map(|other| other.node_id.clone())
            .collect()
    }

    pub fn own_state(&self) -> NodeState {
        // `merge` always inserts this node. A missing node must get no messages.
        self.nodes
            .get(&self.self_id)
            .map_or(NodeState::Leaving, |node| node.state)
    }
}

/// The node with this node's id that came before it, the first if there are several. It is another
/// node, or an earlier incarnation of this one that the others still gossip about.
pub(super) fn elder<'a>(own: &Node, heard: &'a [Node]) -> Option<&'a Node> {
    let elders = heard
        .iter()
        .filter(|node| node.node_id == own.node_id && node.came_before(own));
    elders.min_by_key(|node| node.seniority())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::message::Digest;

    pub(crate) fn offer(digest: &str) -> Offer {
        Offer {
            digest: Digest::from_text(digest),
            properties: Default::default(),
        }
    }

    pub(crate) fn node(id: &str, generation: u64, state: NodeState, streams: &[&str]) -> Node {
        Node {
            node_id: NodeId::try_from(id).unwrap(),
            generation,
            state,
            http_addr: ([127, 0, 0, 1], 8080).into(),
            cluster_addr: ([127, 0, 0, 1], 9742).into(),
            streams: streams
                .iter()
                .map(|name| (StreamName::try_from(*name).unwrap(), offer("d")))
                .collect(),
            store: None,
            releases: None,
        }
    }

    fn merge(own: Node, heard: Vec<Node>) -> View {
        View::merge("test".into(), own, heard)
    }

    #[test]
    fn a_mesh_has_the_store_of_its_eldest() {
        let (mine, theirs) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let with = |id: &str, generation, store| Node {
            store,
            ..node(id, generation, NodeState::Ready, &[])
        };
        let elders = |own: Option<Uuid>, other: u64, store| {
            let own = with("b", 5, own);
            merge(own, vec![with("a", other, store)]).store_elders(mine)
        };
        let a = vec![NodeId::try_from("a").unwrap()];
        assert_eq!(elders(None, 9, Some(theirs)), a, "it has not begun");
        assert_eq!(elders(Some(mine), 4, Some(theirs)), a, "it began later");
        assert_eq!(elders(Some(mine), 9, Some(theirs)), [], "it was first");
        assert_eq!(elders(None, 4, Some(mine)), [], "it is the same store");
        assert_eq!(elders(None, 4, None), [], "it keeps no state");
    }

    #[test]
    fn the_newest_generation_of_a_node_counts() {
        let own = node("a", 5, NodeState::Ready, &[]);
        let heard = vec![
            node("b", 2, NodeState::Ready, &["new"]),
            node("b", 1, NodeState::Ready, &["old"]),
            node("a", 4, NodeState::Leaving, &["stale"]),
        ];
        let view = merge(own.clone(), heard);
        assert_eq!(view.nodes.len(), 2);
        assert_eq!(view.nodes["a"], own);
        assert!(view.nodes["b"].streams.contains_key("new"));
    }

    #[test]
    fn a_life_that_takes_no_messages_supersedes_none_that_does() {
        let own = node("a", 5, NodeState::Ready, &[]);
        let (elder, late) = (
            node("b", 1, NodeState::Ready, &["echo"]),
            node("b", 2, NodeState::Starting, &[]),
        );
        assert_eq!(
            merge(own.clone(), vec![late.clone(), elder.clone()]).nodes["b"],
            elder
        );
        assert_eq!(merge(own.clone(), vec![late.clone()]).nodes["b"], late);
        let leaving = Node {
            state: NodeState::Leaving,
            ..late.clone()
        };
        assert_eq!(
            merge(own.clone(), vec![leaving, elder.clone()]).nodes["b"],
            elder
        );
        let ready = Node {
            state: NodeState::Ready,
            ..late
        };
        assert_eq!(merge(own, vec![elder, ready.clone()]).nodes["b"], ready);
    }

    /// Takes two incarnations of one id, each as generation and state. Returns whether the first
    /// sees an elder in the second, and the second in the first.
    fn elders(one: (u64, NodeState), other: (u64, NodeState)) -> (bool, bool) {
        let [one, other] =
            [one, other].map(|(generation, state)| node("a", generation, state, &[]));
        (
            elder(&one, std::slice::from_ref(&other)).is_some(),
            elder(&other, &[one]).is_some(),
        )
    }

    #[test]
    fn of_two_nodes_with_one_id_the_one_that_came_later_has_an_elder() {
        use NodeState::{Leaving, Ready, Starting};
        const ONE_YIELDS: (bool, bool) = (true, false);
        for state in [Starting, Ready, Leaving] {
            assert_eq!(
                elders((2, state), (1, state)),
                ONE_YIELDS,
                "the clocks decide: {state:?}"
            );
        }
        for generation in [1, 3] {
            for up in [Ready, Leaving] {
                assert_eq!(
                    elders((2, Starting), (generation, up)),
                    ONE_YIELDS,
                    "{generation} is {up:?}"
                );
            }
        }
        for generation in [1, 3] {
            assert_eq!(
                elders((generation, Leaving), (2, Ready)),
                ONE_YIELDS,
                "{generation} goes anyway"
            );
        }
        let own = node("a", 2, Ready, &[]);
        assert_eq!(elder(&own, &[node("b", 1, Ready, &[])]), None, "another id");
        let leaving = Node {
            state: Leaving,
            ..own.clone()
        };
        assert_eq!(
            elder(&leaving, std::slice::from_ref(&own)),
            None,
            "the node itself, a moment ago"
        );
        let elsewhere = Node {
            cluster_addr: ([127, 0, 0, 2], 9742).into(),
            ..own.clone()
        };
        assert_eq!(
            elder(&elsewhere, std::slice::from_ref(&own)),
            Some(&own),
            "one of two with one generation"
        );
        assert_eq!(elder(&own, std::slice::from_ref(&elsewhere)), None);
    }

    #[test]
    fn the_eldest_counts() {
        let own = node("a", 5, NodeState::Starting, &[]);
        let heard = [
            (1, NodeState::Starting),
            (7, NodeState::Ready),
            (6, NodeState::Leaving),
            (9, NodeState::Starting),
        ];
        let heard = heard.map(|(generation, state)| node("a", generation, state, &[]));
        assert_eq!(elder(&own, &heard), Some(&heard[1]));
        assert_eq!(elder(&own, &heard[2..]), Some(&heard[2]));
    }

    #[test]
    fn candidates_are_the_ready_nodes_that_offer_a_stream() {
        let view = merge(
            node("b", 1, NodeState::Ready, &["echo", "orders"]),
            vec![
                node("d", 1, NodeState::Starting, &["echo"]),
                node("c", 1, NodeState::Leaving, &["echo"]),
                node("a", 1, NodeState::Ready, &["echo"]),
            ],
        );
        let ids = |stream: &str| -> Vec<String> {
            let stream = StreamName::try_from(stream).unwrap();
            view.candidates()
                .get(&stream)
                .map(|nodes| nodes.iter().map(|node| node.node_id.to_string()).collect())
                .unwrap_or_default()
        };
        assert_eq!(ids("echo"), ["a", "b"]);
        assert_eq!(ids("orders"), ["b"]);
        assert!(ids("other").is_empty());
    }
}
