//! How long a message spends in a stage of its way, for who wants to know.

use std::time::Instant;

use super::traces::{self, Span};
use crate::message::{Message, Stage, Watched};

/// Lasts as long as a stage: notes how long that is if the message is watched, and is a span if it is
/// traced.
pub struct StageClock<'m> {
    watched: Option<(&'m Watched, Stage, Instant)>,
    _span: Span,
}

impl<'m> StageClock<'m> {
    pub fn start(message: &'m Message, stage: Stage) -> Self {
        let watched = message.watched.as_deref();
        let name = match stage {
            Stage::Waiting => "wait",
            Stage::Running => "run",
            Stage::Committing => "commit",
        };
        Self {
            watched: watched.map(|watched| (watched, stage, Instant::now())),
            _span: traces::stage(message, name),
        }
    }
}

impl Drop for StageClock<'_> {
    fn drop(&mut self) {
        if let Some((watched, stage, began)) = self.watched {
            watched.add(stage, began.elapsed());
        }
    }
}
