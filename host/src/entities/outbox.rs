//! What handlers have sent, from its commit until it is answered. A node delivers what it has
//! committed, at once or when it is due, and what other nodes have left.

use std::collections::{BTreeSet, HashSet};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use metrics::counter;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use uuid::Uuid;

use super::letter::Letter;
use super::store::Clock;
use crate::message::{Message, NodeId, StoreTime};
use crate::telemetry::names;

/// For how long a node that delivers a message keeps others from doing the same.
pub(super) const CLAIM: Duration = Duration::from_secs(5);

/// How often it says so again.
const RENEW: Duration = Duration::from_secs(2);

/// How long after it was due a message is left to the node that committed it.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// Deliveries after which a message is *stuck*: it is not tried again by itself.
const TRIES_MAX: u32 = 20;

/// How long it is waited after a delivery that failed; it doubles.
const BACK_OFF: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(17 * 60)];

/// Messages that a node delivers at once.
const IN_FLIGHT_MAX: usize = 512;

/// Delivers messages: runs them where they are to run.
pub trait Deliver: Send + Sync + 'static {
    fn deliver(
        &self,
        message: Arc<Message>,
    ) -> Pin<Box<dyn Future<Output = Delivered> + Send + '_>>;
}

/// How a delivery ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivered {
    /// What it did is committed, and with it that it was delivered.
    Committed,
    /// It has its answer: it is not sent again.
    Answered,
    /// For this reason; it is to be tried again.
    Failed(String),
}

/// A delivery that failed.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) id: Uuid,
    pub(super) problem: String,
    /// How long until the next one; `None`: it is stuck.
    pub(super) pause: Option<Duration>,
}

/// What the store is to be told, and asked.
#[derive(Debug, Default)]
pub(super) struct Chores {
    /// To be deleted.
    pub(super) answered: Vec<Uuid>,
    pub(super) failed: Vec<Failure>,
    /// Those that are being delivered.
    pub(super) renewed: Vec<Uuid>,
    /// Nodes that are gone: what they had to deliver is for this one, or another.
    pub(super) gone: Vec<NodeId>,
    /// How many more may be delivered at once.
    pub(super) room: usize,
}

#[derive(Debug)]
pub(super) struct Tended {
    /// What is to be delivered now.
    pub(super) due: Vec<Letter>,
    /// When this node's next message is due.
    pub(super) next: Option<StoreTime>,
    /// The nodes that are gone had more than what was taken over at once.
    pub(super) has_gone_more: bool,
}

/// Messages of nodes that are gone that are taken over at once.
pub(super) const TAKEN_OVER_MAX: usize = 1000;

pub(super) struct Outbox {
    pub(super) node: NodeId,
    deliver: OnceLock<(Arc<dyn Deliver>, Handle)>,
    state: Mutex<State>,
    /// Something is to be told to the store.
    pub(super) changed: Notify,
    pub(super) clock: Clock,
}

struct State {
    in_flight: HashSet<Uuid>,
    answered: Vec<Uuid>,
    failed: Vec<Failure>,
    renewed_at: Instant,
    /// Those that were in the view, and those that have left it and may have left something to deliver.
    nodes: BTreeSet<NodeId>,
    gone: BTreeSet<NodeId>,
}

impl Chores {
    pub(super) fn is_empty(&self) -> bool {
        let Self {
            answered,
            failed,
            renewed,
            gone,
            room: _,
        } = self;
        answered.is_empty() && failed.is_empty() && renewed.is_empty() && gone.is_empty()
    }
}

impl Outbox {
    pub(super) fn new(node: NodeId) -> Arc<Self> {
        Arc::new(Self {
            node,
            deliver: OnceLock::new(),
            state: Mutex::new(State {
                in_flight: HashSet::new(),
                answered: Vec::new(),
                failed: Vec::new(),
                renewed_at: Instant::now(),
                nodes: BTreeSet::new(),
                gone: BTreeSet::new(),
            }),
            changed: Notify::new(),
            clock: Clock::default(),
        })
    }

