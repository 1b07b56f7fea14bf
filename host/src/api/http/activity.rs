//! Tracks the requests on a client's connection, to detect connections that are idle or stalled.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::sleep;

/// The requests of one connection.
#[derive(Default)]
pub(in crate::api) struct Activity {
    /// Requests that have begun, and whose answers are not fully sent yet.
    open: AtomicUsize,
    /// Counts progress: a request begins or ends, or a piece of an answer is handed to hyper.
    steps: AtomicUsize,
}

/// Why a connection can be closed.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::api) enum Quiet {
    /// No request is open.
    Idle,
    /// Requests are open, but the client does not read the answers.
    Stalled,
}

/// An open request, from its beginning until its answer is sent or abandoned.
pub(in crate::api) struct OpenRequest(Arc<Activity>);

impl Activity {
    pub(in crate::api) fn begin(self: &Arc<Self>) -> OpenRequest {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.step();
        OpenRequest(self.clone())
    }

    /// Notes that a piece of an answer was handed to hyper.
    pub(in crate::api) fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until nothing has happened for at least `idle_max` without requests, or `stalled_max`
    /// with open ones. It may take a little longer, as it polls in intervals, so that requests need
    /// not set timers.
    pub(in crate::api) async fn quiet(&self, idle_max: Duration, stalled_max: Duration) -> Quiet {
        let mut watch = QuietCheck {
            every: idle_max,
            stalled_max,
            steps: 0,
            quiet_for: Duration::ZERO,
        };
        loop {
            sleep(watch.every).await;
            if let Some(quiet) = watch.look(self) {
                return quiet;
            }
        }
    }
}

/// Checks a connection at equal intervals, each as long as it may be idle.
struct QuietCheck {
    every: Duration,
    stalled_max: Duration,
    /// The value of `Activity::steps` at the last check.
    steps: usize,
    quiet_for: Duration,
}

impl QuietCheck {
    fn look(&mut self, activity: &Activity) -> Option<Quiet> {
        let steps = activity.steps.load(Ordering::Relaxed);
        self.quiet_for = if steps == self.steps {
            self.quiet_for + self.every
        } else {
            Duration::ZERO
        };
        self.steps = steps;
        match activity.open.load(Ordering::Relaxed) {
            0 if self.quiet_for >= self.every => Some(Quiet::Idle),
            1.. if self.quiet_for >= self.stalled_max => Some(Quiet::Stalled),
            _ => None,
        }
    }
}

impl OpenRequest {
    pub(in crate::api) fn activity(&self) -> &Arc<Activity> {
        &self.0
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.step();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(10);

    fn watch() -> QuietCheck {
        QuietCheck {
            every: EVERY,
            stalled_max: 3 * EVERY,
            steps: 0,
            quiet_for: Duration::ZERO,
        }
    }

    #[test]
    fn a_connection_without_requests_is_idle() {
        assert_eq!(
            watch().look(&Activity::default()),
            Some(Quiet::Idle),
            "from its beginning"
        );
        let (activity, mut watch) = (Arc::new(Activity::default()), watch());
        for _ in 0..10 {
            drop(activity.begin());
            assert_eq!(watch.look(&activity), None);
        }
        assert_eq!(watch.look(&activity), Some(Quiet::Idle));
    }

    #[test]
    fn an_answer_that_nobody_takes_is_stalled() {
        let (activity, mut watch) = (Arc::new(Activity::default()), watch());
        let request = activity.begin();
        assert_eq!(watch.look(&activity), None);
        // A slow client, but not a stalled one.
        for _ in 0..10 {
            assert_eq!([watch.look(&activity), watch.look(&activity)], [None, None]);
            activity.step();
            assert_eq!(watch.look(&activity), None);
        }
        assert_eq!([watch.look(&activity), watch.look(&activity)], [None, None]);
        assert_eq!(watch.look(&activity), Some(Quiet::Stalled));
        drop(request);
        assert_eq!(
            [watch.look(&activity), watch.look(&activity)],
            [None, Some(Quiet::Idle)]
        );
    }
}
