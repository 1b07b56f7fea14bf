//! Faults between nodes: by name, and with what a node needs to answer a client if it does not know
//! the name.

use std::borrow::Cow;

use bytes::BytesMut;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{Extensions, WireError, put_head};
use crate::message::{
    Failure, FailureKind, Fault, ForeignFault, Limit, LimitKind, Refusal, truncate,
};

/// Longest name that is kept of a fault of another version, and longest text of any fault.
const KIND_BYTES_MAX: usize = 64;
const TEXT_BYTES_MAX: usize = 8 << 10;

const CRASHED: &str = "crashed";
const DEADLINE_EXCEEDED: &str = "deadline-exceeded";
const UNREACHABLE: &str = "unreachable";
const LOST: &str = "lost";
const NO_CANDIDATE: &str = "no-candidate";
const NO_ROUTE: &str = "no-route";
const LIMIT_EXCEEDED: &str = "limit-exceeded";
const READ_ONLY: &str = "read-only";
const CYCLE: &str = "cycle";
const IDEMPOTENCY_KEY_REUSED: &str = "idempotency-key-reused";

#[derive(Serialize, Deserialize)]
struct Head<'a> {
    kind: &'a str,
    /// This field and the next three are for versions that do not know the kind.
    status: u16,
    nothing_ran: bool,
    /// Whether another node may take the message.
    may_fail_over: bool,
    #[serde(borrow)]
    text: Cow<'a, str>,
    /// The name of the limit that was exceeded, and how much it allows.
    #[serde(borrow)]
    limit: Option<(&'a str, u64)>,
    #[serde(borrow)]
    extensions: Extensions<'a>,
}

fn kind_of(fault: &Fault) -> (&str, Option<(&str, u64)>) {
    match fault {
        Fault::Failure(failure) => (failure.kind.name(), None),
        Fault::Crashed => (CRASHED, None),
        Fault::DeadlineExceeded => (DEADLINE_EXCEEDED, None),
        Fault::Refused(refusal) => (refusal.name(), None),
        Fault::Unreachable => (UNREACHABLE, None),
        Fault::Lost => (LOST, None),
        Fault::NoCandidate => (NO_CANDIDATE, None),
        Fault::NoRoute => (NO_ROUTE, None),
        Fault::ReadOnly => (READ_ONLY, None),
        Fault::IdempotencyKeyReused => (IDEMPOTENCY_KEY_REUSED, None),
        Fault::Cycle(_) => (CYCLE, None),
        Fault::LimitExceeded(limit) => (LIMIT_EXCEEDED, Some((limit.kind.name(), limit.max))),
        Fault::Foreign(fault) => (fault.kind.as_str(), None),
        Fault::AfterCalls(fault) => kind_of(fault),
    }
}

pub(super) fn put(buffer: &mut BytesMut, fault: &Fault) {
    let (kind, limit) = kind_of(fault);
    let text = match fault {
        Fault::Failure(failure) => Cow::Borrowed(failure.text.as_str()),
        other => Cow::Owned(other.to_string()),
    };
    let status = fault.problem_type().status.as_u16();
    put_head(
        buffer,
        &Head {
            kind,
            status,
            nothing_ran: fault.nothing_ran(),
            may_fail_over: fault.may_fail_over(),
            text,
            limit,
            extensions: Extensions::new(),
        },
    );
}

pub(super) fn read(frame: &[u8]) -> Result<Fault, WireError> {
    let head: Head<'_> = postcard::from_bytes(frame)?;
    let failure = FailureKind::ALL
        .into_iter()
        .find(|kind| kind.name() == head.kind);
    if let Some(kind) = failure {
        let text = truncate(head.text.into_owned(), TEXT_BYTES_MAX);
        return Ok(Fault::Failure(Failure { kind, text }));
    }
    let refusal = Refusal::ALL
        .into_iter()
        .find(|refusal| refusal.name() == head.kind);
    if let Some(refusal) = refusal {
        let refused = Fault::Refused(refusal);
        return Ok(if head.nothing_ran {
            refused
        } else {
            Fault::AfterCalls(Box::new(refused))
        });
    }
    let limit_of = |(name, max): (&str, u64)| {
        let kind = LimitKind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)?;
        Some(Limit { kind, max })
    };
    Ok(match (head.kind, head.limit.and_then(limit_of)) {
        (CRASHED, _) => Fault::Crashed,
        (NO_ROUTE, _) => Fault::NoRoute,
        (READ_ONLY, _) => Fault::ReadOnly,
        (IDEMPOTENCY_KEY_REUSED, _) => Fault::IdempotencyKeyReused,
        (CYCLE, _) => Fault::Cycle(truncate(head.text.into_owned(), TEXT_BYTES_MAX)),
        (DEADLINE_EXCEEDED, _) => Fault::DeadlineExceeded,
        (LIMIT_EXCEEDED, Some(limit)) => Fault::LimitExceeded(limit),
        // `unreachable`, `lost` and `no-candidate` are foreign too: the peer reports them about
        // other nodes, but as faults of this node they would be about the peer.
        _ => Fault::Foreign(Box::new(foreign(&head))),
    })
}

