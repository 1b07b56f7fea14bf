//! The implementation for stateless streams: a message runs on the version of the plugin that is
//! current when the message is admitted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use metrics::counter;
use tracing::info;

use super::{LocalService, Origin};
use crate::bodies::{BodyMemory, NoRoom, ReplyReservation};
use crate::message::{Fault, Message, Outcome, Refusal};
use crate::plugins::{Catalog, Place, Plugin};
use crate::runtime::CallDeadline;
use crate::telemetry::{Throttle, names};

/// Runs messages on the plugins of the catalog.
pub struct Local {
    catalog: Arc<Catalog>,
    /// Replies reserve their memory here.
    bodies: &'static BodyMemory,
    /// A `Phase` as a number.
    phase: AtomicU8,
    refused: Throttle<Refusal>,
}

/// Whether messages of peers are admitted.
#[derive(Clone, Copy)]
enum Phase {
    /// Not yet: not all plugins are loaded.
    Starting,
    Open,
    /// No longer: the node is about to stop.
    Leaving,
}

impl Phase {
    const ALL: [Self; 3] = [Self::Starting, Self::Open, Self::Leaving];
}

/// A message that was admitted.
pub struct Admitted {
    message: Arc<Message>,
    deadline: Instant,
    /// When it joined the queue, if it has to wait.
    waits_since: Option<Instant>,
    place: Place<Plugin>,
    origin: Origin,
}

impl Local {
    /// Messages of peers are refused until [`Local::open`].
    pub fn new(catalog: Arc<Catalog>, bodies: &'static BodyMemory) -> Self {
        Self {
            catalog,
            bodies,
            phase: AtomicU8::new(Phase::Starting as u8),
            refused: Throttle::default(),
        }
    }

    /// Admits messages of peers from now on.
    pub fn open(&self) {
        self.phase.store(Phase::Open as u8, Ordering::Relaxed);
    }

    /// Refuses messages of peers from now on. Those of clients are still admitted.
    pub fn close(&self) {
        self.phase.store(Phase::Leaving as u8, Ordering::Relaxed);
    }

    fn find_place(&self, message: &Message, origin: Origin) -> Result<Place<Plugin>, Refusal> {
        if origin == Origin::Peer {
            match Phase::ALL[usize::from(self.phase.load(Ordering::Relaxed))] {
                Phase::Starting => return Err(Refusal::Starting),
                Phase::Open => {}
                Phase::Leaving => return Err(Refusal::Leaving),
            }
        }
        let plugin = self.catalog.plugin(message.stream.as_str());
        Place::new(plugin.ok_or(Refusal::NotOffered)?)
    }

    /// Reserves memory for the reply: before the handler runs, but not while the message waits.
    fn reserve(&self, place: &Place<Plugin>) -> Result<ReplyReservation, Refusal> {
        let expected = place.plugin().admission.reply_expected.bytes();
        let reserved = self.bodies.reserve_reply(expected);
        reserved.map_err(|NoRoom| Refusal::NoRoom)
    }

    fn log_refused(&self, message: &Message, because: Refusal) {
        counter!(names::FORWARDS_REFUSED, "because" => because.name()).increment(1);
        if let Some(messages) = self.refused.note(because, Instant::now()) {
            info!(event = "forwards-refused", stream = %message.stream, because = because.name(), messages, "refused messages of peers");
        }
    }
}

impl LocalService for Local {
    type Admitted = Admitted;

    fn admit(
        &self,
        message: Arc<Message>,
        deadline: Instant,
        origin: Origin,
    ) -> Result<Admitted, Refusal> {
        match self.find_place(&message, origin) {
            Ok(place) => Ok(Admitted {
                message,
                deadline,
                waits_since: (!place.is_running()).then(Instant::now),
                place,
                origin,
            }),
            Err(refusal) => {
                if origin == Origin::Peer {
                    self.log_refused(&message, refusal);
                }
                Err(refusal)
            }
        }
    }

    async fn run(self: Arc<Self>, mut admitted: Admitted) -> Outcome {
        let outcome = 'outcome: {
            let now = Instant::now();
            if admitted.deadline <= now {
                // The deadline passed on the way here.
                break 'outcome Err(Fault::Refused(Refusal::WaitedTooLong));
            }
            let deadline = admitted.call_deadline(now);
            if !admitted.place.is_running() {
                // Boxed because it is rare: otherwise every message's future would reserve space
                // for it.
                let waited = Box::pin(admitted.place.wait(deadline.at())).await;
                if let Err(refusal) = waited {
                    break 'outcome Err(Fault::Refused(refusal));
                }
            }
            let reserved = match self.reserve(&admitted.place) {
                Ok(reserved) => reserved,
                Err(refusal) => break 'outcome Err(Fault::Refused(refusal)),
            };
            let plugin = admitted.place.plugin();
            match plugin
                .handler
                .call(&admitted.message, deadline, || admitted.place.count_call())
                .await
            {
                Ok(reply) => {
                    plugin.admission.reply_expected.note(reply.body.len());
                    reply.with_reservation(reserved, self.bodies)
                }
                Err(fault) => Err(fault),
            }
        };
        if let (Err(Fault::Refused(refusal)), Origin::Peer) = (&outcome, admitted.origin) {
            self.log_refused(&admitted.message, *refusal);
        }
        outcome
    }
}

impl Admitted {
    /// A plugin's own timeout starts when a message begins to wait.
    fn call_deadline(&self, now: Instant) -> CallDeadline {
        let handler = &self.place.plugin().handler;
        handler.call_deadline(self.waits_since.unwrap_or(now), self.deadline)
    }
}
