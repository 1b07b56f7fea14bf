//! Broadcast: one message to every candidate of its stream.

use std::time::Instant;

use futures_util::{StreamExt, stream};

use super::Dispatcher;
use crate::message::{Answer, Fault, Message};

/// Candidates that run one broadcast at the same time; in a larger mesh the others follow as these
/// answer. Bounds what a single request can set in motion.
const FAN_OUT_MAX: usize = 32;

impl Dispatcher {
    /// Runs a message on every candidate and returns their answers, ordered by node id.
    ///
    /// # Errors
    /// If there is no candidate.
    pub async fn broadcast(&self, message: &Message, deadline: Instant) -> Result<Vec<Answer>, Fault> {
        let route = self.route(message)?;
        let calls: Vec<_> =
            route.candidates.iter().map(|candidate| self.run_on(&route, candidate, message, deadline)).collect();
        Ok(stream::iter(calls).buffered(FAN_OUT_MAX).collect().await)
    }
}
