//! The sockets of a node. They are bound before anything else, so that a taken port ends the start
//! before the node has announced anything.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket, UdpSocket};

use crate::config::Network;

/// Attempts to find a port that is free for both UDP and TCP, if any port will do.
const ANY_PORT_ATTEMPTS: usize = 20;

/// Connections that may wait to be accepted; the system may allow fewer (`net.core.somaxconn` on
/// Linux). With the usual 128 a burst of clients would overflow the queue, and some of them would
/// not even get an error.
const BACKLOG: u32 = 4_096;

pub(super) struct Sockets {
    pub(super) http: TcpListener,
    pub(super) admin: TcpListener,
    pub(super) peers: TcpListener,
    pub(super) gossip: UdpSocket,
}

/// The address of a setting cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr} ({setting}): {}", advice(.source))]
pub struct BindError {
    setting: &'static str,
    addr: SocketAddr,
    source: io::Error,
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the port is taken; choose a free one, or 0 for any",
        io::ErrorKind::AddrNotAvailable => {
            "this host has no such address; set bind (or admin_bind) to one that it has"
        }
        io::ErrorKind::PermissionDenied => {
            "this user may not take so low a port; choose one from 1024 on"
        }
        _ => "choose another",
    }
}

impl Sockets {
    pub(super) async fn bind(network: &Network) -> Result<Self, BindError> {
        let http_addr = SocketAddr::new(network.bind, network.http_port);
        let http = listen(http_addr).map_err(failed("http_port", http_addr))?;
        let http_port = http
            .local_addr()
            .map_err(failed("http_port", http_addr))?
            .port();
        let admin_addr = network.admin_addr(http_port);
        let admin = listen(admin_addr).map_err(failed("admin_port", admin_addr))?;
        let cluster_addr = SocketAddr::new(network.bind, network.cluster_port);
        let (peers, gossip) = bind_both(cluster_addr)
            .await
            .map_err(failed("cluster_port", cluster_addr))?;
        Ok(Self {
            http,
            admin,
            peers,
            gossip,
        })
    }
}

fn failed(setting: &'static str, addr: SocketAddr) -> impl Fn(io::Error) -> BindError {
    move |source| BindError {
        setting,
        addr,
        source,
    }
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    // A restarted node can bind its port again at once.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// Binds TCP and UDP to the same port.
async fn bind_both(addr: SocketAddr) -> io::Result<(TcpListener, UdpSocket)> {
    let mut attempt = 1;
    loop {
        let tcp = listen(addr)?;
        match UdpSocket::bind(tcp.local_addr()?).await {
            Ok(udp) => return Ok((tcp, udp)),
            // The port was free for TCP only; the next one may be free for both.
            Err(_) if addr.port() == 0 && attempt < ANY_PORT_ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}
