//! Calls that leave their lane: one that turns out to keep a core busy moves to another runtime,
//! where any core may run it.

use std::cell::Cell;
use std::future::poll_fn;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::task::Poll;

use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

thread_local! {
    /// Whether the future that is being polled began on this lane, and may leave it.
    static MAY_MOVE: Cell<bool> = const { Cell::new(false) };
    static WANTS_TO_MOVE: Cell<bool> = const { Cell::new(false) };
}

/// Runs a call where it is; once it asks to leave its lane, continues it as a task of the runtime
/// `elsewhere`. Dropping the future drops the call, wherever it runs. The call is boxed, so that
/// the move does not copy its few thousand bytes.
pub async fn run_movable<C>(mut call: Pin<Box<C>>, elsewhere: &Handle) -> C::Output
where
    C: Future<Output: Send> + Send + 'static,
{
    let stayed = poll_fn(|context| {
        let polled = {
            let _may_leave = MayMove::begin();
            call.as_mut().poll(context)
        };
        match polled {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if WANTS_TO_MOVE.take() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    });
    if let Some(output) = stayed.await {
        return output;
    }
    match AbortOnDropHandle::new(elsewhere.spawn(call)).await {
        Ok(output) => output,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // Cancelled: the runtime is shutting down, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// While this guard exists, the future that is being polled may leave its lane, if it is on one. A
/// guard, so that a panic resets it too.
struct MayMove;

impl MayMove {
    fn begin() -> Self {
        MAY_MOVE.set(super::is_lane());
        WANTS_TO_MOVE.set(false);
        Self
    }
}

impl Drop for MayMove {
    fn drop(&mut self) {
        MAY_MOVE.set(false);
    }
}

/// Awaited by a call that keeps a core busy: it continues on the other runtime from here, if it is
/// on a lane that it may leave.
pub async fn move_off_lane() {
    if MAY_MOVE.get() {
        WANTS_TO_MOVE.set(true);
        // No waker is needed: the other runtime polls it at once.
        next_poll().await;
    }
}

/// Resolves when it is polled again, by whatever already holds the task's waker.
pub async fn next_poll() {
    let mut is_first = true;
    poll_fn(|_| {
        if std::mem::take(&mut is_first) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::thread::{self, ThreadId};

    use super::super::Lanes;
    use super::*;

    /// The threads that a call is on before and after it asks to leave its lane.
    async fn places() -> [ThreadId; 2] {
        let before = thread::current().id();
        move_off_lane().await;
        [before, thread::current().id()]
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_call_leaves_a_lane_and_nothing_else() {
        let (lanes, elsewhere) = (Lanes::start().unwrap(), Handle::current());
        let runtime = elsewhere.clone();
        let on_lane = lanes.next().spawn(async move {
            let here = thread::current().id();
            (
                here,
                run_movable(Box::pin(places()), &runtime).await,
                run_movable(Box::pin(async { 1 }), &runtime).await,
            )
        });
        let (lane, [before, after], output) = on_lane.await.unwrap();
        assert_eq!((before, output), (lane, 1));
        assert_ne!(after, lane, "it stayed");
        // Without `run_movable` a future stays, also on a lane.
        let [before, after] = lanes.next().spawn(places()).await.unwrap();
        assert_eq!(before, after);
        let [before, after] = elsewhere
            .spawn(async { run_movable(Box::pin(places()), &Handle::current()).await })
            .await
            .unwrap();
        assert_eq!(before, after);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_call_that_has_left_ends_with_who_waits_for_it() {
        let (lanes, elsewhere) = (Lanes::start().unwrap(), Handle::current());
        let (left, has_left) = tokio::sync::oneshot::channel();
        let (alive, mut ends) = tokio::sync::mpsc::channel::<()>(1);
        let waiting = lanes.next().spawn(async move {
            let call = async move {
                let _alive = alive;
                move_off_lane().await;
                let _ = left.send(());
                std::future::pending::<()>().await;
            };
            run_movable(Box::pin(call), &elsewhere).await;
        });
        has_left.await.unwrap();
        waiting.abort();
        assert_eq!(ends.recv().await, None);
    }
}
