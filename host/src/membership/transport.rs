//! Gossip's datagrams over a UDP socket that the caller has bound, so that port 0 can yield the
//! same number for UDP and TCP. With a cluster secret each datagram is sealed, and unsealed ones
//! are dropped.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use async_trait::async_trait;
use chitchat::transport::{Socket, Transport};
use chitchat::{ChitchatMessage, Deserializable, Serializable};
use metrics::{Counter, counter};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tracing::{debug, error};

use super::contacts::Contacts;
use super::parts::{Joiner, is_part, split};
use super::strangers::Strangers;
use crate::security::{Keyring, Opener, Rejected, SEAL_BYTES, Sealer};
use crate::telemetry::{Throttle, names};

/// The largest UDP payload over IPv4.
const DATAGRAM_BYTES_MAX: usize = 65_507;

/// After this long without a message that is too large, the next one is logged at once again.
const SMALL_AGAIN_AFTER: Duration = Duration::from_secs(600);

/// Hands its one socket to chitchat.
pub(super) struct BoundTransport(Mutex<Option<Datagrams>>);

impl BoundTransport {
    /// For a socket that is bound to this address. Reports what is sent and heard to `contacts`,
    /// and traffic from outside the mesh to `strangers`.
    pub(super) fn new(
        socket: UdpSocket,
        bound_addr: SocketAddr,
        seal: Option<Seal>,
        contacts: Arc<watch::Sender<Contacts>>,
        strangers: Strangers,
    ) -> Self {
        Self(Mutex::new(Some(Datagrams {
            socket,
            bound_addr,
            seal,
            contacts,
            strangers,
            received: vec![0; DATAGRAM_BYTES_MAX],
            joiner: Joiner::default(),
            message: Vec::new(),
            messages_sent: 0,
            bytes_sent: counter!(names::GOSSIP_BYTES, "direction" => "sent"),
            bytes_received: counter!(names::GOSSIP_BYTES, "direction" => "received"),
            too_large: Throttle::growing(SMALL_AGAIN_AFTER),
        })))
    }
}

#[async_trait]
impl Transport for BoundTransport {
    async fn open(&self, _: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let mut slot = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(Box::new(
            slot.take()
                .context("the gossip socket can be opened only once")?,
        ))
    }
}

/// Seals outgoing datagrams and opens incoming ones with the current secrets.
pub(super) struct Seal {
    cluster_id: Arc<str>,
    keyring: watch::Receiver<Arc<Keyring>>,
    sealer: Sealer,
    opener: Opener,
}

impl Seal {
    pub(super) fn new(cluster_id: Arc<str>, mut keyring: watch::Receiver<Arc<Keyring>>) -> Self {
        let current = keyring.borrow_and_update().clone();
        let (sealer, opener) = (
            Sealer::new(&current, &cluster_id),
            Opener::new(&current, &cluster_id),
        );
        Self {
            cluster_id,
            keyring,
            sealer,
            opener,
        }
    }

    fn seal(&mut self, part: &[u8]) -> Vec<u8> {
        self.follow_keyring();
        let mut datagram = Vec::with_capacity(part.len() + SEAL_BYTES);
        self.sealer.seal(now_ms(), part, &mut datagram);
        datagram
    }

    fn open<'a>(&mut self, datagram: &'a mut [u8]) -> Result<&'a [u8], Rejected> {
        self.follow_keyring();
        self.opener.open(now_ms(), datagram)
    }

    fn follow_keyring(&mut self) {
        // An error means that the node is shutting down.
        if self.keyring.has_changed().unwrap_or(false) {
            let current = self.keyring.borrow_and_update().clone();
            self.sealer = Sealer::new(&current, &self.cluster_id);
            self.opener.use_keys(&current, &self.cluster_id);
        }
    }
}

