//! The circuit breaker of one link to a peer: whether messages may use it. Pure: events go in,
//! state and back-off come out.

use std::time::Duration;

use serde::Serialize;

/// Back-off after the first failed attempt to connect; it doubles with each further failure.
const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// The longest back-off: a peer that is back waits at most this long for messages.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A connection that lasted less counts as a failed attempt, so that a peer that accepts
/// connections and drops them is not reconnected to at once.
const LASTED_MIN: Duration = Duration::from_secs(1);

/// Ordered from best to worst: the worst link counts for its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BreakerState {
    /// The peer answers: messages go to it.
    Closed,
    /// The peer is new, or answered until its connection ended, and is being connected to: messages
    /// wait a moment for that.
    HalfOpen,
    /// The peer does not answer: messages go to the next in rank at once, while this node probes
    /// it.
    Open,
}

/// What happens to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkEvent {
    Connected,
    AttemptFailed,
    /// The peer has left pings unanswered.
    Silent,
    /// The peer is heard again after a silence.
    Heard,
    /// The connection has ended, having lasted this long.
    Lost(Duration),
}

#[derive(Debug)]
pub(super) struct Breaker {
    state: BreakerState,
    /// Failures since the last connection that lasted for `LASTED_MIN`.
    failures: u32,
}

impl Breaker {
    /// The breaker of a link to a new peer.
    pub(super) fn new() -> Self {
        Self {
            state: BreakerState::HalfOpen,
            failures: 0,
        }
    }

    pub(super) fn state(&self) -> BreakerState {
        self.state
    }

    pub(super) fn note(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Connected | LinkEvent::Heard => self.state = BreakerState::Closed,
            LinkEvent::Silent => self.state = BreakerState::Open,
            LinkEvent::AttemptFailed => self.fail(),
            LinkEvent::Lost(lasted) if lasted < LASTED_MIN => self.fail(),
            LinkEvent::Lost(_) => {
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
    fn check(events: &[LinkEvent], state: BreakerState, backoff_ms: u64) {
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
        use LinkEvent::*;
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
        use LinkEvent::*;
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
