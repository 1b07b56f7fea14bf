//! The client side of one connection: many concurrent calls, each answered, cancelled or lost.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt};
use metrics::gauge;
use tokio::io::AsyncWriteExt;
use tokio::sync::{oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, timeout, timeout_at};
use tokio_util::codec::FramedRead;
use tracing::{debug, info, warn};

use super::handshake::{ConnectError, Frames, HELLO_TIMEOUT, Incarnation, check_hello, next};
use super::liveness::{Health, Liveness};
use super::outbox::{Closed, Outbox};
use super::siblings::{Siblings, Suspect};
use super::socket::{self, TlsNow};
use super::wire::{self, Agreed, Body, CallId, Frame, Hello, Question, WireError};
use crate::bodies::{BodyMemory, NoRoom, ReplyReservation, Reservation};
use crate::message::{Fault, Message, Outcome, Refusal, Reply, Watched};
use crate::telemetry::names;

/// A host that takes longer to connect to probably drops packets: the next in rank answers sooner.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The memory for answers to questions, which have an account of their own.
static ANSWERS: LazyLock<&BodyMemory> = LazyLock::new(|| BodyMemory::new(0));

/// Calls in flight on one connection: a tenth of a second at the 60,000 messages a second that one
/// connection carries.
pub(super) const CALLS_MAX: usize = 8_192;

/// Interval of pings. Each also shows the peer that this node is alive.
const PING_INTERVAL: Duration = Duration::from_millis(500);

/// A peer that has left this many pings in a row unanswered gets no new messages until it answers:
/// after a second to a second and a half.
const PINGS_UNANSWERED_SILENT: u32 = 2;

/// A peer that has left this many pings in a row unanswered is lost: after about two seconds. Pings
/// are counted instead of time, so that a pause of this process is not mistaken for one of the
/// peer.
const PINGS_UNANSWERED_MAX: u32 = 4;

/// Why an open connection failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("it broke: {0}")]
    Io(#[from] io::Error),
    #[error("it broke the protocol: {0}")]
    Protocol(#[from] WireError),
    #[error("nothing was heard for too long")]
    Silent,
    #[error("it has taken nothing for too long")]
    TakesNothing,
}

pub(super) struct Connection {
    outbox: Outbox,
    bodies: &'static BodyMemory,
    calls: Mutex<HashMap<CallId, PendingCall>>,
    next_id: AtomicU32,
    siblings: Arc<Siblings>,
    liveness: Liveness,
    /// What both sides support.
    features: Vec<String>,
}

/// What a peer is called for.
#[derive(Debug, Clone, Copy)]
pub enum Request<'m> {
    /// To run a message.
    Run(&'m Message),
    /// To answer a question.
    Ask(Question),
}

impl Request<'_> {
    fn body_bytes(&self) -> usize {
        match self {
            Self::Run(message) => message.body.len(),
            Self::Ask(_) => 0,
        }
    }

    fn watched(&self) -> Option<Arc<Watched>> {
        match self {
            Self::Run(message) => message.watched.clone(),
            Self::Ask(_) => None,
        }
    }
}

/// The result of a call to a peer.
#[derive(Debug)]
pub struct Called {
    pub outcome: Outcome,
    /// Whether any of the message was sent over the network.
    pub was_sent: bool,
}

impl Called {
    fn not_sent(refusal: Refusal) -> Self {
        Fault::Refused(refusal).into()
    }
}

/// A call that failed before anything was sent.
impl From<Fault> for Called {
    fn from(fault: Fault) -> Self {
        Self {
            outcome: Err(fault),
            was_sent: false,
        }
    }
}

impl Suspect for Connection {
    fn suspect(&self) {
        // If it is closed, it accepts no new messages anyway.
        let _ = self.outbox.push(|buffer| self.liveness.suspect(buffer));
    }
}

