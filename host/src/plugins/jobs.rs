//! Jobs: work outside the reconciler's event loop, on other tasks and blocking threads. Every job
//! yields a result, even one that panics.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use futures_util::FutureExt;
use tokio::task::JoinSet;

/// Jobs that yield a `T`. When this is dropped, the results of running jobs are lost.
pub(super) struct Jobs<T>(JoinSet<T>);

impl<T: Send + 'static> Jobs<T> {
    pub(super) fn new() -> Self {
        Self(JoinSet::new())
    }

    /// Starts a job as a task. `panicked` turns the text of a panic into a result.
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

    /// The same for a job that may block, on a blocking thread: one that hangs delays no other.
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

    /// The result of the next job that ends; `None` if there are no jobs. Cancellation-safe.
    pub(super) async fn next(&mut self) -> Option<T> {
        loop {
            // Panics are caught, and jobs are never aborted: an error means that the runtime shuts
            // down.
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
