//! The one table that maps faults to HTTP statuses: for clients, and in the peer protocol for nodes
//! that do not know a fault by its name.

use http::StatusCode;

use super::fault::{FailureKind, Fault, Refusal};
use super::limit::LimitKind;

/// A type of problem (RFC 9457): the last part of its URN, its title, its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProblemType {
    pub name: &'static str,
    pub title: &'static str,
    pub status: StatusCode,
}

impl ProblemType {
    pub const NO_CANDIDATE: Self = Self::new(
        "no-candidate",
        "No node offers the stream",
        StatusCode::NOT_FOUND,
    );
    pub const NO_ROUTE: Self = Self::new("no-route", "No such route", StatusCode::NOT_FOUND);
    pub const OVERLOADED: Self = Self::new(
        "overloaded",
        "The node is overloaded",
        StatusCode::SERVICE_UNAVAILABLE,
    );
    const DEADLINE_EXCEEDED: Self = Self::new(
        "deadline-exceeded",
        "The deadline passed",
        StatusCode::GATEWAY_TIMEOUT,
    );

    pub const fn new(name: &'static str, title: &'static str, status: StatusCode) -> Self {
        Self {
            name,
            title,
            status,
        }
    }
}

impl Fault {
    /// The problem type that a client sees for this fault.
    pub fn problem_type(&self) -> ProblemType {
        match self {
            Self::Failure(failure) => match failure.kind {
                FailureKind::Invalid => ProblemType::new(
                    "invalid",
                    "The handler found the message invalid",
                    StatusCode::BAD_REQUEST,
                ),
                FailureKind::NotFound => ProblemType::new(
                    "not-found",
                    "The handler found nothing",
                    StatusCode::NOT_FOUND,
                ),
                FailureKind::Conflict => ProblemType::new(
                    "conflict",
                    "The message conflicts with the entity",
                    StatusCode::CONFLICT,
                ),
                FailureKind::Unavailable => ProblemType::new(
                    "unavailable",
                    "The handler is unavailable",
                    StatusCode::SERVICE_UNAVAILABLE,
                ),
                FailureKind::Internal => ProblemType::new(
                    "internal",
                    "The handler failed",
                    StatusCode::INTERNAL_SERVER_ERROR,
                ),
            },
            Self::Crashed => ProblemType::new(
                "crashed",
                "The handler crashed",
                StatusCode::INTERNAL_SERVER_ERROR,
            ),
            Self::LimitExceeded(limit) if limit.kind == LimitKind::Time => {
                ProblemType::DEADLINE_EXCEEDED
            }
            Self::LimitExceeded(_) => ProblemType::new(
                "limit-exceeded",
                "The handler exceeded a limit",
                StatusCode::INTERNAL_SERVER_ERROR,
            ),
            Self::DeadlineExceeded | Self::Refused(Refusal::WaitedTooLong) => {
                ProblemType::DEADLINE_EXCEEDED
            }
            Self::Refused(Refusal::Overloaded | Refusal::QueueFull | Refusal::NoRoom) => {
                ProblemType::OVERLOADED
            }
            Self::Refused(Refusal::Leaving) => ProblemType::new(
                "leaving",
                "The node is leaving",
                StatusCode::SERVICE_UNAVAILABLE,
            ),
            Self::Refused(Refusal::Starting) => ProblemType::new(
                "starting",
                "The node is starting",
                StatusCode::SERVICE_UNAVAILABLE,
            ),
            Self::Refused(Refusal::NotUnderstood) => ProblemType::new(
                "not-understood",
                "The versions of the nodes disagree",
                StatusCode::SERVICE_UNAVAILABLE,
            ),
            Self::Refused(Refusal::NotOwner) => ProblemType::new(
                "not-owner",
                "The views of the nodes disagree",
                StatusCode::SERVICE_UNAVAILABLE,
            ),
            Self::Refused(Refusal::Contended | Refusal::Crossed) => ProblemType::new(
                "contended",
                "The entity is contended",
                StatusCode::SERVICE_UNAVAILABLE,
            ),
            Self::Refused(Refusal::StateUnavailable) => ProblemType::new(
                "state-unavailable",
                "The state cannot be reached",
                StatusCode::SERVICE_UNAVAILABLE,
            ),
            Self::ReadOnly => ProblemType::new(
                "read-only",
                "The handler tried to write in a read",
                StatusCode::INTERNAL_SERVER_ERROR,
            ),
            Self::AfterCalls(fault) => fault.problem_type(),
            Self::Cycle(_) => ProblemType::new(
                "cycle",
                "A call would wait for itself",
                StatusCode::LOOP_DETECTED,
            ),
            Self::IdempotencyKeyReused => ProblemType::new(
                "idempotency-key-reused",
                "The Idempotency-Key belongs to another message",
                StatusCode::UNPROCESSABLE_ENTITY,
            ),
            Self::Refused(Refusal::NotOffered) => ProblemType::new(
                "not-offered",
                "The views of the nodes disagree",
                StatusCode::SERVICE_UNAVAILABLE,
            ),
            Self::Unreachable => ProblemType::new(
                "unreachable",
                "No owner can be reached",
                StatusCode::SERVICE_UNAVAILABLE,
            ),
            Self::Lost => ProblemType::new("lost", "The node was lost", StatusCode::BAD_GATEWAY),
            Self::NoCandidate => ProblemType::NO_CANDIDATE,
            Self::NoRoute => ProblemType::NO_ROUTE,
            Self::Foreign(fault) => ProblemType::new(
                "other",
                "A fault that only a later version of the node knows",
                fault.status,
            ),
        }
    }
}
