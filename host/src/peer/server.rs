//! The server side of the peer path: accepts the peers' connections and runs the messages that they
//! send, here or not at all.

use std::fmt::Display;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt};
use http::{HeaderMap, StatusCode};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::connection::{CALLS_MAX, LinkError};
use super::handshake::{ConnectError, Frames, HELLO_TIMEOUT, next};
use super::outbox::Closed;
use super::session::{Arriving, Calls, EndOnDrop, RunningCall, Session};
use super::socket::{self, TlsNow, Writer};
use super::wire::{self, CallId, Frame, Hello, Question, WireError};
use crate::background;
use crate::bodies::{BodyMemory, Reservation};
use crate::lanes;
use crate::lanes::Lanes;
use crate::local::{LocalService, Origin};
use crate::message::{Fault, Message, Refusal, ReleaseId, Reply};
use crate::tcp::{Acceptor, Permit};
use crate::telemetry::Throttle;
use crate::telemetry::traces;

/// Concurrent connections of peers: a mesh of a thousand nodes, each with its maximum of links,
/// plus room for reconnects.
const CONNECTIONS_MAX: usize = 4_608;

/// Concurrent connections that have not completed the handshake. If strangers use up this limit,
/// further connections are refused, those of peers included, which reconnect later.
const HANDSHAKES_MAX: usize = 512;

/// Read timeout: a peer sends a ping twice a second, so one that has sent nothing for so long is
/// gone.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// How long a leaving node waits for peers to close their connections.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// How long to flush the outbox when a connection ends.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// A connection after the handshake, with its permit out of `CONNECTIONS_MAX`.
type Handshaken = (OwnedSemaphorePermit, Frames, Writer);

/// Why a connection was refused. The log throttles each kind separately, so that a flood does not
/// hide a single invalid connection.
#[derive(PartialEq, Eq, Hash)]
enum Rejected {
    /// Too many handshakes at once; nothing was read.
    Unheard,
    /// Its handshake failed or timed out.
    Heard,
}

/// Questions that are answered at once; an answer may have 256 KiB.
const QUESTIONS_MAX: usize = 64;

/// What this node answers to the questions of peers.
pub trait Answers: Send + Sync {
    /// What it says of itself: JSON. It may take a millisecond.
    fn report(&self) -> Bytes;

    /// The bytes of a release from an offset on, none at its end; `None` if it is not here. It may
    /// block.
    fn release(&self, release: ReleaseId, from: u64) -> Option<Bytes>;
}

/// The server side of the peer path.
pub struct Server<S> {
    own: Hello,
    tls: TlsNow,
    local: Arc<S>,
    answers: Arc<dyn Answers>,
    /// For questions that are being answered.
    questions: Arc<Semaphore>,
    bodies: &'static BodyMemory,
    lanes: Lanes,
    /// The runtime for calls that do not complete at their first poll.
    runtime: Handle,
    connection_permits: Arc<Semaphore>,
    rejected: Throttle<Rejected>,
    unreadable: Throttle<()>,
    calls: TaskTracker,
    connections: TaskTracker,
    leaving: CancellationToken,
    stopped: CancellationToken,
}

impl<S: LocalService> Server<S> {
    /// `bodies` is the memory account of the node, in which bodies from peers are reserved.
    pub fn new(
        own: Hello,
        tls: TlsNow,
        local: Arc<S>,
        answers: Arc<dyn Answers>,
        bodies: &'static BodyMemory,
        lanes: Lanes,
    ) -> Arc<Self> {
        Arc::new(Self {
            own,
            tls,
            local,
            answers,
            questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            bodies,
            lanes,
            runtime: Handle::current(),
            connection_permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            rejected: Throttle::default(),
            unreadable: Throttle::default(),
            calls: TaskTracker::new(),
            connections: TaskTracker::new(),
            leaving: CancellationToken::new(),
            stopped: CancellationToken::new(),
        })
    }

