//! What handlers have sent, from its commit until it is answered. A node delivers what it has
//! committed, at once or when it is due, and what other nodes have left.

use std::collections::{BTreeSet, HashSet};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue};
use metrics::counter;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use uuid::Uuid;

use super::as_http;
use super::commit::EntityId;
use super::store::Clock;
use crate::message::{
    Message, Method, NodeId, Outgoing, PartitionKey, Sending, StoreTime, StreamName, TIMER,
};
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

/// The end of the year 9999.
const LAST_SHOWN_MILLIS: u64 = 253_402_300_799_999;

/// The entity that sent a message.
const FROM: HeaderName = HeaderName::from_static("meshage-from");

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

/// A message of the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) id: Uuid,
    pub(super) from: Arc<EntityId>,
    pub(super) name: Option<Arc<str>>,
    pub(super) to: EntityId,
    pub(super) due: StoreTime,
    pub(super) tries: u32,
    /// Written as in HTTP.
    pub(super) text: Bytes,
}

/// A message of the outbox, with how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) letter: Letter,
    /// Which node delivers it.
    pub(super) node: String,
    /// When it is delivered, or delivered again; `None`: it is stuck.
    pub(super) wake_at: Option<StoreTime>,
    /// How its last delivery failed.
    pub(super) problem: Option<String>,
    /// The size of the text, which may not have been asked for.
    pub(super) bytes: usize,
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

impl Waiting {
    /// As operators see it.
    pub(super) fn line(&self) -> Value {
        let Letter {
            id,
            from,
            name,
            to,
            due,
            tries,
            ..
        } = &self.letter;
        let entity =
            |entity: &EntityId| json!({ "stream": entity.stream, "partitionKey": entity.key });
        let time = |time: StoreTime| {
            // Later ones cannot be written.
            let millis = time.millis().min(LAST_SHOWN_MILLIS);
            let time = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
            humantime::format_rfc3339_millis(time).to_string()
        };
        json!({
            "id": id,
            "from": entity(from),
            "to": entity(to),
            "timer": name,
            "due": time(*due),
            "tries": tries,
            "state": if self.wake_at.is_none() { "stuck" } else { "waiting" },
            "nextTry": self.wake_at.filter(|at| *at > StoreTime::default()).map(time),
            "problem": self.problem,
            "node": self.node,
            "bytes": self.bytes,
        })
    }
}

impl Letter {
    /// What an entity sends, and is due now.
    pub(super) fn new(
        from: &Arc<EntityId>,
        name: Option<&Arc<str>>,
        sending: &Sending,
        now: StoreTime,
    ) -> Self {
        let Outgoing {
            stream,
            partition_key,
            ..
        } = &sending.outgoing;
        Self {
            id: sending.id,
            from: from.clone(),
            name: name.cloned(),
            to: EntityId {
                stream: stream.clone(),
                key: partition_key.clone(),
            },
            due: now,
            tries: 0,
            text: written(&sending.outgoing),
        }
    }

    /// `None`: it is nothing that meshage has written.
    fn message(&self) -> Option<Message> {
        let (first, mut headers, body) = as_http::read(&self.text)?;
        let (method, query) = first.split_once(" ?")?;
        if let Some(name) = &self.name {
            headers.insert(TIMER, HeaderValue::from_bytes(name.as_bytes()).ok()?);
        }
        headers.insert(FROM, from_header(&self.from)?);
        Some(Message {
            id: self.id,
            stream: self.to.stream.clone(),
            partition_key: self.to.key.clone(),
            method: Method::from_name(method)?,
            query: query.to_owned(),
            headers,
            body,
            is_broadcast: false,
            not_after: OnceLock::new(),
            is_repeated: OnceLock::new(),
            is_sent: true,
            chain: None,
        })
    }
}

/// A message as it is stored.
pub(super) fn written(outgoing: &Outgoing) -> Bytes {
    let first = format!("{} ?{}", outgoing.method.as_str(), outgoing.query);
    as_http::written(&first, &outgoing.headers, &outgoing.body)
}

fn from_header(entity: &EntityId) -> Option<HeaderValue> {
    let key = percent_encode(entity.key.as_str().as_bytes(), NON_ALPHANUMERIC);
    HeaderValue::from_str(&format!("{}/{key}", entity.stream)).ok()
}

/// The name of a message that an entity's timer brings to the entity itself.
pub(super) fn own_timer<'a>(headers: &'a HeaderMap, entity: &EntityId) -> Option<&'a str> {
    let from = headers.get(FROM)?;
    let is_own = from_header(entity).as_ref() == Some(from);
    let name = headers.get(TIMER).filter(|_| is_own)?;
    std::str::from_utf8(name.as_bytes()).ok()
}

/// An entity of the store, if its names are those of one.
pub(super) fn entity(stream: &str, key: &str) -> Option<EntityId> {
    Some(EntityId {
        stream: StreamName::try_from(stream).ok()?,
        key: PartitionKey::try_from(key).ok()?,
    })
}
