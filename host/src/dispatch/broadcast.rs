//! Broadcast: one message to every candidate of its stream.

use std::sync::Arc;
use std::time::Instant;

use futures_util::{Stream, StreamExt, stream};

use super::Dispatcher;
use crate::message::{Answer, Message};

/// Candidates that run one broadcast concurrently; in a larger mesh the others follow as these
/// answer. Bounds the work that a single request can cause.
const FAN_OUT_MAX: usize = 32;

impl Dispatcher {
    /// Runs a message on every candidate. The answers come ordered by node id, each as soon as
    /// those before it are available.
    ///
    /// # Errors
    /// If there is no candidate: the answer that says so.
    pub fn broadcast(
        &self,
        message: &Arc<Message>,
        deadline: Instant,
    ) -> Result<impl Stream<Item = Answer> + Send, Box<Answer>> {
        let route = self
            .route(message)
            .map_err(|fault| Box::new(self.no_route(message, fault)))?;
        let candidates = 0..route.candidates.len();
        let calls = candidates.map(move |index| {
            let route = route.clone();
            async move {
                let began = Instant::now();
                let candidate = &route.candidates[index];
                let tried = self.run_on(&route, candidate, message, deadline).await;
                self.count(&route, &tried.answer, began);
                tried.answer
            }
        });
        Ok(stream::iter(calls).buffered(FAN_OUT_MAX))
    }
}
