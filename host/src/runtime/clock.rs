//! The clock of guests: advances wasmtime's epoch from a plain thread, which no busy runtime can
//! hold up.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wasmtime::EngineWeak;

/// How long a busy guest's turn is while there are calls: what others wait for it at most, and the
/// precision of time limits in a guest's loop. Each tick costs about 20 µs of a core.
const TURN: Duration = Duration::from_millis(2);

/// The same when there were none for a while: a thread that wakes up for nothing costs a little,
/// too.
const REST: Duration = Duration::from_millis(10);

/// Turns without any call until the clock rests.
const TURNS_TO_REST: u32 = 50;

#[derive(Clone, Default)]
pub(super) struct Clock {
    was_called: Arc<AtomicBool>,
}

impl Clock {
    /// Starts the clock, which runs as long as the engine lives, and cancels `ended` when it does
    /// not.
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

    /// A guest begins to run.
    pub(super) fn note_call(&self) {
        // Mostly it is set: then there is nothing to write, which another core would have to fetch.
        if !self.was_called.load(Ordering::Relaxed) {
            self.was_called.store(true, Ordering::Relaxed);
        }
    }
}
