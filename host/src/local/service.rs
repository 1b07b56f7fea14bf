//! The implementation. A message of a stateless stream runs on the version of the plugin that is
//! current when the message is admitted; those of stateful streams go through `entities`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use metrics::counter;
use tracing::info;

use super::{LocalService, Origin};
use crate::bodies::BodyMemory;
use crate::calls::{Calls, after_acting};
use crate::entities::{Entities, EntityMessage};
use crate::message::{Fault, Message, Outcome, Refusal, StoreTime};
use crate::plugins::{Catalog, Place, Plugin, run};
use crate::runtime::{CallContext, CallDeadline};
use crate::telemetry::{Throttle, names};

/// Runs messages on the plugins of the catalog.
pub struct Local {
    catalog: Arc<Catalog>,
    entities: Arc<Entities>,
    calls: Arc<Calls>,
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
    origin: Origin,
    kind: Kind,
}

enum Kind {
    Stateless {
        place: Place<Plugin>,
        /// When it joined the queue, if it has to wait.
        waits_since: Option<Instant>,
    },
    Stateful {
        entity: Box<EntityMessage>,
        admitted_at: Instant,
    },
}

impl Local {
    /// Messages of peers are refused until [`Local::open`].
    pub fn new(
        catalog: Arc<Catalog>,
        entities: Arc<Entities>,
        calls: Arc<Calls>,
        bodies: &'static BodyMemory,
    ) -> Self {
        Self {
            catalog,
            entities,
            calls,
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

    /// The clock of the store of stateful streams, as far as this node knows.
    pub fn store_time(&self) -> StoreTime {
        self.entities.store_time()
    }

    fn find_place(&self, message: &Message, origin: Origin) -> Result<Kind, Refusal> {
        if origin == Origin::Peer {
            match Phase::ALL[usize::from(self.phase.load(Ordering::Relaxed))] {
                Phase::Starting => return Err(Refusal::Starting),
                Phase::Open => {}
                Phase::Leaving => return Err(Refusal::Leaving),
            }
        }
        let plugin = self.catalog.plugin(message.stream.as_str());
        let plugin = plugin.ok_or(Refusal::NotOffered)?;
        if plugin.handler.is_stateful() {
            let entity = Box::new(self.entities.admit(plugin, message)?);
            let admitted_at = Instant::now();
            return Ok(Kind::Stateful {
                entity,
                admitted_at,
            });
        }
        let place = Place::new(plugin)?;
        let waits_since = (!place.is_running()).then(Instant::now);
        Ok(Kind::Stateless { place, waits_since })
    }

    /// Runs a message whose handler may call others.
    async fn run_calling(
        &self,
        place: Place<Plugin>,
        message: &Arc<Message>,
        deadline: CallDeadline,
    ) -> Outcome {
        let calling = self.calls.calling(message, place, deadline.at(), None);
        let calling = Arc::new(calling);
        let mut context = Some(Box::new(CallContext {
            caller: Some(calling.clone()),
            ..CallContext::default()
        }));
        let outcome = run(&calling.place, message, &mut context, deadline, self.bodies).await;
        if calling.has_acted() {
            return after_acting(outcome);
        }
        outcome
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
            Ok(kind) => Ok(Admitted {
                message,
                deadline,
                origin,
                kind,
            }),
            Err(refusal) => {
                if origin == Origin::Peer {
                    self.log_refused(&message, refusal);
                }
                Err(refusal)
            }
        }
    }

    async fn run(self: Arc<Self>, admitted: Admitted) -> Outcome {
        let Admitted {
            message,
            deadline,
            origin,
            kind,
        } = admitted;
        let outcome = match kind {
            Kind::Stateless { place, waits_since } => {
                let now = Instant::now();
                // It may have passed on the way here.
                if deadline <= now {
                    Err(Fault::Refused(Refusal::WaitedTooLong))
                } else {
                    // A plugin's own timeout starts when a message begins to wait.
                    let handler = &place.plugin().handler;
                    let deadline = handler.call_deadline(waits_since.unwrap_or(now), deadline);
                    if handler.may_call() {
                        // Boxed because it is rare.
                        Box::pin(self.run_calling(place, &message, deadline)).await
                    } else {
                        run(&place, &message, &mut None, deadline, self.bodies).await
                    }
                }
            }
            // Boxed, as it is larger than the other.
            Kind::Stateful {
                entity,
                admitted_at,
            } => {
                let entities = self.entities.clone();
                Box::pin(entities.run(*entity, message.clone(), admitted_at, deadline)).await
            }
        };
        if let (Err(Fault::Refused(refusal)), Origin::Peer) = (&outcome, origin) {
            self.log_refused(&message, *refusal);
        }
        outcome
    }
}
