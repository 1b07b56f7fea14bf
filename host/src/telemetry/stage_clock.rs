//! How long a message spends in a stage of its way, for who wants to know.

use std::time::Instant;

use crate::message::{Message, Stage, Watched};

/// Notes the time from its start until it is dropped, if the message is watched.
pub struct StageClock<'m>(Option<(&'m Watched, Stage, Instant)>);

impl<'m> StageClock<'m> {
    pub fn start(message: &'m Message, stage: Stage) -> Self {
        let watched = message.watched.as_deref();
        Self(watched.map(|watched| (watched, stage, Instant::now())))
    }
}

impl Drop for StageClock<'_> {
    fn drop(&mut self) {
        if let Some((watched, stage, began)) = self.0 {
            watched.add(stage, began.elapsed());
        }
    }
}
