//! Calls: what a handler asks of other entities while it runs, and waits for.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::HeaderValue;
use tokio::runtime::Handle;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use uuid::{Builder, Uuid};

use crate::message::{
    self, CHAIN_MAX, Chain, Failure, FailureKind, Fault, IDEMPOTENCY_KEY, Limit, LimitKind,
    Message, NodeId, Outcome, Outgoing, Refusal, short_hash,
};
use crate::plugins::{Place, Plugin};
use crate::runtime::{Caller, Loading, StateError};
use crate::telemetry::traces;

/// How often a call is made again by a handler that holds nothing, because it waited for another that
/// waited for it.
const CROSSED_MAX: usize = 3;

/// How long is waited before that, at least and at most.
const CROSSED_PAUSE: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(40)];

/// How long is waited before a message of a handler without state is delivered again; it doubles.
const DELIVERY_PAUSE: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];

/// Sends a message to whoever is to run it.
pub trait Mesh: Send + Sync + 'static {
    fn send(
        &self,
        message: Arc<Message>,
        deadline: Instant,
    ) -> Pin<Box<dyn Future<Output = Outcome> + Send + '_>>;
}

/// The turn of an entity whose handler calls.
pub trait Turn: Send + Sync + 'static {
    /// Waits until what the handler saw is committed, and notes whom it calls.
    ///
    /// # Errors
    /// Why the handler must end.
    fn begin_call<'a>(&'a self, to: &'a Message) -> Loading<'a, ()>;

    /// Resolves if the call must end, since another and it wait for each other.
    fn crossed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// The call has ended.
    fn end_call(&self);
}

/// By which the handlers of this node call.
pub struct Calls {
    node: NodeId,
    way: OnceLock<(Arc<dyn Mesh>, Handle)>,
}

/// The handler of one message, as it calls.
pub struct Calling {
    calls: Arc<Calls>,
    message: Arc<Message>,
    pub place: Arc<Place<Plugin>>,
    deadline: Instant,
    /// If it has the turn of its entity.
    turn: Option<Arc<dyn Turn>>,
    /// How many calls it has made.
    asked: AtomicU32,
    /// One of them may have changed something.
    has_acted: AtomicBool,
}

/// Ends the note about whom a handler calls.
struct Noted<'a>(&'a dyn Turn);

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        self.0.end_call();
    }
}

impl Calls {
    pub fn new(node: NodeId) -> Self {
        let way = OnceLock::new();
        Self { node, way }
    }

    /// Calls go this way from now on, as tasks of this runtime.
    pub fn send_by(&self, mesh: Arc<dyn Mesh>, runtime: Handle) {
        let _ = self.way.set((mesh, runtime));
    }

    /// The handler of this message, which ends by the deadline.
    pub fn calling(
        self: &Arc<Self>,
        message: &Arc<Message>,
        place: Place<Plugin>,
        deadline: Instant,
        turn: Option<Arc<dyn Turn>>,
    ) -> Calling {
        Calling {
            calls: self.clone(),
            message: message.clone(),
            place: Arc::new(place),
            deadline,
            turn,
            asked: AtomicU32::new(0),
            has_acted: AtomicBool::new(false),
        }
    }

    /// Sends a message in a task of its own: what it runs here has a stack of its own then.
    async fn send(&self, message: Arc<Message>, deadline: Instant) -> Outcome {
        let Some((mesh, runtime)) = self.way.get() else {
            return Err(Fault::Refused(Refusal::Starting));
        };
        let mesh = mesh.clone();
        let sending = runtime.spawn(async move { mesh.send(message, deadline).await });
        AbortOnDropHandle::new(sending)
            .await
            .unwrap_or(Err(Fault::Crashed))
    }
}

impl Calling {
    /// Whether one of its calls may have changed something.
    pub fn has_acted(&self) -> bool {
        self.has_acted.load(Ordering::Relaxed)
    }

    /// The chain of its calls. `None`: it is too long.
    fn chain(&self) -> Option<Arc<Chain>> {
        let message = &self.message;
        let chain = match &message.chain {
            Some(chain) => Chain::clone(chain),
            None => Chain {
                root: self.own_id(),
                comes_again: message.is_sent || message.has_idempotency_key(),
                callers: Vec::new(),
            },
        };
        chain.with(message::Caller {
            stream: message.stream.clone(),
            key: message.partition_key.clone(),
            has_turn: self.turn.is_some(),
        })
    }

