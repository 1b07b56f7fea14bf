//! Turns: CPU-bound guests take turns, as many at once as there are cores, and other tasks of the
//! node run between two turns. So a short call waits for at most one turn of a long one, however
//! many long ones there are.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Poll;
use std::thread::available_parallelism;

use tokio::sync::Semaphore;
use tokio::task::yield_now;

use crate::lanes;

/// The permits for busy guests: one for each core.
#[derive(Clone)]
pub(super) struct Turns(Arc<Semaphore>);

/// How far a guest is in its turn. A turn begins with each poll, and is over when the second tick
/// finds the guest still running.
#[derive(Clone, Default)]
pub(super) struct Turn(Arc<AtomicU8>);

const BEGUN: u8 = 0;
const TICKED: u8 = 1;
const OVER: u8 = 2;

impl Turn {
    /// Called when a tick finds the guest running. Returns whether its turn is over.
    pub(super) fn tick(&self) -> bool {
        let is_over = self.0.load(Ordering::Relaxed) != BEGUN;
        self.0
            .store(if is_over { OVER } else { TICKED }, Ordering::Relaxed);
        is_over
    }

    fn begin(&self) {
        self.0.store(BEGUN, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed) == OVER
    }
}

impl Turns {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(
            available_parallelism().map_or(1, usize::from),
        )))
    }

    /// Runs a guest: without a permit as long as it keeps waiting for the host, and in turns with
    /// others while it keeps a core busy. It takes a pinned reference: a guest that is moved in
    /// would occupy its space twice in the future of every call.
    pub(super) async fn run<G: Future>(&self, mut guest: Pin<&mut G>, turn: &Turn) -> G::Output {
        loop {
            let free = poll_fn(|context| {
                turn.begin();
                match guest.as_mut().poll(context) {
                    Poll::Ready(output) => Poll::Ready(Some(output)),
                    Poll::Pending if turn.is_over() => Poll::Ready(None),
                    Poll::Pending => Poll::Pending,
                }
            });
            if let Some(output) = free.await {
                return output;
            }
            // A long call would block all others on its lane, as each lane has only one core.
            lanes::move_off_lane().await;
            while turn.is_over() {
                // Lets tokio handle I/O and timers first.
                yield_now().await;
                // Only then acquire: a guest that holds a permit without running keeps a core idle.
                // The semaphore is never closed.
                let place = self.0.acquire().await;
                turn.begin();
                let polled = poll_fn(|context| Poll::Ready(guest.as_mut().poll(context))).await;
                drop(place);
                if let Poll::Ready(output) = polled {
                    return output;
                }
            }
            // The guest waits for the host, which holds this task's waker.
            lanes::next_poll().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::Duration;

    use super::*;

    /// Does what wasmtime's epoch callback does at a tick.
    async fn tick(turn: &Turn) {
        if turn.tick() {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_guest_that_waits_for_the_host_holds_no_place() {
        let turns = Turns(Arc::new(Semaphore::new(1)));
        let turn = Turn::default();
        let guest = async {
            tick(&turn).await;
            tick(&turn).await;
            tokio::time::sleep(Duration::from_secs(3_600)).await;
        };
        let mut guest = pin!(guest);
        let mut waiting = pin!(turns.run(guest.as_mut(), &turn));
        for _ in 0..10 {
            tokio::select! {
                biased;
                () = &mut waiting => panic!("it should wait"),
                () = yield_now() => {}
            }
        }
        assert_eq!(turns.0.available_permits(), 1);
        let (other_turn, mut turns_taken) = (Turn::default(), 0);
        let other = async {
            for _ in 0..10 {
                tick(&other_turn).await;
                turns_taken += 1;
            }
        };
        turns.run(pin!(other), &other_turn).await;
        assert_eq!(turns_taken, 10);
    }

    #[tokio::test]
    async fn a_guest_that_runs_shortly_again_and_again_needs_no_place() {
        // No permit at all.
        let turns = Turns(Arc::new(Semaphore::new(0)));
        let turn = Turn::default();
        let guest = async {
            for _ in 0..10 {
                assert!(!turn.tick(), "its first tick is not the end of its turn");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        turns.run(pin!(guest), &turn).await;
    }
}
