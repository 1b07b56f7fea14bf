//! Turns: guests that keep a core busy take turns with each other, as many at once as there are cores,
//! and let everything else of the node run between two turns. So a short call waits for one turn of a long one
//! at most, however many long ones there are.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::thread::available_parallelism;

use tokio::sync::Semaphore;
use tokio::task::yield_now;

/// The places for busy guests: one for each core.
#[derive(Clone)]
pub(super) struct Turns(Arc<Semaphore>);

/// Whether a guest was found running when a tick came: its turn is over.
#[derive(Clone, Default)]
pub(super) struct TurnOver(Arc<AtomicBool>);

impl TurnOver {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn take(&self) -> bool {
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}

impl Turns {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(available_parallelism().map_or(1, usize::from))))
    }

    /// Runs a guest: freely until its first turn is over, and then in turns with the others.
    pub(super) async fn run<G: Future>(&self, guest: G, turn_over: &TurnOver) -> G::Output {
        let mut guest = pin!(guest);
        let first = poll_fn(|context| match guest.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if turn_over.take() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        if let Some(output) = first.await {
            return output;
        }
        loop {
            // The semaphore is never closed.
            let place = self.0.acquire().await;
            // Tokio looks after I/O and timers before it comes back here.
            yield_now().await;
            let turn = poll_fn(|context| Poll::Ready(guest.as_mut().poll(context))).await;
            drop(place);
            match turn {
                Poll::Ready(output) => return output,
                Poll::Pending if turn_over.take() => {}
                // It waits for the host, which has this task's waker.
                Poll::Pending => woken().await,
            }
        }
    }
}

/// Resolves when the task is woken by someone who has its waker already.
async fn woken() {
    let mut is_first = true;
    poll_fn(|_| if std::mem::take(&mut is_first) { Poll::Pending } else { Poll::Ready(()) }).await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_guest_that_waits_for_the_host_holds_no_place() {
        let turns = Turns(Arc::new(Semaphore::new(1)));
        let over = TurnOver::default();
        let guest = async {
            over.set();
            yield_now().await;
            tokio::time::sleep(Duration::from_secs(3_600)).await;
        };
        let mut waiting = pin!(turns.run(guest, &over));
        for _ in 0..10 {
            tokio::select! {
                biased;
                () = &mut waiting => panic!("it should wait"),
                () = yield_now() => {}
            }
        }
        assert_eq!(turns.0.available_permits(), 1);
        let (other_over, mut turns_taken) = (TurnOver::default(), 0);
        let other = async {
            for _ in 0..5 {
                other_over.set();
                yield_now().await;
                turns_taken += 1;
            }
        };
        turns.run(other, &other_over).await;
        assert_eq!(turns_taken, 5);
    }
}