    /// Accepts connections until [`Server::stop`].
    pub async fn run(self: Arc<Self>, listener: TcpListener) {
        let server = self.clone();
        let log = move |addr| {
            let error = "too many at once have not said yet who they are";
            server.log_rejected(Rejected::Unheard, addr, error);
        };
        let acceptor = Acceptor::new(listener, "the cluster port", HANDSHAKES_MAX)
            .close_beyond(log)
            .on(self.lanes.clone());
        let serve = |socket, addr, handshaking| self.clone().serve(socket, addr, handshaking);
        acceptor.run(&self.stopped, &self.connections, serve).await;
    }

    async fn serve(self: Arc<Self>, socket: TcpStream, addr: SocketAddr, handshaking: Permit) {
        let handshaken = self.handshake_in_time(socket, addr).await;
        drop(handshaking);
        if let Some((_permit, frames, writer)) = handshaken {
            self.connection(frames, writer, addr).await;
        }
    }

    /// Tells the peers to send no new messages. Messages that still arrive are served as before.
    pub fn say_goodbye(&self) {
        self.leaving.cancel();
    }

    /// Waits until every peer has closed its connection, and so has received the goodbye and its
    /// replies.
    pub async fn parted(&self) {
        self.connections.close();
        self.connections.wait().await;
    }

    /// Waits until all calls of peers have ended.
    pub async fn drain(&self) {
        self.calls.close();
        self.calls.wait().await;
    }

    /// Closes every connection. Peers that have received the goodbye close theirs themselves, so
    /// that no data in transit is lost; after `GOODBYE_MAX` the others are closed.
    pub async fn stop(&self) {
        self.connections.close();
        let all_closed = timeout(GOODBYE_MAX, self.connections.wait()).await.is_ok();
        self.stopped.cancel();
        if !all_closed {
            self.connections.wait().await;
        }
    }

    async fn handshake_in_time(&self, stream: TcpStream, addr: SocketAddr) -> Option<Handshaken> {
        match timeout(HELLO_TIMEOUT, self.handshake(stream)).await {
            Ok(Ok(handshaken)) => return Some(handshaken),
            Ok(Err(error)) => self.log_rejected(Rejected::Heard, addr, error),
            Err(_) => self.log_rejected(Rejected::Heard, addr, "it said no hello"),
        }
        None
    }

    fn log_rejected(&self, rejected: Rejected, addr: SocketAddr, error: impl Display) {
        if let Some(connections) = self.rejected.note(rejected, Instant::now()) {
            warn!(event = "connections-refused", %addr, %error, connections, "refused connections to the cluster port");
        }
    }

    fn log_unreadable(&self, error: &WireError) {
        if let Some(calls) = self.unreadable.note((), Instant::now()) {
            warn!(event = "calls-not-understood", %error, calls, "refused calls of peers that cannot be read: they are of another version");
        }
    }

    async fn connection(self: Arc<Self>, frames: Frames, writer: Writer, addr: SocketAddr) {
        let session = Session::new();
        let mut writing = tokio::spawn({
            let session = session.clone();
            async move { session.outbox.write_to(writer).await }
        });
        let ending = EndOnDrop(&session);
        if let Err(error) = self.read(&session, frames).await {
            warn!(event = "peer-connection-lost", %addr, %error, "a peer's connection was lost");
        }
        drop(ending);
        // Flush the outbox, unless the peer reads no more.
        if timeout(FLUSH_MAX, &mut writing).await.is_err() {
            writing.abort();
        }
    }

    /// Checks that the peer is a node of this mesh, and that there is a free permit for its
    /// connection.
    async fn handshake(&self, stream: TcpStream) -> Result<Handshaken, ConnectError> {
        let (reader, mut writer, caller) = socket::accept(stream, &self.tls).await?;
        let mut frames = FramedRead::new(reader, wire::framing());
        let agreed = match next(&mut frames).await? {
            Frame::Hello(hello) => {
                caller.check(&hello.node_id)?;
                self.own.agree(&hello).map(|_| ())
            }
            // From a later version whose hello has another format.
            Frame::UnreadableHello { versions, error } => {
                match versions.map(|its| self.own.common_version(None, its)) {
                    Some(Err(mismatch)) => Err(mismatch),
                    _ => return Err(ConnectError::Unexpected(error.to_string())),
                }
            }
            _ => {
                return Err(ConnectError::Unexpected(
                    "it did not begin with a hello".into(),
                ));
            }
        };
        let mut buffer = BytesMut::new();
        let place = match agreed {
            Ok(()) => self
                .connection_permits
                .clone()
                .try_acquire_owned()
                .map_err(|_| "there are as many peers as may be".to_owned()),
            Err(mismatch) => Err(mismatch.to_string()),
        };
        match &place {
            Ok(_) => wire::put_hello(&mut buffer, &self.own),
            Err(reason) => wire::put_reject(&mut buffer, reason),
        }
        writer.write_all(&buffer).await?;
        writer.flush().await?;
        place
            .map(|place| (place, frames, writer))
            .map_err(ConnectError::Unexpected)
    }