    /// Delivers from now on, on this runtime.
    pub(super) fn deliver_by(&self, deliver: Arc<dyn Deliver>, runtime: Handle) {
        let _ = self.deliver.set((deliver, runtime));
        self.changed.notify_one();
    }

    pub(super) fn delivers(&self) -> bool {
        self.deliver.get().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delivers a message, unless it is being delivered, or too many are: then the store has it.
    pub(super) fn begin(self: &Arc<Self>, letter: Letter) {
        let Some((deliver, runtime)) = self.deliver.get() else {
            return;
        };
        {
            let mut state = self.lock();
            if state.in_flight.len() >= IN_FLIGHT_MAX || !state.in_flight.insert(letter.id) {
                return;
            }
        }
        if self.clock.now() > letter.due.later(GRACE) {
            counter!(names::SENDS_LATE).increment(1);
        }
        let (outbox, deliver) = (self.clone(), deliver.clone());
        runtime.spawn(async move {
            let Letter { id, tries, .. } = letter;
            let delivered = match letter.message() {
                // A panic fails this delivery alone.
                Some(message) => AssertUnwindSafe(deliver.deliver(Arc::new(message)))
                    .catch_unwind()
                    .await
                    .unwrap_or_else(|_| Delivered::Failed("the delivery panicked".into())),
                None => Delivered::Failed("it cannot be read".into()),
            };
            outbox.end(id, tries, delivered);
        });
    }

    fn end(&self, id: Uuid, tries: u32, delivered: Delivered) {
        let outcome = match delivered {
            Delivered::Committed | Delivered::Answered => "delivered",
            Delivered::Failed(_) => "failed",
        };
        counter!(names::SENDS, "outcome" => outcome).increment(1);
        let mut state = self.lock();
        state.in_flight.remove(&id);
        match delivered {
            Delivered::Committed => return,
            Delivered::Answered => state.answered.push(id),
            Delivered::Failed(problem) => state.failed.push(Failure {
                id,
                problem,
                pause: pause(tries),
            }),
        }
        drop(state);
        self.changed.notify_one();
    }

    /// What is to be done at the store.
    pub(super) fn chores(&self) -> Chores {
        let mut state = self.lock();
        let mut renewed = Vec::new();
        if state.renewed_at.elapsed() >= RENEW {
            state.renewed_at = Instant::now();
            renewed.extend(&state.in_flight);
        }
        Chores {
            answered: std::mem::take(&mut state.answered),
            failed: std::mem::take(&mut state.failed),
            renewed,
            gone: state.gone.iter().cloned().collect(),
            room: IN_FLIGHT_MAX - state.in_flight.len(),
        }
    }

    /// The nodes of the view now.
    pub(super) fn note_nodes(&self, nodes: BTreeSet<NodeId>) {
        let mut state = self.lock();
        let left: Vec<NodeId> = state.nodes.difference(&nodes).cloned().collect();
        let is_news = !left.is_empty();
        state.gone.extend(left);
        state.gone.retain(|node| !nodes.contains(node));
        state.nodes = nodes;
        drop(state);
        if is_news {
            self.changed.notify_one();
        }
    }

    /// Everything of these nodes was taken over.
    pub(super) fn taken_over(&self, gone: &[NodeId]) {
        self.lock().gone.retain(|node| !gone.contains(node));
    }

    /// The store could not be told: it is to be told again.
    pub(super) fn put_back(&self, chores: Chores) {
        let mut state = self.lock();
        state.answered.extend(chores.answered);
        state.failed.extend(chores.failed);
    }
}

/// How long it is waited before the next delivery, after so many and one more that failed.
fn pause(tries: u32) -> Option<Duration> {
    let [first, longest] = BACK_OFF;
    (tries + 1 < TRIES_MAX).then(|| longest.min(first * 2_u32.saturating_pow(tries.min(20))))
}
