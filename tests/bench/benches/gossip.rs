//! Gossip of many nodes in one process, over UDP on loopback: how long until all views show a
//! change, and what it costs. `cargo bench --package meshage-bench --bench gossip -- 10 50 100`
//! (the arguments are numbers of nodes).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use meshage_host::membership::{Gossip, GossipConfig, Node, NodeState, View};
use meshage_host::message::{Digest, NodeId, Offer, StreamName};
use meshage_host::telemetry::{Metrics, names};
use rustix::time::{ClockId, clock_gettime};
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

/// Numbers of nodes, if none are given.
const SIZES: [usize; 3] = [10, 50, 100];

/// Streams that each node offers.
const STREAMS: usize = 5;

/// Nodes that every node names as seeds.
const SEEDS: usize = 3;

/// How often a node joins, leaves and is killed.
const ROUNDS: usize = 5;

/// How long the idle mesh is measured.
const QUIET: Duration = Duration::from_secs(10);

/// Timeout: no mesh takes so long for its views to agree.
const HANG: Duration = Duration::from_secs(120);

/// The membership of one node, without the rest of the node.
struct Member {
    gossip: Gossip,
    node_id: NodeId,
    addr: SocketAddr,
}

struct Mesh {
    members: Vec<Member>,
    /// Number of nodes started so far, for unique ids.
    started: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let (metrics, upkeep) = Metrics::install()?;
    tokio::spawn(upkeep);
    // Skips `--bench`, which Cargo adds.
    let given: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let sizes = if given.is_empty() {
        SIZES.to_vec()
    } else {
        given
    };
    println!(
        "| nodes | all join | one joins | one leaves | one is killed | kB/s sent by a node | CPU of a node | false alarms |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for size in sizes {
        measure(size, &metrics).await?;
    }
    Ok(())
}

async fn measure(size: usize, metrics: &Metrics) -> Result<()> {
    let mut mesh = Mesh {
        members: Vec::new(),
        started: 0,
    };
    let began = Instant::now();
    for _ in 0..size {
        mesh.start().await?;
    }
    mesh.agree(|view| view.nodes.len() == size).await?;
    let all_join = began.elapsed();

    // Lets the traffic of the start die down.
    sleep(Duration::from_secs(3)).await;
    let before = (
        counted(metrics, names::GOSSIP_BYTES, "sent"),
        gone(metrics),
        cpu_seconds(),
    );
    sleep(QUIET).await;
    let node_seconds = QUIET.as_secs_f64() * size as f64;
    let kilobytes = (counted(metrics, names::GOSSIP_BYTES, "sent") - before.0) / 1e3 / node_seconds;
    let cpu = (cpu_seconds() - before.2) / node_seconds;
    let false_alarms = gone(metrics) - before.1;

    let (mut joins, mut leaves, mut kills) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let joined = mesh.start().await?;
        mesh.agree(|view| {
            view.nodes
                .get(&joined)
                .is_some_and(|node| node.state == NodeState::Ready)
        })
        .await?;
        joins.push(began.elapsed());

        let began = Instant::now();
        let leaver = mesh.members.pop().context("there is a member")?;
        leaver
            .gossip
            .announce(|own| own.state = NodeState::Leaving)
            .await;
        mesh.agree(|view| view.nodes[&joined].state == NodeState::Leaving)
            .await?;
        leaves.push(began.elapsed());
        leaver.gossip.stop().await;
        mesh.agree(|view| !view.nodes.contains_key(&joined)).await?;

        let victim = mesh.start().await?;
        mesh.agree(|view| view.nodes.contains_key(&victim)).await?;
        let began = Instant::now();
        // A dropped member does not announce that it leaves.
        mesh.members.pop();
        mesh.agree(|view| !view.nodes.contains_key(&victim)).await?;
        kills.push(began.elapsed());
    }
    println!(
        "| {size} | {:.1} s | {} | {} | {} | {kilobytes:.1} | {:.2} % | {false_alarms} |",
        all_join.as_secs_f64(),
        median(joins),
        median(leaves),
        median(kills),
        cpu * 100.0,
    );
    Ok(())
}

impl Mesh {
    /// Starts another member and returns its id.
    async fn start(&mut self) -> Result<NodeId> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let addr = socket.local_addr()?;
        self.started += 1;
        let node_id = NodeId::try_from(format!("node-{:06}", self.started))?;
        let offer = Offer {
            digest: Digest::from_text(&"0".repeat(64)),
            properties: Default::default(),
        };
        let streams = (0..STREAMS)
            .map(|number| {
                Ok((
                    StreamName::try_from(format!("stream-{number}"))?,
                    offer.clone(),
                ))
            })
            .collect::<Result<_>>()?;
        let own = Node {
            node_id: node_id.clone(),
            generation: u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?,
            state: NodeState::Ready,
            http_addr: addr,
            cluster_addr: addr,
            streams,
            store: None,
            releases: None,
        };
        let seeds = self
            .members
            .iter()
            .take(SEEDS)
            .map(|member| member.addr.to_string())
            .collect();
        let config = GossipConfig {
            cluster_id: "bench".into(),
            bound_addr: addr,
            seeds,
            keyring: None,
        };
        let gossip = Gossip::start(config, own, socket).await?;
        self.members.push(Member {
            gossip,
            node_id: node_id.clone(),
            addr,
        });
        Ok(node_id)
    }

    /// Waits until the view of every member meets the condition.
    async fn agree(&self, is_so: impl Fn(&View) -> bool) -> Result<()> {
        for member in &self.members {
            let mut view = member.gossip.view();
            let agreed = timeout(HANG, view.wait_for(|view: &Arc<View>| is_so(view))).await;
            agreed
                .with_context(|| format!("the view of {} did not become so", member.node_id))??;
        }
        Ok(())
    }
}

fn median(mut times: Vec<Duration>) -> String {
    times.sort();
    format!(
        "{:.2} ({:.2}) s",
        times[times.len() / 2].as_secs_f64(),
        times[times.len() - 1].as_secs_f64()
    )
}

fn gone(metrics: &Metrics) -> f64 {
    counted(metrics, names::VIEW_CHANGES, "gone")
}

/// The value of the series of a counter that has this label value.
fn counted(metrics: &Metrics, name: &str, label: &str) -> f64 {
    let text = metrics.render(|_| true);
    let line = text
        .lines()
        .find(|line| line.starts_with(name) && line.contains(&format!("\"{label}\"")));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or(0.0)
}

/// CPU time of this process so far.
fn cpu_seconds() -> f64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}