    /// Receives until the peer closes the connection, violates the protocol or falls silent, or the
    /// server is stopped.
    async fn read(
        self: &Arc<Self>,
        session: &Arc<Session>,
        mut frames: Frames,
    ) -> Result<(), LinkError> {
        let mut calls = Calls::default();
        let mut told_leaving = false;
        loop {
            tokio::select! {
                // In this order: a peer learns that this node leaves before the connection ends.
                biased;
                () = self.leaving.cancelled(), if !told_leaving => {
                    told_leaving = true;
                    let _ = session.outbox.push(wire::put_leaving);
                }
                () = self.stopped.cancelled() => return Ok(()),
                frame = timeout(SILENCE_MAX, frames.next()) => {
                    let Ok(mut frame) = frame else { return Err(LinkError::Silent) };
                    calls.begin_read();
                    // One read mostly brings many frames: handle the others without going through
                    // `select!`.
                    loop {
                        let Some(received) = frame else { return Ok(()) };
                        self.receive(session, &mut calls, wire::decode(received?.freeze())?)?;
                        match frames.next().now_or_never() {
                            Some(next) => frame = next,
                            None => break,
                        }
                    }
                }
            }
        }
    }

    fn receive(
        self: &Arc<Self>,
        session: &Arc<Session>,
        calls: &mut Calls,
        frame: Frame,
    ) -> Result<(), LinkError> {
        match frame {
            Frame::Call {
                id,
                message,
                remaining,
                body,
            } => {
                let Ok(reservation) = self.bodies.reserve(body.bytes()) else {
                    session.answer_fault(id, &Fault::Refused(Refusal::NoRoom));
                    return Ok(());
                };
                let call = Arriving {
                    message,
                    deadline: Instant::now() + remaining,
                    body,
                    reservation,
                };
                if calls.arriving.contains_key(&id) {
                    return Err(WireError::CallId(id).into());
                }
                if calls.arriving.len() >= CALLS_MAX {
                    // Drop calls whose bodies have not arrived by the deadline: their callers have
                    // given up.
                    let now = Instant::now();
                    calls.arriving.retain(|_, call| call.deadline > now);
                }
                if call.body.is_complete() {
                    self.begin(session, calls, id, call)?;
                } else if calls.arriving.len() < CALLS_MAX {
                    calls.arriving.insert(id, call);
                } else {
                    session.answer_fault(id, &Fault::Refused(Refusal::Overloaded));
                }
            }
            Frame::Chunk { id, bytes } => {
                // The chunks of a call that was cancelled or refused are dropped.
                let Some(call) = calls.arriving.get_mut(&id) else {
                    return Ok(());
                };
                call.body.push(&bytes)?;
                if call.body.is_complete()
                    && let Some(call) = calls.arriving.remove(&id)
                {
                    self.begin(session, calls, id, call)?;
                }
            }
            Frame::Cancel { id } => {
                calls.arriving.remove(&id);
                session.cancel(id);
            }
            Frame::Ask { id, question } => self.answer(session, id, question)?,
            Frame::Ping => session
                .outbox
                .push(wire::put_pong)
                .map_err(|Closed| LinkError::TakesNothing)?,
            Frame::UnreadableCall { id, error } => {
                self.log_unreadable(&error);
                session.answer_fault(id, &Fault::Refused(Refusal::NotUnderstood));
            }
            // Unknown frames of a later version, and frames that only the server side sends.
            Frame::Unknown | Frame::UnreadableAnswer { .. } | Frame::UnreadableHello { .. } => {}
            Frame::Hello(_)
            | Frame::Reject(_)
            | Frame::Reply { .. }
            | Frame::Fault { .. }
            | Frame::Pong
            | Frame::Leaving => {}
        }
        Ok(())
    }

