//! One node, from its start to its end. The only place that knows every layer and wires them.

mod check;
mod open_files;
mod secrets;
mod sockets;
mod vital;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::api::{Admin, PublicApi, PublicConfig, Readiness};
use crate::bodies::Bodies;
use crate::config::{Config, ConfigError, PluginTerms};
use crate::dispatch::Dispatcher;
use crate::lanes::Lanes;
use crate::local::Local;
use crate::membership::{Gossip, GossipConfig, GossipError, Node, NodeState, View};
use crate::message::{NameError, NodeId};
use crate::peer::{Hello, Peers, Server};
use crate::plugins::{Catalog, Directory, Loader, Offers, Reconciler, SourceError};
use crate::runtime::{Engine, EngineError, HostSettings};
use crate::security::TlsError;
use crate::telemetry::{Metrics, MetricsError};
use sockets::Sockets;
use vital::{Vital, vital};

pub use check::check;
pub use sockets::BindError;

/// How long a leaving node goes on as before at least, so that clients (and what balances their
/// load by `/readyz`) can turn to others.
const LEAVE_NOTICE: Duration = Duration::from_secs(1);

/// How long it goes on as before at most, until every peer has heard its goodbye and closed its
/// connection. A peer that still waits for a reply has heard it, too.
const PARTING_MAX: Duration = Duration::from_secs(3);

/// What a leaving node waits beyond the longest time that a message may take.
const DRAIN_MARGIN: Duration = Duration::from_secs(1);

/// For what is left when everything is done: connections of peers take three seconds at most,
/// gossip a round.
const STOP_MAX: Duration = Duration::from_secs(10);

/// For what is between these, on a machine that is busy.
const LEAVE_MARGIN: Duration = Duration::from_secs(10);

/// How long a node takes to leave at most.
pub fn leave_max(config: &Config) -> Duration {
    LEAVE_NOTICE
        + PARTING_MAX
        + config.clients.timeout
        + DRAIN_MARGIN
        + STOP_MAX
        + LEAVE_NOTICE
        + LEAVE_MARGIN
}

