//! The one task between chitchat and the view: hands this node's advert to chitchat, publishes the
//! view, and contacts the seeds. If it ends, the node must end too: nothing else would notice nodes
//! that join or leave.

use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chitchat::ChitchatHandle;
use metrics::counter;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::advert;
use super::claims::Claim;
use super::contacts::Contacts;
use super::seed::{OwnAddresses, Seed};
use super::seed_problems::SeedProblems;
use super::seeds::{contact_seeds, look_up};
use super::view::{self, Node, View};
use crate::message::NodeId;
use crate::telemetry::names;

/// How often the seeds are checked for problems.
const SEEDS_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Driver {
    pub(super) cluster_id: Arc<str>,
    pub(super) chitchat: Arc<ChitchatHandle>,
    /// The only receiver: `Gossip` sees by the closed channel that the driver has ended.
    pub(super) own_changes: watch::Receiver<Node>,
    pub(super) view: watch::Sender<Arc<View>>,
    /// The live node with this node's id that came first, if there is one.
    pub(super) elder: watch::Sender<Option<Claim>>,
    pub(super) contacts: Arc<watch::Sender<Contacts>>,
    pub(super) seed_problems: SeedProblems,
    /// Other incarnations of this node's id that have been logged.
    pub(super) rivals: BTreeSet<Claim>,
}

impl Driver {
    pub(super) async fn run(mut self, seeds: Vec<Seed>, own_addrs: OwnAddresses) {
        let (chitchat, contacts, view) = (
            self.chitchat.clone(),
            self.contacts.clone(),
            self.view.subscribe(),
        );
        let mut live_nodes = chitchat
            .with_chitchat(|chitchat| chitchat.live_nodes_watcher())
            .await;
        // Chitchat gossips with the live nodes of the view anyway.
        let ask = |address: SocketAddr| {
            if !view.borrow().has_other_at(address) {
                // An error means that gossip has ended, which `Gossip::ended` reports.
                let _ = chitchat.gossip(address);
            }
        };
        let asking = contact_seeds(&seeds, own_addrs, &contacts, look_up, ask);
        tokio::pin!(asking);
        let mut looks = interval(SEEDS_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_over = tokio::select! {
                changed = self.own_changes.changed() => {
                    self.write_own_keys().await;
                    changed.is_err()
                }
                changed = live_nodes.changed() => changed.is_err(),
                _ = looks.tick() => {
                    self.log_seed_problems();
                    continue;
                }
                never = &mut asking => match never {},
            };
            if is_over {
                return;
            }
            let heard: Vec<Node> = live_nodes
                .borrow_and_update()
                .iter()
                .filter_map(|(id, state)| {
                    advert::from_key_values(
                        &id.node_id,
                        id.generation_id,
                        id.gossip_advertise_addr,
                        state.key_values(),
                    )
                })
                .collect();
            self.publish(heard);
        }
    }

    /// Writes this node's keys to chitchat, and deletes those that it no longer has.
    async fn write_own_keys(&mut self) {
        let own = self.own_changes.borrow_and_update().clone();
        let words = advert::to_key_values(&own);
        self.chitchat
            .with_chitchat(|chitchat| {
                let state = chitchat.self_node_state();
                let gone: Vec<String> = state
                    .key_values()
                    .map(|(key, _)| key.to_owned())
                    .filter(|key| !words.contains_key(key))
                    .collect();
                for key in gone {
                    state.delete(&key);
                }
                for (key, value) in &words {
                    state.set(key, value);
                }
            })
            .await;
    }

    fn publish(&mut self, heard: Vec<Node>) {
        let own = self.own_changes.borrow().clone();
        self.log_rivals(&own, &heard);
        let elder = view::elder(&own, &heard).map(Claim::of);
        self.elder
            .send_if_modified(|known| std::mem::replace(known, elder) != elder);
        let view = View::merge(self.cluster_id.clone(), own, heard);
        self.view.send_if_modified(|published| {
            if **published == view {
                return false;
            }
            log_changes(published, &view);
            *published = Arc::new(view);
            true
        });
    }

    /// Logs each other incarnation of this node's id, once when it appears.
    fn log_rivals(&mut self, own: &Node, heard: &[Node]) {
        let is_rival =
            |node: &&Node| node.node_id == own.node_id && Claim::of(node) != Claim::of(own);
        let rivals = || heard.iter().filter(is_rival);
        for rival in rivals().filter(|rival| !self.rivals.contains(&Claim::of(rival))) {
            let Node {
                node_id,
                generation,
                state,
                cluster_addr,
                ..
            } = rival;
            if rival.came_before(own) {
                info!(
                    event = "id-claimed",
                    %node_id,
                    generation,
                    ?state,
                    %cluster_addr,
                    "this node's id belongs to another, or to its own earlier life of which others still tell: waiting for the end of that"
                );
            } else {
                warn!(
                    event = "id-claimed",
                    %node_id,
                    generation,
                    ?state,
                    %cluster_addr,
                    "another node claims this node's id, and should end by itself: give it an id of its own (--node-id)"
                );
            }
        }
        self.rivals = rivals().map(Claim::of).collect();
    }

    fn log_seed_problems(&self) {
        let now = Instant::now();
        let alive: HashSet<SocketAddr> = self
            .view
            .borrow()
            .others()
            .map(|node| node.cluster_addr)
            .collect();
        let problems = self.contacts.borrow().problems(&alive, now);
        for (seed, problem) in problems {
            self.seed_problems.tell(&seed, &problem, now);
        }
    }
}

fn log_changes(old: &View, new: &View) {
    for node in new.nodes.values() {
        let known = old.nodes.get(&node.node_id);
        let is_news = known
            .is_none_or(|known| (known.generation, known.state) != (node.generation, node.state));
        if is_news {
            let Node {
                node_id,
                generation,
                state,
                cluster_addr,
                ..
            } = node;
            info!(event = "node-seen", %node_id, generation, ?state, %cluster_addr, nodes = new.nodes.len(), "node seen");
            counter!(names::VIEW_CHANGES, "change" => "seen").increment(1);
        }
    }
    let is_gone = |(id, _): &(&NodeId, &Node)| !new.nodes.contains_key(*id);
    for (node_id, Node { state, .. }) in old.nodes.iter().filter(is_gone) {
        info!(event = "node-gone", %node_id, ?state, nodes = new.nodes.len(), "node gone");
        counter!(names::VIEW_CHANGES, "change" => "gone").increment(1);
    }
}
