//! hyper's timer for the head of a request: one per connection, not one per request.
//!
//! hyper makes a timer whenever it begins to wait for a head, and drops it when the head has
//! arrived. Here hyper only gets a deadline; the real timer is reused between requests, and is
//! reset when it fires too early. A timer per request would cost a local message 450 of 47,000
//! instructions more.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use tokio::time::sleep_until;

/// The timer of one connection, for one wait at a time.
#[derive(Clone, Default)]
pub(in crate::api) struct HeadTimer(Arc<Mutex<Option<Pin<Box<tokio::time::Sleep>>>>>);

/// One wait.
struct Wait {
    deadline: Instant,
    timer: HeadTimer,
}

impl HeadTimer {
    fn lock(&self) -> MutexGuard<'_, Option<Pin<Box<tokio::time::Sleep>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Wait {
            deadline,
            timer: self.clone(),
        })
    }
}

impl Sleep for Wait {}

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut slot = self.timer.lock();
        let sleep = slot.get_or_insert_with(|| Box::pin(sleep_until(self.deadline.into())));
        // The timer may still have the earlier or later deadline of a previous wait.
        if sleep.deadline() > self.deadline.into() {
            sleep.as_mut().reset(self.deadline.into());
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= self.deadline.into() {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(self.deadline.into());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(10);
    const LONG: Duration = Duration::from_secs(3_600);

    #[tokio::test]
    async fn each_wait_has_its_own_deadline() {
        let timer = HeadTimer::default();
        let began = Instant::now();
        timer.sleep(SHORT).await;
        assert!(began.elapsed() >= SHORT);
        // The timer of a dropped wait fires during the next one, which goes on waiting.
        let mut dropped = timer.sleep(SHORT);
        assert!(futures_util::poll!(&mut dropped).is_pending());
        drop(dropped);
        let began = Instant::now();
        timer.sleep(3 * SHORT).await;
        assert!(began.elapsed() >= 3 * SHORT);
        // A timer that is set for much later is reset.
        let mut dropped = timer.sleep(LONG);
        assert!(futures_util::poll!(&mut dropped).is_pending());
        drop(dropped);
        timer.sleep(SHORT).await;
        // A deadline in the past resolves at once.
        let mut past = timer.sleep_until(began);
        assert!(futures_util::poll!(&mut past).is_ready());
    }
}
