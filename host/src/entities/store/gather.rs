//! What gathers while a connection of the store is busy, and is then taken together: the batch is
//! as large as the store is slow.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// How often others are let go on before a batch is taken.
const YIELDS_MAX: usize = 8;

/// Things that wait to be taken, in order.
pub(super) struct Gather<T> {
    waiting: Mutex<Waiting<T>>,
    filled: Notify,
    /// How often something was added, to what waits or to one of the things that wait.
    additions: AtomicU64,
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

    /// Takes note that one of the things has become larger.
    pub(super) fn note_more(&self) {
        self.additions.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes what has gathered, at most `max`, as soon as there is anything. `None` once it is
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
            std::thread::yield_now();
            let now = self.additions.load(Ordering::Relaxed);
            if now == before {
                return;
            }
            before = now;
        }
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
}
