//! A fake node that only gossips, with the id, generation, state and streams that a test chooses.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use chitchat::transport::{Socket, Transport};
use chitchat::{
    ChitchatConfig, ChitchatHandle, ChitchatId, ChitchatMessage, Deserializable,
    FailureDetectorConfig, Serializable, spawn_chitchat,
};
use tokio::net::{TcpListener, UdpSocket};

use super::Node;

/// Header of a gossip message that fits in one datagram: its number (4 bytes), the index of the
/// part (1), and the number of parts (1).
const ONLY_PART: [u8; 6] = [0, 0, 0, 1, 0, 1];

const DATAGRAM_BYTES_MAX: usize = 65_507;

/// A node that gossips and does nothing else.
pub(crate) struct HandMade {
    pub(crate) cluster: String,
    /// Gossips until it is dropped.
    _chitchat: ChitchatHandle,
}

impl HandMade {
    /// Gossips under this id, generation and state, and offers these streams. Connections to its
    /// cluster port arrive at the returned listener.
    pub(crate) async fn start(
        id: &str,
        generation: u64,
        state: &str,
        streams: &[&str],
        seeds: &[&Node],
    ) -> (Self, TcpListener) {
        let (peers, socket) = loop {
            let peers = TcpListener::bind("127.0.0.1:0").await.unwrap();
            // The same port may be taken for UDP.
            if let Ok(socket) = UdpSocket::bind(peers.local_addr().unwrap()).await {
                break (peers, socket);
            }
        };
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
        let streams = streams.iter().map(|stream| {
            (
                format!("stream:{stream}"),
                "digest and-later-words".to_owned(),
            )
        });
        let words = [
            ("state".to_owned(), state.to_owned()),
            ("http".to_owned(), addr.to_string()),
        ];
        let words = words.into_iter().chain(streams).collect();
        let transport = OneSocket(Mutex::new(Some(socket)));
        let chitchat = spawn_chitchat(config, words, &transport).await.unwrap();
        (
            Self {
                cluster: addr.to_string(),
                _chitchat: chitchat,
            },
            peers,
        )
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
            // Skips datagrams that were meant for a previous owner of this port.
            let Some(mut message) = datagram.get(ONLY_PART.len()..bytes) else {
                continue;
            };
            if let Ok(message) = ChitchatMessage::deserialize(&mut message) {
                return Ok((from, message));
            }
        }
    }
}
