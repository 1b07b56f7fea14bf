//! What peers send: run on this node's plugins, or refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use metrics::counter;
use tracing::info;

use crate::message::{Fault, Message, Outcome, Refusal};
use crate::peer::Serve;
use crate::plugins::Catalog;
use crate::telemetry::{Throttle, names};

/// Whether messages of peers are taken: not before the node is ready, nor once it is about to be
/// gone.
#[derive(Default)]
pub(super) struct Admission(AtomicU8);

const STARTING: u8 = 0;
const OPEN: u8 = 1;
const LEAVING: u8 = 2;

impl Admission {
    pub(super) fn begin(&self) {
        self.0.store(OPEN, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.0.store(LEAVING, Ordering::Relaxed);
    }

    fn refusal(&self) -> Option<Refusal> {
        match self.0.load(Ordering::Relaxed) {
            STARTING => Some(Refusal::Starting),
            OPEN => None,
            _ => Some(Refusal::Leaving),
        }
    }
}

pub(super) struct Inbound {
    catalog: Arc<Catalog>,
    admission: Arc<Admission>,
    refused: Throttle<Refusal>,
}

impl Serve for Inbound {
    async fn serve(&self, message: Arc<Message>, deadline: Instant) -> Outcome {
        let outcome = match self.admission.refusal() {
            Some(refusal) => Err(Fault::Refused(refusal)),
            None => self.catalog.clone().run(message.clone(), deadline).await,
        };
        if let Err(Fault::Refused(refusal)) = &outcome {
            self.tell_refused(&message, *refusal);
        }
        outcome
    }
}

impl Inbound {
    pub(super) fn new(catalog: Arc<Catalog>, admission: Arc<Admission>) -> Self {
        Self {
            catalog,
            admission,
            refused: Throttle::default(),
        }
    }

    fn tell_refused(&self, message: &Message, because: Refusal) {
        counter!(names::FORWARDS_REFUSED, "because" => because.name()).increment(1);
        if let Some(messages) = self.refused.note(because, Instant::now()) {
            info!(event = "forwards-refused", stream = %message.stream, because = because.name(), messages, "refused messages of peers");
        }
    }
}
