//! What happens on a client's connection, so that one on which nothing does can be told from others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::sleep;

/// The requests of one connection.
#[derive(Default)]
pub(super) struct Activity {
    /// Requests that have begun, and whose answers are not sent yet.
    open: AtomicUsize,
    /// How often a request has begun, or some of its answer was sent.
    steps: AtomicUsize,
}

/// Why a connection is of no use.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Quiet {
    /// There is no request.
    Idle,
    /// There are requests, but the client does not take the answers.
    Stalled,
}

/// A request, from its beginning until its answer is sent or given up.
pub(super) struct Open(Arc<Activity>);

impl Activity {
    pub(super) fn begin(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.step();
        Open(self.clone())
    }

    fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until nothing has happened for at least so long: a little longer, since it looks only now and then, so that
    /// requests need not set any timer.
    pub(super) async fn quiet(&self, idle_max: Duration, stalled_max: Duration) -> Quiet {
        let (mut steps, mut quiet_for) = (0, Duration::ZERO);
        loop {
            sleep(idle_max).await;
            let now = self.steps.load(Ordering::Relaxed);
            quiet_for = if now == steps { quiet_for + idle_max } else { Duration::ZERO };
            steps = now;
            match self.open.load(Ordering::Relaxed) {
                0 if quiet_for >= idle_max => return Quiet::Idle,
                1.. if quiet_for >= stalled_max => return Quiet::Stalled,
                _ => {}
            }
        }
    }
}

impl Open {
    /// Some of the answer was sent.
    pub(super) fn step(&self) {
        self.0.step();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.step();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const IDLE_MAX: Duration = Duration::from_secs(10);
    const STALLED_MAX: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_requests_is_idle() {
        let activity = Arc::new(Activity::default());
        let began = Instant::now();
        let requests = async {
            for _ in 0..100 {
                let request = activity.begin();
                sleep(Duration::from_secs(1)).await;
                drop(request);
            }
            began.elapsed()
        };
        let (quiet, busy_for) = tokio::join!(activity.quiet(IDLE_MAX, STALLED_MAX), requests);
        assert_eq!(quiet, Quiet::Idle);
        let idle_for = began.elapsed() - busy_for;
        assert!((IDLE_MAX..=2 * IDLE_MAX).contains(&idle_for), "{idle_for:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_takes_is_stalled() {
        let activity = Arc::new(Activity::default());
        let request = activity.begin();
        let began = Instant::now();
        let sending = async {
            // Slow, but not too slow.
            for _ in 0..5 {
                sleep(STALLED_MAX - IDLE_MAX).await;
                request.step();
            }
            began.elapsed()
        };
        let (quiet, moved_for) = tokio::join!(activity.quiet(IDLE_MAX, STALLED_MAX), sending);
        assert_eq!(quiet, Quiet::Stalled);
        let stalled_for = began.elapsed() - moved_for;
        assert!((STALLED_MAX..=STALLED_MAX + 2 * IDLE_MAX).contains(&stalled_for), "{stalled_for:?}");
    }
}
