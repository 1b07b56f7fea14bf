//! When a lane that is about to sleep lets the others of its core run first. Who shares the core, a client or another node,
//! then has more for the lane when it goes on, and needs not wake it: with all of them on one machine that makes some more
//! requests.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

thread_local! {
    static COURTESY: Cell<Courtesy> = const { Cell::new(Courtesy::new()) };
}

/// To be called when a lane wakes up.
pub(super) fn awake() {
    let mut courtesy = COURTESY.get();
    courtesy.awake_since = Some(Instant::now());
    COURTESY.set(courtesy);
}

/// To be called before a lane goes to sleep.
pub(super) fn give_way() {
    let mut courtesy = COURTESY.get();
    let began = Instant::now();
    if courtesy.is_due(began) {
        thread::yield_now();
        courtesy.note(began, Instant::now());
        COURTESY.set(courtesy);
    }
}

/// A lane that had less to do than this sleeps at once: it is not pressed, and what comes next should not wait. With a third of
/// this a mesh that shares its cores does more at saturation, with three times as much its p99 at half load is better.
const BUSY_MIN: Duration = Duration::from_micros(100);

/// Others that take a core for longer would have gone on with it.
const TURN_MAX: Duration = Duration::from_millis(1);

/// For how long nobody is given way to after such a turn; the next time twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(8);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What a lane knows of those that it shares its core with. Those that keep the core make the lane late, while a lane that
/// sleeps gets its core back at once; so it soon gives way to them no more. Pure.
#[derive(Debug, Clone, Copy)]
struct Courtesy {
    awake_since: Option<Instant>,
    not_before: Option<Instant>,
    pause: Duration,
}

impl Courtesy {
    const fn new() -> Self {
        Self { awake_since: None, not_before: None, pause: PAUSE_MIN }
    }

    fn is_due(&self, now: Instant) -> bool {
        let was_busy = self.awake_since.is_some_and(|since| now.saturating_duration_since(since) >= BUSY_MIN);
        was_busy && self.not_before.is_none_or(|not_before| now >= not_before)
    }

    /// The others had the core in between.
    fn note(&mut self, from: Instant, to: Instant) {
        if to.saturating_duration_since(from) <= TURN_MAX {
            *self = Self { awake_since: self.awake_since, ..Self::new() };
        } else {
            self.not_before = Some(to + self.pause);
            self.pause = (2 * self.pause).min(PAUSE_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lane_that_was_busy_gives_way() {
        let start = Instant::now();
        let mut courtesy = Courtesy::new();
        assert!(!courtesy.is_due(start));
        courtesy.awake_since = Some(start);
        assert!(!courtesy.is_due(start + BUSY_MIN / 2));
        assert!(courtesy.is_due(start + BUSY_MIN));
    }

    #[test]
    fn those_that_keep_the_core_are_soon_given_way_to_no_more() {
        let start = Instant::now();
        let mut courtesy = Courtesy { awake_since: Some(start), ..Courtesy::new() };
        let mut now = start + BUSY_MIN;
        let mut lost = Duration::ZERO;
        for _ in 0..20 {
            assert!(courtesy.is_due(now));
            let back = now + 3 * TURN_MAX;
            courtesy.note(now, back);
            lost += back - now;
            assert!(!courtesy.is_due(back));
            now = courtesy.not_before.unwrap();
        }
        assert!(lost < (now - start) / 100, "{lost:?} of {:?} were given away", now - start);
        // One that gives the core back is given way to as before.
        courtesy.note(now, now + TURN_MAX);
        assert!(courtesy.is_due(now + TURN_MAX));
        courtesy.note(now, now + 2 * TURN_MAX);
        assert!(courtesy.is_due(now + 2 * TURN_MAX + PAUSE_MIN));
    }
}
