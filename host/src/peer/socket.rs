//! Sockets between nodes: TLS if the mesh has a secret, plain TCP on loopback if it has none.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, split};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::message::NodeId;
use crate::security::PeerTls;
use crate::tcp;

/// Why connecting failed, or the other end is not the expected node.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketError {
    #[error("it cannot be reached")]
    Io(#[from] io::Error),
    #[error("the TLS handshake failed: {0}")]
    Handshake(io::Error),
    #[error("it is not what gossip said: {0}")]
    Certificate(String),
}

/// The TLS configuration for new connections, as last reloaded; `None` if the mesh has no secret.
pub type TlsNow = Option<watch::Receiver<Arc<PeerTls>>>;

pub(super) type Reader = Box<dyn AsyncRead + Send + Unpin>;
pub(super) type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// The identity of the node that opened a connection, as far as its certificate proves it; empty
/// without TLS.
pub(super) struct Caller(Option<(Arc<PeerTls>, CertificateDer<'static>)>);

impl Caller {
    /// Checks that the certificate is that of `node_id`. Without TLS there is nothing to check.
    pub(super) fn check(&self, node_id: &NodeId) -> Result<(), SocketError> {
        let Some((tls, certificate)) = &self.0 else {
            return Ok(());
        };
        tls.check(certificate, node_id).map_err(|error| {
            SocketError::Certificate(format!(
                "its certificate is not that of node {node_id}: {error}"
            ))
        })
    }
}

/// Connects to a node. With TLS, its certificate must be that of `node_id`.
pub(super) async fn connect(
    addr: SocketAddr,
    tls: &TlsNow,
    node_id: &NodeId,
) -> Result<(Reader, Writer), SocketError> {
    let socket = TcpStream::connect(addr).await?;
    tcp::prepare(&socket)?;
    match now(tls) {
        Some(tls) => Ok(halves(
            tls.connect(socket, node_id)
                .await
                .map_err(SocketError::Handshake)?,
        )),
        None => Ok(plain_halves(socket)),
    }
}

/// Sets up an accepted connection. With TLS, the other end proves that it belongs to the mesh;
/// whether it is the node that its hello names is left to [`Caller::check`].
pub(super) async fn accept(
    socket: TcpStream,
    tls: &TlsNow,
) -> Result<(Reader, Writer, Caller), SocketError> {
    let Some(tls) = now(tls) else {
        let (reader, writer) = plain_halves(socket);
        return Ok((reader, writer, Caller(None)));
    };
    let socket = tls.accept(socket).await.map_err(SocketError::Handshake)?;
    let certificates = socket.get_ref().1.peer_certificates();
    let certificate = certificates.and_then(<[_]>::first).cloned();
    let certificate =
        certificate.ok_or_else(|| SocketError::Certificate("it has no certificate".into()))?;
    let (reader, writer) = halves(socket);
    Ok((reader, writer, Caller(Some((tls, certificate)))))
}

fn now(tls: &TlsNow) -> Option<Arc<PeerTls>> {
    tls.as_ref().map(|tls| tls.borrow().clone())
}

fn halves(socket: impl AsyncRead + AsyncWrite + Send + 'static) -> (Reader, Writer) {
    let (reader, writer) = split(socket);
    (Box::new(reader), Box::new(writer))
}

/// `into_split` needs no lock, which the halves from [`split`] share.
fn plain_halves(socket: TcpStream) -> (Reader, Writer) {
    let (reader, writer) = socket.into_split();
    (Box::new(reader), Box::new(writer))
}