    /// Answers a question, unless too many are being answered.
    fn answer(
        self: &Arc<Self>,
        session: &Arc<Session>,
        id: CallId,
        question: Question,
    ) -> Result<(), WireError> {
        if !session.may_begin(id)? {
            return Ok(());
        }
        let Ok(permit) = self.questions.clone().try_acquire_owned() else {
            session.answer_fault(id, &Fault::Refused(Refusal::Overloaded));
            return Ok(());
        };
        let running = RunningCall {
            session: session.clone(),
            id,
        };
        let answers = self.answers.clone();
        let answer = async move {
            let _permit = permit;
            let body = match question {
                Question::Report => Some(answers.report()),
                Question::Release { release, from } => {
                    background::turn().await;
                    let read = spawn_blocking(move || answers.release(release, from));
                    read.await.ok().flatten()
                }
            };
            let status = match body {
                Some(_) => StatusCode::OK,
                None => StatusCode::NOT_FOUND,
            };
            let reply = Reply {
                status,
                headers: HeaderMap::new(),
                body: body.unwrap_or_default(),
                is_replayed: false,
                // It counts for no message.
                reservation: Reservation::default(),
            };
            running.session.answer(id, Ok(reply), None).await;
        };
        // In this order: it may end before it can be aborted.
        session.running().insert(id, None);
        // Not on the lane: nobody waits for it who has a message to run.
        let task = self.calls.spawn_on(answer, &self.runtime);
        if let Some(abort) = session.running().get_mut(&id) {
            *abort = Some(task.abort_handle());
        }
        Ok(())
    }

    /// Starts a call that has arrived completely.
    fn begin(
        self: &Arc<Self>,
        session: &Arc<Session>,
        calls: &mut Calls,
        id: CallId,
        call: Arriving,
    ) -> Result<(), WireError> {
        let Arriving {
            mut message,
            deadline,
            body,
            reservation,
        } = call;
        message.body = body.into_bytes();
        let mut span = traces::forwarded(&mut message);
        let message: Arc<Message> = Arc::from(message);
        let watched = message.watched.clone();
        if !session.may_begin(id)? {
            return Ok(());
        }
        // Held so that `drain` cannot finish before the call is a task that it waits for.
        let _token = self.calls.token();
        // Here, so that calls are admitted in the order in which they arrive. A panic fails only
        // this call.
        let admit = || self.local.admit(message, deadline, Origin::Peer);
        let admitted = match catch_unwind(AssertUnwindSafe(admit)) {
            Ok(admitted) => admitted.map_err(Fault::Refused),
            Err(_) => Err(Fault::Crashed),
        };
        let (local, task_session) = (self.local.clone(), session.clone());
        let mut call = Box::pin(async move {
            let running = RunningCall {
                session: task_session,
                id,
            };
            let outcome = match admitted {
                Ok(admitted) => local.run(admitted).await,
                Err(fault) => Err(fault),
            };
            drop(reservation);
            span.ended(&outcome);
            drop(span);
            running
                .session
                .answer(id, outcome, watched.as_deref())
                .await;
        });
        // Most calls complete at their first poll: a task on another core would take longer than
        // the call itself. Those that then wait (for a commit, or for the host) stay on this lane.
        let is_short = calls.may_wait_for_the_next();
        if is_short {
            let began = Instant::now();
            let mut context = Context::from_waker(Waker::noop());
            // A panic fails only this call.
            let polled = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(&mut context)));
            calls.note(began.elapsed());
            if !matches!(polled, Ok(Poll::Pending)) {
                return Ok(());
            }
        }
        // In this order: the call may end before it can be aborted.
        session.running().insert(id, None);
        let task = if is_short {
            let runtime = self.runtime.clone();
            let call = async move { lanes::run_movable(call, &runtime).await };
            self.calls.spawn(call)
        } else {
            self.calls.spawn_on(call, &self.runtime)
        };
        if let Some(abort) = session.running().get_mut(&id) {
            *abort = Some(task.abort_handle());
        }
        Ok(())
    }
}
