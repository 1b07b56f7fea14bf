//! One client's TCP stream. hyper closes it without a word when a request's head does not arrive in
//! time; this one then says that last word itself.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// The answer to half a head: there is no request yet that a problem could be about.
const REQUEST_TIMEOUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

pub(super) struct ClientStream<S: AsyncWrite + Unpin> {
    stream: S,
    /// Something has arrived since the last answer.
    request_has_begun: bool,
    timed_out: Arc<AtomicBool>,
    /// Until it is known which HTTP the client speaks: from then on hyper keeps the time.
    opening: Option<Opening>,
}

/// The first bytes of a connection, by which hyper tells HTTP/2 from HTTP/1.
struct Opening {
    first: [u8; 2],
    seen: usize,
    deadline: Pin<Box<Sleep>>,
}

/// What an HTTP/2 connection begins with (RFC 9113, section 3.4), and no method of ours.
const PREFACE_BEGINS: [u8; 2] = *b"PR";
const PREFACE_BYTES: usize = 24;

impl Opening {
    /// Takes in what has arrived. Returns whether it is known now which HTTP it is.
    fn is_over(&mut self, bytes: &[u8]) -> bool {
        for (place, byte) in self.first.iter_mut().skip(self.seen).zip(bytes) {
            *place = *byte;
        }
        self.seen += bytes.len();
        self.seen >= PREFACE_BYTES || self.seen >= self.first.len() && self.first != PREFACE_BEGINS
    }
}

/// Tells a stream, which hyper owns, that hyper has given up on it.
pub(super) struct TimedOut(Arc<AtomicBool>);

impl<S: AsyncWrite + Unpin> ClientStream<S> {
    /// A client that has not begun to speak HTTP after this time is given up.
    pub(super) fn new(stream: S, opening_max: Duration) -> (Self, TimedOut) {
        let timed_out = Arc::new(AtomicBool::new(false));
        let handle = TimedOut(timed_out.clone());
        let opening = Opening { first: [0; 2], seen: 0, deadline: Box::pin(sleep(opening_max)) };
        (Self { stream, request_has_begun: false, timed_out, opening: Some(opening) }, handle)
    }
}

impl TimedOut {
    /// To be called before the stream is dropped.
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl<S: AsyncWrite + Unpin> Drop for ClientStream<S> {
    fn drop(&mut self) {
        // A client that is merely idle is told nothing: it would take it for the next answer.
        if self.request_has_begun && self.timed_out.load(Ordering::Relaxed) {
            // So few bytes go at once or not at all.
            let mut context = Context::from_waker(Waker::noop());
            let _ = Pin::new(&mut self.stream).poll_write(&mut context, REQUEST_TIMEOUT);
            let _ = Pin::new(&mut self.stream).poll_flush(&mut context);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.request_has_begun |= buffer.filled().len() > before;
        if let Some(opening) = &mut self.opening {
            if opening.is_over(&buffer.filled()[before..]) {
                self.opening = None;
            } else if polled.is_pending() && opening.deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.request_has_begun = false;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.request_has_begun = false;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
