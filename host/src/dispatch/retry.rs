//! Whether a message that got no reply may be offered to another node. Pure.

use crate::message::{Fault, Outcome, Refusal};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Stop,
    TryNextInRank,
}

/// A message goes on to the next in rank if it provably did not run, or may run twice. It does not
/// when its owner is overloaded: another node would only lack what the owner knows of the key.
pub(super) fn after(outcome: &Outcome, may_run_twice: bool) -> Next {
    let goes_on = match outcome {
        Err(Fault::Unreachable) => true,
        Err(Fault::Refused(
            Refusal::NotOffered | Refusal::Starting | Refusal::Leaving | Refusal::NotUnderstood,
        )) => true,
        Err(Fault::Lost) => may_run_twice,
        Err(Fault::Refused(
            Refusal::Overloaded | Refusal::QueueFull | Refusal::NoRoom | Refusal::WaitedTooLong,
        )) => false,
        Err(
            Fault::Failure(_) | Fault::Crashed | Fault::LimitExceeded(_) | Fault::DeadlineExceeded,
        ) => false,
        // What it means is not known here; it is an answer.
        Err(Fault::Foreign(_)) => false,
        Err(Fault::NoCandidate) | Ok(_) => false,
    };
    if goes_on {
        Next::TryNextInRank
    } else {
        Next::Stop
    }
}

/// Whether sending on a message that went over the network is a retry, which the budget pays: it
/// came back for nothing. What never went out costs nobody anything.
pub(super) fn costs(outcome: &Outcome) -> bool {
    matches!(outcome, Err(Fault::Refused(_) | Fault::Lost))
}

/// Why a message goes on, for logs and metrics.
pub(super) fn cause(outcome: &Outcome) -> &'static str {
    match outcome {
        Err(Fault::Lost) => "lost",
        Err(Fault::Refused(refusal)) => refusal.name(),
        _ => "unreachable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(fault: Fault, may_run_twice: bool, expected: Next) {
        assert_eq!(
            after(&Err(fault.clone()), may_run_twice),
            expected,
            "{fault:?}"
        );
    }

    #[test]
    fn what_did_not_run_goes_on_to_the_next_in_rank() {
        check(Fault::Unreachable, false, Next::TryNextInRank);
        check(
            Fault::Refused(Refusal::NotOffered),
            false,
            Next::TryNextInRank,
        );
        check(Fault::Refused(Refusal::Leaving), false, Next::TryNextInRank);
        check(Fault::Refused(Refusal::Overloaded), false, Next::Stop);
        check(Fault::Refused(Refusal::NoRoom), true, Next::Stop);
    }

    #[test]
    fn what_may_have_run_goes_on_only_if_it_may_run_twice() {
        check(Fault::Lost, false, Next::Stop);
        check(Fault::Lost, true, Next::TryNextInRank);
        check(Fault::Crashed, true, Next::Stop);
        check(Fault::DeadlineExceeded, true, Next::Stop);
    }
}
