//! Gossip's datagrams over a UDP socket that is already bound, so that port 0 can mean the same
//! number for UDP and TCP. It sees every byte: the place where datagrams will be sealed.

use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::Context;
use async_trait::async_trait;
use chitchat::transport::{Socket, Transport};
use chitchat::{ChitchatMessage, Deserializable, Serializable};
use metrics::{Counter, counter};
use tokio::net::UdpSocket;
use tracing::{debug, error};

use crate::telemetry::{Throttle, names};

/// The largest UDP payload over IPv4.
const DATAGRAM_BYTES_MAX: usize = 65_507;

/// Hands its one socket to chitchat.
pub(super) struct BoundTransport(Mutex<Option<UdpSocket>>);

impl BoundTransport {
    pub(super) fn new(socket: UdpSocket) -> Self {
        Self(Mutex::new(Some(socket)))
    }
}

#[async_trait]
impl Transport for BoundTransport {
    async fn open(&self, _: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let mut slot = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let socket = slot.take().context("the gossip socket can be opened only once")?;
        Ok(Box::new(Datagrams {
            socket,
            received: vec![0; DATAGRAM_BYTES_MAX],
            to_send: Vec::new(),
            too_large: Throttle::default(),
            bytes_sent: counter!(names::GOSSIP_BYTES, "direction" => "sent"),
            bytes_received: counter!(names::GOSSIP_BYTES, "direction" => "received"),
        }))
    }
}

struct Datagrams {
    socket: UdpSocket,
    received: Vec<u8>,
    to_send: Vec<u8>,
    too_large: Throttle<()>,
    bytes_sent: Counter,
    bytes_received: Counter,
}

#[async_trait]
impl Socket for Datagrams {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        self.to_send.clear();
        message.serialize(&mut self.to_send);
        let bytes = self.to_send.len();
        if bytes > DATAGRAM_BYTES_MAX
            && let Some(datagrams) = self.too_large.note((), Instant::now())
        {
            error!(bytes, datagrams, "what gossip says no longer fits into a datagram ({DATAGRAM_BYTES_MAX} bytes): the mesh has too many nodes, or offers too many streams");
        }
        self.bytes_sent.increment(bytes as u64);
        // A peer that cannot be reached now is the failure detector's business, not an error here.
        if let Err(error) = self.socket.send_to(&self.to_send, to).await {
            debug!(%to, %error, "gossip was not sent");
        }
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
            match ChitchatMessage::deserialize(&mut &self.received[..bytes]) {
                Ok(message) => return Ok((from, message)),
                Err(error) => debug!(%from, bytes, %error, "a datagram that is no gossip was dropped"),
            }
        }
    }
}

/// Errors that an earlier datagram left on the socket, and shortages that pass.
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
