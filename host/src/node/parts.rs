//! The parts of a node, and their start in order. The only place that wires them together.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::advertise::{self, Advertised};
use super::error::NodeError;
use super::identity::own_node;
use super::open_files;
use super::secrets;
use super::sockets::Sockets;
use super::vital::Vital;
use crate::api::{Admin, PublicApi, PublicConfig, Readiness};
use crate::bodies::BodyMemory;
use crate::calls::Calls;
use crate::config::{self, Config};
use crate::dispatch::Dispatcher;
use crate::entities::{Entities, EntitiesConfig};
use crate::lanes::Lanes;
use crate::local::Local;
use crate::membership::{Gossip, GossipConfig, View};
use crate::message::NodeId;
use crate::peer::{Hello, Peers, Server};
use crate::plugins::{Catalog, Directory, Sharing};
use crate::security::{Keyring, Tokens};
use crate::telemetry::{AccessLog, Events, Metrics, traces};

/// A running node with all its parts.
pub(super) struct Parts {
    pub(super) gossip: Gossip,
    pub(super) lanes: Lanes,
    pub(super) catalog: Arc<Catalog>,
    pub(super) entities: Arc<Entities>,
    pub(super) local: Arc<Local>,
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) readiness: Arc<Readiness>,
    /// If the mesh shares its plugins.
    pub(super) sharing: Option<Arc<Sharing>>,
    pub(super) server: Arc<Server<Local>>,
    pub(super) serving_peers: JoinHandle<()>,
    pub(super) public: Serving,
    pub(super) admin: Serving,
}

/// A running API server.
pub(super) struct Serving {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Serving {
    fn start<F>(
        vital: &Vital,
        name: &'static str,
        serve: impl FnOnce(CancellationToken) -> F,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let task = vital.spawn(name, serve(stop.clone()));
        Self { stop, task }
    }

