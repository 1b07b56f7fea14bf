//! One node, from its start to its end. The only place that knows every layer and wires them.

mod sockets;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::task::JoinError;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::{Admin, PublicApi, PublicConfig, Readiness};
use crate::config::{Config, cache_dir};
use crate::dispatch::Dispatcher;
use crate::membership::{Gossip, GossipConfig, GossipError, Node, NodeState};
use crate::message::{Fault, Message, NameError, NodeId, Outcome, Refusal};
use crate::peer::{Hello, Peers, Serve, Server};
use crate::plugins::{Catalog, DirectoryError, load_directory};
use crate::runtime::{Engine, EngineError};
use crate::telemetry::{Metrics, MetricsError};
use sockets::Sockets;

pub use sockets::BindError;

/// How long a leaving node goes on as before, so that the others learn of it first: five rounds of
/// gossip.
const LEAVE_NOTICE: Duration = Duration::from_secs(1);

/// What a leaving node waits beyond the longest time that a message may take.
const DRAIN_MARGIN: Duration = Duration::from_secs(1);

/// Why a node could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("the host's name {host:?} cannot be part of a node id: {problem}; set --node-id")]
    HostName { host: String, problem: NameError },
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Plugins(#[from] DirectoryError),
    #[error(transparent)]
    Gossip(#[from] GossipError),
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    #[error("a socket has no address")]
    Address(#[from] io::Error),
    #[error("the engine's start was cut off")]
    Cut(#[from] JoinError),
}

/// Runs a node until `leave` is cancelled or something that it needs ends.
///
/// # Errors
/// Why it could not start, or had to end.
pub async fn run(config: Config, leave: CancellationToken) -> Result<(), NodeError> {
    let metrics = Metrics::install()?;
    let sockets = Sockets::bind(&config).await?;
    let http_addr = sockets.http.local_addr()?;
    let admin_addr = sockets.admin.local_addr()?;
    let cluster_addr = sockets.peers.local_addr()?;
    let own = Node {
        node_id: node_id(&config, cluster_addr.port())?,
        generation: generation(),
        state: NodeState::Starting,
        http_addr: SocketAddr::new(config.advertise, http_addr.port()),
        cluster_addr: SocketAddr::new(config.advertise, cluster_addr.port()),
        streams: Default::default(),
    };
    info!(
        node_id = %own.node_id,
        http = %http_addr,
        cluster = %cluster_addr,
        admin = %admin_addr,
        plugins = %config.plugins.display(),
        cluster_id = config.cluster_id,
        version = env!("CARGO_PKG_VERSION"),
        "meshage-host starts"
    );

    let hello = Hello::new(&config.cluster_id, own.node_id.clone(), own.generation);
    let catalog = Arc::new(Catalog::default());
    let dispatcher = Arc::new(Dispatcher::new(own.node_id.clone(), catalog.clone(), Peers::new(hello.clone())));
    let readiness = Arc::new(Readiness::default());
    let node_id = own.node_id.clone();
    let gossip_config = GossipConfig {
        cluster_id: config.cluster_id.as_str().into(),
        bound_addr: cluster_addr,
        seeds: config.seeds.clone(),
    };
    let gossip = Gossip::start(gossip_config, own, sockets.gossip).await?;
    follow_view(&gossip, dispatcher.clone());

    let leaving = Arc::new(AtomicBool::new(false));
    let inbound = Inbound { catalog: catalog.clone(), leaving: leaving.clone() };
    let server = Server::new(hello, inbound);
    let peer_server = tokio::spawn(server.clone().run(sockets.peers));

    let stop_admin = CancellationToken::new();
    let admin = Admin { view: gossip.view(), catalog: catalog.clone(), readiness: readiness.clone(), metrics };
    let admin = tokio::spawn(admin.serve(sockets.admin, stop_admin.clone().cancelled_owned()));

    let public_config = PublicConfig {
        node_id,
        body_bytes_max: config.body_bytes_max,
        request_timeout: config.request_timeout,
        timeout: config.timeout,
    };
    let stop_public = CancellationToken::new();
    let public = Arc::new(PublicApi::new(public_config, dispatcher.clone()));
    let public = tokio::spawn(public.serve(sockets.http, stop_public.clone()));

    let run = async {
        start_offering(&config, &gossip, &catalog, &dispatcher, &readiness).await?;
        leave.cancelled().await;
        Ok::<(), NodeError>(())
    };
    tokio::select! {
        // A signal during the start is no error either: it is left through the same door.
        () = leave.cancelled() => {}
        started = run => started?,
        ended = gossip.ended() => return Err(ended.into()),
    }

    info!("leaving: telling the others, then finishing what is under way");
    readiness.leaving();
    gossip.say(|own| own.state = NodeState::Leaving).await;
    dispatcher.follow(&gossip.view());
    let has_others = gossip.view().borrow().others().next().is_some();
    if has_others {
        sleep(LEAVE_NOTICE).await;
    }
    leaving.store(true, Ordering::Relaxed);
    stop_public.cancel();
    let drain_max = config.timeout + DRAIN_MARGIN;
    let drained = timeout(drain_max, async { tokio::join!(public, server.drain()) });
    if drained.await.is_err() {
        warn!("messages were still running after {drain_max:?}; they are cut off");
    }
    server.stop().await;
    let _ = peer_server.await;
    gossip.stop().await;
    stop_admin.cancel();
    let _ = timeout(LEAVE_NOTICE, admin).await;
    info!("left");
    Ok(())
}

/// Loads the plugins, joins the mesh, and only then says that it is ready.
async fn start_offering(
    config: &Config,
    gossip: &Gossip,
    catalog: &Catalog,
    dispatcher: &Dispatcher,
    readiness: &Readiness,
) -> Result<(), NodeError> {
    let cache = cache_dir(&config.data_dir);
    let engine = tokio::task::spawn_blocking(move || Engine::new(&cache)).await??;
    catalog.replace(load_directory(&config.plugins, &engine, config.timeout).await?);
    readiness.plugins_loaded();
    gossip.first_round().await;
    gossip
        .say(|own| {
            own.streams = catalog.streams();
            own.state = NodeState::Ready;
        })
        .await;
    // Routed before it is said, so that ready means ready.
    dispatcher.follow(&gossip.view());
    readiness.joined();
    info!(streams = catalog.streams().len(), "ready");
    Ok(())
}

fn follow_view(gossip: &Gossip, dispatcher: Arc<Dispatcher>) {
    let mut view = gossip.view();
    tokio::spawn(async move {
        loop {
            view.mark_unchanged();
            dispatcher.follow(&view);
            if view.changed().await.is_err() {
                return;
            }
        }
    });
}

/// Runs what the peers send, on this node's plugins.
struct Inbound {
    catalog: Arc<Catalog>,
    leaving: Arc<AtomicBool>,
}

impl Serve for Inbound {
    async fn serve(&self, message: &Message, deadline: Instant) -> Outcome {
        if self.leaving.load(Ordering::Relaxed) {
            return Err(Fault::Refused(Refusal::Leaving));
        }
        self.catalog.run(message, deadline).await
    }
}

/// The configured id, or one that stays the same for as long as the host's name and the port do.
fn node_id(config: &Config, cluster_port: u16) -> Result<NodeId, NodeError> {
    if let Some(node_id) = &config.node_id {
        return Ok(node_id.clone());
    }
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy();
    NodeId::try_from(format!("{host}-{cluster_port}"))
        .map_err(|problem| NodeError::HostName { host: host.into_owned(), problem })
}

/// Grows with every start, as clocks do.
fn generation() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)
}
