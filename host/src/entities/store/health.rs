//! Whether the store works: while it does not, messages are refused at once instead of waiting for
//! it one after the other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::backend::StoreError;

/// How long a store that failed is left alone, at first and at most. It doubles with each failure.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A store that has been working on one batch for so long hangs.
pub(super) const BATCH_MAX: Duration = Duration::from_secs(5);

/// Times are in microseconds since the start, plus one; 0 is never.
pub(super) struct Health {
    start: Instant,
    paused_until: AtomicU64,
    /// Since when it has been working on a batch.
    busy_since: AtomicU64,
    failures: AtomicU64,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            paused_until: AtomicU64::new(0),
            busy_since: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }
}

impl Health {
    /// Whether the store is worth asking.
    pub(super) fn is_good(&self) -> bool {
        let paused_until = self.paused_until.load(Ordering::Relaxed);
        let busy_since = self.busy_since.load(Ordering::Relaxed);
        if paused_until == 0 && busy_since == 0 {
            return true;
        }
        let now = self.now();
        now >= paused_until && !self.hangs(now)
    }

    /// Whether it answered when it was asked last, and does not hang.
    pub(super) fn is_working(&self) -> bool {
        let failures = self.failures.load(Ordering::Relaxed);
        failures == 0 && !self.hangs(self.now())
    }

    fn hangs(&self, now: u64) -> bool {
        let busy_since = self.busy_since.load(Ordering::Relaxed);
        busy_since != 0 && now.saturating_sub(busy_since) > micros(BATCH_MAX)
    }

    pub(super) fn begin(&self) {
        self.busy_since.store(self.now(), Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.busy_since.store(0, Ordering::Relaxed);
    }

    pub(super) fn note_success(&self) {
        if self.failures.load(Ordering::Relaxed) > 0 {
            let failures = self.failures.swap(0, Ordering::Relaxed);
            self.paused_until.store(0, Ordering::Relaxed);
            info!(
                event = "state-available",
                failures, "the store of the entities' state works again"
            );
        }
    }

    pub(super) fn note_failure(&self, error: &StoreError) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed);
        let doubled = 1 << failures.min(10);
        let pause = PAUSE_MAX.min(PAUSE_MIN * doubled);
        self.paused_until
            .store(self.now() + micros(pause), Ordering::Relaxed);
        if failures.is_power_of_two() || failures == 0 {
            warn!(event = "state-unavailable", %error, failures = failures + 1, "the store of the entities' state does not work: messages of stateful streams are refused");
        }
    }

    fn now(&self) -> u64 {
        micros(self.start.elapsed()) + 1
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
