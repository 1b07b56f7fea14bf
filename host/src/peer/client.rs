//! The peers of a node: one connection to each, opened when the peer appears and again when it is
//! needed.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::task::JoinHandle;
use tokio::time::timeout_at;
use tracing::{info, warn};

use super::connection::{ConnectError, Connection};
use super::outbox::Closed;
use super::wire::Hello;
use crate::message::{Fault, Message, NodeId, Outcome};

/// After a failed attempt, callers are told at once for this long instead of trying too.
const CONNECT_BACKOFF: Duration = Duration::from_millis(100);

/// Connections that a call tries when one closes just before it is sent.
const CONNECTIONS_TRIED_MAX: usize = 2;

/// Every other node of the view.
pub struct Peers {
    own: Arc<Hello>,
    peers: Mutex<HashMap<NodeId, Arc<Peer>>>,
}

/// One other node, reachable or not.
pub struct Peer {
    node_id: NodeId,
    addr: SocketAddr,
    own: Arc<Hello>,
    connection: ArcSwapOption<Connection>,
    /// Held by whoever connects; when the last attempt failed.
    attempt: tokio::sync::Mutex<Option<Instant>>,
}

impl Peers {
    pub fn new(own: Hello) -> Self {
        Self { own: Arc::new(own), peers: Mutex::default() }
    }

    /// Takes on the nodes of a new view, and returns them. Those that stay keep their connections;
    /// those that are gone lose theirs once the calls on them have ended.
    pub fn update(&self, nodes: impl IntoIterator<Item = (NodeId, SocketAddr)>) -> HashMap<NodeId, Arc<Peer>> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        *peers = nodes
            .into_iter()
            .map(|(node_id, addr)| {
                let peer = match peers.get(&node_id) {
                    Some(peer) if peer.addr == addr => peer.clone(),
                    _ => self.meet(node_id.clone(), addr),
                };
                (node_id, peer)
            })
            .collect();
        peers.clone()
    }

    /// A new peer, to which a connection is under way.
    fn meet(&self, node_id: NodeId, addr: SocketAddr) -> Arc<Peer> {
        let peer = Arc::new(Peer {
            node_id,
            addr,
            own: self.own.clone(),
            connection: ArcSwapOption::empty(),
            attempt: tokio::sync::Mutex::default(),
        });
        // Calls will try again, and say so when it matters.
        drop(peer.connecting());
        peer
    }
}

impl Peer {
    /// Runs a message on the peer. Dropping the call cancels it there.
    pub async fn call(self: &Arc<Self>, message: &Message, deadline: Instant) -> Outcome {
        for _ in 0..CONNECTIONS_TRIED_MAX {
            let connection = match self.connection.load_full() {
                Some(connection) => connection,
                None => match timeout_at(deadline.into(), self.connecting()).await {
                    Ok(Ok(Some(connection))) => connection,
                    Ok(_) => return Err(Fault::Unreachable),
                    // Nothing was sent yet, but there is no time left to send it elsewhere.
                    Err(_) => return Err(Fault::DeadlineExceeded),
                },
            };
            match connection.call(message, deadline).await {
                Ok(outcome) => return outcome,
                Err(Closed) => self.forget(&connection),
            }
        }
        Err(Fault::Unreachable)
    }

    /// Connects in a task of its own: an attempt is made to its end, for those who come after, even if
    /// the call that began it has no time left.
    fn connecting(self: &Arc<Self>) -> JoinHandle<Option<Arc<Connection>>> {
        let peer = self.clone();
        tokio::spawn(async move { peer.connect().await })
    }

    /// Opens the connection, or joins the attempt that is under way.
    async fn connect(&self) -> Option<Arc<Connection>> {
        let mut failed_at = self.attempt.lock().await;
        if let Some(connection) = self.connection.load_full() {
            return Some(connection);
        }
        if failed_at.is_some_and(|at| at.elapsed() < CONNECT_BACKOFF) {
            return None;
        }
        match Connection::open(self.addr, &self.own, &self.node_id).await {
            Ok(connection) => {
                info!(peer = %self.node_id, addr = %self.addr, "peer connected");
                *failed_at = None;
                self.connection.store(Some(connection.clone()));
                Some(connection)
            }
            Err(error) => {
                let cause = match &error {
                    ConnectError::Io(cause) => Some(cause.to_string()),
                    _ => None,
                };
                warn!(peer = %self.node_id, addr = %self.addr, %error, cause, "no connection to a peer");
                *failed_at = Some(Instant::now());
                None
            }
        }
    }

    /// Stops using a closed connection, unless another has taken its place.
    fn forget(&self, closed: &Arc<Connection>) {
        self.connection.rcu(|current| match current {
            Some(current) if Arc::ptr_eq(current, closed) => None,
            other => other.clone(),
        });
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.load_full() {
            connection.close();
        }
    }
}
