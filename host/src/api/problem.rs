//! Problems: every answer of the public API that is not a reply, in the format of RFC 9457.

use http::StatusCode;
use serde::Serialize;
use uuid::Uuid;

use super::http::BodyError;
use super::target::TargetError;
use crate::message::{Fault, LimitKind, Method, NodeId, ProblemType};

/// `Retry-After`, in seconds: nothing ran, and a view settles within a moment.
pub(super) const RETRY_AFTER_SECONDS: &str = "1";

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("{0}")]
    Target(TargetError),
    #[error(
        "there is no token in the request, or none that is good now; send `Authorization: Bearer TOKEN` with one of the node's token file (--token-file)"
    )]
    Unauthorized,
    #[error("the request is not well formed: {0}")]
    Framing(&'static str),
    #[error("{0}; name the origins whose pages may use this node in --allowed-origins")]
    Site(&'static str),
    #[error("the method {method} is not allowed; use one of {}", Method::ALLOWED)]
    Method { method: String },
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("{fault}")]
    Fault { fault: Fault, may_run_twice: bool },
}

/// The subject of a problem, as far as it is known.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) stream: Option<&'a str>,
    pub(super) partition_key: Option<&'a str>,
    pub(super) message_id: Option<Uuid>,
}

/// The body of an `application/problem+json` answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Problem<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: String,
    /// The message id, by which to find more in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition_key: Option<&'a str>,
    node: &'a str,
    /// Whether the client can send the same request again without its effect happening twice.
    retryable: bool,
}

impl ApiError {
    pub(super) fn problem_type(&self) -> ProblemType {
        match self {
            Self::Target(TargetError::NoRoute) => ProblemType::NO_ROUTE,
            Self::Target(TargetError::NoStream(_)) => ProblemType::NO_CANDIDATE,
            Self::Target(TargetError::Encoding(_)) => ProblemType::new(
                "bad-encoding",
                "The path is not well encoded",
                StatusCode::BAD_REQUEST,
            ),
            Self::Target(
                TargetError::EmptyKey | TargetError::LongKey(_) | TargetError::ZeroInKey,
            ) => ProblemType::new(
                "bad-partition-key",
                "The partition key cannot be used",
                StatusCode::BAD_REQUEST,
            ),
            Self::Framing(_) => ProblemType::new(
                "bad-request",
                "The request is not well formed",
                StatusCode::BAD_REQUEST,
            ),
            Self::Site(_) => ProblemType::new(
                "other-site",
                "Pages of other sites may not ask",
                StatusCode::FORBIDDEN,
            ),
            Self::Unauthorized => ProblemType::new(
                "unauthorized",
                "A token is needed",
                StatusCode::UNAUTHORIZED,
            ),
            Self::Method { .. } => ProblemType::new(
                "method-not-allowed",
                "The method is not allowed",
                StatusCode::METHOD_NOT_ALLOWED,
            ),
            Self::Body(BodyError::TooLarge { .. }) => ProblemType::new(
                "body-too-large",
                "The body is too large",
                StatusCode::PAYLOAD_TOO_LARGE,
            ),
            Self::Body(BodyError::NoRoom) => ProblemType::OVERLOADED,
            Self::Body(BodyError::Late(_)) => ProblemType::new(
                "request-timeout",
                "The request did not arrive in time",
                StatusCode::REQUEST_TIMEOUT,
            ),
            Self::Body(BodyError::Broken(_)) => ProblemType::new(
                "bad-body",
                "The body did not arrive",
                StatusCode::BAD_REQUEST,
            ),
            Self::Fault { fault, .. } => fault.problem_type(),
        }
    }

    pub(super) fn retryable(&self) -> bool {
        match self {
            Self::Fault {
                fault,
                may_run_twice,
            } => match fault {
                // Nothing ran, but a retry will find no other answer.
                Fault::NoCandidate | Fault::NoRoute => false,
                Fault::Lost | Fault::DeadlineExceeded | Fault::AfterCalls(_) => *may_run_twice,
                // A fault of the message itself is permanent; only a server error may pass.
                Fault::Foreign(fault) => {
                    let may_pass = fault.status.is_server_error() && fault.kind != "limit-exceeded";
                    fault.nothing_ran || may_pass && *may_run_twice
                }
                Fault::LimitExceeded(limit) => {
                    matches!(limit.kind, LimitKind::Time | LimitKind::BodiesBytes) && *may_run_twice
                }
                other => other.nothing_ran(),
            },
            Self::Body(BodyError::Late(_) | BodyError::Broken(_) | BodyError::NoRoom) => true,
            Self::Target(_)
            | Self::Framing(_)
            | Self::Site(_)
            | Self::Unauthorized
            | Self::Method { .. }
            | Self::Body(BodyError::TooLarge { .. }) => false,
        }
    }

    fn detail(&self, subject: Subject<'_>) -> String {
        let Self::Fault { fault, .. } = self else {
            return self.to_string();
        };
        let stream = subject.stream.unwrap_or_default();
        match fault {
            Fault::Failure(failure) => failure.text.clone(),
            Fault::NoCandidate => format!("no node offers the stream {stream:?}"),
            Fault::Crashed => "the handler crashed; the node's log says how".into(),
            Fault::LimitExceeded(limit) if limit.kind == LimitKind::BodiesBytes => {
                format!("the handler answered, but its answer found no room: the limit is {limit}")
            }
            Fault::LimitExceeded(limit) => {
                format!("the handler was stopped at its limit of {limit}")
            }
            Fault::DeadlineExceeded => "the handler did not answer before the deadline".into(),
            Fault::Lost => {
                "the node that had the message was lost; whether it ran is not known".into()
            }
            Fault::Unreachable => {
                format!("no node that offers the stream {stream:?} could be reached")
            }
            Fault::NoRoute
            | Fault::ReadOnly
            | Fault::IdempotencyKeyReused
            | Fault::Cycle(_)
            | Fault::AfterCalls(_) => fault.to_string(),
            Fault::Refused(refusal) => format!("the message was refused: {refusal}"),
            Fault::Foreign(fault) => fault.text.clone(),
        }
    }

