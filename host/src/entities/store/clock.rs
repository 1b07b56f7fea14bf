//! The store's clock, as far as this node knows.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use super::host_millis;
use crate::message::StoreTime;

/// Follows this host's clock, or, of a store on a server, goes on from what that said last, whatever
/// this host's clock says.
#[derive(Debug, Default)]
pub(in crate::entities) struct Clock {
    /// When it was first set, if the store is on a server.
    since: OnceLock<Instant>,
    /// How far it is ahead of this host's clock, or of the time since, in milliseconds.
    ahead: AtomicI64,
}

impl Clock {
    pub(in crate::entities) fn now(&self) -> StoreTime {
        let millis = self.own_millis() + self.ahead.load(Ordering::Relaxed);
        StoreTime::from_millis(millis.try_into().unwrap_or_default())
    }

    /// The store is on a server.
    pub(super) fn leave_host(&self) {
        let now = self.now();
        self.since.get_or_init(Instant::now);
        self.note(now);
    }

    /// The store said what its clock says.
    pub(super) fn note(&self, now: StoreTime) {
        let ahead = now.millis().cast_signed() - self.own_millis();
        self.ahead.store(ahead, Ordering::Relaxed);
    }

    fn own_millis(&self) -> i64 {
        match self.since.get() {
            Some(since) => i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX),
            None => host_millis(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_goes_on_from_what_the_server_said() {
        let clock = Clock::default();
        let host = clock.now();
        clock.leave_host();
        assert!(clock.now() >= host && clock.now() < host.later(Duration::from_secs(60)));
        clock.note(StoreTime::from_millis(7_000));
        assert!((7_000..67_000).contains(&clock.now().millis()));
    }
}
