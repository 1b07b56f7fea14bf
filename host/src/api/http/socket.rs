//! The socket that hyper gets for a client's connection. It adds what hyper does not do: a 408
//! answer if a request's head does not arrive in time, a timeout for clients that do not read, and
//! a close that does not cut off the last answer.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Sleep, sleep, timeout};

/// The answer to an incomplete head: there is no request yet that a problem could refer to.
const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// How long to keep reading after the last answer: a kernel that receives data which nobody reads
/// resets the connection, and the client may then lose the answer.
const LINGER_MAX: Duration = Duration::from_secs(2);

/// A byte stream in both directions.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

pub(in crate::api) struct ClientSocket<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> {
    /// `Some` until it is dropped.
    socket: Option<S>,
    /// How long the send buffer may stay full.
    stalled_max: Duration,
    /// Whether data has arrived since the last answer.
    request_has_begun: bool,
    observed: Arc<Observed>,
    /// `Some` until the client's HTTP version is known; from then on hyper handles the timeouts.
    opening: Option<Opening>,
    /// Runs while the send buffer is full.
    stalled: Option<Pin<Box<Sleep>>>,
}

/// State shared between the socket and the code that serves it.
#[derive(Default)]
pub(in crate::api) struct Observed {
    timed_out: AtomicBool,
    /// Whether the client may still be sending data that nobody will read.
    is_lingering: AtomicBool,
    /// The socket after hyper has dropped it, if it is to linger.
    left: Mutex<Option<Box<dyn Duplex>>>,
}

/// The first bytes of a connection, from which hyper distinguishes HTTP/2 from HTTP/1.
struct Opening {
    first: [u8; 2],
    seen: usize,
    deadline: Pin<Box<Sleep>>,
}

/// The first bytes of an HTTP/2 connection (RFC 9113, section 3.4); no allowed HTTP/1 method begins
/// with them.
const PREFACE_BEGINS: [u8; 2] = *b"PR";
const PREFACE_BYTES: usize = 24;

/// Enough for a head and a small body.
const JOINED_BYTES_MAX: usize = 512;

impl Opening {
    /// Takes the bytes that have arrived. Returns whether the HTTP version is known now.
    fn is_over(&mut self, bytes: &[u8]) -> bool {
        for (place, byte) in self.first.iter_mut().skip(self.seen).zip(bytes) {
            *place = *byte;
        }
        self.seen += bytes.len();
        self.seen >= PREFACE_BYTES || self.seen >= self.first.len() && self.first != PREFACE_BEGINS
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> ClientSocket<S> {
    pub(in crate::api) fn new(
        socket: S,
        opening_max: Duration,
        stalled_max: Duration,
    ) -> (Self, Arc<Observed>) {
        let observed = Arc::new(Observed::default());
        let opening = Opening {
            first: [0; 2],
            seen: 0,
            deadline: Box::pin(sleep(opening_max)),
        };
        let socket = Self {
            socket: Some(socket),
            stalled_max,
            request_has_begun: false,
            observed: observed.clone(),
            opening: Some(opening),
            stalled: None,
        };
        (socket, observed)
    }

    fn socket(&mut self) -> Pin<&mut S> {
        Pin::new(self.socket.as_mut().expect("it goes with the value"))
    }

    /// Times out a client that reads too little for too long: the kernel reports a writable socket
    /// only when a good part of its buffer is free.
    fn while_not_stalled<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(sleep(self.stalled_max)));
        if stalled.as_mut().poll(cx).is_ready() {
            Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
        } else {
            Poll::Pending
        }
    }
}

impl Observed {
    /// Notes that hyper has timed out. Must be called before the socket is dropped.
    pub(in crate::api) fn set_timed_out(&self) {
        self.timed_out.store(true, Ordering::Relaxed);
    }

    /// Notes that the client may still be sending data that nobody will read. Must be called before
    /// the socket is dropped.
    pub(in crate::api) fn set_lingering(&self) {
        self.is_lingering.store(true, Ordering::Relaxed);
    }

    /// Reads and discards what the client still sends, if anything, until the client closes its
    /// side. Must be called after the socket has been dropped.
    pub(in crate::api) async fn linger(&self) {
        let left = self
            .left
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(mut socket) = left else { return };
        let reading = async {
            let _ = socket.shutdown().await;
            let mut unread = vec![0; 4 * 1024];
            while socket.read(&mut unread).await.is_ok_and(|bytes| bytes > 0) {}
        };
        let _ = timeout(LINGER_MAX, reading).await;
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Drop for ClientSocket<S> {
    fn drop(&mut self) {
        // A merely idle client gets no answer: it would take it for the answer to its next request.
        if self.request_has_begun && self.observed.timed_out.load(Ordering::Relaxed) {
            // Such a small write succeeds at once or not at all.
            let mut context = Context::from_waker(Waker::noop());
            let _ = self.socket().poll_write(&mut context, REQUEST_TIMEOUT);
            let _ = self.socket().poll_flush(&mut context);
        }
        if self.observed.is_lingering.load(Ordering::Relaxed)
            && let Some(socket) = self.socket.take()
        {
            *self
                .observed
                .left
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(Box::new(socket));
        }
    }
}

/// The slices joined into one, if they are small: a single-buffer write is faster than a vectored
/// one.
fn joined<'a>(slices: &[IoSlice<'_>], buffer: &'a mut [u8; JOINED_BYTES_MAX]) -> Option<&'a [u8]> {
    let mut length = 0;
    for slice in slices {
        buffer
            .get_mut(length..length + slice.len())?
            .copy_from_slice(slice);
        length += slice.len();
    }
    Some(&buffer[..length])
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> AsyncRead for ClientSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = self.socket().poll_read(cx, buffer);
        let arrived = &buffer.filled()[before..];
        if !arrived.is_empty() {
            self.request_has_begun = true;
        }
        if let Some(opening) = &mut self.opening {
            if opening.is_over(arrived) {
                self.opening = None;
            } else if polled.is_pending() && opening.deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> AsyncWrite for ClientSocket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.request_has_begun = false;
        let polled = self.socket().poll_write(cx, bytes);
        self.while_not_stalled(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.request_has_begun = false;
        let polled = match joined(slices, &mut [0; JOINED_BYTES_MAX]) {
            Some(bytes) => self.socket().poll_write(cx, bytes),
            None => self.socket().poll_write_vectored(cx, slices),
        };
        self.while_not_stalled(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.as_ref().is_some_and(S::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.socket().poll_flush(cx);
        self.while_not_stalled(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.socket().poll_shutdown(cx);
        self.while_not_stalled(cx, polled)
    }
}
