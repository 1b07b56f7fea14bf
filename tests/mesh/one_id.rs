//! Of two nodes with one id the one that came later ends, whatever their clocks say.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use async_trait::async_trait;
use chitchat::transport::{Socket, Transport};
use chitchat::{
    ChitchatConfig, ChitchatHandle, ChitchatId, ChitchatMessage, Deserializable, FailureDetectorConfig, Serializable,
    spawn_chitchat,
};
use tokio::net::UdpSocket;

use crate::harness::{Node, Plugins, Setup};

/// What a message begins with that goes in one datagram: its number, the index of the part, and how many there are.
const ONLY_PART: [u8; 6] = [0, 0, 0, 1, 0, 1];

const DATAGRAM_BYTES_MAX: usize = 65_507;

/// Gossip of a node that has nothing else, and says what the test wants.
struct Claimant {
    cluster: String,
    /// Gossips for as long as it is there.
    _chitchat: ChitchatHandle,
}

impl Claimant {
    /// Claims an id in a state, as a life with this generation.
    async fn start(id: &str, generation: u64, state: &str, seeds: &[&Node]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let config = ChitchatConfig {
            chitchat_id: ChitchatId::new(id, generation, addr),
            cluster_id: "meshage".to_owned(),
            gossip_interval: Duration::from_millis(200),
            listen_addr: addr,
            seed_nodes: seeds.iter().map(|seed| seed.cluster.clone()).collect(),
            failure_detector_config: FailureDetectorConfig::default(),
            marked_for_deletion_grace_period: Duration::from_secs(600),
            catchup_callback: None,
            extra_liveness_predicate: None,
        };
        let words = [("state", state.to_owned()), ("http", addr.to_string())];
        let words = words.map(|(key, value)| (key.to_owned(), value)).to_vec();
        let transport = OneSocket(Mutex::new(Some(socket)));
        let chitchat = spawn_chitchat(config, words, &transport).await.unwrap();
        Self { cluster: addr.to_string(), _chitchat: chitchat }
    }
}

struct OneSocket(Mutex<Option<UdpSocket>>);

struct OnlyParts(UdpSocket);

#[async_trait]
impl Transport for OneSocket {
    async fn open(&self, _: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let socket = self.0.lock().unwrap().take().context("it is opened once")?;
        Ok(Box::new(OnlyParts(socket)))
    }
}

#[async_trait]
impl Socket for OnlyParts {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        let mut datagram = ONLY_PART.to_vec();
        message.serialize(&mut datagram);
        self.0.send_to(&datagram, to).await?;
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            let (bytes, from) = self.0.recv_from(&mut datagram).await?;
            // What is meant for who had this port before is none of it.
            let Some(mut message) = datagram.get(ONLY_PART.len()..bytes) else { continue };
            if let Ok(message) = ChitchatMessage::deserialize(&mut message) {
                return Ok((from, message));
            }
        }
    }
}

/// What a clock that is ahead by so much shows, as nodes make their generation of it.
fn generation_ahead(ahead: Duration) -> u64 {
    let shows = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + ahead;
    u64::try_from(shows.as_nanos()).unwrap()
}

#[tokio::test]
async fn the_later_ends_though_the_clock_of_the_elder_is_ahead() {
    let an_hour = Duration::from_secs(3_600);
    let elder = Claimant::start("n1", generation_ahead(an_hour), "ready", &[]).await;
    let mut late = Setup::new(Plugins::usual()).id("n1").flag("--seeds", &elder.cluster).start().await;
    assert_eq!(late.ended().await.code(), Some(1));
    let said = late.log_line("another live node has the id n1").await;
    assert!(said.contains(&elder.cluster) && said.contains("--node-id"), "{said}");
    assert_eq!(late.events("ready"), 0, "it has taken keys");
}

#[tokio::test]
async fn a_node_that_is_ready_yields_to_none_that_starts_or_leaves() {
    let node = Setup::new(Plugins::usual()).id("n1").ready().await;
    // Clocks far behind: they seem to have started first.
    let mut claimants = Vec::new();
    for (generation, state) in [(1, "starting"), (2, "leaving")] {
        let claimant = Claimant::start("n1", generation, state, &[&node]).await;
        let told = node.log_line(&format!(r#""cluster_addr":"{}""#, claimant.cluster)).await;
        assert!(told.contains(r#""event":"id-claimed""#) && told.contains("--node-id"), "{told}");
        claimants.push(claimant);
    }
    // By the time that this one has heard of it for so long that it ends, it has heard of the claimants for longer.
    let mut late = Setup::new(Plugins::usual()).id("n1").seeds(&[&node]).start().await;
    assert_eq!(late.ended().await.code(), Some(1));
    let said = late.log_line("another live node has the id n1").await;
    assert!(said.contains(&node.cluster), "it yields to the eldest: {said}");
    assert_eq!(node.view().await["n1"].state, "ready");
    node.post("/api/echo/1").json("{}").send().await.ok();
}
