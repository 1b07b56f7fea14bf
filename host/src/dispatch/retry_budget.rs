//! The retry budget: limits retries to a share of the sent messages, so that retries do not
//! overload a failing mesh. Only messages that were sent over the network without a result count.

use std::sync::atomic::{AtomicI64, Ordering};

/// The capacity, full at the start and again after a time without retries: enough to retry at once
/// all calls that are lost with one connection (8,192).
const RETRIES_MAX: i64 = 10_000;

/// Messages that earn one retry: in the long run one in five messages may be retried.
const MESSAGES_PER_RETRY: i64 = 5;

/// The remaining budget, in fifths of a retry.
pub(super) struct RetryBudget(AtomicI64);

impl Default for RetryBudget {
    fn default() -> Self {
        Self(AtomicI64::new(RETRIES_MAX * MESSAGES_PER_RETRY))
    }
}

impl RetryBudget {
    /// Called when a message is sent for the first time.
    pub(super) fn earn(&self) {
        // Usually it is full; then skip the write, which would invalidate the cache line in the
        // other cores.
        if self.0.load(Ordering::Relaxed) < RETRIES_MAX * MESSAGES_PER_RETRY {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Spends a retry, if one is left.
    pub(super) fn spend(&self) -> bool {
        let spent = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                (left >= MESSAGES_PER_RETRY).then(|| left - MESSAGES_PER_RETRY)
            });
        spent.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_messages_one_in_five_may_be_sent_again() {
        let budget = RetryBudget::default();
        let burst = std::iter::repeat_with(|| budget.spend())
            .take_while(|spent| *spent)
            .count();
        assert_eq!(burst as i64, RETRIES_MAX);
        let again = (0..1_000).filter(|_| {
            budget.earn();
            budget.spend()
        });
        assert_eq!(again.count(), 200);
    }

    #[test]
    fn no_more_is_saved_than_there_was_at_first() {
        let budget = RetryBudget::default();
        for _ in 0..100 {
            budget.earn();
        }
        assert_eq!(budget.0.into_inner(), RETRIES_MAX * MESSAGES_PER_RETRY);
    }
}
