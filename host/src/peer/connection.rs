//! The calling end of one connection: many calls at once, each answered, cancelled or lost.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::{FutureExt, StreamExt};
use metrics::gauge;
use tokio::io::AsyncWriteExt;
use tokio::sync::{oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, timeout, timeout_at};
use tokio_util::codec::FramedRead;
use tracing::{debug, info, warn};

use super::handshake::{ConnectError, Frames, HELLO_TIMEOUT, Life, check_hello, next};
use super::liveness::{Health, Liveness};
use super::outbox::{Closed, Outbox};
use super::siblings::{Siblings, Suspect};
use super::socket::{self, TlsNow};
use super::wire::{self, Agreed, Body, CallId, Frame, Hello, WireError};
use crate::bodies::{BodyMemory, NoRoom, ReplyReservation, Reservation};
use crate::message::{Fault, Message, Outcome, Refusal, Reply};
use crate::telemetry::names;

/// A connection that takes longer is to a host that drops packets: the next in rank answers sooner.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Calls that wait for their replies on one connection. At the 60,000 messages a second that one
/// connection carries, a tenth of a second of them.
pub(super) const CALLS_MAX: usize = 8_192;

/// How often the peer is asked for a sign of life. Each ping is one to the peer, too.
const PING_INTERVAL: Duration = Duration::from_millis(500);

/// A peer that has not answered as many pings in a row gets no new messages until it does: after a
/// second to a second and a half.
const PINGS_UNANSWERED_SILENT: u32 = 2;

/// A peer that has not answered as many pings in a row is lost: about two seconds. Pings are
/// counted, not time, so that a pause of this process is not taken for one of the peer.
const PINGS_UNANSWERED_MAX: u32 = 4;

/// Why an open connection ended before its time.
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
}

/// How a call of a peer ended.
#[derive(Debug)]
pub struct Called {
    pub outcome: Outcome,
    /// Whether anything of it went over the network.
    pub was_sent: bool,
}

impl Called {
    fn not_sent(refusal: Refusal) -> Self {
        Fault::Refused(refusal).into()
    }
}

/// Without anything being sent.
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
        // If it is closed, it takes no new messages.
        let _ = self.outbox.push(|buffer| self.liveness.suspect(buffer));
    }
}