fn now_ms() -> u64 {
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

struct Datagrams {
    socket: UdpSocket,
    bound_addr: SocketAddr,
    seal: Option<Seal>,
    contacts: Arc<watch::Sender<Contacts>>,
    strangers: Strangers,
    received: Vec<u8>,
    joiner: Joiner,
    /// Buffer for the message that is being sent; reused.
    message: Vec<u8>,
    messages_sent: u32,
    bytes_sent: Counter,
    bytes_received: Counter,
    too_large: Throttle<()>,
}

#[async_trait]
impl Socket for Datagrams {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        self.message.clear();
        message.serialize(&mut self.message);
        self.messages_sent = self.messages_sent.wrapping_add(1);
        let part_bytes_max = DATAGRAM_BYTES_MAX - if self.seal.is_some() { SEAL_BYTES } else { 0 };
        let Some(parts) = split(self.messages_sent, &self.message, part_bytes_max) else {
            self.log_too_large();
            return Ok(());
        };
        let mut sent = Ok(());
        for part in parts {
            let datagram = match &mut self.seal {
                Some(seal) => seal.seal(&part),
                None => part,
            };
            self.bytes_sent.increment(datagram.len() as u64);
            if let Err(error) = self.socket.send_to(&datagram, to).await {
                debug!(%to, %error, "gossip was not sent");
                sent = Err(error);
            }
        }
        self.note_sent(to, matches!(message, ChitchatMessage::Syn { .. }), sent);
        // A peer that cannot be reached now is the failure detector's business, not an error here.
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        loop {
            let (bytes, from) = match self.socket.recv_from(&mut self.received).await {
                Ok(received) => received,
                Err(error) if is_transient(&error) => continue,
                Err(error) => return Err(error).context("the gossip socket is broken"),
            };
            self.bytes_received.increment(bytes as u64);
            let datagram = &mut self.received[..bytes];
            let opened = match &mut self.seal {
                Some(seal) => seal.open(datagram),
                None => Ok(&*datagram),
            };
            let part = match opened {
                Ok(part) => part,
                Err(rejected) => {
                    self.strangers.rejected(rejected, from);
                    continue;
                }
            };
            if !is_part(part) {
                self.strangers
                    .rejected(Rejected::senseless(part, self.seal.is_some()), from);
                continue;
            }
            let Some(message) = self.joiner.take(from, part) else {
                continue;
            };
            match read_message(&message) {
                Ok(message) => {
                    self.note_heard(from, &message);
                    return Ok((from, message));
                }
                Err(error) => {
                    debug!(%from, bytes, %error, "a datagram that is no gossip was dropped");
                    let because = Rejected::senseless(&self.received[..bytes], self.seal.is_some());
                    self.strangers.rejected(because, from);
                }
            }
        }
    }
}

impl Datagrams {
    fn note_sent(&self, to: SocketAddr, is_question: bool, sent: io::Result<()>) {
        // No task waits for this change, so none is notified.
        self.contacts.send_if_modified(|contacts| {
            match sent {
                Ok(()) => contacts.sent(to, is_question, Instant::now()),
                // Some IPv6 sockets reach IPv4, too; one that does not never will, so that a retry
                // is useless.
                Err(error) => {
                    contacts.not_sent(to, error, to.is_ipv4() != self.bound_addr.is_ipv4())
                }
            }
            false
        });
    }

    fn note_heard(&self, from: SocketAddr, message: &ChitchatMessage) {
        self.strangers.look_at(message, from);
        self.contacts.send_if_modified(|contacts| {
            contacts.heard(from);
            false
        });
    }

    fn log_too_large(&self) {
        if let Some(messages) = self.too_large.note((), Instant::now()) {
            let bytes = self.message.len();
            error!(
                event = "gossip-too-large",
                bytes,
                messages,
                "what gossip says has become too large to be sent: the mesh has too many nodes, or offers too many streams"
            );
        }
    }
}

/// Decodes a message of another node's gossip.
pub(super) fn read_message(message: &[u8]) -> anyhow::Result<ChitchatMessage> {
    ChitchatMessage::deserialize(&mut &*message)
}

/// Errors that an earlier datagram left on the socket, interrupted calls, and passing shortages of
/// memory.
fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::OutOfMemory
            | io::ErrorKind::Interrupted
    )
}
