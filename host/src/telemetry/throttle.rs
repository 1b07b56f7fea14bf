//! Limits how often an event that may happen many thousand times a second is logged: at once, and
//! then at intervals, with the number of times. Intervals are a second, or grow for as long as it
//! goes on.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Interval between two lines about the same event; the first one, where intervals grow.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// Factor by which intervals grow: what goes on for a day is logged 30 times, seven of them in the
/// first half hour, while somebody may be looking.
const GROWTH: u32 = 4;

/// The longest interval, so that the last hour of a log shows everything that is wrong.
const TELL_INTERVAL_MAX: Duration = Duration::from_secs(3_600);

/// Events that are tracked separately. All others share one entry, as strangers can make up any
/// number of them. When the limit is reached, events that would start over anyway are evicted.
const REMEMBERED_MAX: usize = 256;

/// Limits how often events are logged, each by its key `K`. Meant for few distinct keys at a time.
pub struct Throttle<K> {
    pace: Pace,
    told: Mutex<All<K>>,
}

#[derive(Clone, Copy)]
struct Pace {
    growth: u32,
    /// An event that has not happened for this long starts over, as if it were new.
    anew_after: Duration,
}

struct All<K> {
    remembered: HashMap<K, Entry>,
    /// One entry for all other events.
    others: Option<Entry>,
}

struct Entry {
    at: Instant,
    /// From `at` until it may be logged again.
    interval: Duration,
    happened_at: Instant,
    since: u64,
}

/// Logs an event at most once a second.
impl<K> Default for Throttle<K> {
    fn default() -> Self {
        Self::new(Pace {
            growth: 1,
            anew_after: TELL_INTERVAL,
        })
    }
}

impl<K> Throttle<K> {
    fn new(pace: Pace) -> Self {
        Self {
            pace,
            told: Mutex::new(All {
                remembered: HashMap::new(),
                others: None,
            }),
        }
    }

    /// Logs an event after a second, then after four times as long each time, up to an hour. Starts
    /// over when it has not happened for `anew_after`.
    pub fn growing(anew_after: Duration) -> Self {
        Self::new(Pace {
            growth: GROWTH,
            anew_after,
        })
    }
}

impl<K: Eq + Hash> Throttle<K> {
    /// Counts an event. If it is time to log it, returns how often it has happened since it was
    /// last logged.
    pub fn note(&self, what: K, now: Instant) -> Option<u64> {
        let pace = self.pace;
        let mut all = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let All { remembered, others } = &mut *all;
        if let Some(told) = remembered.get_mut(&what) {
            return told.again(pace, now);
        }
        if remembered.len() >= REMEMBERED_MAX {
            remembered.retain(|_, told| !told.is_over(pace, now));
        }
        if remembered.len() < REMEMBERED_MAX {
            remembered.insert(what, Entry::first(now));
            return Some(1);
        }
        match others {
            Some(told) => told.again(pace, now),
            None => {
                *others = Some(Entry::first(now));
                Some(1)
            }
        }
    }
}

impl Entry {
    fn first(now: Instant) -> Self {
        Self {
            at: now,
            interval: TELL_INTERVAL,
            happened_at: now,
            since: 0,
        }
    }

    fn again(&mut self, pace: Pace, now: Instant) -> Option<u64> {
        self.interval = if self.is_over(pace, now) {
            TELL_INTERVAL
        } else if now.saturating_duration_since(self.at) >= self.interval {
            self.interval
                .saturating_mul(pace.growth)
                .min(TELL_INTERVAL_MAX)
        } else {
            self.happened_at = now;
            self.since += 1;
            return None;
        };
        self.happened_at = now;
        self.at = now;
        Some(std::mem::take(&mut self.since) + 1)
    }

    fn is_over(&self, pace: Pace, now: Instant) -> bool {
        now.saturating_duration_since(self.happened_at) >= pace.anew_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_is_told_at_once_and_the_others_together() {
        let throttle = Throttle::default();
        let start = Instant::now();
        assert_eq!(throttle.note("a", start), Some(1));
        assert_eq!(throttle.note("b", start), Some(1));
        for _ in 0..9 {
            assert_eq!(throttle.note("a", start + TELL_INTERVAL / 2), None);
        }
        assert_eq!(throttle.note("a", start + TELL_INTERVAL), Some(10));
        assert_eq!(throttle.note("a", start + TELL_INTERVAL), None);
    }

    #[test]
    fn what_has_not_happened_for_long_is_forgotten() {
        let throttle = Throttle::default();
        let start = Instant::now();
        for what in 0..REMEMBERED_MAX {
            throttle.note(what, start);
        }
        assert_eq!(
            throttle.note(REMEMBERED_MAX, start + TELL_INTERVAL),
            Some(1)
        );
        assert_eq!(throttle.told.lock().unwrap().remembered.len(), 1);
    }

    /// The seconds at which the event is logged, of those at which it happens.
    fn told_at(
        throttle: &Throttle<&str>,
        start: Instant,
        happens: impl Iterator<Item = u32>,
    ) -> Vec<u32> {
        happens
            .filter(|second| throttle.note("a", start + SECOND * *second).is_some())
            .collect()
    }

    #[test]
    fn what_goes_on_is_told_ever_less_often_but_once_an_hour() {
        let (throttle, start) = (Throttle::growing(SECOND * 60), Instant::now());
        assert_eq!(
            told_at(&throttle, start, 0..20_000),
            [0, 1, 5, 21, 85, 341, 1365, 4965, 8565, 12165, 15765, 19365]
        );
        // It did not happen for more than a minute: it starts over, and the count includes what was
        // not logged yet.
        assert_eq!(
            throttle.note("a", start + SECOND * 20_100),
            Some(20_000 - 19_365)
        );
        assert_eq!(told_at(&throttle, start, 20_101..20_120), [20_101, 20_105]);
    }

    #[test]
    fn a_short_pause_is_no_new_beginning() {
        let (throttle, start) = (Throttle::growing(SECOND * 60), Instant::now());
        assert_eq!(
            told_at(&throttle, start, (0..400).step_by(50)),
            [0, 50, 100, 150, 250]
        );
    }

    #[test]
    fn what_is_made_up_takes_neither_memory_nor_lines() {
        let (throttle, start) = (Throttle::growing(SECOND * 60), Instant::now());
        let told = |second: u32, whats: std::ops::Range<usize>| -> Vec<usize> {
            whats
                .filter(|what| throttle.note(*what, start + SECOND * second).is_some())
                .collect()
        };
        // One line for all events beyond those that are tracked.
        assert_eq!(
            told(0, 0..REMEMBERED_MAX * 100),
            (0..=REMEMBERED_MAX).collect::<Vec<_>>()
        );
        assert_eq!(
            told(1, REMEMBERED_MAX * 100..REMEMBERED_MAX * 200),
            [REMEMBERED_MAX * 100]
        );
        assert!(told(2, REMEMBERED_MAX * 200..REMEMBERED_MAX * 300).is_empty());
        assert_eq!(
            throttle.told.lock().unwrap().remembered.len(),
            REMEMBERED_MAX
        );
        // Once the events have stopped, there is room again.
        assert_eq!(told(90, 1_000_000..1_000_002), [1_000_000, 1_000_001]);
    }
}