    /// The last part of the problem's type.
    fn name(&self) -> &str {
        match self {
            Self::Fault {
                fault: Fault::Foreign(fault),
                ..
            } => &fault.kind,
            other => other.problem_type().name,
        }
    }

    pub(super) fn problem<'a>(
        &self,
        subject: Subject<'a>,
        node: &'a NodeId,
    ) -> (StatusCode, Problem<'a>) {
        let ProblemType { title, status, .. } = self.problem_type();
        let problem = Problem {
            r#type: format!("urn:meshage:{}", self.name()),
            title,
            status: status.as_u16(),
            detail: self.detail(subject),
            instance: subject.message_id.map(|id| id.urn().to_string()),
            stream: subject.stream,
            partition_key: subject.partition_key,
            node: node.as_str(),
            retryable: self.retryable(),
        };
        (status, problem)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::message::{Failure, FailureKind, Limit, Refusal};

    fn fault(fault: Fault) -> ApiError {
        ApiError::Fault {
            fault,
            may_run_twice: false,
        }
    }

    fn limit(kind: LimitKind, may_run_twice: bool) -> ApiError {
        ApiError::Fault {
            fault: Fault::LimitExceeded(Limit { kind, max: 1 }),
            may_run_twice,
        }
    }

    fn failure(kind: FailureKind) -> ApiError {
        fault(Fault::Failure(Failure {
            kind,
            text: "because".into(),
        }))
    }

    #[track_caller]
    fn check(error: &ApiError, status: u16, kind: &str, retryable: bool) {
        let node = NodeId::try_from("n1").unwrap();
        let (found, problem) = error.problem(Subject::default(), &node);
        assert_eq!(
            (found.as_u16(), problem.status),
            (status, status),
            "{error}"
        );
        assert_eq!(
            (problem.r#type, problem.retryable),
            (format!("urn:meshage:{kind}"), retryable),
            "{error}"
        );
    }

    #[test]
    fn every_error_has_its_status() {
        check(
            &ApiError::Target(TargetError::NoRoute),
            404,
            "no-route",
            false,
        );
        check(
            &ApiError::Target(TargetError::EmptyKey),
            400,
            "bad-partition-key",
            false,
        );
        check(
            &ApiError::Target(TargetError::Encoding("%".into())),
            400,
            "bad-encoding",
            false,
        );
        check(
            &ApiError::Method {
                method: "HEAD".into(),
            },
            405,
            "method-not-allowed",
            false,
        );
        check(
            &BodyError::TooLarge { bytes_max: 1 }.into(),
            413,
            "body-too-large",
            false,
        );
        check(
            &BodyError::Late(Duration::from_secs(1)).into(),
            408,
            "request-timeout",
            true,
        );
        check(&failure(FailureKind::Invalid), 400, "invalid", false);
        check(&failure(FailureKind::NotFound), 404, "not-found", false);
        check(&failure(FailureKind::Conflict), 409, "conflict", false);
        check(&failure(FailureKind::Unavailable), 503, "unavailable", true);
        check(&failure(FailureKind::Internal), 500, "internal", false);
        check(&fault(Fault::Crashed), 500, "crashed", false);
        check(&fault(Fault::NoCandidate), 404, "no-candidate", false);
        check(
            &fault(Fault::Refused(Refusal::Overloaded)),
            503,
            "overloaded",
            true,
        );
        check(
            &fault(Fault::Refused(Refusal::QueueFull)),
            503,
            "overloaded",
            true,
        );
        check(
            &fault(Fault::Refused(Refusal::NoRoom)),
            503,
            "overloaded",
            true,
        );
        check(&ApiError::Site("because"), 403, "other-site", false);
        check(
            &fault(Fault::Refused(Refusal::Leaving)),
            503,
            "leaving",
            true,
        );
        check(&fault(Fault::Unreachable), 503, "unreachable", true);
        check(&fault(Fault::Lost), 502, "lost", false);
        check(
            &ApiError::Fault {
                fault: Fault::Lost,
                may_run_twice: true,
            },
            502,
            "lost",
            true,
        );
        check(
            &fault(Fault::DeadlineExceeded),
            504,
            "deadline-exceeded",
            false,
        );
        check(
            &fault(Fault::Refused(Refusal::WaitedTooLong)),
            504,
            "deadline-exceeded",
            true,
        );
        check(
            &limit(LimitKind::Time, false),
            504,
            "deadline-exceeded",
            false,
        );
        check(
            &limit(LimitKind::Time, true),
            504,
            "deadline-exceeded",
            true,
        );
        check(
            &limit(LimitKind::MemoryBytes, true),
            500,
            "limit-exceeded",
            false,
        );
        check(
            &limit(LimitKind::BodiesBytes, false),
            500,
            "limit-exceeded",
            false,
        );
        check(
            &limit(LimitKind::BodiesBytes, true),
            500,
            "limit-exceeded",
            true,
        );
    }
}
