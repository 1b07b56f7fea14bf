//! Pins a node to a single core of the machine, so that it has one lane, and one link to each peer.

use std::thread;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::runtime::Handle;

/// Runs `act` on a thread pinned to one core. A process that it starts inherits the affinity.
pub(super) fn on_one_core<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    let runtime = Handle::current();
    let inside = || {
        let allowed = sched_getaffinity(None).unwrap();
        let core = (0..CpuSet::MAX_CPU)
            .find(|core| allowed.is_set(*core))
            .unwrap();
        let mut one = CpuSet::new();
        one.set(core);
        sched_setaffinity(None, &one).unwrap();
        let _entered = runtime.enter();
        act()
    };
    thread::scope(|scope| scope.spawn(inside).join().unwrap())
}
