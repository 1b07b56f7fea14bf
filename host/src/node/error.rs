//! Why a node could not start, or had to end.

use std::io;

use tokio::task::JoinError;

use super::sockets::BindError;
use crate::config::ConfigError;
use crate::membership::GossipError;
use crate::message::NameError;
use crate::plugins::{SourceError, StoreError};
use crate::runtime::EngineError;
use crate::security::TlsError;
use crate::telemetry::{MetricsError, TracesError};

/// Why a node could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A setting is invalid, which could only be checked once the ports were bound.
    #[error(transparent)]
    Setting(#[from] ConfigError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("the host's name {host:?} cannot be part of a node id: {problem}; set --node-id")]
    HostName { host: String, problem: NameError },
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Plugins(#[from] SourceError),
    #[error(transparent)]
    Sharing(#[from] StoreError),
    #[error(transparent)]
    Gossip(#[from] GossipError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    #[error(transparent)]
    Traces(#[from] TracesError),
    #[error("the system gives no threads for connections")]
    Threads(#[source] io::Error),
    #[error("a socket has no address")]
    Address(#[from] io::Error),
    #[error("the engine's start was cut off")]
    Cut(#[from] JoinError),
    /// A bug; the log has details.
    #[error("{0} ended before its time, which a node cannot go on without")]
    Ended(&'static str),
}
