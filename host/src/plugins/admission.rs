//! Admission: bounds how many messages of one stream run and wait at once on this node. It outlives
//! the versions of the plugin: old and new versions share its permits, and its counters carry over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use metrics::{Counter, counter};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout_at;

use crate::bodies::ReplySize;
use crate::message::{Refusal, StreamName};
use crate::runtime::Limits;
use crate::telemetry::names;

/// The admission of one stream's messages.
pub struct Admission {
    /// One permit for each message that may start now. Never closed.
    permits: Semaphore,
    /// Permits to be retired after `concurrency` was lowered while they were in use. Messages that
    /// end retire them.
    surplus: AtomicUsize,
    concurrency: AtomicUsize,
    queue: AtomicUsize,
    waiting: AtomicUsize,
    calls: AtomicU64,
    calls_total: Counter,
    /// The expected size of the next reply.
    pub reply_expected: ReplySize,
}

/// The place of one message that runs or waits; freed when dropped. It holds the plugin that the
/// message runs on.
pub struct Place<P: AsRef<Admission>> {
    plugin: Arc<P>,
    /// One of the constants below.
    state: AtomicU8,
}

/// It waits for a permit.
const WAITING: u8 = 0;
/// It has a permit.
const RUNNING: u8 = 1;
/// It has given its permit back for now.
const AWAY: u8 = 2;

impl Admission {
    pub(super) fn new(stream: &StreamName, limits: &Limits) -> Self {
        Self {
            permits: Semaphore::new(limits.concurrency),
            surplus: AtomicUsize::new(0),
            concurrency: AtomicUsize::new(limits.concurrency),
            queue: AtomicUsize::new(limits.queue),
            waiting: AtomicUsize::new(0),
            calls: AtomicU64::new(0),
            calls_total: counter!(names::CALLS, "stream" => stream.to_string()),
            reply_expected: ReplySize::default(),
        }
    }

    /// Applies the limits of a new current version. Calls must not run concurrently.
    pub(super) fn resize(&self, limits: &Limits) {
        self.queue.store(limits.queue, Ordering::Relaxed);
        let before = self.concurrency.swap(limits.concurrency, Ordering::Relaxed);
        if limits.concurrency < before {
            let fewer = before - limits.concurrency;
            self.surplus.fetch_add(fewer, Ordering::Relaxed);
            self.forget_surplus();
        }
        for _ in before..limits.concurrency {
            self.give_back();
        }
    }

