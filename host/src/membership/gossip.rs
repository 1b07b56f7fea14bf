//! The node's handle on gossip: announces this node's state to the mesh, publishes the view of the
//! others, and reports when the node must end. Does not know what a view is used for.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chitchat::{ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, spawn_chitchat};
use tokio::net::UdpSocket;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep_until, timeout, timeout_at};
use tracing::info;

use super::advert;
use super::claims::{Claim, Claims};
use super::contacts::Contacts;
use super::driver::Driver;
use super::seed::{OwnAddresses, Seed};
use super::seed_problems::SeedProblems;
use super::strangers::Strangers;
use super::transport::{BoundTransport, Seal};
use super::view::{Node, View};
use crate::message::NodeId;
use crate::security::Keyring;

/// Three nodes see each other after about three rounds.
const GOSSIP_INTERVAL: Duration = Duration::from_millis(200);

/// A node counts as dead when its last heartbeat is this many mean intervals ago.
const PHI_THRESHOLD: f64 = 8.0;

/// Heartbeat intervals that the failure detector keeps for each node. The larger the mesh, the more
/// often heartbeats of a node arrive, by way of the others, and the shorter is the mean. With so
/// few samples, beside the five at the gossip interval that the detector assumes as a prior, a
/// death is detected in one to three seconds (1.3 s with three nodes, 2.0 to 2.6 s with 10 to 200:
/// `tests/bench/benches/gossip`). With a large window a pause of 0.3 s would count as a death.
const SAMPLING_WINDOW: usize = 5;

/// How long the state of a dead node, and deleted keys, are kept, so that stale gossip cannot bring
/// them back.
const DEAD_NODE_GRACE: Duration = Duration::from_secs(600);

/// How long to wait to learn whether a node that gossip mentions for the first time is alive. It
/// counts as alive from its second heartbeat on, a round or two later.
const SECOND_HEARTBEAT_MAX: Duration = Duration::from_secs(3);

pub struct GossipConfig {
    pub cluster_id: Arc<str>,
    /// The bound address of the cluster port.
    pub bound_addr: SocketAddr,
    /// `host:port` of nodes through which to find the mesh.
    pub seeds: Vec<String>,
    /// The current secrets of the mesh. Without them anyone who can reach the port can forge
    /// gossip.
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
    Duplicate {
        node_id: NodeId,
        cluster_addr: SocketAddr,
    },
}

/// Running gossip. Dropping it aborts it.
pub struct Gossip {
    own: watch::Sender<Node>,
    view: watch::Receiver<Arc<View>>,
    /// Locked by `announce` until the view shows the change: of two concurrent calls the first might
    /// never see its own state, and wait forever.
    announcing: Mutex<()>,
    /// The live node with this node's id that came first, if there is one.
    elder: watch::Receiver<Option<Claim>>,
    contacts: Arc<watch::Sender<Contacts>>,
    chitchat: Arc<ChitchatHandle>,
    driver: JoinHandle<()>,
}

impl Gossip {
    /// Starts to gossip `own` over a socket bound to the cluster port.
    ///
    /// # Errors
    /// If chitchat does not start.
    pub async fn start(
        config: GossipConfig,
        own: Node,
        socket: UdpSocket,
    ) -> Result<Self, GossipError> {
        let own_addrs = OwnAddresses {
            cluster_addr: own.cluster_addr,
            bound_addr: config.bound_addr,
        };
        let seeds = Seed::read_all(&config.seeds, own_addrs);
        let contacts = Arc::new(watch::Sender::new(Contacts::new(&seeds, Instant::now())));
        let chitchat_config = ChitchatConfig {
            chitchat_id: ChitchatId::new(own.node_id.as_str(), own.generation, own.cluster_addr),
            cluster_id: config.cluster_id.to_string(),
            gossip_interval: GOSSIP_INTERVAL,
            listen_addr: config.bound_addr,
            // Names are resolved in `seeds`, not by chitchat, which would resolve one after the
            // other and wait for each.
            seed_nodes: seeds
                .iter()
                .filter_map(Seed::address)
                .map(|address| address.to_string())
                .collect(),
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
        let has_secret = config.keyring.is_some();
        let seal = config
            .keyring
            .map(|keyring| Seal::new(config.cluster_id.clone(), keyring));
        let strangers = Strangers::new(config.cluster_id.clone(), own.cluster_addr);
        let transport =
            BoundTransport::new(socket, config.bound_addr, seal, contacts.clone(), strangers);
        let chitchat = spawn_chitchat(chitchat_config, key_values, &transport)
            .await
            .map_err(|error| GossipError::Start(format!("{error:#}")))?;
        let chitchat = Arc::new(chitchat);

        let seed_problems =
            SeedProblems::new(config.cluster_id.clone(), own.cluster_addr, has_secret);
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
            contacts: contacts.clone(),
            seed_problems,
            rivals: BTreeSet::new(),
        };
        let driver = tokio::spawn(driver.run(seeds, own_addrs));
        Ok(Self {
            own,
            view,
            announcing: Mutex::default(),
            elder,
            contacts,
            chitchat,
            driver,
        })
    }

