//! Lanes: one thread for each core, each with its own event loop. A connection of a client or a
//! peer stays on the lane that it is assigned to, so that serving it never waits for another core.

mod mailbox;
mod moving;

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, available_parallelism};

use mailbox::Mailbox;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::background;

pub use mailbox::{LaneWaker, wake_all};
pub use moving::{move_off_lane, next_poll, run_movable};

/// The lanes of one node. They stop when the last clone is dropped. Each clone assigns connections
/// round-robin by its own counter.
pub struct Lanes {
    lanes: Arc<[Handle]>,
    next: AtomicUsize,
    stop: Arc<DropGuard>,
    /// Cancelled when a lane has ended.
    ended: CancellationToken,
}

impl Clone for Lanes {
    fn clone(&self) -> Self {
        let (next, stop, ended) = (AtomicUsize::new(0), self.stop.clone(), self.ended.clone());
        Self {
            lanes: self.lanes.clone(),
            next,
            stop,
            ended,
        }
    }
}

thread_local! {
    static NUMBER: Cell<Option<usize>> = const { Cell::new(None) };
    static IS_LANE: Cell<bool> = const { Cell::new(false) };
}

impl Lanes {
    /// # Errors
    /// If the number of cores is not known, or a thread or its event loop cannot be created.
    pub fn start() -> io::Result<Self> {
        let (stopped, ended) = (CancellationToken::new(), CancellationToken::new());
        let lanes = (0..available_parallelism()?.get())
            .map(|number| start_lane(number, stopped.clone(), ended.clone()))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            lanes,
            next: AtomicUsize::new(0),
            stop: Arc::new(stopped.drop_guard()),
            ended,
        })
    }

    /// Resolves when a lane has ended, which is a bug: its connections would hang.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// The lane for the next connection, round-robin.
    pub fn next(&self) -> &Handle {
        &self.lanes[self.next.fetch_add(1, Ordering::Relaxed) % self.lanes.len()]
    }

    /// All lanes, in the order of their numbers.
    pub fn all(&self) -> &[Handle] {
        &self.lanes
    }
}

/// The number of the lane that runs this. Other threads get consecutive numbers too, so that they
/// are spread over whatever exists once per lane; theirs may exceed the number of lanes.
pub fn number() -> usize {
    static OTHERS: AtomicUsize = AtomicUsize::new(0);
    NUMBER.get().unwrap_or_else(|| {
        let number = OTHERS.fetch_add(1, Ordering::Relaxed);
        NUMBER.set(Some(number));
        number
    })
}

/// Whether this thread is a lane.
fn is_lane() -> bool {
    IS_LANE.get()
}

fn start_lane(
    number: usize,
    stopped: CancellationToken,
    ended: CancellationToken,
) -> io::Result<Handle> {
    let lane = Builder::new_current_thread().enable_all().build()?;
    let handle = lane.handle().clone();
    thread::Builder::new().name("lane".into()).spawn(move || {
        // Cancelled on drop, however the thread ends.
        let _ended = ended.drop_guard();
        NUMBER.set(Some(number));
        IS_LANE.set(true);
        background::yields_to_this_thread();
        lane.block_on(async {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = Arc::<Mailbox>::default().deliver() => {}
            }
        });
    })?;
    Ok(handle)
}
