//! The gossip driver: tells the mesh what this node says of itself, and publishes the view of what
//! the others say. Knows nothing of what a view is used for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chitchat::{ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, spawn_chitchat};
use metrics::counter;
use tokio::net::UdpSocket;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::info;

use super::advert;
use super::seeds::{Seeds, resolve_again_and_again};
use super::transport::{BoundTransport, Seal};
use super::view::{self, Node, View};
use crate::message::NodeId;
use crate::security::Keyring;
use crate::telemetry::names;

/// Three nodes see each other after about three rounds of this.
const GOSSIP_INTERVAL: Duration = Duration::from_millis(200);

/// A node whose heartbeat is this many mean intervals late is dead.
const PHI_THRESHOLD: f64 = 8.0;

/// Heartbeats that the failure detector remembers of each node. The more nodes, the more often each
/// is heard of, by way of the others; so few samples, beside the five that the detector supposes to
/// have had at the gossip interval, keep the time until a death is seen at one to three seconds (1.3 s of three nodes, 2.0
/// to 2.6 s of 10 to 200: `benches/gossip`), where a long memory would take a pause of 0.3 s for one.
const SAMPLING_WINDOW: usize = 5;

/// How long a dead node's traces stay, so that old gossip cannot bring it back.
const DEAD_NODE_GRACE: Duration = Duration::from_secs(600);

/// How long an older node of this one's id may seem to live. It does for a moment when a node is killed
/// and comes back at once: the others still tell of its last heartbeats.
const ELDER_MAX: Duration = Duration::from_secs(4);

/// How long to wait for a seed to answer before going on alone. Seeds may be down for good, and a
/// mesh that was stopped as a whole must be able to start again.
const FIRST_ROUND_MAX: Duration = Duration::from_secs(2);

pub struct GossipConfig {
    pub cluster_id: Arc<str>,
    /// The bound address of the cluster port.
    pub bound_addr: SocketAddr,
    /// `host:port` of nodes to look for the mesh at.
    pub seeds: Vec<String>,
    /// The secrets of the mesh, as they are now. Without them, whoever reaches the port can say anything.
    pub keyring: Option<watch::Receiver<Arc<Keyring>>>,
}

#[derive(Debug, thiserror::Error)]
pub enum GossipError {
    #[error("gossip cannot start: {0}")]
    Start(String),
    #[error("gossip ended: {0}")]
    Ended(String),
    #[error(
        "another live node has the id {node_id} already, at {cluster_addr}: give this one an id of its own (--node-id)"
    )]
    Duplicate { node_id: NodeId, cluster_addr: SocketAddr },
}

/// A running membership. Dropping it stops it.
pub struct Gossip {
    own: watch::Sender<Node>,
    view: watch::Receiver<Arc<View>>,
    /// Held while something is said, until it is seen: of two at once the first would never see its own.
    saying: Mutex<()>,
    elder: watch::Receiver<Option<SocketAddr>>,
    has_seeds: bool,
    chitchat: Arc<ChitchatHandle>,
    driver: JoinHandle<()>,
}

impl Gossip {
    /// Starts to gossip `own` over a socket bound to the cluster port.
    ///
    /// # Errors
    /// If chitchat does not start.
    pub async fn start(config: GossipConfig, own: Node, socket: UdpSocket) -> Result<Self, GossipError> {
        let own_addrs = vec![own.cluster_addr, config.bound_addr];
        let seeds = Seeds::new(&config.seeds, &own_addrs);
        let has_seeds = !seeds.is_empty();
        let chitchat_config = ChitchatConfig {
            chitchat_id: ChitchatId::new(own.node_id.as_str(), own.generation, own.cluster_addr),
            cluster_id: config.cluster_id.to_string(),
            gossip_interval: GOSSIP_INTERVAL,
            listen_addr: config.bound_addr,
            seed_nodes: seeds.addresses.iter().map(ToString::to_string).collect(),
            failure_detector_config: FailureDetectorConfig {
                phi_threshold: PHI_THRESHOLD,
                sampling_window_size: SAMPLING_WINDOW,
                initial_interval: GOSSIP_INTERVAL,
                dead_node_grace_period: DEAD_NODE_GRACE,
                ..FailureDetectorConfig::default()
            },
            marked_for_deletion_grace_period: DEAD_NODE_GRACE,
            catchup_callback: None,
            extra_liveness_predicate: None,
        };
        let key_values = advert::to_key_values(&own).into_iter().collect();
        let seal = config.keyring.map(|keyring| Seal::new(config.cluster_id.clone(), keyring));
        let chitchat = spawn_chitchat(chitchat_config, key_values, &BoundTransport::new(socket, seal))
            .await
            .map_err(|error| GossipError::Start(format!("{error:#}")))?;
        let chitchat = Arc::new(chitchat);

        let alone = View::merge(config.cluster_id.clone(), own.clone(), []);
        let (view_sender, view) = watch::channel(Arc::new(alone));
        let (own, own_changes) = watch::channel(own);
        let (elder_sender, elder) = watch::channel(None);
        let driver = Driver {
            cluster_id: config.cluster_id,
            chitchat: chitchat.clone(),
            own_changes,
            view: view_sender,
            elder: elder_sender,
        };
        let driver = tokio::spawn(driver.run(seeds.names, own_addrs));
        Ok(Self { own, view, saying: Mutex::default(), elder, has_seeds, chitchat, driver })
    }

