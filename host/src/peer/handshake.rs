//! The handshake: both sides of a new connection send a hello, and check that they are compatible
//! and belong to the same mesh.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};

use super::socket::{Reader, SocketError};
use super::wire::{self, Agreed, Frame, Hello};
use crate::message::NodeId;

/// Timeout from the open connection to the peer's hello.
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(2);

/// Why connecting failed. No message was sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("it did not answer within {0:?}")]
    Timeout(Duration),
    #[error("it refused the connection: {0}")]
    Rejected(String),
    #[error("it is not what gossip said: {0}")]
    Unexpected(String),
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        SocketError::Io(error).into()
    }
}

/// One run of another node, from its start to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Incarnation {
    pub(super) node_id: NodeId,
    pub(super) generation: u64,
    pub(super) addr: SocketAddr,
}

pub(super) type Frames = FramedRead<Reader, LengthDelimitedCodec>;

/// Reads the next frame; the end of the connection is an error.
pub(super) async fn next(frames: &mut Frames) -> Result<Frame, ConnectError> {
    let frame = frames
        .next()
        .await
        .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))??;
    wire::decode(frame.freeze()).map_err(|error| ConnectError::Unexpected(error.to_string()))
}

/// Checks that the peer is the expected node with the expected generation, and returns the version
/// and features that both support.
pub(super) fn check_hello(
    frame: Frame,
    own: &Hello,
    expected: &Incarnation,
) -> Result<Agreed, ConnectError> {
    let unexpected = |text: String| Err(ConnectError::Unexpected(text));
    let Incarnation {
        node_id,
        generation,
        ..
    } = expected;
    match frame {
        Frame::Hello(hello) => {
            let agreed = own
                .agree(&hello)
                .map_err(|mismatch| ConnectError::Unexpected(mismatch.to_string()))?;
            if hello.node_id != *node_id {
                return unexpected(format!(
                    "it is node {:?}, expected {node_id:?}",
                    hello.node_id
                ));
            }
            if hello.generation != *generation {
                let its = hello.generation;
                return unexpected(format!(
                    "it is another life of the node, of generation {its}, expected {generation}"
                ));
            }
            Ok(agreed)
        }
        Frame::UnreadableHello { versions, error } => {
            let mismatch =
                versions.and_then(|versions| own.common_version(Some(node_id), versions).err());
            unexpected(mismatch.map_or_else(|| error.to_string(), |mismatch| mismatch.to_string()))
        }
        Frame::Reject(reason) => Err(ConnectError::Rejected(reason)),
        other => unexpected(format!("it began with {other:?}")),
    }
}
