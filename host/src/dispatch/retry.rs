//! Whether a message that got no reply may be offered to another node. Pure.

use crate::message::{Fault, Outcome, Refusal};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Stop,
    TryNextInRank,
    /// Its owner is found again, by the newest view.
    RouteAgain,
}

/// Decides about a retry: a message is offered to the next candidate if it provably did not run, or
/// may run twice. If several nodes took themselves for the owner, the views differed, and what this
/// node knows may be newer by now.
pub(super) fn after(outcome: &Outcome, may_be_repeated: bool) -> Next {
    match outcome {
        Err(Fault::Lost) if may_be_repeated => Next::TryNextInRank,
        Err(Fault::Refused(Refusal::Contended)) => Next::RouteAgain,
        Err(fault) if fault.may_fail_over() => Next::TryNextInRank,
        _ => Next::Stop,
    }
}

/// Whether offering a message again, after it was sent over the network, is a retry that counts
/// against the budget: if it came back without a result. A message that was never sent costs
/// nothing.
pub(super) fn costs(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Err(Fault::Refused(_) | Fault::Foreign(_) | Fault::Lost)
    )
}

/// Why a message is offered to another node, for logs and metrics.
pub(super) fn cause(outcome: &Outcome) -> &'static str {
    match outcome {
        Err(Fault::Lost) => "lost",
        Err(Fault::Refused(refusal)) => refusal.name(),
        Err(Fault::Foreign(_)) => "other",
        _ => "unreachable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::ForeignFault;

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
        check(
            Fault::Refused(Refusal::Starting),
            false,
            Next::TryNextInRank,
        );
        check(
            Fault::Refused(Refusal::NotOwner),
            false,
            Next::TryNextInRank,
        );
        let not_understood = Fault::Refused(Refusal::NotUnderstood);
        check(not_understood, false, Next::TryNextInRank);
        for (may_fail_over, next) in [(true, Next::TryNextInRank), (false, Next::Stop)] {
            let (kind, text) = ("later".into(), String::new());
            let status = http::StatusCode::SERVICE_UNAVAILABLE;
            let nothing_ran = true;
            let fault = ForeignFault {
                kind,
                status,
                text,
                nothing_ran,
                may_fail_over,
            };
            check(Fault::Foreign(Box::new(fault)), true, next);
        }
        check(Fault::Refused(Refusal::Overloaded), false, Next::Stop);
        check(Fault::Refused(Refusal::NoRoom), true, Next::Stop);
        let contended = Fault::Refused(Refusal::Contended);
        check(contended, false, Next::RouteAgain);
    }

    #[test]
    fn what_may_have_run_goes_on_only_if_it_may_run_twice() {
        check(Fault::Lost, false, Next::Stop);
        check(Fault::Lost, true, Next::TryNextInRank);
        check(Fault::Crashed, true, Next::Stop);
        check(Fault::DeadlineExceeded, true, Next::Stop);
    }
}