/// The reader of a connection. On drop, in whatever way it ends, the connection ends too.
struct Reading(Arc<Connection>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A call that waits for its reply, with the part of the reply that has arrived.
struct PendingCall {
    done: oneshot::Sender<Outcome>,
    reply: PendingReply,
    /// Of its message.
    watched: Option<Arc<Watched>>,
}

/// The state of a reply.
enum PendingReply {
    /// Nothing yet.
    Expected(ReplyReservation),
    Partial(Box<Reply>, Body),
}

impl Connection {
    /// Connects, and checks that the peer is the expected node with the expected generation.
    pub(super) async fn open(
        life: &Incarnation,
        tls: &TlsNow,
        own: &Hello,
        bodies: &'static BodyMemory,
        siblings: &Arc<Siblings>,
    ) -> Result<Arc<Self>, ConnectError> {
        let Incarnation {
            node_id: expected,
            addr,
            ..
        } = life;
        let addr = *addr;
        let (reader, mut writer) = timeout(CONNECT_TIMEOUT, socket::connect(addr, tls, expected))
            .await
            .map_err(|_| ConnectError::Timeout(CONNECT_TIMEOUT))??;
        let mut frames = FramedRead::new(reader, wire::framing());
        let handshake = async {
            let mut buffer = BytesMut::new();
            wire::put_hello(&mut buffer, &own.to(life.generation));
            writer.write_all(&buffer).await?;
            writer.flush().await?;
            check_hello(next(&mut frames).await?, own, life)
        };
        let handshake = timeout(HELLO_TIMEOUT, handshake).await;
        let Agreed { version, features } =
            handshake.map_err(|_| ConnectError::Timeout(HELLO_TIMEOUT))??;
        info!(event = "peer-connected", peer = %expected, %addr, version, ?features, "peer connected");

        let connection = Arc::new(Self {
            outbox: Outbox::new(),
            bodies,
            calls: Mutex::default(),
            next_id: AtomicU32::new(0),
            siblings: siblings.clone(),
            liveness: Liveness::new(siblings.changed.clone()),
            features,
        });
        let weak = Arc::downgrade(&connection);
        siblings.add(weak);
        let (writing, reading, peer) = (
            connection.clone(),
            Reading(connection.clone()),
            expected.clone(),
        );
        let writing = tokio::spawn(async move {
            // The reader notices a failed write too, and ends the connection.
            let _ = writing.outbox.write_to(writer).await;
        });
        tokio::spawn(async move {
            gauge!(names::PEER_CONNECTIONS).increment(1.0);
            match reading.0.read(frames).await {
                Ok(()) => {
                    info!(event = "peer-connection-closed", %peer, %addr, "peer connection closed")
                }
                // One that leaves may close it as it likes.
                Err(_) if reading.0.liveness.is_leaving() => {
                    info!(event = "peer-connection-closed", %peer, %addr, "peer connection closed")
                }
                Err(error) => {
                    warn!(event = "peer-connection-lost", %peer, %addr, %error, "peer connection lost")
                }
            }
            drop(reading);
            // A peer that hangs must not receive the unsent data when it resumes.
            writing.abort();
            gauge!(names::PEER_CONNECTIONS).decrement(1.0);
        });
        Ok(connection)
    }

    /// Sends a request and waits for its outcome. `Closed` means that nothing was sent. Dropping
    /// the call cancels it on the other side. Memory for a reply of `reply_bytes_expected` bytes is
    /// reserved first.
    pub(super) async fn call(
        &self,
        request: Request<'_>,
        deadline: Instant,
        reply_bytes_expected: usize,
    ) -> Result<Called, Closed> {
        if self.liveness.has_ended() {
            return Err(Closed);
        }
        if self.liveness.is_leaving() {
            return Ok(Called::not_sent(Refusal::Leaving));
        }
        if let Request::Ask(question) = request
            && !self.features.iter().any(|it| it == question.feature())
        {
            return Ok(Called::not_sent(Refusal::NotUnderstood));
        }
        // Who looks at a node that is short of memory wants to see that.
        let account = match request {
            Request::Run(_) => self.bodies,
            Request::Ask(_) => *ANSWERS,
        };
        let Ok(reserved) = account.reserve_reply(reply_bytes_expected) else {
            return Ok(Called::not_sent(Refusal::NoRoom));
        };
        let (done, outcome) = oneshot::channel();
        let Some(call) = Call::begin(
            self,
            PendingCall {
                done,
                reply: PendingReply::Expected(reserved),
                watched: request.watched(),
            },
        ) else {
            return Ok(Called::not_sent(Refusal::Overloaded));
        };
        // The caller's message holds the reservation of its body meanwhile, so none is passed on.
        let sending = self.outbox.push_with_body(
            call.id,
            request.body_bytes(),
            Reservation::default(),
            |buffer| match request {
                Request::Run(message) => {
                    let remaining = deadline.saturating_duration_since(Instant::now());
                    wire::put_call(buffer, call.id, message, remaining)
                }
                Request::Ask(question) => {
                    wire::put_question(buffer, call.id, question);
                    Bytes::new()
                }
            },
        );
        match timeout_at(deadline.into(), sending).await {
            Ok(sent) => sent?,
            // It waited for space in the outbox until its deadline: the peer reads more slowly than
            // this node sends.
            Err(_) => return Ok(Called::not_sent(Refusal::WaitedTooLong)),
        }
        let outcome = match timeout_at(deadline.into(), outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Fault::Lost),
            Err(_) if self.outbox.cancel_unsent(call.id) => {
                return Ok(Called::not_sent(Refusal::WaitedTooLong));
            }
            Err(_) => Err(Fault::DeadlineExceeded),
        };
        Ok(Called {
            outcome,
            was_sent: true,
        })
    }

    pub(super) fn health(&self) -> Health {
        self.liveness.health()
    }

    pub(super) fn watch_health(&self) -> watch::Receiver<Health> {
        self.liveness.watch()
    }

    /// Closes the connection once the outbox has been written.
    pub(super) fn close(&self) {
        self.outbox.close();
    }

    /// Receives until the peer closes the connection, violates the protocol, or falls silent.
    async fn read(&self, mut frames: Frames) -> Result<(), LinkError> {
        let mut ticks = interval(PING_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unanswered = 0;
        loop {
            tokio::select! {
                mut frame = frames.next() => {
                    unanswered = 0;
                    self.liveness.heard();
                    // One read mostly brings many frames: handle the others without going through
                    // `select!`.
                    loop {
                        let Some(received) = frame else { return Ok(()) };
                        self.receive(wire::decode(received?.freeze())?)?;
                        match frames.next().now_or_never() {
                            Some(next) => frame = next,
                            None => break,
                        }
                    }
                }
                _ = ticks.tick() => {
                    if self.outbox.has_given_up() {
                        return Err(LinkError::TakesNothing);
                    }
                    if unanswered >= PINGS_UNANSWERED_MAX {
                        return Err(LinkError::Silent);
                    }
                    if unanswered >= PINGS_UNANSWERED_SILENT {
                        self.liveness.missed();
                    }
                    unanswered += 1;
                    // If the outbox is closed, only the remaining replies are to be received.
                    let _ = self.outbox.push(|buffer| self.liveness.ping(buffer));
                }
            }
        }
    }

    fn receive(&self, frame: Frame) -> Result<(), WireError> {
        match frame {
            Frame::Reply {
                id,
                mut reply,
                body,
                stages,
            } => {
                let mut calls = self.lock();
                // A cancelled call is no longer registered.
                let Some(PendingCall {
                    done,
                    reply: PendingReply::Expected(reserved),
                    watched,
                }) = calls.remove(&id)
                else {
                    return Ok(());
                };
                if let (Some(watched), Some(stages)) = (&watched, stages) {
                    watched.add_micros(stages);
                }
                let outcome = match reserved.fill(body.bytes()) {
                    Ok(reservation) => {
                        reply.reservation = reservation;
                        if !body.is_complete() {
                            calls.insert(
                                id,
                                PendingCall {
                                    done,
                                    reply: PendingReply::Partial(reply, body),
                                    watched,
                                },
                            );
                            return Ok(());
                        }
                        reply.body = body.into_bytes();
                        Ok(*reply)
                    }
                    Err(NoRoom) => {
                        // The rest of the reply is not needed.
                        let _ = self.outbox.push(|buffer| wire::put_cancel(buffer, id));
                        Err(Fault::no_room(self.bodies))
                    }
                };
                self.close_if_done(&calls);
                drop(calls);
                // The caller may just have given up.
                let _ = done.send(outcome);
            }
            Frame::Chunk { id, bytes } => self.receive_chunk(id, &bytes)?,
            Frame::Fault { id, fault } => self.fail(id, fault),
            Frame::Leaving => {
                self.liveness.said_goodbye();
                self.close_if_done(&self.lock());
            }
            Frame::Pong => self.liveness.pong(),
            Frame::UnreadableAnswer { id, error } => {
                debug!(%error, "a peer's answer cannot be read");
                // The rest of the reply is not needed.
                let _ = self.outbox.push(|buffer| wire::put_cancel(buffer, id));
                self.fail(id, Fault::unreadable_answer());
            }
            // Unknown frames of a later version, and frames that only a client sends.
            Frame::Unknown
            | Frame::UnreadableHello { .. }
            | Frame::UnreadableCall { .. }
            | Frame::Hello(_)
            | Frame::Reject(_)
            | Frame::Call { .. }
            | Frame::Cancel { .. }
            | Frame::Ask { .. }
            | Frame::Ping => {}
        }
        Ok(())
    }

    fn fail(&self, id: CallId, fault: Fault) {
        let mut calls = self.lock();
        if let Some(waiting) = calls.remove(&id) {
            // The call may have been refused before all of its body was sent.
            self.outbox.forget_body(id);
            self.close_if_done(&calls);
            let _ = waiting.done.send(Err(fault));
        }
    }

    fn receive_chunk(&self, id: CallId, bytes: &bytes::Bytes) -> Result<(), WireError> {
        let mut calls = self.lock();
        // A cancelled call is no longer registered.
        let Some(PendingCall {
            reply: PendingReply::Partial(_, body),
            ..
        }) = calls.get_mut(&id)
        else {
            return Ok(());
        };
        body.push(bytes)?;
        if body.is_complete()
            && let Some(PendingCall {
                done,
                reply: PendingReply::Partial(mut reply, body),
                ..
            }) = calls.remove(&id)
        {
            self.close_if_done(&calls);
            drop(calls);
            reply.body = body.into_bytes();
            let _ = done.send(Ok(*reply));
        }
        Ok(())
    }

    /// Closes the connection to a leaving peer once no call waits for a reply.
    fn close_if_done(&self, calls: &HashMap<CallId, PendingCall>) {
        if self.liveness.is_leaving() && calls.is_empty() {
            self.outbox.close();
        }
    }

    /// Accepts no more calls, and ends the pending ones. Calls that were not sent completely did
    /// not run; for the others it is unknown, so their senders are dropped, which means `Lost`.
    fn end(&self) {
        // Before any caller learns of the end and tries the next connection.
        if !self.liveness.is_leaving() {
            self.siblings.suspect();
        }
        self.liveness.end();
        let unsent = self.outbox.close_unsent();
        let mut calls = self.lock();
        for id in unsent {
            if let Some(waiting) = calls.remove(&id) {
                let _ = waiting.done.send(Err(Fault::Unreachable));
            }
        }
        calls.clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CallId, PendingCall>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A registered call. Dropping it before the answer has arrived cancels it.
struct Call<'a> {
    connection: &'a Connection,
    id: CallId,
}

impl<'a> Call<'a> {
    fn begin(connection: &'a Connection, waiting: PendingCall) -> Option<Self> {
        let id = connection.next_id.fetch_add(1, Ordering::Relaxed);
        let mut calls = connection.lock();
        if calls.len() >= CALLS_MAX {
            return None;
        }
        calls.insert(id, waiting);
        Some(Self { connection, id })
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut calls = self.connection.lock();
        if calls.remove(&self.id).is_some() {
            self.connection.outbox.forget_body(self.id);
            // If the connection is closed, there is nothing to cancel.
            let _ = self
                .connection
                .outbox
                .push(|buffer| wire::put_cancel(buffer, self.id));
            self.connection.close_if_done(&calls);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::NodeId;

    fn hello(cluster_id: &str, node_id: &str, generation: u64) -> Hello {
        Hello::new(cluster_id, NodeId::try_from(node_id).unwrap(), generation)
    }

    fn check(frame: Frame) -> Result<Agreed, ConnectError> {
        let (node_id, addr) = (NodeId::try_from("n2").unwrap(), ([127, 0, 0, 1], 1).into());
        check_hello(
            frame,
            &hello("c", "n1", 1),
            &Incarnation {
                node_id,
                generation: 7,
                addr,
            },
        )
    }

    #[track_caller]
    fn check_refused(frame: Frame, expected: &str) {
        let error = check(frame).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn only_the_expected_node_is_talked_to() {
        assert!(check(Frame::Hello(hello("c", "n2", 7))).is_ok());
        check_refused(
            Frame::Hello(hello("other", "n2", 7)),
            "clusters: node \"n2\" is of \"other\"",
        );
        check_refused(
            Frame::Hello(hello("c", "n3", 7)),
            "it is node \"n3\", expected \"n2\"",
        );
        check_refused(
            Frame::Hello(hello("c", "n2", 8)),
            "of generation 8, expected 7",
        );
        check_refused(
            Frame::Reject("because".into()),
            "refused the connection: because",
        );
        check_refused(Frame::Ping, "it began with Ping");
    }
}
