//! The write queue of one connection. Frames are encoded as they arise into one buffer, which the
//! writer takes as a whole: many messages, one write. Bodies larger than a chunk are queued beside
//! it and written round robin, a chunk at a time.

use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::poll;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::wire::{self, CHUNK_BYTES_MAX, CallId};
use crate::bodies::Reservation;

/// Bytes of bodies longer than a chunk that one connection queues; further ones wait for permits.
const WAITING_BODY_BYTES_MAX: usize = 128 << 20;

/// Bytes of frames in the buffer. When it is full, calls and replies wait until the writer takes
/// it.
const BUFFER_BYTES_MAX: usize = 64 << 20;

/// Frames that must not wait (pings, pongs, cancels, refusals; all of them small) may exceed
/// `BUFFER_BYTES_MAX` by this much. If they fill that too, the writer has not made progress for a
/// long time while the peer went on asking: the connection is closed.
const PROMPT_BYTES_MAX: usize = 16 << 20;

/// How long a write may make no progress. A peer that hangs altogether is noticed sooner, as it
/// also sends nothing.
const TAKES_NOTHING_MAX: Duration = Duration::from_secs(10);

/// Chunks of bodies in one write: bounds how long they can hold up a small frame.
const CHUNKS_PER_WRITE: usize = 4;

/// A buffer whose capacity has grown beyond this is freed after use.
const BUFFER_BYTES_KEPT: usize = 512 * 1024;

/// The connection is closed: the frame was not sent, and will not be.
#[derive(Debug)]
pub(super) struct Closed;

pub(super) struct Outbox {
    waiting: Mutex<Buffered>,
    wake: Notify,
    /// Notified when the writer takes a full buffer.
    emptied: Notify,
    given_up: AtomicBool,
    /// One permit for each KiB of bodies longer than a chunk.
    body_kib: Arc<Semaphore>,
}

#[derive(Default)]
struct Buffered {
    buffer: BytesMut,
    /// Length of the prefix of `buffer` that has no more calls, so that [`wire::void_call`] can
    /// skip it.
    void: usize,
    /// Reservations of the bodies that are completely in the buffer.
    kept: Vec<Reservation>,
    bodies: VecDeque<WaitingBody>,
    closed: bool,
}

/// Result of an attempt to append. `Full` gives the closure back, so that it can be tried again.
enum Added<F> {
    Done,
    Closed,
    Full(F),
}

