//! Why there is no reply.

use serde::{Deserialize, Serialize};

use super::limit::{Limit, LimitKind};
use crate::bodies::Bodies;

/// What a handler refused with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    Invalid,
    NotFound,
    Conflict,
    Unavailable,
    Internal,
}

/// Why there is no reply. Nodes tell each other by the number of the variant: new ones come last.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Fault {
    #[error("the handler refused: {}", .0.text)]
    Failure(Failure),
    /// It trapped, or replied with something that is no HTTP.
    #[error("the handler crashed")]
    Crashed,
    /// The time that the message had was over; it may have run.
    #[error("the deadline passed")]
    DeadlineExceeded,
    #[error("refused: {0}")]
    Refused(Refusal),
    /// No candidate could be reached.
    #[error("no node that offers the stream could be reached")]
    Unreachable,
    /// The node that had the message is gone; whether it ran cannot be known.
    #[error("the node that had the message was lost")]
    Lost,
    #[error("no node offers the stream")]
    NoCandidate,
    /// It was stopped because it wanted more than its plugin may take.
    #[error("the handler was stopped at its limit of {0}")]
    LimitExceeded(Limit),
}

/// Why a node did not run a message that it was given. Nothing ran. New variants come last, as above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error, Serialize, Deserialize)]
pub enum Refusal {
    #[error("the node does not offer the stream")]
    NotOffered,
    #[error("the node is starting")]
    Starting,
    #[error("the node is leaving")]
    Leaving,
    #[error("every instance of the node is in use, or too many calls wait for the owner")]
    Overloaded,
    #[error("as many messages wait for the handler already as may (queue)")]
    QueueFull,
    #[error("it waited for its turn until its time was over, and did not run")]
    WaitedTooLong,
    #[error("the bodies of all messages and answers that are under way take as much memory as they may")]
    NoRoom,
}

impl Refusal {
    /// Its name in logs and metrics.
    pub fn kind(self) -> &'static str {
        match self {
            Self::NotOffered => "not-offered",
            Self::Starting => "starting",
            Self::Leaving => "leaving",
            Self::Overloaded => "overloaded",
            Self::QueueFull => "queue-full",
            Self::WaitedTooLong => "waited-too-long",
            Self::NoRoom => "no-room",
        }
    }
}

impl Fault {
    /// A reply was made, and found no room.
    pub fn no_room(bodies: &Bodies) -> Self {
        Self::LimitExceeded(Limit { kind: LimitKind::BodiesBytes, max: bodies.bytes_max() as u64 })
    }

    /// Whether it is certain that no handler saw the message, so that it may be sent again.
    pub fn nothing_ran(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Unreachable | Self::NoCandidate => true,
            Self::Failure(failure) => failure.kind == FailureKind::Unavailable,
            Self::Crashed | Self::LimitExceeded(_) | Self::DeadlineExceeded | Self::Lost => false,
        }
    }
}