/// The reader of a connection. However it ends, so does the connection.
struct Reading(Arc<Connection>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A call that waits for its reply, and what has arrived of it.
struct PendingCall {
    done: oneshot::Sender<Outcome>,
    reply: PendingReply,
}

/// What has arrived of a reply.
enum PendingReply {
    /// Nothing yet.
    Expected(ReplyReservation),
    Partial(Box<Reply>, Body),
}

impl Connection {
    /// Connects, and makes sure that it is the expected node, in that life.
    pub(super) async fn open(
        life: &Life,
        tls: &TlsNow,
        own: &Hello,
        bodies: &'static BodyMemory,
        siblings: &Arc<Siblings>,
    ) -> Result<Arc<Self>, ConnectError> {
        let Life {
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
        });
        let weak = Arc::downgrade(&connection);
        siblings.add(weak);
        let (writing, reading, peer) = (
            connection.clone(),
            Reading(connection.clone()),
            expected.clone(),
        );
        let writing = tokio::spawn(async move {
            // A failed write shows at the reader too, which ends the connection.
            let _ = writing.outbox.write_to(writer).await;
        });
        tokio::spawn(async move {
            gauge!(names::PEER_CONNECTIONS).increment(1.0);
            match reading.0.read(frames).await {
                Ok(()) => {
                    info!(event = "peer-connection-closed", %peer, %addr, "peer connection closed")
                }
                Err(error) => {
                    warn!(event = "peer-connection-lost", %peer, %addr, %error, "peer connection lost")
                }
            }
            drop(reading);
            // A peer that takes nothing more must not get it when it wakes up.
            writing.abort();
            gauge!(names::PEER_CONNECTIONS).decrement(1.0);
        });
        Ok(connection)
    }

    /// Sends a message and waits for its outcome. `Closed` means that nothing was sent. Dropping
    /// the call cancels it on the other side. Reservation for a reply of so many bytes is had before.
    pub(super) async fn call(
        &self,
        message: &Message,
        deadline: Instant,
        reply_bytes_expected: usize,
    ) -> Result<Called, Closed> {
        if self.liveness.has_ended() {
            return Err(Closed);
        }
        if self.liveness.is_leaving() {
            return Ok(Called::not_sent(Refusal::Leaving));
        }
        let Ok(aside) = self.bodies.reserve_reply(reply_bytes_expected) else {
            return Ok(Called::not_sent(Refusal::NoRoom));
        };
        let (done, outcome) = oneshot::channel();
        let Some(call) = Call::begin(
            self,
            PendingCall {
                done,
                reply: PendingReply::Expected(aside),
            },
        ) else {
            return Ok(Called::not_sent(Refusal::Overloaded));
        };
        // The message holds the room of its body for as long as this takes.
        let sending = self.outbox.push_with_body(
            call.id,
            message.body.len(),
            Reservation::default(),
            |buffer| {
                let remaining = deadline.saturating_duration_since(Instant::now());
                wire::put_call(buffer, call.id, message, remaining)
            },
        );
        match timeout_at(deadline.into(), sending).await {
            Ok(sent) => sent?,
            // It waited for room until the end: the peer takes less than it is sent.
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

    /// Ends the connection once everything that waits has been written.
    pub(super) fn close(&self) {
        self.outbox.close();
    }

    /// Receives until the peer closes the connection, breaks the protocol, or falls silent.
    async fn read(&self, mut frames: Frames) -> Result<(), LinkError> {
        let mut ticks = interval(PING_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unanswered = 0;
        loop {
            tokio::select! {
                mut frame = frames.next() => {
                    unanswered = 0;
                    self.liveness.heard();
                    // Frames mostly come many at a time: the others of this read need no waiting.
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
                    // Once it is closed, what remains is to hear the rest.
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
            } => {
                let mut calls = self.lock();
                // A call that was cancelled is not there any more.
                let Some(PendingCall {
                    done,
                    reply: PendingReply::Expected(aside),
                }) = calls.remove(&id)
                else {
                    return Ok(());
                };
                let outcome = match aside.fill(body.bytes()) {
                    Ok(room) => {
                        reply.room = room;
                        if !body.is_complete() {
                            calls.insert(
                                id,
                                PendingCall {
                                    done,
                                    reply: PendingReply::Partial(reply, body),
                                },
                            );
                            return Ok(());
                        }
                        reply.body = body.into_bytes();
                        Ok(*reply)
                    }
                    Err(NoRoom) => {
                        // The rest of it need not come.
                        let _ = self.outbox.push(|buffer| wire::put_cancel(buffer, id));
                        Err(Fault::no_room(self.bodies))
                    }
                };
                self.close_if_done(&calls);
                drop(calls);
                // The caller may have given up in this moment.
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
                // The rest of it need not come.
                let _ = self.outbox.push(|buffer| wire::put_cancel(buffer, id));
                self.fail(id, Fault::unreadable_answer());
            }
            // What a later version has to say beyond what was agreed, and frames that only a caller
            // sends.
            Frame::Unknown
            | Frame::UnreadableHello { .. }
            | Frame::UnreadableCall { .. }
            | Frame::Hello(_)
            | Frame::Reject(_)
            | Frame::Call { .. }
            | Frame::Cancel { .. }
            | Frame::Ping => {}
        }
        Ok(())
    }

    fn fail(&self, id: CallId, fault: Fault) {
        let mut calls = self.lock();
        if let Some(waiting) = calls.remove(&id) {
            // It may have been refused before all of it was sent.
            self.outbox.forget_body(id);
            self.close_if_done(&calls);
            let _ = waiting.done.send(Err(fault));
        }
    }

    fn receive_chunk(&self, id: CallId, bytes: &bytes::Bytes) -> Result<(), WireError> {
        let mut calls = self.lock();
        // A call that was cancelled is not there any more.
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
            }) = calls.remove(&id)
        {
            self.close_if_done(&calls);
            drop(calls);
            reply.body = body.into_bytes();
            let _ = done.send(Ok(*reply));
        }
        Ok(())
    }

    /// Says goodbye to a peer that is leaving, once it owes no more replies.
    fn close_if_done(&self, calls: &HashMap<CallId, PendingCall>) {
        if self.liveness.is_leaving() && calls.is_empty() {
            self.outbox.close();
        }
    }

    /// Takes no more calls, and ends those that wait. Those that never went out as a whole did not
    /// run; of the others nobody knows, which dropping their senders tells them.
    fn end(&self) {
        // Before anybody hears of this end, and tries the next one.
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

/// A registered call. Dropping it before it was answered cancels it.
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
            // On a closed connection there is nothing left to cancel.
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
            &Life {
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
