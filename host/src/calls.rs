//! Calls: what a handler asks of other entities while it runs, and waits for.

use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use uuid::{Builder, Uuid};

use crate::message::{
    CHAIN_MAX, Chain, Failure, FailureKind, Fault, Limit, LimitKind, Message, Outcome, Outgoing,
    Refusal,
};
use crate::plugins::{Place, Plugin};
use crate::runtime::{Caller, Loading, StateError};

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
#[derive(Default)]
pub struct Calls(OnceLock<(Arc<dyn Mesh>, Handle)>);

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
}

/// Ends the note about whom a handler calls.
struct Noted<'a>(&'a dyn Turn);

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        self.0.end_call();
    }
}

impl Calls {
    /// Calls go this way from now on, as tasks of this runtime.
    pub fn send_by(&self, mesh: Arc<dyn Mesh>, runtime: Handle) {
        let _ = self.0.set((mesh, runtime));
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
        }
    }

    /// Sends a message in a task of its own: what it runs here has a stack of its own then.
    async fn send(&self, message: Arc<Message>, deadline: Instant) -> Outcome {
        let Some((mesh, runtime)) = self.0.get() else {
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
    /// The message of a call. `None`: it would wait for itself, as the fault says.
    ///
    /// # Errors
    /// If too many handlers would wait for it.
    fn message(&self, mut outgoing: Outgoing) -> Result<Result<Message, Fault>, StateError> {
        let ordinal = self.asked.fetch_add(1, Ordering::Relaxed);
        let chain = Chain::through(&self.message).ok_or(StateError::Limit(Limit {
            kind: LimitKind::ChainedCalls,
            max: CHAIN_MAX as u64,
        }))?;
        let id = call_id(self.message.id, ordinal, &outgoing);
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
            query,
            headers,
            body,
            is_broadcast: false,
            not_after: self.message.not_after.clone(),
            is_repeated: OnceLock::new(),
            is_sent: false,
            chain: Some(chain),
        }))
    }

    /// Asks while others have the handler's place.
    async fn ask(&self, message: Message) -> Result<Outcome, StateError> {
        let message = Arc::new(message);
        let noted = match &self.turn {
            Some(turn) => {
                turn.begin_call(&message).await?;
                Some(Noted(&**turn))
            }
            None => None,
        };
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
        let waited = self.place.wait(self.deadline).await;
        waited.map_err(|_| StateError::WaitedTooLong)?;
        Ok(outcome)
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
}

impl Caller for Calling {
    fn call(&self, outgoing: Outgoing) -> Loading<'_, Outcome> {
        Box::pin(async move {
            match self.message(outgoing)? {
                Ok(message) => self.ask(message).await,
                Err(fault) => Ok(Err(fault)),
            }
        })
    }

    fn deliver(&self, outgoing: Outgoing) -> Loading<'_, Result<(), Fault>> {
        Box::pin(async move {
            let message = match self.message(outgoing)? {
                Ok(message) => message,
                Err(fault) => return Ok(Err(fault)),
            };
            let [mut pause, longest] = DELIVERY_PAUSE;
            loop {
                let outcome = self.ask(message.clone()).await?;
                match outcome {
                    Ok(_) => return Ok(Ok(())),
                    Err(fault) if is_answer(&fault) => return Ok(Ok(())),
                    Err(fault) if Instant::now() + pause >= self.deadline => return Ok(Err(fault)),
                    Err(_) => sleep(pause).await,
                }
                pause = longest.min(pause * 2);
            }
        })
    }
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

/// The id of a call: a handler that runs again and asks the same makes the same call. Like every id
/// of a message it begins with a time, that of the message that is handled.
fn call_id(message: Uuid, ordinal: u32, outgoing: &Outgoing) -> Uuid {
    let ordinal = ordinal.to_be_bytes();
    let parts: [&[u8]; 7] = [
        message.as_bytes(),
        &ordinal,
        outgoing.stream.as_str().as_bytes(),
        outgoing.partition_key.as_str().as_bytes(),
        outgoing.method.as_str().as_bytes(),
        outgoing.query.as_bytes(),
        &outgoing.body,
    ];
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let mut id = [0; 16];
    id.copy_from_slice(&hasher.finalize()[..16]);
    id[..6].copy_from_slice(&message.as_bytes()[..6]);
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
