//! The epoch clock: advances wasmtime's epoch from a plain thread, so that a busy tokio runtime
//! cannot delay it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wasmtime::EngineWeak;

/// The tick while calls run. It bounds how long other guests wait for a busy one, and is the
/// precision of time limits in a guest's loop. Each tick costs about 20 µs of a core.
const TURN: Duration = Duration::from_millis(2);

/// Without calls the clock only looks from time to time whether the engine is still there; the next call wakes it.
const REST: Duration = Duration::from_millis(100);

/// Ticks without a call before the clock rests.
const TURNS_TO_REST: u32 = 50;

#[derive(Clone, Default)]
pub(super) struct Clock(Arc<Calls>);

#[derive(Default)]
struct Calls {
    was_called: AtomicBool,
    rests: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Clock {
    /// Starts the clock, which runs as long as the engine lives. When its thread ends, it cancels
    /// `ended`.
    pub(super) fn start(engine: EngineWeak, ended: CancellationToken) -> io::Result<Self> {
        let clock = Self::default();
        let calls = clock.0.clone();
        thread::Builder::new().name("epoch".into()).spawn(move || {
            let _ended = ended.drop_guard();
            let _ = calls.thread.set(thread::current());
            let mut idle_turns = TURNS_TO_REST;
            while let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
                drop(engine);
                if calls.was_called.swap(false, Ordering::Relaxed) {
                    idle_turns = 0;
                }
                if idle_turns < TURNS_TO_REST {
                    idle_turns += 1;
                    thread::sleep(TURN);
                } else {
                    calls.rest();
                }
            }
        })?;
        Ok(clock)
    }

    /// Called when a guest begins to run, and at each tick that it sees: keeps the clock at its fast tick.
    pub(super) fn note_call(&self) {
        // Usually it is already set; then skip the store, which would invalidate the cache line in
        // the other cores.
        if !self.0.was_called.load(Ordering::Relaxed) {
            self.0.note_first();
        }
    }
}

impl Calls {
    /// Notes the first call since the last tick. Either this sees that the clock rests, or the clock sees the call before it does.
    fn note_first(&self) {
        self.was_called.store(true, Ordering::SeqCst);
        if self.rests.load(Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    fn rest(&self) {
        self.rests.store(true, Ordering::SeqCst);
        if !self.was_called.load(Ordering::SeqCst) {
            thread::park_timeout(REST);
        }
        self.rests.store(false, Ordering::SeqCst);
    }
}
