//! One node, from its start to its end. The only place that knows every layer and wires them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::{Admin, PublicApi, PublicConfig, Readiness};
use crate::config::{Config, cache_dir};
use crate::dispatch::Dispatcher;
use crate::membership::{Gossip, GossipConfig, Node, NodeState};
use crate::message::{Fault, Message, NodeId, Outcome, Refusal};
use crate::peer::{Hello, Peers, Serve, Server};
use crate::plugins::{Catalog, load_directory};
use crate::runtime::Engine;
use crate::telemetry::Metrics;

/// Attempts to find a number that is free for UDP and TCP alike, when any will do.
const ANY_PORT_ATTEMPTS: usize = 20;

/// How long a leaving node goes on as before, so that the others learn of it first: five rounds of
/// gossip.
const LEAVE_NOTICE: Duration = Duration::from_secs(1);

/// How long a leaving node waits for what it is running. Longer than the default timeout of a
/// message would be pointless: nobody waits for the answer any more.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// The sockets of a node, bound before anything else is done: a port that is taken ends the start.
struct Sockets {
    http: TcpListener,
    admin: TcpListener,
    peers: TcpListener,
    gossip: UdpSocket,
}

/// Runs a node until `leave` is cancelled or something that it needs ends.
///
/// # Errors
/// Why it could not start, or had to end.
pub async fn run(config: Config, leave: CancellationToken) -> Result<()> {
    let metrics = Metrics::install().context("metrics cannot start")?;
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
        anyhow::Ok(())
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
    let drained = timeout(DRAIN_MAX, async {
        let _ = public.await;
        server.drain().await;
    });
    if drained.await.is_err() {
        warn!("messages were still running after {DRAIN_MAX:?}; they are cut off");
    }
    // What is left now is closing connections, which cannot be waited for longer either.
    let _ = timeout(DRAIN_MAX, server.stop()).await;
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
) -> Result<()> {
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

impl Sockets {
    async fn bind(config: &Config) -> Result<Self> {
        let http_addr = SocketAddr::new(config.bind, config.http_port);
        let http = TcpListener::bind(http_addr).await.with_context(|| taken("http_port", http_addr))?;
        let admin_addr = config.admin_addr(http.local_addr()?.port());
        let admin = TcpListener::bind(admin_addr).await.with_context(|| taken("admin_port", admin_addr))?;
        let cluster_addr = SocketAddr::new(config.bind, config.cluster_port);
        let (peers, gossip) = bind_both(cluster_addr).await.with_context(|| taken("cluster_port", cluster_addr))?;
        Ok(Self { http, admin, peers, gossip })
    }
}

fn taken(setting: &str, addr: SocketAddr) -> String {
    format!("cannot listen on {addr} ({setting}); is another process there? Choose a free port, or 0 for any")
}

/// Binds TCP and UDP on one number.
async fn bind_both(addr: SocketAddr) -> io::Result<(TcpListener, UdpSocket)> {
    let mut attempt = 1;
    loop {
        let tcp = TcpListener::bind(addr).await?;
        match UdpSocket::bind(tcp.local_addr()?).await {
            Ok(udp) => return Ok((tcp, udp)),
            // The number was free for TCP only; the next one may be free for both.
            Err(_) if addr.port() == 0 && attempt < ANY_PORT_ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

/// The configured id, or one that stays the same for as long as the host's name and the port do.
fn node_id(config: &Config, cluster_port: u16) -> Result<NodeId> {
    if let Some(node_id) = &config.node_id {
        return Ok(node_id.clone());
    }
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy();
    NodeId::try_from(format!("{host}-{cluster_port}"))
        .with_context(|| format!("the host's name {host:?} cannot be part of a node id; set --node-id"))
}

/// Grows with every start, as clocks do.
fn generation() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)
}