struct WaitingBody {
    id: CallId,
    rest: Bytes,
    /// Its reservation in the memory account of the node.
    _kept: Reservation,
    /// Its permits of `body_kib`.
    _room: OwnedSemaphorePermit,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self {
            waiting: Mutex::default(),
            wake: Notify::new(),
            emptied: Notify::new(),
            given_up: AtomicBool::new(false),
            body_kib: Arc::new(Semaphore::new(WAITING_BODY_BYTES_MAX / 1024)),
        }
    }

    /// Appends the frames that `encode` writes: small ones that must not wait. Closes the outbox if
    /// there is no room even for those.
    pub(super) fn push(&self, encode: impl FnOnce(&mut BytesMut)) -> Result<(), Closed> {
        match self.add(
            |waiting| encode(&mut waiting.buffer),
            BUFFER_BYTES_MAX + PROMPT_BYTES_MAX,
        ) {
            Added::Done => Ok(()),
            Added::Closed => Err(Closed),
            Added::Full(_) => {
                self.close();
                Err(Closed)
            }
        }
    }

    /// Appends the first frame of a call or reply with `encode`, which returns the part of the body
    /// (of `body_bytes` bytes) that is not in the frame; that follows chunk by chunk. `kept` is
    /// held until the body is written, or the writer has taken its last chunk. Waits while the
    /// buffer is full, or too many bytes of large bodies are queued.
    pub(super) async fn push_with_body(
        &self,
        id: CallId,
        body_bytes: usize,
        kept: Reservation,
        encode: impl FnOnce(&mut BytesMut) -> Bytes,
    ) -> Result<(), Closed> {
        let mut room = None;
        if body_bytes > CHUNK_BYTES_MAX {
            let kib =
                u32::try_from(body_bytes.min(WAITING_BODY_BYTES_MAX) / 1024).unwrap_or(u32::MAX);
            room = Some(
                self.body_kib
                    .clone()
                    .acquire_many_owned(kib)
                    .await
                    .map_err(|_| Closed)?,
            );
        }
        let mut add = |waiting: &mut Buffered| {
            let rest = encode(&mut waiting.buffer);
            if let Some(room) = room {
                waiting.bodies.push_back(WaitingBody {
                    id,
                    rest,
                    _kept: kept,
                    _room: room,
                });
            } else if kept.is_counted() {
                waiting.kept.push(kept);
            }
        };
        loop {
            // Created before `add` looks at the buffer, so that no notification is lost in between.
            let emptied = self.emptied.notified();
            match self.add(add, BUFFER_BYTES_MAX) {
                Added::Done => return Ok(()),
                Added::Closed => return Err(Closed),
                Added::Full(back) => add = back,
            }
            // Backpressure: the peer reads less than it is sent.
            emptied.await;
        }
    }

    /// Runs `add` on the queue, unless the buffer has `buffer_bytes_max` bytes already.
    fn add<F: FnOnce(&mut Buffered)>(&self, add: F, buffer_bytes_max: usize) -> Added<F> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Added::Closed;
        }
        if waiting.buffer.len() >= buffer_bytes_max {
            return Added::Full(add);
        }
        let writer_may_sleep = waiting.buffer.is_empty();
        add(&mut waiting);
        drop(waiting);
        if writer_may_sleep {
            self.wake.notify_one();
        }
        Added::Done
    }

    /// Drops the rest of a body whose call has ended.
    pub(super) fn forget_body(&self, id: CallId) {
        self.lock().bodies.retain(|body| body.id != id);
    }

    /// Takes back a call that has not gone out completely, so that the peer cannot have begun to
    /// run it. Returns whether it was taken back.
    pub(super) fn cancel_unsent(&self, id: CallId) -> bool {
        let waiting = &mut *self.lock();
        let before = waiting.bodies.len();
        waiting.bodies.retain(|body| body.id != id);
        waiting.bodies.len() < before || wire::void_call(&mut waiting.buffer, &mut waiting.void, id)
    }

    /// Refuses everything from now on, and ends the writer once it has written what is queued.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.body_kib.close();
        self.wake.notify_one();
        self.emptied.notify_waiters();
    }

    /// Closes the outbox and drops what is queued. Returns the calls that have not gone out
    /// completely: the peer cannot have begun to run them.
    pub(super) fn close_unsent(&self) -> Vec<CallId> {
        self.close();
        let mut waiting = self.lock();
        waiting.kept.clear();
        let buffer = std::mem::take(&mut waiting.buffer);
        waiting.void = 0;
        let bodies = std::mem::take(&mut waiting.bodies);
        wire::calls_in(&buffer)
            .into_iter()
            .chain(bodies.into_iter().map(|body| body.id))
            .collect()
    }

    /// Writes whatever is pushed, until the outbox is closed or the socket fails. What was pushed
    /// before it was closed is still written.
    pub(super) async fn write_to(&self, mut socket: impl AsyncWrite + Unpin) -> io::Result<()> {
        let (mut batch, mut kept) = (BytesMut::new(), Vec::new());
        loop {
            let closed = self.take(&mut batch, &mut kept);
            if batch.is_empty() {
                if closed {
                    return self.taken(socket.shutdown()).await;
                }
                self.wake.notified().await;
                continue;
            }
            let mut rest = &batch[..];
            while !rest.is_empty() {
                match self.taken(socket.write(rest)).await? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    written => rest = &rest[written..],
                }
            }
            // TLS may buffer some of it.
            self.taken(socket.flush()).await?;
            batch.clear();
            kept.clear();
            if batch.capacity() > BUFFER_BYTES_KEPT {
                batch = BytesMut::new();
            }
        }
    }

    /// Waits for a write, and gives the peer up if it makes no progress: a peer that does not read
    /// could otherwise hold the memory of its queue for ever.
    async fn taken<T>(&self, writing: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let mut writing = pin!(writing);
        // Most writes complete at once, and need no timer.
        if let Poll::Ready(written) = poll!(writing.as_mut()) {
            return written;
        }
        match timeout(TAKES_NOTHING_MAX, writing).await {
            Ok(written) => written,
            Err(_) => {
                self.given_up.store(true, Ordering::Relaxed);
                self.close();
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }

    /// Whether the writer has given up a peer that does not read. Other errors of the connection
    /// are noticed by its reader.
    pub(super) fn has_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Moves the next frames to write into the empty `batch`, and the reservations of their bodies
    /// into the empty `kept`. Returns whether the outbox is closed.
    fn take(&self, batch: &mut BytesMut, kept: &mut Vec<Reservation>) -> bool {
        let mut waiting = self.lock();
        std::mem::swap(&mut waiting.buffer, batch);
        waiting.void = 0;
        std::mem::swap(&mut waiting.kept, kept);
        if batch.len() >= BUFFER_BYTES_MAX {
            self.emptied.notify_waiters();
        }
        for _ in 0..CHUNKS_PER_WRITE {
            let Some(mut body) = waiting.bodies.pop_front() else {
                break;
            };
            wire::put_chunk(batch, body.id, &mut body.rest);
            if !body.rest.is_empty() {
                waiting.bodies.push_back(body);
            }
        }
        waiting.closed
    }

    fn lock(&self) -> MutexGuard<'_, Buffered> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::AsyncReadExt;
    use tokio_util::codec::Decoder;

    use super::super::wire::{Frame, calls_in, decode, framing, put_call, put_cancel, put_reply};
    use super::*;
    use crate::message::Reply;

    fn reply(body_bytes: usize) -> Reply {
        let (status, headers, body) = (
            http::StatusCode::OK,
            http::HeaderMap::new(),
            vec![b'x'; body_bytes].into(),
        );
        Reply {
            status,
            headers,
            body,
            is_replayed: false,
            reservation: Reservation::default(),
        }
    }

    /// Writes everything to a pipe and returns the frames in the order in which they went out.
    async fn written(outbox: &Outbox) -> Vec<Frame> {
        let (ours, mut theirs) = tokio::io::duplex(1 << 24);
        outbox.close();
        outbox.write_to(ours).await.unwrap();
        let mut bytes = Vec::new();
        theirs.read_to_end(&mut bytes).await.unwrap();
        let (mut buffer, mut framing) = (BytesMut::from(&bytes[..]), framing());
        std::iter::from_fn(|| framing.decode(&mut buffer).unwrap())
            .map(|frame| decode(frame.freeze()).unwrap())
            .collect()
    }

    #[tokio::test]
    async fn a_small_frame_overtakes_large_bodies() {
        let outbox = Outbox::new();
        for id in [1, 2] {
            let reply = reply(20 * CHUNK_BYTES_MAX);
            outbox
                .push_with_body(id, reply.body.len(), Reservation::default(), |buffer| {
                    put_reply(buffer, id, &reply, None)
                })
                .await
                .unwrap();
        }
        outbox.push(|buffer| put_cancel(buffer, 3)).unwrap();
        let frames = written(&outbox).await;
        let small = frames
            .iter()
            .position(|frame| matches!(frame, Frame::Cancel { id: 3 }))
            .unwrap();
        assert_eq!(small, 2, "it went out before the bodies");
        // Two first frames, the small one, and 19 chunks of each body, in turn.
        assert_eq!(frames.len(), 3 + 2 * 19);
        let turns: Vec<u32> = frames[3..7]
            .iter()
            .map(|frame| match frame {
                Frame::Chunk { id, .. } => *id,
                other => panic!("no chunk: {other:?}"),
            })
            .collect();
        assert_eq!(turns, [1, 2, 1, 2]);
    }

    #[tokio::test]
    async fn what_comes_with_a_body_waits_while_the_buffer_is_full() {
        let outbox = Outbox::new();
        outbox
            .push(|buffer| buffer.resize(BUFFER_BYTES_MAX, 0))
            .unwrap();
        let reply = reply(1);
        let mut pushing = Box::pin(
            outbox.push_with_body(1, 1, Reservation::default(), |buffer| {
                put_reply(buffer, 1, &reply, None)
            }),
        );
        assert!(
            pushing.as_mut().now_or_never().is_none(),
            "there is no room"
        );
        // Frames that must not wait are still accepted.
        outbox.push(|buffer| put_cancel(buffer, 3)).unwrap();
        outbox.take(&mut BytesMut::new(), &mut Vec::new());
        pushing.await.unwrap();
    }

    #[test]
    fn who_asks_and_takes_nothing_is_ended() {
        let outbox = Outbox::new();
        outbox
            .push(|buffer| buffer.resize(BUFFER_BYTES_MAX + PROMPT_BYTES_MAX, 0))
            .unwrap();
        assert!(outbox.push(wire::put_pong).is_err());
        assert!(
            outbox.take(&mut BytesMut::new(), &mut Vec::new()),
            "it is closed"
        );
    }

    #[tokio::test]
    async fn what_has_not_gone_out_can_be_taken_back() {
        let outbox = Outbox::new();
        let message = |body_bytes| {
            let mut message = wire::tests::message(body_bytes);
            message.headers.clear();
            message
        };
        for (id, body_bytes) in [(1, 10), (2, 10), (3, 20 * CHUNK_BYTES_MAX)] {
            let message = message(body_bytes);
            let encode =
                |buffer: &mut BytesMut| put_call(buffer, id, &message, Duration::from_secs(1));
            outbox
                .push_with_body(id, body_bytes, Reservation::default(), encode)
                .await
                .unwrap();
        }
        assert!(outbox.cancel_unsent(2));
        assert!(!outbox.cancel_unsent(2), "once");
        assert_eq!(calls_in(&outbox.lock().buffer), [1, 3]);
        assert_eq!(outbox.lock().void, 0);
        outbox.take(&mut BytesMut::new(), &mut Vec::new());
        assert!(!outbox.cancel_unsent(1), "it has gone out");
        // Only the beginning of call 3 has gone out.
        assert!(outbox.cancel_unsent(3));
        let frames = written(&outbox).await;
        assert!(frames.is_empty(), "{frames:?}");
    }

    #[tokio::test]
    async fn calls_that_have_not_gone_out_as_a_whole_are_known() {
        let outbox = Outbox::new();
        let large = reply(20 * CHUNK_BYTES_MAX);
        outbox
            .push_with_body(1, large.body.len(), Reservation::default(), |buffer| {
                put_reply(buffer, 1, &large, None)
            })
            .await
            .unwrap();
        outbox.take(&mut BytesMut::new(), &mut Vec::new());
        outbox.push(|buffer| put_cancel(buffer, 3)).unwrap();
        // The rest of the large body is still queued.
        assert_eq!(outbox.close_unsent(), [1]);
        assert!(outbox.push(|buffer| put_cancel(buffer, 3)).is_err());
    }

    #[tokio::test]
    async fn nothing_is_taken_after_the_close() {
        let outbox = Outbox::new();
        outbox.close();
        assert!(outbox.push(|buffer| put_cancel(buffer, 3)).is_err());
        let reply = reply(2 * CHUNK_BYTES_MAX);
        let pushed = outbox
            .push_with_body(1, reply.body.len(), Reservation::default(), |buffer| {
                put_reply(buffer, 1, &reply, None)
            })
            .await;
        assert!(pushed.is_err());
    }
}