    /// Stops accepting, and closes connections once their requests are answered.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Resolves when every connection has ended.
    pub(super) async fn stopped(self) {
        // The task is vital, so a panic in it has been reported already.
        let _ = self.task.await;
    }
}

/// The current secrets of the mesh.
type Secrets = Option<watch::Receiver<Arc<Keyring>>>;

impl Parts {
    /// Binds the ports, and starts gossip and the servers; without plugins yet.
    pub(super) async fn start(
        config: &Config,
        events: Events,
        vital: &Vital,
    ) -> Result<Self, NodeError> {
        let started_at = SystemTime::now();
        let (metrics, upkeep) = Metrics::install()?;
        vital.spawn("the upkeep of the metrics", upkeep);
        let sockets = Sockets::bind(&config.network).await?;
        let bound = sockets.peers.local_addr()?;
        let advertised = advertise::find(&config.network, &config.mesh.seeds, bound).await?;
        let mut own = own_node(config, &sockets, advertised.addr)?;
        config.check_certificate_of(&own.node_id)?;
        log_start(config, &sockets, &own.node_id, &advertised)?;
        if let Some(config) = config.traces.0.clone() {
            traces::start(config, &own.node_id, Handle::current())?;
        }
        let secrets = follow_secrets(config, vital);
        let lanes = Lanes::start().map_err(NodeError::Threads)?;
        let tls = secrets::peer_tls(config, &own.node_id, secrets.clone(), vital)?;
        let hello = Hello::new(&config.mesh.cluster_id, own.node_id.clone(), own.generation);

        let sharing = open_sharing(config, own.node_id.clone()).await?;
        let known = sharing.as_ref().map(|sharing| sharing.announced());
        own.releases = known.map(|known| known.borrow().clone());
        let bodies = BodyMemory::new(config.clients.body_bytes_max);
        let catalog = Arc::new(Catalog::default());
        let calls = Arc::new(Calls::new(own.node_id.clone()));
        let entities = Arc::new(Entities::new(
            entities_config(config, own.node_id.clone()),
            catalog.clone(),
            calls.clone(),
            bodies,
        ));
        let local = Arc::new(Local::new(
            catalog.clone(),
            entities.clone(),
            calls.clone(),
            bodies,
        ));
        let peers = Peers::new(hello.clone(), tls.clone(), bodies, lanes.clone());
        let node_id = own.node_id.clone();
        let dispatcher = Arc::new(Dispatcher::new(node_id.clone(), local.clone(), peers));
        entities.deliver_by(dispatcher.clone(), Handle::current());
        calls.send_by(dispatcher.clone(), Handle::current());

        let bound_addr = sockets.peers.local_addr()?;
        let gossip_config = GossipConfig {
            cluster_id: config.mesh.cluster_id.as_str().into(),
            bound_addr,
            seeds: config.mesh.seeds.clone(),
            keyring: secrets,
        };
        let gossip = Gossip::start(gossip_config, own, sockets.gossip).await?;
        vital.spawn(
            "what follows the view",
            follow_view(gossip.view(), dispatcher.clone(), entities.clone()),
        );

        if let Some(sharing) = sharing.clone() {
            let follow = sharing.follow(gossip.view(), dispatcher.clone());
            vital.spawn("what fetches plugins", follow);
        }

        let readiness = Arc::new(Readiness::default());
        let tokens = config.access.tokens.as_ref();
        let tokens = tokens.map(|tokens| secrets::tokens(tokens, vital));
        let admin = Admin {
            view: gossip.view(),
            dispatcher: dispatcher.clone(),
            catalog: catalog.clone(),
            entities: entities.clone(),
            sharing: sharing.clone(),
            readiness: readiness.clone(),
            metrics,
            instances: Arc::default(),
            events,
            bodies,
            connections_max: open_files::room_for_clients(config.clients.connections_max),
            started_at,
            port: sockets.admin.local_addr()?.port(),
            tokens: tokens.clone(),
            kept: Arc::default(),
        };
        let answers = Arc::new(admin.clone());
        let server = Server::new(hello, tls, local.clone(), answers, bodies, lanes.clone());
        let serving_peers = vital.spawn("the cluster port", server.clone().run(sockets.peers));
        let admin = Serving::start(vital, "the admin API", |stop| {
            admin.serve(sockets.admin, stop)
        });
        let access_log = config.log.access.map(AccessLog::start).transpose();
        let access_log = access_log.map_err(NodeError::Threads)?;
        let public_config = public_config(config, node_id, tokens, access_log, vital);
        let public = PublicApi::new(public_config, dispatcher.clone(), bodies, lanes.clone());
        let public = Serving::start(vital, "the public API", |stop| {
            Arc::new(public).serve(sockets.http, stop)
        });

        Ok(Self {
            gossip,
            lanes,
            catalog,
            entities,
            local,
            dispatcher,
            readiness,
            sharing,
            server,
            serving_peers,
            public,
            admin,
        })
    }
}

fn log_start(
    config: &Config,
    sockets: &Sockets,
    node_id: &NodeId,
    advertised: &Advertised,
) -> Result<(), NodeError> {
    let addr = TcpListener::local_addr;
    info!(
        event = "starts",
        %node_id,
        http = %addr(&sockets.http)?,
        cluster = %addr(&sockets.peers)?,
        advertised = %advertised.addr,
        advertised_because = advertised.because,
        admin = %addr(&sockets.admin)?,
        plugins = %config.plugins.directory.display(),
        cluster_id = config.mesh.cluster_id,
        version = env!("CARGO_PKG_VERSION"),
        "meshage-host starts"
    );
    Ok(())
}

/// The plugins that the mesh shares, if it does.
async fn open_sharing(config: &Config, node_id: NodeId) -> Result<Option<Arc<Sharing>>, NodeError> {
    let plugins = &config.plugins;
    let (config::Sharing::On { .. }, Some(data_dir)) = (plugins.sharing, plugins.data_dir.clone())
    else {
        return Ok(None);
    };
    let directory = Directory::new(plugins.directory.clone());
    let cluster_id = config.mesh.cluster_id.clone();
    let open = move || Sharing::open(directory, &data_dir, &cluster_id, &node_id);
    Ok(Some(spawn_blocking(open).await??))
}

fn follow_secrets(config: &Config, vital: &Vital) -> Secrets {
    let secret = config.access.secret.as_ref();
    let secrets = secret.map(|secret| secrets::keyring(secret, vital));
    if secrets.is_none() && !config.network.bind.is_loopback() {
        warn!(
            event = "insecure",
            "there is no secret (--insecure): whoever reaches the cluster port can join the mesh, read what it does, and run anything"
        );
    }
    secrets
}

fn entities_config(config: &Config, node_id: NodeId) -> EntitiesConfig {
    EntitiesConfig {
        location: config.state.location.clone(),
        cluster_id: config.mesh.cluster_id.clone(),
        cache_bytes_max: config.state.cache_bytes_max,
        idempotency_ttl: config.state.idempotency_ttl,
        node_id,
    }
}

fn public_config(
    config: &Config,
    node_id: NodeId,
    tokens: Option<watch::Receiver<Arc<Tokens>>>,
    access_log: Option<AccessLog>,
    vital: &Vital,
) -> PublicConfig {
    let certificate = config.access.certificate.as_ref();
    PublicConfig {
        node_id,
        body_bytes_max: config.clients.body_bytes_max,
        connections_max: open_files::room_for_clients(config.clients.connections_max),
        request_timeout: config.clients.request_timeout,
        timeout: config.clients.timeout,
        tls: certificate.map(|certificate| secrets::server_tls(certificate, vital)),
        tokens,
        sites: config.access.sites.clone(),
        host_trust: config.host_trust(),
        access_log,
    }
}

/// Updates the routes whenever the view changes or a peer announces its departure.
async fn follow_view(
    mut view: watch::Receiver<Arc<View>>,
    dispatcher: Arc<Dispatcher>,
    entities: Arc<Entities>,
) {
    loop {
        view.mark_unchanged();
        dispatcher.follow(&view);
        entities.note_nodes(view.borrow().nodes.keys().cloned().collect());
        tokio::select! {
            changed = view.changed() => if changed.is_err() {
                return;
            },
            () = dispatcher.departure() => {}
        }
    }
}
