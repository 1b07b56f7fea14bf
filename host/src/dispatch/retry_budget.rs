//! The retry budget: how much of what a node sends may be sent again, so that a sick mesh is not
//! hammered. Only what went over the network and came back for nothing costs anything.

use std::sync::atomic::{AtomicI64, Ordering};

/// Retries that are there at first, and after a quiet time: what is lost with one connection (8,192
/// calls) may be tried once more at once.
const RETRIES_MAX: i64 = 10_000;

/// Messages that earn a retry: of many messages one in five may be sent twice.
const MESSAGES_PER_RETRY: i64 = 5;

/// What is left, in fifths of a retry.
pub(super) struct RetryBudget(AtomicI64);

impl Default for RetryBudget {
    fn default() -> Self {
        Self(AtomicI64::new(RETRIES_MAX * MESSAGES_PER_RETRY))
    }
}

impl RetryBudget {
    /// A message is sent for the first time.
    pub(super) fn earn(&self) {
        // Mostly it is full: then there is nothing to write, which another core would have to
        // fetch.
        if self.0.load(Ordering::Relaxed) < RETRIES_MAX * MESSAGES_PER_RETRY {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes a retry, if there is one.
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
