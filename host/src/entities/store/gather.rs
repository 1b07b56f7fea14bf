//! What gathers while a connection of the store is busy, and is then taken together: the batch is
//! as large as the store is slow.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How often others are let go on before a batch is taken.
const YIELDS_MAX: usize = 8;

/// How long a batch waits for those that are coming: together they cost less than one by one.
const WAIT_MAX: Duration = Duration::from_millis(1);

/// How long it waits for the next of them. A handler that runs for longer is not waited for.
const NEXT_WAIT_MAX: Duration = Duration::from_micros(50);

/// Things that wait to be taken, in order.
pub(super) struct Gather<T> {
    waiting: Mutex<Waiting<T>>,
    filled: Notify,
    /// How often something was added, to what waits or to one of the things that wait.
    additions: AtomicU64,
    /// How often, when the last batch was taken.
    taken: AtomicU64,
    /// How many are about to add something, probably.
    coming: AtomicUsize,
    /// A batch waits for enough of them.
    is_enough_awaited: AtomicBool,
    enough: Condvar,
}

struct Waiting<T> {
    things: Vec<T>,
    is_closed: bool,
}

impl<T> Default for Gather<T> {
    fn default() -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                things: Vec::new(),
                is_closed: false,
            }),
            filled: Notify::new(),
            additions: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            coming: AtomicUsize::new(0),
            is_enough_awaited: AtomicBool::new(false),
            enough: Condvar::new(),
        }
    }
}

impl<T> Gather<T> {
    /// Adds one. Gives it back if nobody takes any more.
    pub(super) fn push(&self, thing: T) -> Result<(), T> {
        let mut waiting = self.lock();
        if waiting.is_closed {
            return Err(thing);
        }
        waiting.things.push(thing);
        let is_first = waiting.things.len() == 1;
        drop(waiting);
        self.note_more();
        if is_first {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Takes note that one of the things, or what is to be added next, has become larger.
    pub(super) fn note_more(&self) {
        self.additions.fetch_add(1, Ordering::Relaxed);
        self.wake_if_enough();
    }

    /// Takes note of how many of somebody's are about to add something, and how many of them were
    /// before.
    pub(super) fn note_coming(&self, before: usize, now: usize) {
        if now > before {
            self.coming.fetch_add(now - before, Ordering::Relaxed);
        } else if now < before {
            self.coming.fetch_sub(before - now, Ordering::Relaxed);
            self.wake_if_enough();
        }
    }

    /// Whether as many have gathered as are coming: half of those who are served at the same time
    /// then work while the store writes for the other half.
    fn is_enough(&self) -> bool {
        let additions = self.additions.load(Ordering::Relaxed);
        // A batch may have been taken in between.
        let gathered = additions.saturating_sub(self.taken.load(Ordering::Relaxed));
        gathered >= self.coming.load(Ordering::Relaxed) as u64
    }

    fn wake_if_enough(&self) {
        if self.is_enough_awaited.load(Ordering::Relaxed) && self.is_enough() {
            // Who is about to wait has seen it, or waits when this has the lock.
            drop(self.lock());
            self.enough.notify_one();
        }
    }

    /// Takes what has gathered, at most `max`, as soon as there is anything. It may block its thread for
    /// a millisecond, to let more gather. `None` once it is
    /// closed and empty.
    pub(super) async fn take(&self, max: usize) -> Option<Vec<T>> {
        loop {
            self.let_others_add();
            {
                let mut waiting = self.lock();
                if !waiting.things.is_empty() {
                    let count = max.min(waiting.things.len());
                    let rest = waiting.things.split_off(count);
                    let taken = std::mem::replace(&mut waiting.things, rest);
                    if !waiting.things.is_empty() {
                        self.filled.notify_one();
                    }
                    return Some(taken);
                }
                if waiting.is_closed {
                    // For others that wait.
                    self.filled.notify_one();
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }

    /// Puts back what was taken, before all others.
    pub(super) fn put_back(&self, things: impl ExactSizeIterator<Item = T>) {
        if things.len() > 0 {
            self.lock().things.splice(..0, things);
            self.filled.notify_one();
        }
    }

    /// Takes what has gathered, if anything has.
    pub(super) fn take_now(&self) -> Vec<T> {
        std::mem::take(&mut self.lock().things)
    }

    /// Lets the other threads of this core go on as long as that brings more. Where a core is free
    /// it takes no time; where none is, batches become larger instead of many.
    fn let_others_add(&self) {
        if self.lock().things.is_empty() {
            return;
        }
        let mut before = self.additions.load(Ordering::Relaxed);
        for _ in 0..YIELDS_MAX {
            thread::yield_now();
            let now = self.additions.load(Ordering::Relaxed);
            if now == before {
                break;
            }
            before = now;
        }
        self.wait_for_enough();
    }

    /// Waits for those that are coming, if they come quickly. Who is alone does not wait.
    fn wait_for_enough(&self) {
        let began = Instant::now();
        let mut waiting = self.lock();
        self.is_enough_awaited.store(true, Ordering::Relaxed);
        let mut before = self.additions.load(Ordering::Relaxed);
        while !self.is_enough() && began.elapsed() < WAIT_MAX {
            let waited = self.enough.wait_timeout(waiting, NEXT_WAIT_MAX);
            waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
            let now = self.additions.load(Ordering::Relaxed);
            if now == before {
                break;
            }
            before = now;
        }
        self.is_enough_awaited.store(false, Ordering::Relaxed);
        self.taken.store(before, Ordering::Relaxed);
    }

    /// Takes nothing more in. What waits can still be taken.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.filled.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_has_gathered_is_taken_together() {
        let gather = Gather::default();
        for number in 0..5 {
            gather.push(number).unwrap();
        }
        assert_eq!(gather.take(3).await, Some(vec![0, 1, 2]));
        assert_eq!(gather.take(3).await, Some(vec![3, 4]));
        gather.push(5).unwrap();
        gather.close();
        assert_eq!(gather.push(6), Err(6));
        assert_eq!(gather.take(3).await, Some(vec![5]));
        assert_eq!(gather.take(3).await, None);
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let gather = std::sync::Arc::new(Gather::default());
        let taking = tokio::spawn({
            let gather = gather.clone();
            async move { gather.take(1).await }
        });
        tokio::task::yield_now().await;
        gather.push(1).unwrap();
        assert_eq!(taking.await.unwrap(), Some(vec![1]));
    }

    #[tokio::test]
    async fn who_does_not_come_is_not_waited_for() {
        let gather = Gather::default();
        gather.note_coming(0, 5);
        gather.push(1).unwrap();
        assert_eq!(gather.take(1).await, Some(vec![1]));
    }
}
