//! Wakes many tasks of a lane at once. Each wake of a task on another thread's event loop is a
//! system call, however many of them come together; through the lane's mailbox it is one for all.

use std::cell::RefCell;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

thread_local! {
    /// The mailbox of the lane that this thread is.
    static OWN: RefCell<Option<Arc<Mailbox>>> = const { RefCell::new(None) };
}

/// The tasks of one lane that are to be woken.
#[derive(Default)]
pub(super) struct Mailbox(Mutex<Letters>);

#[derive(Default)]
struct Letters {
    wakers: Vec<Waker>,
    /// Wakes the lane itself, which then wakes the tasks.
    lane: Option<Waker>,
}

/// Wakes a task, wherever it is.
#[derive(Debug)]
pub struct LaneWaker {
    waker: Waker,
    /// That of the lane that the task is on; `None` if it is on none.
    mailbox: Option<Arc<Mailbox>>,
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mailbox")
    }
}

impl LaneWaker {
    /// For the task that is being polled.
    pub fn new(context: &Context<'_>) -> Self {
        Self {
            waker: context.waker().clone(),
            mailbox: OWN.with_borrow(Clone::clone),
        }
    }

    pub fn wake(self) {
        self.waker.wake();
    }
}

/// Wakes tasks, with one system call for all of a lane.
pub fn wake_all(wakers: Vec<LaneWaker>) {
    let mut lanes: Vec<Waker> = Vec::new();
    for LaneWaker { waker, mailbox } in wakers {
        let Some(mailbox) = mailbox else {
            waker.wake();
            continue;
        };
        let mut letters = mailbox.0.lock().unwrap_or_else(PoisonError::into_inner);
        letters.wakers.push(waker);
        lanes.extend(letters.lane.take());
    }
    lanes.into_iter().for_each(Waker::wake);
}

impl Mailbox {
    /// Makes it the mailbox of this thread, and wakes its tasks for ever.
    pub(super) async fn deliver(self: Arc<Self>) {
        OWN.set(Some(self.clone()));
        poll_fn(|context| {
            let wakers = {
                let mut letters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                letters.lane = Some(context.waker().clone());
                std::mem::take(&mut letters.wakers)
            };
            wakers.into_iter().for_each(Waker::wake);
            Poll::Pending
        })
        .await
    }
}
