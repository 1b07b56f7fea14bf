//! The breaker of one peer: whether messages go to it. Pure: it is told what happens, and tells
//! what follows.

use std::time::Duration;

use serde::Serialize;

/// Between the first failed attempt to connect and the next; each further one waits twice as long.
const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// The longest wait between two attempts: what a peer that is back waits at most for its messages.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A connection that lasted less was no success: a peer that takes it and drops it is not asked at
/// once again.
const LASTED_MIN: Duration = Duration::from_secs(1);

/// From the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BreakerState {
    /// The peer answers: messages go to it.
    Closed,
    /// It was well, or is new, and is being connected to: messages wait for that, for a moment.
    HalfOpen,
    /// It does not answer: messages go to the next in rank at once, while this node probes it.
    Open,
}

/// What happens on the way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Connected,
    AttemptFailed,
    /// It has left pings unanswered.
    Silent,
    /// It has answered after all.
    Heard,
    /// The connection has ended, this long after it was made.
    Lost(Duration),
}

#[derive(Debug)]
pub(super) struct Breaker {
    state: BreakerState,
    /// Attempts that failed since the peer was last well.
    failures: u32,
}

impl Breaker {
    /// That of a peer that was just met.
    pub(super) fn new() -> Self {
        Self {
            state: BreakerState::HalfOpen,
            failures: 0,
        }
    }

    pub(super) fn state(&self) -> BreakerState {
        self.state
    }

    pub(super) fn note(&mut self, event: Event) {
        match event {
            Event::Connected | Event::Heard => self.state = BreakerState::Closed,
            Event::Silent => self.state = BreakerState::Open,
            Event::AttemptFailed => self.fail(),
            Event::Lost(lasted) if lasted < LASTED_MIN => self.fail(),
            Event::Lost(_) => {
                self.failures = 0;
                if self.state == BreakerState::Closed {
                    self.state = BreakerState::HalfOpen;
                }
            }
        }
    }

    fn fail(&mut self) {
        self.failures += 1;
        self.state = BreakerState::Open;
    }

    /// How long to wait before the next attempt to connect.
    pub(super) fn backoff(&self) -> Duration {
        match self.failures {
            0 => Duration::ZERO,
            failures => BACKOFF_MIN
                .saturating_mul(1 << (failures - 1).min(8))
                .min(BACKOFF_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(1);

    #[track_caller]
    fn check(events: &[Event], state: BreakerState, backoff_ms: u64) {
        let mut breaker = Breaker::new();
        for event in events {
            breaker.note(*event);
        }
        assert_eq!(
            (breaker.state(), breaker.backoff()),
            (state, Duration::from_millis(backoff_ms)),
            "{events:?}"
        );
    }

    #[test]
    fn messages_wait_only_for_a_peer_that_was_well() {
        use Event::*;
        check(&[], BreakerState::HalfOpen, 0);
        check(&[Connected], BreakerState::Closed, 0);
        check(&[Connected, Lost(LONG)], BreakerState::HalfOpen, 0);
        check(
            &[Connected, Lost(LONG), AttemptFailed],
            BreakerState::Open,
            100,
        );
        check(&[Connected, Silent], BreakerState::Open, 0);
        check(&[Connected, Silent, Heard], BreakerState::Closed, 0);
        check(&[Connected, Silent, Lost(LONG)], BreakerState::Open, 0);
    }

    #[test]
    fn attempts_become_rarer_up_to_a_second() {
        use Event::*;
        check(&[AttemptFailed; 2], BreakerState::Open, 200);
        check(&[AttemptFailed; 4], BreakerState::Open, 800);
        check(&[AttemptFailed; 100], BreakerState::Open, 1_000);
        check(
            &[AttemptFailed, AttemptFailed, Connected],
            BreakerState::Closed,
            200,
        );
        check(
            &[AttemptFailed, AttemptFailed, Connected, Lost(SHORT)],
            BreakerState::Open,
            400,
        );
        check(
            &[AttemptFailed, AttemptFailed, Connected, Lost(LONG)],
            BreakerState::HalfOpen,
            0,
        );
    }
}