    /// The message's id; each node has its own of a broadcast.
    fn own_id(&self) -> Uuid {
        let Message {
            id, is_broadcast, ..
        } = *self.message;
        if is_broadcast {
            derived(id, &[self.calls.node.as_str().as_bytes()])
        } else {
            id
        }
    }

    /// What its calls are known by if it runs again: the message's own id, or its `Idempotency-Key`.
    fn known_by(&self) -> Uuid {
        let Message {
            stream,
            partition_key,
            headers,
            is_broadcast,
            ..
        } = &*self.message;
        let keys = headers.get_all(IDEMPOTENCY_KEY).iter();
        let keys: Vec<&[u8]> = keys.map(HeaderValue::as_bytes).collect();
        if keys.is_empty() || *is_broadcast {
            return self.own_id();
        }
        let entity = [
            stream.as_str().as_bytes(),
            partition_key.as_str().as_bytes(),
        ];
        derived(Uuid::nil(), &[&entity[..], &keys].concat())
    }

    /// The message of a call, or why it cannot be one.
    ///
    /// # Errors
    /// If too many handlers would wait for it.
    fn message(&self, mut outgoing: Outgoing) -> Result<Result<Message, Fault>, StateError> {
        let ordinal = self.asked.fetch_add(1, Ordering::Relaxed);
        let chain = self.chain().ok_or(StateError::Limit(Limit {
            kind: LimitKind::ChainedCalls,
            max: CHAIN_MAX as u64,
        }))?;
        let id = call_id(self.known_by(), ordinal, &outgoing);
        outgoing.continue_trace(&self.message.headers);
        let Outgoing {
            stream,
            partition_key,
            method,
            query,
            headers,
            body,
        } = outgoing;
        if chain.has(&stream, &partition_key) {
            return Ok(Err(Fault::Cycle(chain.cycle(&stream, &partition_key))));
        }
        Ok(Ok(Message {
            id,
            stream,
            partition_key,
            method,
            path: String::new(),
            query,
            headers,
            body,
            is_broadcast: false,
            not_after: self.message.not_after.clone(),
            is_repeated: OnceLock::new(),
            is_sent: false,
            chain: Some(chain),
            trace: None,
            watched: None,
        }))
    }

    /// Asks, while others have the handler's place.
    async fn ask(&self, message: Arc<Message>) -> Result<Outcome, StateError> {
        let noted = match &self.turn {
            Some(turn) => {
                turn.begin_call(&message).await?;
                Some(Noted(&**turn))
            }
            None => None,
        };
        if !message.is_read() {
            self.has_acted.store(true, Ordering::Relaxed);
        }
        self.place.give_back();
        let outcome = match &self.turn {
            Some(turn) => tokio::select! {
                outcome = self.calls.send(message, self.deadline) => outcome,
                () = turn.crossed() => Err(Fault::Refused(Refusal::Crossed)),
            },
            None => self.send_again_if_crossed(message).await,
        };
        drop(noted);
        if let Err(Fault::Refused(Refusal::Crossed)) = outcome {
            return Err(StateError::Crossed);
        }
        Ok(outcome)
    }

    /// Takes the handler's place again, before it goes on.
    async fn go_on<T>(&self, answer: T) -> Result<T, StateError> {
        let waited = self.place.wait(self.deadline).await;
        waited.map_err(|_| StateError::WaitedTooLong)?;
        Ok(answer)
    }

    /// A handler without a turn holds nothing that another could wait for: if its call was refused, and
    /// no other handler waits for it, it is enough to call again.
    async fn send_again_if_crossed(&self, message: Arc<Message>) -> Outcome {
        let mut times = 0;
        loop {
            let outcome = self.calls.send(message.clone(), self.deadline).await;
            let is_crossed = matches!(outcome, Err(Fault::Refused(Refusal::Crossed)));
            if !is_crossed || self.message.chain.is_some() {
                return outcome;
            }
            if times == CROSSED_MAX {
                return Err(Fault::Refused(Refusal::Contended));
            }
            times += 1;
            sleep(random(CROSSED_PAUSE)).await;
        }
    }

