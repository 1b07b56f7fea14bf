//! Tells of what may happen many thousand times a second: at once, and then once a second with how often it was.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two lines about the same.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// Different things that are remembered. When there are more, those are forgotten that have not been told for so long
/// that they would be told anew at once.
const REMEMBERED_MAX: usize = 256;

/// What happens, by what it is; there should be few different ones at a time.
pub struct Throttle<K>(Mutex<HashMap<K, Told>>);

struct Told {
    at: Instant,
    since: u64,
}

impl<K> Default for Throttle<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Throttle<K> {
    /// It has happened. Returns how often it has since it was last told, if it is time to tell it.
    pub fn note(&self, what: K, now: Instant) -> Option<u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(told) = all.get_mut(&what) else {
            if all.len() >= REMEMBERED_MAX {
                all.retain(|_, told| now.saturating_duration_since(told.at) < TELL_INTERVAL);
            }
            all.insert(what, Told { at: now, since: 0 });
            return Some(1);
        };
        told.since += 1;
        if now.saturating_duration_since(told.at) < TELL_INTERVAL {
            return None;
        }
        told.at = now;
        Some(std::mem::take(&mut told.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(throttle.note(REMEMBERED_MAX, start + TELL_INTERVAL), Some(1));
        assert_eq!(throttle.0.lock().unwrap().len(), 1);
    }
}
