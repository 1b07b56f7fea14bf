//! The epoch clock: advances wasmtime's epoch from a plain thread, so that a busy tokio runtime
//! cannot delay it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wasmtime::EngineWeak;

/// The tick while calls run. It bounds how long other guests wait for a busy one, and is the
/// precision of time limits in a guest's loop. Each tick costs about 20 µs of a core.
const TURN: Duration = Duration::from_millis(2);

/// The tick after a period without calls, since waking an idle thread costs a little CPU too.
const REST: Duration = Duration::from_millis(10);

/// Ticks without a call before the clock slows down to `REST`.
const TURNS_TO_REST: u32 = 50;

#[derive(Clone, Default)]
pub(super) struct Clock {
    was_called: Arc<AtomicBool>,
}

impl Clock {
    /// Starts the clock, which runs as long as the engine lives. When its thread ends, it cancels
    /// `ended`.
    pub(super) fn start(engine: EngineWeak, ended: CancellationToken) -> io::Result<Self> {
        let clock = Self::default();
        let was_called = clock.was_called.clone();
        thread::Builder::new().name("epoch".into()).spawn(move || {
            let _ended = ended.drop_guard();
            let mut idle_turns = TURNS_TO_REST;
            while let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
                drop(engine);
                idle_turns = if was_called.swap(false, Ordering::Relaxed) {
                    0
                } else {
                    idle_turns.saturating_add(1)
                };
                thread::sleep(if idle_turns < TURNS_TO_REST {
                    TURN
                } else {
                    REST
                });
            }
        })?;
        Ok(clock)
    }

    /// Called when a guest begins to run: keeps the clock at its fast tick.
    pub(super) fn note_call(&self) {
        // Usually it is already set; then skip the store, which would invalidate the cache line in
        // the other cores.
        if !self.was_called.load(Ordering::Relaxed) {
            self.was_called.store(true, Ordering::Relaxed);
        }
    }
}