/// Why a node could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A setting is wrong, which could only be known once the ports were bound.
    #[error(transparent)]
    Setting(#[from] ConfigError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("the host's name {host:?} cannot be part of a node id: {problem}; set --node-id")]
    HostName { host: String, problem: NameError },
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Plugins(#[from] SourceError),
    #[error(transparent)]
    Gossip(#[from] GossipError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    #[error("the system gives no threads for connections")]
    Threads(#[source] io::Error),
    #[error("a socket has no address")]
    Address(#[from] io::Error),
    #[error("the engine's start was cut off")]
    Cut(#[from] JoinError),
    /// A bug, which the log has more of.
    #[error("{0} ended before its time, which a node cannot go on without")]
    Ended(&'static str),
}

/// Runs a node until `leave` is cancelled or something that it needs ends.
///
/// # Errors
/// Why it could not start, or had to end.
pub async fn run(config: Config, leave: CancellationToken) -> Result<(), NodeError> {
    let (vital, mut ends) = vital();
    let node = Running::start(&config, &vital).await?;
    let lanes = node.lanes.clone();
    let ended = tokio::select! {
        // A signal during the start is no error either: it is left through the same door.
        () = leave.cancelled() => None,
        ended = node.gossip.ended() => {
            // It may have been ready for a moment before it heard of its elder: what it was given
            // it finishes.
            if matches!(ended, GossipError::Duplicate { .. }) {
                node.leave(&config).await;
            }
            return Err(ended.into());
        }
        offering = node.offer_until(&config, &leave) => offering?,
        task = ends.next() => Some(task),
        () = lanes.ended() => Some("a lane"),
    };
    if let Some(task) = ended {
        error!(
            event = "task-ended",
            task, "a task ended before its time, which is a bug: the node leaves"
        );
    }
    node.leave(&config).await;
    ended.map_or(Ok(()), |task| Err(NodeError::Ended(task)))
}

/// A node with everything that it is made of.
struct Running {
    gossip: Gossip,
    lanes: Lanes,
    catalog: Arc<Catalog>,
    dispatcher: Arc<Dispatcher>,
    readiness: Arc<Readiness>,
    local: Arc<Local>,
    server: Arc<Server<Local>>,
    serving_peers: JoinHandle<()>,
    stop_public: CancellationToken,
    serving_clients: JoinHandle<()>,
    stop_admin: CancellationToken,
    serving_admin: JoinHandle<()>,
}

impl Running {
    /// Binds, gossips, and answers; without plugins yet.
    async fn start(config: &Config, vital: &Vital) -> Result<Self, NodeError> {
        let (metrics, upkeep) = Metrics::install()?;
        vital.spawn("the upkeep of the metrics", upkeep);
        let sockets = Sockets::bind(&config.network).await?;
        let own = own_node(config, &sockets)?;
        config.check_certificate_of(&own.node_id)?;
        info!(
            event = "starts",
            node_id = %own.node_id,
            http = %sockets.http.local_addr()?,
            cluster = %sockets.peers.local_addr()?,
            admin = %sockets.admin.local_addr()?,
            plugins = %config.plugins.directory.display(),
            cluster_id = config.mesh.cluster_id,
            version = env!("CARGO_PKG_VERSION"),
            "meshage-host starts"
        );
        let keyring = config
            .access
            .secret
            .as_ref()
            .map(|secret| secrets::keyring(secret, vital));
        if keyring.is_none() && !config.network.bind.is_loopback() {
            warn!(
                event = "insecure",
                "there is no secret (--insecure): whoever reaches the cluster port can join the mesh, read what it does, and run anything"
            );
        }
        let node_id = own.node_id.clone();
        let lanes = Lanes::start().map_err(NodeError::Threads)?;
        let tls = secrets::peer_tls(config, &node_id, keyring.clone(), vital)?;
        let hello = Hello::new(&config.mesh.cluster_id, node_id.clone(), own.generation);
        let bodies = Bodies::new(config.clients.body_bytes_max);
        let catalog = Arc::new(Catalog::default());
        let local = Arc::new(Local::new(catalog.clone(), bodies));
        let dispatcher = Arc::new(Dispatcher::new(
            node_id.clone(),
            local.clone(),
            Peers::new(hello.clone(), tls.clone(), bodies, lanes.clone()),
        ));
        let readiness = Arc::new(Readiness::default());

        let gossip_config = GossipConfig {
            cluster_id: config.mesh.cluster_id.as_str().into(),
            bound_addr: sockets.peers.local_addr()?,
            seeds: config.mesh.seeds.clone(),
            keyring: keyring.clone(),
        };
        let gossip = Gossip::start(gossip_config, own, sockets.gossip).await?;
        vital.spawn(
            "what follows the view",
            follow_view(gossip.view(), dispatcher.clone()),
        );

        let server = Server::new(hello, tls, local.clone(), bodies, lanes.clone());
        let serving_peers = vital.spawn("the cluster port", server.clone().run(sockets.peers));

        let tokens = config
            .access
            .tokens
            .as_ref()
            .map(|tokens| secrets::tokens(tokens, vital));
        let stop_admin = CancellationToken::new();
        let admin = Admin {
            view: gossip.view(),
            dispatcher: dispatcher.clone(),
            catalog: catalog.clone(),
            readiness: readiness.clone(),
            metrics,
            instances: Arc::default(),
            tokens: tokens.clone(),
        };
        let serving_admin = vital.spawn(
            "the admin API",
            admin.serve(sockets.admin, stop_admin.clone()),
        );

        let stop_public = CancellationToken::new();
        let public_config = PublicConfig {
            node_id,
            body_bytes_max: config.clients.body_bytes_max,
            connections_max: open_files::room_for_clients(config.clients.connections_max),
            request_timeout: config.clients.request_timeout,
            timeout: config.clients.timeout,
            tls: config
                .access
                .certificate
                .as_ref()
                .map(|certificate| secrets::server_tls(certificate, vital)),
            tokens,
            sites: config.access.sites.clone(),
            names: config.names(),
        };
        let public = Arc::new(PublicApi::new(
            public_config,
            dispatcher.clone(),
            bodies,
            lanes.clone(),
        ));
        let serving_clients = vital.spawn(
            "the public API",
            public.serve(sockets.http, stop_public.clone()),
        );

        Ok(Self {
            gossip,
            lanes,
            catalog,
            dispatcher,
            readiness,
            local,
            server,
            serving_peers,
            stop_public,
            serving_clients,
            stop_admin,
            serving_admin,
        })
    }

    /// Loads the plugins, joins the mesh, and only then says that it is ready. Then it keeps
    /// offering what the plugins directory has. Returns what has ended before its time, if
    /// something has.
    async fn offer_until(
        &self,
        config: &Config,
        leave: &CancellationToken,
    ) -> Result<Option<&'static str>, NodeError> {
        let data_dir = config.plugins.data_dir.clone();
        let settings = HostSettings {
            outbound_authorities: config.plugins.outbound_authorities.clone(),
        };
        let engine = spawn_blocking(move || Engine::new(data_dir.as_deref(), &settings)).await??;
        let PluginTerms {
            timeout_max,
            trusted_keys,
        } = config.plugins.terms.clone();
        let loader = Loader {
            engine: engine.clone(),
            timeout_max,
            trusted_keys,
        };
        let directory = Directory::new(config.plugins.directory.clone());
        let mut reconciler = Reconciler::new(directory, loader, self.catalog.clone());
        reconciler.load_all().await?;
        self.readiness.plugins_loaded();
        self.gossip.first_round().await;
        // Before the others can hear that it is ready.
        self.local.open();
        let mut offers = self.catalog.offers();
        let streams = offers.borrow_and_update().clone();
        let offered = streams.len();
        self.gossip
            .say(|own| {
                own.streams = streams;
                own.state = NodeState::Ready;
            })
            .await;
        // Routed before it is said, so that ready means ready.
        self.dispatcher.follow(&self.gossip.view());
        self.readiness.joined();
        info!(event = "ready", streams = offered, "ready");
        // Nothing but the first comes to an end, unless by a bug.
        tokio::select! {
            () = leave.cancelled() => Ok(None),
            () = reconciler.run() => Ok(Some("what keeps the plugins")),
            () = self.say_offers(&mut offers) => Ok(Some("what tells the mesh of them")),
            () = engine.ended() => Ok(Some("a thread of the engine")),
        }
    }

    /// Tells the mesh whenever this node offers something else.
    async fn say_offers(&self, offers: &mut watch::Receiver<Offers>) {
        // The sender is in the catalog, which outlives this.
        while offers.changed().await.is_ok() {
            let streams = offers.borrow_and_update().clone();
            self.gossip.say(|own| own.streams = streams).await;
            self.dispatcher.follow(&self.gossip.view());
        }
    }

    /// Leaves so that no request fails: tells the others, goes on until they know, finishes, goes.
    async fn leave(self, config: &Config) {
        info!(
            event = "leaving",
            "leaving: telling the others, then finishing what is under way"
        );
        self.readiness.leaving();
        self.gossip.say(|own| own.state = NodeState::Leaving).await;
        self.dispatcher.follow(&self.gossip.view());
        self.server.say_goodbye();
        let has_others = self.gossip.view().borrow().others().next().is_some();
        if has_others {
            let (_, parted) = tokio::join!(
                sleep(LEAVE_NOTICE),
                timeout(PARTING_MAX, self.server.parted())
            );
            info!(
                event = "refusing",
                all_peers_parted = parted.is_ok(),
                "refusing what is new"
            );
        }
        self.local.close();
        self.stop_public.cancel();
        let drain_max = config.clients.timeout + DRAIN_MARGIN;
        let drained = timeout(drain_max, async {
            tokio::join!(self.serving_clients, self.server.drain())
        });
        if drained.await.is_err() {
            warn!(
                event = "cut-off",
                "messages were still running after {drain_max:?}; they are cut off"
            );
        }
        let stopped = timeout(STOP_MAX, async {
            self.server.stop().await;
            let _ = self.serving_peers.await;
            self.gossip.stop().await;
        });
        if stopped.await.is_err() {
            warn!(
                event = "cut-off",
                "connections of peers, or gossip, did not end within {STOP_MAX:?}; they are cut off"
            );
        }
        self.stop_admin.cancel();
        let _ = timeout(LEAVE_NOTICE, self.serving_admin).await;
        info!(event = "left", "left");
    }
}

/// What this node says of itself at its start.
fn own_node(config: &Config, sockets: &Sockets) -> Result<Node, NodeError> {
    let http_port = sockets.http.local_addr()?.port();
    let cluster_port = sockets.peers.local_addr()?.port();
    Ok(Node {
        node_id: node_id(config, cluster_port)?,
        generation: generation(),
        state: NodeState::Starting,
        http_addr: SocketAddr::new(config.network.advertise, http_port),
        cluster_addr: SocketAddr::new(config.network.advertise, cluster_port),
        streams: Default::default(),
    })
}

async fn follow_view(mut view: watch::Receiver<Arc<View>>, dispatcher: Arc<Dispatcher>) {
    loop {
        view.mark_unchanged();
        dispatcher.follow(&view);
        tokio::select! {
            changed = view.changed() => if changed.is_err() {
                return;
            },
            () = dispatcher.departure() => {}
        }
    }
}

/// The configured id, or one that stays the same for as long as the host's name and the port do.
fn node_id(config: &Config, cluster_port: u16) -> Result<NodeId, NodeError> {
    if let Some(node_id) = &config.mesh.node_id {
        return Ok(node_id.clone());
    }
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy();
    NodeId::try_from(format!("{host}-{cluster_port}")).map_err(|problem| NodeError::HostName {
        host: host.into_owned(),
        problem,
    })
}

/// Grows with every start, as clocks do.
fn generation() -> u64 {
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)
}
