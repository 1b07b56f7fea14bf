//! The calls of one connection at the answering end: those that arrive, those that run, and their
//! answers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::task::AbortHandle;

use super::outbox::Outbox;
use super::wire::{self, Body, CallId};
use crate::bodies::Reservation;
use crate::message::{Fault, Message, Outcome};

/// How long the reader of a connection runs what has arrived together before the rest goes
/// elsewhere; a call that alone takes longer is a long one.
const READ_MAX: Duration = Duration::from_millis(1);

/// After two long calls, so many are taken for long ones.
const LONG_AHEAD: u32 = 64;

/// What one connection's reader knows of its calls.
#[derive(Default)]
pub(super) struct Calls {
    pub(super) arriving: HashMap<CallId, Arriving>,
    /// Of those that follow, so many are taken for long ones.
    long_ahead: u32,
    /// The last one was long. It may only be that the system did something else meanwhile.
    last_was_long: bool,
    /// Since the reader last waited.
    spent: Duration,
}

impl Calls {
    /// The reader has waited.
    pub(super) fn begin_read(&mut self) {
        self.spent = Duration::ZERO;
    }

    /// Whether the next call is likely to be done at once, and the reader has not kept others
    /// waiting for long.
    pub(super) fn may_wait_for_the_next(&mut self) -> bool {
        let is_short = self.long_ahead == 0;
        self.long_ahead = self.long_ahead.saturating_sub(1);
        is_short && self.spent < READ_MAX
    }

    /// A call took so long, in which the connection was not read. When two in a row are worth a
    /// change of the thread, those that follow get one: on the main runtime, every core works for a
    /// single connection.
    pub(super) fn note(&mut self, took: Duration) {
        self.spent += took;
        let is_long = took > READ_MAX;
        if is_long && self.last_was_long {
            self.long_ahead = LONG_AHEAD;
        }
        self.last_was_long = is_long;
    }
}

/// A call of which not the whole body is here yet.
pub(super) struct Arriving {
    pub(super) message: Box<Message>,
    pub(super) deadline: Instant,
    pub(super) body: Body,
    pub(super) room: Reservation,
}

/// A call that runs. However it ends, it is not running any more, and its caller is told.
pub(super) struct RunningCall {
    pub(super) session: Arc<Session>,
    pub(super) id: CallId,
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        self.session.running().remove(&self.id);
        if std::thread::panicking() {
            self.session.answer_fault(self.id, &Fault::Crashed);
        }
    }
}

/// However the reader of a connection ends, nobody waits for what still runs.
pub(super) struct EndOnDrop<'a>(pub(super) &'a Session);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// One connection's calls and replies.
pub(super) struct Session {
    pub(super) outbox: Outbox,
    running: Mutex<HashMap<CallId, Option<AbortHandle>>>,
}

impl Session {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            outbox: Outbox::new(),
            running: Mutex::default(),
        })
    }

    pub(super) fn running(&self) -> MutexGuard<'_, HashMap<CallId, Option<AbortHandle>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn answer(&self, id: CallId, outcome: Outcome) {
        match outcome {
            Ok(mut reply) => {
                let room = std::mem::take(&mut reply.room);
                let encode = |buffer: &mut BytesMut| wire::put_reply(buffer, id, &reply);
                // On a closed connection nobody waits for the reply.
                let _ = self
                    .outbox
                    .push_with_body(id, reply.body.len(), room, encode)
                    .await;
            }
            Err(fault) => {
                let encode = |buffer: &mut BytesMut| {
                    wire::put_fault(buffer, id, &fault);
                    Bytes::new()
                };
                let _ = self
                    .outbox
                    .push_with_body(id, 0, Reservation::default(), encode)
                    .await;
            }
        }
    }

    /// For who must not wait.
    pub(super) fn answer_fault(&self, id: CallId, fault: &Fault) {
        let _ = self
            .outbox
            .push(|buffer| wire::put_fault(buffer, id, fault));
    }

    pub(super) fn cancel(&self, id: CallId) {
        let task = self.running().remove(&id).flatten();
        if let Some(task) = task {
            task.abort();
        }
        self.outbox.forget_body(id);
    }

    /// Nobody waits for what still runs.
    pub(super) fn end(&self) {
        let running = std::mem::take(&mut *self.running());
        for task in running.into_values().flatten() {
            task.abort();
        }
        self.outbox.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_long_calls_some_are_taken_for_long_ones() {
        let (mut calls, long) = (Calls::default(), READ_MAX * 2);
        // Between these calls the reader has waited.
        let note = |calls: &mut Calls, took| {
            calls.note(took);
            calls.begin_read();
        };
        for took in [long, READ_MAX, long] {
            assert!(calls.may_wait_for_the_next(), "one alone may be chance");
            note(&mut calls, took);
        }
        note(&mut calls, long);
        assert!((0..LONG_AHEAD).all(|_| !calls.may_wait_for_the_next()));
        assert!(calls.may_wait_for_the_next());
        // However short they are, there is an end to those that arrive together.
        calls.note(READ_MAX);
        assert!(!calls.may_wait_for_the_next());
    }
}
