//! What is noted of a message on its way, if somebody wants to know.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A part of a message's way on the node that runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// In a queue: for its turn, or for a permit.
    Waiting,
    /// In the handler.
    Running,
    /// In the commit that its answer rests on.
    Committing,
}

impl Stage {
    pub const COUNT: usize = 3;
}

/// How long each stage took, as far as it got: all runs of a message together.
#[derive(Debug, Default)]
pub struct Watched([AtomicU64; Stage::COUNT]);

impl Watched {
    pub fn add(&self, stage: Stage, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.0[stage as usize].fetch_add(micros, Ordering::Relaxed);
    }

    /// In microseconds.
    pub fn micros(&self) -> [u64; Stage::COUNT] {
        std::array::from_fn(|stage| self.0[stage].load(Ordering::Relaxed))
    }

    /// Adds what another node has noted.
    pub fn add_micros(&self, micros: [u64; Stage::COUNT]) {
        for (stage, micros) in self.0.iter().zip(micros) {
            stage.fetch_add(micros, Ordering::Relaxed);
        }
    }
}