    /// The view, now and whenever it changes.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Changes what this node says of itself, and waits until its own view shows it.
    pub async fn say(&self, change: impl FnOnce(&mut Node)) {
        let _saying = self.saying.lock().await;
        self.own.send_modify(change);
        let own = self.own.borrow().clone();
        let mut view = self.view();
        // An error means that gossip has ended, which `ended` reports.
        let _ = view.wait_for(|view| view.nodes.get(&own.node_id) == Some(&own)).await;
    }

    /// Waits until this node has heard of another, or has no one to hear from; and until its own earlier
    /// life, if it was short ago, is over for the others too.
    pub async fn first_round(&self) {
        if !self.has_seeds {
            return;
        }
        self.hear_of_another().await;
        let _ = self.elder.clone().wait_for(Option::is_none).await;
    }

    async fn hear_of_another(&self) {
        let mut view = self.view();
        let heard = timeout(FIRST_ROUND_MAX, view.wait_for(|view| view.others().next().is_some())).await.is_ok();
        if !heard {
            info!("no seed has answered yet: going on alone, and looking for them all the while");
        }
    }

    /// Resolves when this node must end: because gossip has ended, so that it is blind, or because an
    /// older node of the same id lives.
    pub async fn ended(&self) -> GossipError {
        tokio::select! {
            ended = self.chitchat.termination_watcher() => GossipError::Ended(match ended {
                Ok(()) => "it was stopped".to_owned(),
                Err(error) => format!("{error:#}"),
            }),
            Some(cluster_addr) = self.lasting_elder() => {
                GossipError::Duplicate { node_id: self.own.borrow().node_id.clone(), cluster_addr }
            }
        }
    }

    /// The cluster address of an elder that stays.
    async fn lasting_elder(&self) -> Option<SocketAddr> {
        let mut elder = self.elder.clone();
        let mut lasts_at = None;
        // Errors mean that the driver has ended, and chitchat with it.
        loop {
            let cluster_addr = *elder.wait_for(Option::is_some).await.ok()?;
            // One that seemed gone meanwhile was only late: a life that is over is heard of no more.
            let lasts_at = *lasts_at.get_or_insert_with(|| Instant::now() + ELDER_MAX);
            match timeout_at(lasts_at, elder.wait_for(Option::is_none)).await {
                Ok(gone) => {
                    gone.ok()?;
                }
                Err(_) => return cluster_addr,
            }
        }
    }

    /// Ends gossip for good.
    pub async fn stop(self) {
        let ended = self.chitchat.termination_watcher();
        if self.chitchat.initiate_shutdown().is_ok() {
            let _ = ended.await;
        }
    }
}

impl Drop for Gossip {
    fn drop(&mut self) {
        self.driver.abort();
        self.chitchat.abort();
    }
}

/// The one task that moves words between chitchat and the view.
struct Driver {
    cluster_id: Arc<str>,
    chitchat: Arc<ChitchatHandle>,
    own_changes: watch::Receiver<Node>,
    view: watch::Sender<Arc<View>>,
    /// The cluster address of an older live node that has this one's id.
    elder: watch::Sender<Option<SocketAddr>>,
}

impl Driver {
    async fn run(mut self, seed_names: Vec<String>, own_addrs: Vec<SocketAddr>) {
        let chitchat = self.chitchat.clone();
        let mut live_nodes = chitchat.with_chitchat(|chitchat| chitchat.live_nodes_watcher()).await;
        let resolving = resolve_again_and_again(seed_names, own_addrs, &chitchat);
        tokio::pin!(resolving);
        loop {
            let ended = tokio::select! {
                changed = self.own_changes.changed() => {
                    self.tell_own().await;
                    changed.is_err()
                }
                changed = live_nodes.changed() => changed.is_err(),
                () = &mut resolving => true,
            };
            if ended {
                return;
            }
            let heard: Vec<Node> = live_nodes
                .borrow_and_update()
                .iter()
                .filter_map(|(id, state)| {
                    advert::from_key_values(&id.node_id, id.generation_id, id.gossip_advertise_addr, state.key_values())
                })
                .collect();
            self.publish(heard);
        }
    }

    /// Hands the changed words to chitchat; those that are gone are deleted.
    async fn tell_own(&mut self) {
        let own = self.own_changes.borrow_and_update().clone();
        let words = advert::to_key_values(&own);
        self.chitchat
            .with_chitchat(|chitchat| {
                let state = chitchat.self_node_state();
                let gone: Vec<String> =
                    state.key_values().map(|(key, _)| key.to_owned()).filter(|key| !words.contains_key(key)).collect();
                for key in gone {
                    state.delete(&key);
                }
                for (key, value) in &words {
                    state.set(key, value);
                }
            })
            .await;
    }

    fn publish(&self, heard: Vec<Node>) {
        let own = self.own_changes.borrow().clone();
        let elder = view::elder(&own, &heard).map(|elder| elder.cluster_addr);
        self.elder.send_if_modified(|known| std::mem::replace(known, elder) != elder);
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
}

fn log_changes(old: &View, new: &View) {
    for node in new.nodes.values() {
        let known = old.nodes.get(&node.node_id);
        let is_news = known.is_none_or(|known| (known.generation, known.state) != (node.generation, node.state));
        if is_news {
            let Node { node_id, generation, state, cluster_addr, .. } = node;
            info!(%node_id, generation, ?state, %cluster_addr, nodes = new.nodes.len(), "node seen");
            counter!(names::VIEW_CHANGES, "change" => "seen").increment(1);
        }
    }
    for node_id in old.nodes.keys().filter(|id| !new.nodes.contains_key(*id)) {
        info!(%node_id, nodes = new.nodes.len(), "node gone");
        counter!(names::VIEW_CHANGES, "change" => "gone").increment(1);
    }
}
