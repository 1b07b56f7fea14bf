//! Faults: why a message got no reply.

use http::StatusCode;

use super::limit::{Limit, LimitKind};
use crate::bodies::BodyMemory;

/// A refusal by a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    Invalid,
    NotFound,
    Conflict,
    Unavailable,
    Internal,
}

impl FailureKind {
    pub const ALL: [Self; 5] = [
        Self::Invalid,
        Self::NotFound,
        Self::Conflict,
        Self::Unavailable,
        Self::Internal,
    ];

    /// Its name in the peer protocol and in problems.
    pub fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not-found",
            Self::Conflict => "conflict",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }
}

/// Why a message got no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("the handler refused: {}", .0.text)]
    Failure(Failure),
    /// It trapped, or its reply is not valid HTTP.
    #[error("the handler crashed")]
    Crashed,
    /// The message's deadline passed; it may have run.
    #[error("the deadline passed")]
    DeadlineExceeded,
    #[error("refused: {0}")]
    Refused(Refusal),
    /// No candidate could be reached.
    #[error("no node that offers the stream could be reached")]
    Unreachable,
    /// The node that had the message is gone; it is unknown whether the message ran.
    #[error("the node that had the message was lost")]
    Lost,
    #[error("no node offers the stream")]
    NoCandidate,
    /// It has a path, and the stream's handler takes messages.
    #[error(
        "no route: the handler of the stream takes messages at /api/{{stream}}/{{partitionKey}}, and has nothing below that; a '/' \
         within a key is written %2F"
    )]
    NoRoute,
    /// It was stopped because it exceeded a limit of its plugin.
    #[error("the handler was stopped at its limit of {0}")]
    LimitExceeded(Limit),
    /// It is a read (a `GET`, or a broadcast of a stateful stream), and tried to write.
    #[error("a GET, and a broadcast, cannot write: send it with another method")]
    ReadOnly,
    /// Another message had the same `Idempotency-Key`.
    #[error("its Idempotency-Key was used for another message: with another method, query or body")]
    IdempotencyKeyReused,
    /// The same as the other fault, but for that calls which the handler had made before may have taken
    /// effect.
    #[error("{0}; calls that its handler had made before may have taken effect")]
    AfterCalls(Box<Self>),
    /// A handler called an entity that waits for it, as this text tells.
    #[error("{0}")]
    Cycle(String),
    #[error("{}", .0.text)]
    Foreign(Box<ForeignFault>),
}

/// A fault of another version of meshage that this version does not know. It is a valid answer all
/// the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignFault {
    pub kind: String,
    pub status: StatusCode,
    pub text: String,
    pub nothing_ran: bool,
    /// Nothing ran, and another node may run the message.
    pub may_fail_over: bool,
}

/// Why a node did not run a message. Nothing ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
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
    #[error(
        "the bodies of all messages and answers that are under way take as much memory as they may"
    )]
    NoRoom,
    #[error("the node cannot read the message: it is of another version")]
    NotUnderstood,
    /// The views of the two nodes differ at the moment.
    #[error("the node is not the owner of the key, by its own view of the mesh")]
    NotOwner,
    /// Other nodes committed to the entity again and again while it ran.
    #[error(
        "other nodes write to the entity at the same time, or its calls and those of others wait for each other, again and again"
    )]
    Contended,
    #[error("the store of the entities' state cannot be reached")]
    StateUnavailable,
    /// Its call would have waited for a handler that waits for it, in turn. The message with which its
    /// chain began runs again.
    #[error("its call and that of another message waited for each other")]
    Crossed,
}

impl Refusal {
    pub const ALL: [Self; 12] = [
        Self::NotOffered,
        Self::Starting,
        Self::Leaving,
        Self::Overloaded,
        Self::QueueFull,
        Self::WaitedTooLong,
        Self::NoRoom,
        Self::NotUnderstood,
        Self::NotOwner,
        Self::Contended,
        Self::StateUnavailable,
        Self::Crossed,
    ];

    /// Its name in the peer protocol, in logs and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotOffered => "not-offered",
            Self::Starting => "starting",
            Self::Leaving => "leaving",
            Self::Overloaded => "overloaded",
            Self::QueueFull => "queue-full",
            Self::WaitedTooLong => "waited-too-long",
            Self::NoRoom => "no-room",
            Self::NotUnderstood => "not-understood",
            Self::NotOwner => "not-owner",
            Self::Contended => "contended",
            Self::StateUnavailable => "state-unavailable",
            Self::Crossed => "crossed",
        }
    }
}

impl Fault {
    /// The fault for a reply that did not fit into the memory for bodies.
    pub fn no_room(bodies: &BodyMemory) -> Self {
        Self::LimitExceeded(Limit {
            kind: LimitKind::BodiesBytes,
            max: bodies.bytes_max() as u64,
        })
    }

    /// The fault for an answer of another version that cannot be decoded. The message may have run.
    pub fn unreadable_answer() -> Self {
        let text =
            "the node answered in a way that only a later version of this one can read".to_owned();
        let (kind, status) = ("unreadable-answer".to_owned(), StatusCode::BAD_GATEWAY);
        Self::Foreign(Box::new(ForeignFault {
            kind,
            status,
            text,
            nothing_ran: false,
            may_fail_over: false,
        }))
    }

    /// Whether the node with this fault did not run the message, and another one may. If the owner
    /// is overloaded no other node may: it would lack what the owner knows of the key.
    pub fn may_fail_over(&self) -> bool {
        match self {
            Self::Refused(refusal) => match refusal {
                Refusal::NotOffered
                | Refusal::Starting
                | Refusal::Leaving
                | Refusal::NotUnderstood
                | Refusal::NotOwner => true,
                Refusal::Overloaded
                | Refusal::QueueFull
                | Refusal::NoRoom
                | Refusal::WaitedTooLong
                | Refusal::Contended
                | Refusal::StateUnavailable
                | Refusal::Crossed => false,
            },
            Self::Unreachable => true,
            Self::Foreign(fault) => fault.may_fail_over,
            Self::Failure(_)
            | Self::ReadOnly
            | Self::IdempotencyKeyReused
            | Self::Cycle(_)
            | Self::AfterCalls(_)
            | Self::Crashed
            | Self::DeadlineExceeded
            | Self::LimitExceeded(_)
            | Self::Lost
            | Self::NoRoute
            | Self::NoCandidate => false,
        }
    }

    /// Whether it is certain that no handler saw the message, so that it may be sent again.
    pub fn nothing_ran(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Unreachable | Self::NoCandidate | Self::NoRoute => true,
            Self::Failure(failure) => failure.kind == FailureKind::Unavailable,
            Self::Crashed
            | Self::LimitExceeded(_)
            | Self::DeadlineExceeded
            | Self::Lost
            | Self::ReadOnly
            | Self::IdempotencyKeyReused
            | Self::Cycle(_)
            | Self::AfterCalls(_) => false,
            Self::Foreign(fault) => fault.nothing_ran,
        }
    }
}
