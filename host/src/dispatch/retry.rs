//! Whether a message that got no reply may be offered to another node. Pure.

use crate::message::{Fault, Message, Outcome, Refusal};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Stop,
    TryNextInRank,
}

/// A message goes on to the next in rank if it provably did not run, or may run twice. It does not
/// when its owner is overloaded: another node would only lack what the owner knows of the key.
pub(super) fn after(outcome: &Outcome, message: &Message) -> Next {
    let goes_on = match outcome {
        Err(Fault::Unreachable) => true,
        Err(Fault::Refused(Refusal::NotOffered | Refusal::Starting | Refusal::Leaving)) => true,
        Err(Fault::Lost) => message.may_run_twice(),
        Err(Fault::Refused(Refusal::Overloaded | Refusal::QueueFull | Refusal::NoRoom | Refusal::WaitedTooLong)) => {
            false
        }
        Err(Fault::Failure(_) | Fault::Crashed | Fault::LimitExceeded(_) | Fault::DeadlineExceeded) => false,
        Err(Fault::NoCandidate) | Ok(_) => false,
    };
    if goes_on { Next::TryNextInRank } else { Next::Stop }
}

/// Whether sending on a message that went over the network is a retry, which the budget pays: it came back for nothing. What
/// never went out costs nobody anything.
pub(super) fn costs(outcome: &Outcome) -> bool {
    matches!(outcome, Err(Fault::Refused(_) | Fault::Lost))
}

/// Why a message goes on, for logs and metrics.
pub(super) fn cause(outcome: &Outcome) -> &'static str {
    match outcome {
        Err(Fault::Lost) => "lost",
        Err(Fault::Refused(refusal)) => refusal.kind(),
        _ => "unreachable",
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue};
    use uuid::Uuid;

    use super::*;
    use crate::message::{Method, PartitionKey, StreamName};

    fn message(method: Method) -> Message {
        Message {
            id: Uuid::nil(),
            stream: StreamName::try_from("echo").unwrap(),
            partition_key: PartitionKey::try_from("42").unwrap(),
            method,
            query: String::new(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    #[track_caller]
    fn check(fault: Fault, message: &Message, expected: Next) {
        assert_eq!(after(&Err(fault.clone()), message), expected, "{fault:?}");
    }

    #[test]
    fn what_did_not_run_goes_on_to_the_next_in_rank() {
        let post = message(Method::Post);
        check(Fault::Unreachable, &post, Next::TryNextInRank);
        check(Fault::Refused(Refusal::NotOffered), &post, Next::TryNextInRank);
        check(Fault::Refused(Refusal::Leaving), &post, Next::TryNextInRank);
        check(Fault::Refused(Refusal::Overloaded), &post, Next::Stop);
    }

    #[test]
    fn what_may_have_run_goes_on_only_if_it_may_run_twice() {
        check(Fault::Lost, &message(Method::Post), Next::Stop);
        check(Fault::Lost, &message(Method::Put), Next::TryNextInRank);
        let mut post = message(Method::Post);
        post.headers.insert("idempotency-key", HeaderValue::from_static("a1"));
        check(Fault::Lost, &post, Next::TryNextInRank);
        check(Fault::Crashed, &message(Method::Get), Next::Stop);
        check(Fault::DeadlineExceeded, &message(Method::Get), Next::Stop);
    }
}