    async fn deliver(&self, message: Arc<Message>) -> Result<Result<(), Fault>, StateError> {
        let [mut pause, longest] = DELIVERY_PAUSE;
        loop {
            match self.ask(message.clone()).await? {
                Ok(_) => return Ok(Ok(())),
                Err(fault) if is_answer(&fault) => return Ok(Ok(())),
                Err(fault) if Instant::now() + pause >= self.deadline => return Ok(Err(fault)),
                Err(_) => sleep(pause).await,
            }
            pause = longest.min(pause * 2);
        }
    }
}

impl Caller for Calling {
    fn call(&self, outgoing: Outgoing) -> Loading<'_, Outcome> {
        Box::pin(async move {
            match self.message(outgoing)? {
                Ok(mut message) => {
                    let mut span = traces::call("call", &self.message, &mut message);
                    let outcome = self.ask(Arc::new(message)).await?;
                    span.ended(&outcome);
                    drop(span);
                    self.go_on(outcome).await
                }
                Err(fault) => Ok(Err(fault)),
            }
        })
    }

    fn deliver(&self, outgoing: Outgoing) -> Loading<'_, Result<(), Fault>> {
        Box::pin(async move {
            match self.message(outgoing)? {
                Ok(mut message) => {
                    let mut span = traces::call("send", &self.message, &mut message);
                    let delivered = self.deliver(Arc::new(message)).await?;
                    span.ended(&delivered);
                    drop(span);
                    self.go_on(delivered).await
                }
                Err(fault) => Ok(Err(fault)),
            }
        })
    }
}

/// The outcome of a handler that has acted on others by its calls: a refusal does not mean that nothing
/// was done.
pub fn after_acting(outcome: Outcome) -> Outcome {
    outcome.map_err(|fault| match fault {
        // The handler's own word, and what makes the whole chain run again.
        Fault::Failure(_) | Fault::Refused(Refusal::Crossed) => fault,
        fault if fault.nothing_ran() => Fault::AfterCalls(Box::new(fault)),
        fault => fault,
    })
}

/// Whether a message that was sent has its answer with this fault: it is not sent again.
pub fn is_answer(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::Failure(Failure {
            kind: FailureKind::Invalid | FailureKind::NotFound | FailureKind::Conflict,
            ..
        })
    )
}

pub fn random([from, to]: [Duration; 2]) -> Duration {
    from + (to - from).mul_f64(fastrand::f64())
}

/// The id of a call: a handler that runs again and asks the same makes the same call.
fn call_id(known_by: Uuid, ordinal: u32, outgoing: &Outgoing) -> Uuid {
    derived(
        known_by,
        &[
            &ordinal.to_be_bytes(),
            outgoing.stream.as_str().as_bytes(),
            outgoing.partition_key.as_str().as_bytes(),
            outgoing.method.as_str().as_bytes(),
            outgoing.query.as_bytes(),
            &outgoing.body,
        ],
    )
}

/// An id that is made of another and of this. It begins with the same time.
fn derived(from: Uuid, parts: &[&[u8]]) -> Uuid {
    let from = from.as_bytes();
    let parts = parts.iter().copied();
    let mut id = short_hash([&from[..]].into_iter().chain(parts));
    id[..6].copy_from_slice(&from[..6]);
    Builder::from_custom_bytes(id).into_uuid()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;
    use crate::message::{Method, PartitionKey, StreamName};

    #[test]
    fn a_call_that_asks_the_same_has_the_same_id() {
        let message = Uuid::now_v7();
        let id = |ordinal, key: &str, body: &'static str| {
            let outgoing = Outgoing {
                stream: StreamName::try_from("account").unwrap(),
                partition_key: PartitionKey::try_from(key).unwrap(),
                method: Method::Post,
                query: String::new(),
                headers: HeaderMap::new(),
                body: Bytes::from_static(body.as_bytes()),
            };
            call_id(message, ordinal, &outgoing)
        };
        assert_eq!(id(0, "ada", "1"), id(0, "ada", "1"));
        let others = [id(1, "ada", "1"), id(0, "bob", "1"), id(0, "ada", "2")];
        assert!(!others.contains(&id(0, "ada", "1")));
        assert_eq!(id(0, "ada", "1").as_bytes()[..6], message.as_bytes()[..6]);
    }
}
