//! Lanes: one thread for each core, with an event loop of its own. A client's connection stays on the lane that
//! it is given, so that no core waits for another while it is served.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, available_parallelism};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The lanes of one node. They end with the value.
#[derive(Clone)]
pub struct Lanes(Arc<Shared>);

struct Shared {
    lanes: Vec<Handle>,
    next: AtomicUsize,
    _stop: DropGuard,
}

impl Lanes {
    pub fn start() -> io::Result<Self> {
        let stopped = CancellationToken::new();
        let lanes =
            (0..available_parallelism()?.get()).map(|_| start_lane(stopped.clone())).collect::<io::Result<_>>()?;
        Ok(Self(Arc::new(Shared { lanes, next: AtomicUsize::new(0), _stop: stopped.drop_guard() })))
    }

    /// The lane of the next connection: they take turns.
    pub fn next(&self) -> &Handle {
        let Shared { lanes, next, .. } = &*self.0;
        &lanes[next.fetch_add(1, Ordering::Relaxed) % lanes.len()]
    }
}

fn start_lane(stopped: CancellationToken) -> io::Result<Handle> {
    let lane = Builder::new_current_thread().enable_all().build()?;
    let handle = lane.handle().clone();
    thread::Builder::new().name("lane".into()).spawn(move || lane.block_on(stopped.cancelled()))?;
    Ok(handle)
}
