//! The implementation for stateless streams: a message runs on the version of the plugin that is
//! current when the message is admitted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use metrics::counter;
use tracing::info;

use super::{LocalService, Origin};
use crate::bodies::{Bodies, NoRoom, SetAside};
use crate::message::{Fault, Message, Outcome, Refusal};
use crate::plugins::{Catalog, Place, Plugin};
use crate::runtime::CallDeadline;
use crate::telemetry::{Throttle, names};

/// Runs messages on the plugins of the catalog.
pub struct Local {
    catalog: Arc<Catalog>,
    /// Replies reserve their memory here.
    bodies: &'static Bodies,
    /// A `Phase`.
    phase: AtomicU8,
    refused: Throttle<Refusal>,
}

/// Whether messages of peers are admitted.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Phase {
    /// Not yet: the node does not have all its plugins.
    Starting,
    Open,
    /// No longer: the node is about to end.
    Leaving,
}

/// A message that was admitted.
pub struct Admitted {
    message: Arc<Message>,
    deadline: CallDeadline,
    plugin: Arc<Plugin>,
    place: Place,
    origin: Origin,
}

impl Local {
    /// Messages of peers are refused until [`Local::open`].
    pub fn new(catalog: Arc<Catalog>, bodies: &'static Bodies) -> Self {
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

    fn check_phase(&self, origin: Origin) -> Result<(), Refusal> {
        if origin == Origin::Client {
            return Ok(());
        }
        match self.phase.load(Ordering::Relaxed) {
            phase if phase == Phase::Open as u8 => Ok(()),
            phase if phase == Phase::Starting as u8 => Err(Refusal::Starting),
            _ => Err(Refusal::Leaving),
        }
    }

    fn find_place(
        &self,
        message: &Message,
        deadline: Instant,
        origin: Origin,
    ) -> Result<(Arc<Plugin>, Place, CallDeadline), Refusal> {
        self.check_phase(origin)?;
        let plugin = self
            .catalog
            .plugin(message.stream.as_str())
            .ok_or(Refusal::NotOffered)?;
        let now = Instant::now();
        if deadline <= now {
            // Its time was spent on the way here.
            return Err(Refusal::WaitedTooLong);
        }
        let deadline = plugin.handler.call_deadline(now, deadline);
        let place = Place::new(plugin.admission.clone())?;
        Ok((plugin, place, deadline))
    }

    /// Waits for a permit if the message has none, and reserves memory for the reply: before the
    /// handler runs, but not while the message waits.
    async fn begin(&self, admitted: &mut Admitted) -> Result<SetAside, Refusal> {
        let Admitted {
            place, deadline, ..
        } = admitted;
        if !place.is_running() {
            // Boxed because it is rare: it takes no room in the future of every message.
            Box::pin(place.wait(deadline.at())).await?;
        }
        let expected = place.begin().reply_expected.bytes();
        let reserved = self.bodies.set_aside(expected);
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
        match self.find_place(&message, deadline, origin) {
            Ok((plugin, place, deadline)) => Ok(Admitted {
                message,
                deadline,
                plugin,
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
        let outcome = match self.begin(&mut admitted).await {
            Ok(reserved) => {
                let Admitted {
                    message,
                    deadline,
                    plugin,
                    ..
                } = &admitted;
                match plugin.handler.call(message, *deadline).await {
                    Ok(reply) => {
                        plugin.admission.reply_expected.note(reply.body.len());
                        reply.in_room(reserved, self.bodies)
                    }
                    Err(fault) => Err(fault),
                }
            }
            Err(refusal) => Err(Fault::Refused(refusal)),
        };
        if let (Err(Fault::Refused(refusal)), Origin::Peer) = (&outcome, admitted.origin) {
            self.log_refused(&admitted.message, *refusal);
        }
        outcome
    }
}
