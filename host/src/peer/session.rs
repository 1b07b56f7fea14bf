//! The calls of one connection on the server side: those that arrive, those that run, and their
//! answers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::task::AbortHandle;

use super::connection::CALLS_MAX;
use super::outbox::Outbox;
use super::wire::{self, Body, CallId, WireError};
use crate::bodies::Reservation;
use crate::message::{Fault, Message, Outcome, Refusal, Watched};

/// How long the reader of a connection runs the calls of one read inline before the rest is spawned
/// as tasks; a single call that takes longer counts as long.
const READ_MAX: Duration = Duration::from_millis(1);

/// After two long calls in a row, so many following calls are assumed to be long.
const LONG_AHEAD: u32 = 64;

/// The reader's state for the calls of its connection.
#[derive(Default)]
pub(super) struct Calls {
    pub(super) arriving: HashMap<CallId, Arriving>,
    /// How many of the following calls are assumed to be long.
    long_ahead: u32,
    /// Whether the last call was long. A single one may only mean that the thread was preempted.
    last_was_long: bool,
    /// Time spent on calls since the reader last waited for frames.
    spent: Duration,
}

impl Calls {
    /// Called when the reader has waited for frames.
    pub(super) fn begin_read(&mut self) {
        self.spent = Duration::ZERO;
    }

    /// Whether to run the next call inline: it is likely to be short, and the reader has not
    /// delayed other frames for long.
    pub(super) fn may_wait_for_the_next(&mut self) -> bool {
        let is_short = self.long_ahead == 0;
        self.long_ahead = self.long_ahead.saturating_sub(1);
        is_short && self.spent < READ_MAX
    }

    /// Notes how long a call took inline, during which the connection was not read. After two long
    /// calls in a row, the cost of a change of thread is worth it for the following ones: on the
    /// main runtime, every core can work for a single connection.
    pub(super) fn note(&mut self, took: Duration) {
        self.spent += took;
        let is_long = took > READ_MAX;
        if is_long && self.last_was_long {
            self.long_ahead = LONG_AHEAD;
        }
        self.last_was_long = is_long;
    }
}

/// A call whose body has not arrived completely.
pub(super) struct Arriving {
    pub(super) message: Box<Message>,
    pub(super) deadline: Instant,
    pub(super) body: Body,
    pub(super) reservation: Reservation,
}

/// A running call. On drop, so also after a panic, it is unregistered, and a panic is reported to
/// its caller.
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

/// Ends the session when the reader of its connection ends, in whatever way.
pub(super) struct EndOnDrop<'a>(pub(super) &'a Session);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The running calls and the outbox of one connection.
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

    /// Whether a call may begin; if there are too many, it is refused here.
    ///
    /// # Errors
    /// If its id is in use.
    pub(super) fn may_begin(&self, id: CallId) -> Result<bool, WireError> {
        let running = self.running();
        if running.contains_key(&id) {
            return Err(WireError::CallId(id));
        }
        let has_room = running.len() < CALLS_MAX;
        drop(running);
        if !has_room {
            self.answer_fault(id, &Fault::Refused(Refusal::Overloaded));
        }
        Ok(has_room)
    }

    pub(super) async fn answer(&self, id: CallId, outcome: Outcome, watched: Option<&Watched>) {
        match outcome {
            Ok(mut reply) => {
                let reservation = std::mem::take(&mut reply.reservation);
                let encode = |buffer: &mut BytesMut| wire::put_reply(buffer, id, &reply, watched);
                // If the connection is closed, nobody waits for the reply.
                let _ = self
                    .outbox
                    .push_with_body(id, reply.body.len(), reservation, encode)
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

    /// Like `answer`, for callers that must not wait.
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

    /// Aborts the calls that still run, as nobody waits for them, and closes the outbox.
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
        // The reader waits between these calls.
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
        // Even short calls run inline only until `READ_MAX` is spent.
        calls.note(READ_MAX);
        assert!(!calls.may_wait_for_the_next());
    }
}
