//! The identity of this node: its id, its generation, and its gossip state at the start.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use super::error::NodeError;
use super::sockets::Sockets;
use crate::config::Config;
use crate::membership::{Node, NodeState};
use crate::message::NodeId;

/// This node's gossip state at the start.
pub(super) fn own_node(
    config: &Config,
    sockets: &Sockets,
    advertised: SocketAddr,
) -> Result<Node, NodeError> {
    let http_port = sockets.http.local_addr()?.port();
    let cluster_port = sockets.peers.local_addr()?.port();
    Ok(Node {
        node_id: node_id(config, cluster_port)?,
        generation: generation(),
        state: NodeState::Starting,
        http_addr: SocketAddr::new(advertised.ip(), http_port),
        cluster_addr: advertised,
        streams: Default::default(),
        store: None,
        releases: None,
    })
}

/// The configured id, or a default that is stable as long as the host name and the port are.
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

/// Increases with every start, as it is taken from the clock.
fn generation() -> u64 {
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)
}