/// A fault whose name, or whose limit, this version does not know. The name goes on to clients, so
/// anything but lower-case letters, digits and `-` is replaced.
fn foreign(head: &Head<'_>) -> ForeignFault {
    let is_name = head
        .kind
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    let kind = if is_name && (1..=KIND_BYTES_MAX).contains(&head.kind.len()) {
        head.kind
    } else {
        "other"
    };
    let status = StatusCode::from_u16(head.status).ok();
    let is_error = |status: &StatusCode| status.is_client_error() || status.is_server_error();
    ForeignFault {
        kind: kind.to_owned(),
        status: status
            .filter(is_error)
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        text: truncate(head.text.clone().into_owned(), TEXT_BYTES_MAX),
        nothing_ran: head.nothing_ran,
        may_fail_over: head.nothing_ran && head.may_fail_over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_again(fault: &Fault) -> Fault {
        let mut buffer = BytesMut::new();
        put(&mut buffer, fault);
        read(&buffer).unwrap()
    }

    #[test]
    fn every_fault_arrives_as_it_was_sent() {
        let failure = |kind| {
            Fault::Failure(Failure {
                kind,
                text: "because".into(),
            })
        };
        let limit = |kind| Fault::LimitExceeded(Limit { kind, max: 7 });
        let others = [
            Fault::Crashed,
            Fault::DeadlineExceeded,
            Fault::NoRoute,
            Fault::ReadOnly,
            Fault::IdempotencyKeyReused,
            Fault::Cycle("a/1 → a/1".into()),
            Fault::AfterCalls(Box::new(Fault::Refused(Refusal::Contended))),
        ];
        let all = FailureKind::ALL
            .map(failure)
            .into_iter()
            .chain(Refusal::ALL.map(Fault::Refused))
            .chain(others);
        for fault in all.chain(LimitKind::ALL.map(limit)) {
            assert_eq!(read_again(&fault), fault);
        }
    }

    #[track_caller]
    fn check_foreign(kind: &str, status: u16, expected: (&str, u16)) {
        let head = Head {
            kind,
            status,
            nothing_ran: true,
            may_fail_over: true,
            text: "because".into(),
            limit: Some(("a-later-limit", 3)),
            extensions: vec![(9, b"a later extension")],
        };
        let mut buffer = BytesMut::new();
        put_head(&mut buffer, &head);
        let fault = read(&buffer).unwrap();
        let Fault::Foreign(found) = &fault else {
            panic!("{fault:?}")
        };
        assert_eq!((found.kind.as_str(), found.status.as_u16()), expected);
        assert!(found.text == "because" && found.nothing_ran && found.may_fail_over);
        assert_eq!(read_again(&fault), fault, "it goes on as it came");
    }

    #[test]
    fn a_fault_of_a_later_version_is_an_answer() {
        check_foreign("of-a-later-version", 503, ("of-a-later-version", 503));
        check_foreign("limit-exceeded", 500, ("limit-exceeded", 500));
        check_foreign("no name\r\n", 200, ("other", 500));
        check_foreign("", 999, ("other", 500));
        for fault in [
            Fault::Unreachable,
            Fault::Lost,
            Fault::NoCandidate,
            Fault::unreadable_answer(),
        ] {
            let Fault::Foreign(found) = read_again(&fault) else {
                panic!("{fault:?}: the other node's word is taken for this one's")
            };
            assert_eq!(found.nothing_ran, fault.nothing_ran());
        }
    }
}