    /// Retires surplus permits from the free ones, as far as there are any.
    fn forget_surplus(&self) {
        while self.take_surplus() {
            if self.permits.forget_permits(1) == 0 {
                self.surplus.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
    }

    fn take_surplus(&self) -> bool {
        let less = |surplus: usize| surplus.checked_sub(1);
        self.surplus.load(Ordering::Relaxed) > 0
            && self
                .surplus
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
                .is_ok()
    }

    /// Count of messages that have begun to run, on all versions.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Number of messages that run now, on all versions.
    pub fn running(&self) -> usize {
        let permits =
            self.concurrency.load(Ordering::Relaxed) + self.surplus.load(Ordering::Relaxed);
        permits.saturating_sub(self.permits.available_permits())
    }

    /// How many may run at once.
    pub fn concurrency(&self) -> usize {
        self.concurrency.load(Ordering::Relaxed)
    }

    /// Number of messages that wait for a permit.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How many may wait.
    pub fn queue(&self) -> usize {
        self.queue.load(Ordering::Relaxed)
    }

    /// Returns a permit, or retires it if there is a surplus.
    fn give_back(&self) {
        if !self.take_surplus() {
            self.permits.add_permits(1);
        }
    }
}

impl AsRef<Self> for Admission {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl<P: AsRef<Admission>> Place<P> {
    /// Takes a permit if one is free, otherwise joins the queue.
    ///
    /// # Errors
    /// If the queue is full.
    pub fn new(plugin: Arc<P>) -> Result<Self, Refusal> {
        let admission = plugin.as_ref().as_ref();
        let permit = admission.permits.try_acquire();
        if permit.map(SemaphorePermit::forget).is_ok() {
            let state = AtomicU8::new(RUNNING);
            return Ok(Self { plugin, state });
        }
        let before = admission.waiting.fetch_add(1, Ordering::Relaxed);
        let has_room = before < admission.queue.load(Ordering::Relaxed);
        // If the queue is full, dropping the place decrements the count again.
        let state = AtomicU8::new(WAITING);
        let place = Self { plugin, state };
        has_room.then_some(place).ok_or(Refusal::QueueFull)
    }

    pub fn plugin(&self) -> &P {
        &self.plugin
    }

    /// Whether it has a permit.
    pub fn is_running(&self) -> bool {
        self.state.load(Ordering::Relaxed) == RUNNING
    }

    /// Waits for a permit. Permits are granted in the order in which messages began to wait.
    ///
    /// # Errors
    /// If no permit became free before the deadline.
    pub async fn wait(&self, deadline: Instant) -> Result<(), Refusal> {
        let acquiring = async {
            let permit = self.admission().permits.acquire().await;
            permit.map(SemaphorePermit::forget)
        };
        // The semaphore is never closed.
        let Ok(Ok(())) = timeout_at(deadline.into(), acquiring).await else {
            return Err(Refusal::WaitedTooLong);
        };
        if self.state.swap(RUNNING, Ordering::Relaxed) == WAITING {
            self.admission().waiting.fetch_sub(1, Ordering::Relaxed);
        }
        // A permit that was returned right at the deadline comes too late.
        if Instant::now() < deadline {
            Ok(())
        } else {
            Err(Refusal::WaitedTooLong)
        }
    }

    /// Gives the permit back while the handler waits for another. It needs to [`wait`](Self::wait) for
    /// one again before it goes on; the queue is not full for it.
    pub fn give_back(&self) {
        if self.state.swap(AWAY, Ordering::Relaxed) == RUNNING {
            self.admission().give_back();
        }
    }

    /// Counts a message that begins to run.
    pub fn count_call(&self) {
        self.admission().calls.fetch_add(1, Ordering::Relaxed);
        self.admission().calls_total.increment(1);
    }

    fn admission(&self) -> &Admission {
        self.plugin.as_ref().as_ref()
    }
}

impl<P: AsRef<Admission>> Drop for Place<P> {
    fn drop(&mut self) {
        let admission = self.admission();
        match self.state.load(Ordering::Relaxed) {
            WAITING => {
                admission.waiting.fetch_sub(1, Ordering::Relaxed);
                // A permit may have been assigned just as the wait was abandoned, and is now free.
                admission.forget_surplus();
            }
            RUNNING => admission.give_back(),
            _ => admission.forget_surplus(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limits(concurrency: usize, queue: usize) -> Limits {
        Limits {
            concurrency,
            queue,
            ..Limits::with_timeout(Duration::from_secs(1))
        }
    }

    fn admission(concurrency: usize, queue: usize) -> Arc<Admission> {
        let stream = StreamName::try_from("echo").unwrap();
        Arc::new(Admission::new(&stream, &limits(concurrency, queue)))
    }

    /// Takes places until the admission refuses one.
    fn fill(admission: &Arc<Admission>) -> Vec<Place<Admission>> {
        let place = || Place::new(admission.clone()).ok();
        std::iter::from_fn(place)
            .take_while(Place::is_running)
            .collect()
    }

    #[test]
    fn the_queue_is_bounded() {
        let admission = admission(1, 1);
        let running = Place::new(admission.clone()).unwrap();
        let waiting = Place::new(admission.clone()).unwrap();
        assert!(running.is_running() && !waiting.is_running());
        assert_eq!(
            Place::new(admission.clone()).err(),
            Some(Refusal::QueueFull)
        );
        drop(waiting);
        Place::new(admission.clone()).unwrap();
        drop(running);
        assert!(Place::new(admission).unwrap().is_running());
    }

    #[test]
    fn a_new_version_shares_the_permits_of_the_one_before() {
        let admission = admission(2, 0);
        let mut places = fill(&admission);
        assert_eq!(places.len(), 2);
        admission.resize(&limits(3, 0));
        places.extend(fill(&admission));
        assert_eq!((places.len(), admission.running()), (3, 3));
        // More messages run than may run now: the next two that end free no permit.
        admission.resize(&limits(1, 0));
        for running in [2, 1] {
            places.pop();
            assert_eq!(admission.running(), running);
            assert_eq!(fill(&admission).len(), 0);
        }
        places.pop();
        assert_eq!(fill(&admission).len(), 1);
    }

    #[test]
    fn permits_that_are_wanted_again_are_no_surplus() {
        let admission = admission(4, 0);
        let mut places = fill(&admission);
        admission.resize(&limits(1, 0));
        places.truncate(3);
        admission.resize(&limits(3, 0));
        assert_eq!(fill(&admission).len(), 0);
        places.clear();
        assert_eq!(fill(&admission).len(), 3);
    }

    #[tokio::test]
    async fn who_waits_gets_the_permit_or_is_refused_at_its_deadline() {
        let admission = admission(1, 2);
        let running = Place::new(admission.clone()).unwrap();
        let late = Place::new(admission.clone()).unwrap();
        let soon = Instant::now() + Duration::from_millis(5);
        assert_eq!(late.wait(soon).await, Err(Refusal::WaitedTooLong));
        let waiting = Place::new(admission.clone()).unwrap();
        drop(running);
        let later = Instant::now() + Duration::from_secs(60);
        waiting.wait(later).await.unwrap();
        assert!(waiting.is_running());
        drop((late, waiting));
        assert_eq!(admission.running(), 0);
        assert_eq!(fill(&admission).len(), 1);
    }
}
