//! Jobs: what is done beside the reconciler's own loop, on other tasks and on threads that may wait.
//! None gets lost: one that panics comes to an end, too, with a result.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use futures_util::FutureExt;
use tokio::task::JoinSet;

/// Jobs that end with a `T`. Those that still run when the value goes end unheard.
pub(super) struct Jobs<T>(JoinSet<T>);

impl<T: Send + 'static> Jobs<T> {
    pub(super) fn new() -> Self {
        Self(JoinSet::new())
    }

    /// Starts a job as a task. `panicked` makes its result of what a panic says.
    pub(super) fn start(
        &mut self,
        job: impl Future<Output = T> + Send + 'static,
        panicked: impl FnOnce(String) -> T + Send + 'static,
    ) {
        self.0.spawn(async move {
            let ended = AssertUnwindSafe(job).catch_unwind().await;
            ended.unwrap_or_else(|panic| panicked(text_of(panic)))
        });
    }

    /// The same for a job that may block, on a thread of its own: one that hangs holds up only
    /// itself.
    pub(super) fn start_blocking(
        &mut self,
        job: impl FnOnce() -> T + Send + 'static,
        panicked: impl FnOnce(String) -> T + Send + 'static,
    ) {
        self.0.spawn_blocking(move || {
            let ended = catch_unwind(AssertUnwindSafe(job));
            ended.unwrap_or_else(|panic| panicked(text_of(panic)))
        });
    }

    /// The result of the next job that ends; `None` if there is none. May be dropped at any time.
    pub(super) async fn next(&mut self) -> Option<T> {
        loop {
            // Panics do not come so far, and nobody aborts a job: an error would be of a runtime
            // that ends.
            if let Ok(done) = self.0.join_next().await? {
                return Some(done);
            }
        }
    }
}

fn text_of(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic
            .downcast_ref::<&str>()
            .map_or_else(|| "it said nothing".into(), |text| (*text).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn broken_task() -> String {
        panic!("on a task")
    }

    fn broken_work() -> String {
        panic!("on {}", "a thread")
    }

    #[tokio::test]
    async fn a_job_that_panics_comes_to_an_end() {
        let mut jobs = Jobs::new();
        jobs.start(broken_task(), |panic| format!("panicked {panic}"));
        assert_eq!(jobs.next().await.unwrap(), "panicked on a task");
        jobs.start_blocking(broken_work, |panic| format!("panicked {panic}"));
        assert_eq!(jobs.next().await.unwrap(), "panicked on a thread");
        jobs.start(async { "done".to_owned() }, |panic| panic);
        assert_eq!(jobs.next().await.unwrap(), "done");
        assert_eq!(jobs.next().await, None);
    }
}