    /// The view, now and whenever it changes.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Changes what this node gossips about itself, and waits until its own view shows it.
    pub async fn announce(&self, change: impl FnOnce(&mut Node)) {
        let _saying = self.announcing.lock().await;
        self.own.send_modify(change);
        let own = self.own.borrow().clone();
        let mut view = self.view();
        // An error means that gossip has ended, which `ended` reports.
        let _ = view
            .wait_for(|view| view.nodes.get(&own.node_id) == Some(&own))
            .await;
    }

    /// Waits until this node has heard of another, or every seed has had its time to answer; then
    /// until no elder of its id appears alive, such as its own earlier incarnation after a quick
    /// restart.
    pub async fn first_round(&self) {
        self.wait_for_another_node().await;
        self.wait_for_newer_generation().await;
        let _ = self.elder.clone().wait_for(Option::is_none).await;
    }

    async fn wait_for_another_node(&self) {
        let (mut view, mut elder, mut contacts) =
            (self.view(), self.elder.clone(), self.contacts.subscribe());
        loop {
            // Without seeds there is no node to wait for.
            let Some(decided_at) = contacts.borrow_and_update().decided_at() else {
                return;
            };
            tokio::select! {
                // Loading plugins may have used up the seeds' time: if a node was heard of, that
                // counts before the deadline.
                biased;
                _ = view.wait_for(|view| view.others().next().is_some()) => return,
                _ = elder.wait_for(Option::is_some) => return,
                () = sleep_until(decided_at.into()) => break,
                _ = contacts.changed() => {}
            }
        }
        info!(
            event = "no-seed-yet",
            "no seed has answered yet: going on alone, and looking for them all the while"
        );
    }

    /// If gossip mentions an incarnation of this node's id with a higher generation, waits until it
    /// is known whether it is alive. Once this node announces that it is ready, the generations
    /// decide, and the other would have to end although it came first.
    async fn wait_for_newer_generation(&self) {
        let Node {
            node_id,
            generation,
            ..
        } = self.own.borrow().clone();
        let is_to_come =
            |id: &ChitchatId| *id.node_id == *node_id.as_str() && id.generation_id > generation;
        if self
            .chitchat
            .with_chitchat(|chitchat| chitchat.node_states().keys().any(is_to_come))
            .await
        {
            let _ = timeout(
                SECOND_HEARTBEAT_MAX,
                self.elder.clone().wait_for(Option::is_some),
            )
            .await;
        }
    }

    /// Resolves when this node must end: gossip has ended, so that it no longer sees the mesh, or
    /// an elder of its id stays alive.
    pub async fn ended(&self) -> GossipError {
        tokio::select! {
            // If gossip and the driver have both ended, the error of gossip says more.
            biased;
            ended = self.chitchat.termination_watcher() => GossipError::Ended(match ended {
                Ok(()) => "it was stopped".to_owned(),
                Err(error) => format!("{error:#}"),
            }),
            () = self.own.closed() => GossipError::Ended("the task that drives it has ended, or panicked".to_owned()),
            Some(cluster_addr) = self.lasting_elder() => {
                GossipError::Duplicate { node_id: self.own.borrow().node_id.clone(), cluster_addr }
            }
        }
    }

    /// Waits until an elder has stayed too long, and returns its cluster address; `None` if the
    /// driver has ended.
    async fn lasting_elder(&self) -> Option<SocketAddr> {
        let mut elder = self.elder.clone();
        let mut claims = Claims::new(self.own.borrow().cluster_addr);
        loop {
            let claim = *elder.borrow_and_update();
            let ends_at = claims.observe(claim, Instant::now());
            // Errors mean that the driver has ended.
            match (claim, ends_at) {
                (Some(claim), Some(ends_at)) => {
                    match timeout_at(ends_at.into(), elder.changed()).await {
                        Ok(changed) => changed.ok()?,
                        Err(_) => return Some(claim.cluster_addr),
                    }
                }
                _ => elder.changed().await.ok()?,
            }
        }
    }

    /// Shuts gossip down, and waits until it has ended.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::NodeState;
    use crate::membership::view::tests::node;

    /// Generous: the machine may be busy.
    const HANG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_panic_of_the_driver_is_the_end() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let own = Node {
            cluster_addr: addr,
            ..node("a", 1, NodeState::Ready, &[])
        };
        let seeds = vec!["localhost:9".to_owned()];
        let config = GossipConfig {
            cluster_id: "test".into(),
            bound_addr: addr,
            seeds,
            keyring: None,
        };
        let gossip = Gossip::start(config, own, socket).await.unwrap();
        // The driver has not run yet. It will panic when it notes the lookup of a seed that is
        // gone.
        gossip
            .contacts
            .send_replace(Contacts::new(&[], Instant::now()));
        let ended = timeout(HANG, gossip.ended()).await.expect("nobody notices");
        assert!(matches!(ended, GossipError::Ended(_)), "{ended}");
    }
}
