//! The body of an answer, on its way to the client.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::activity::Open;
use super::bodies::Held;

/// It goes in pieces of this size: HTTP/2 takes the next one only when the client has room for it.
const PIECE_BYTES_MAX: usize = 64 * 1024;

pub(super) struct AnswerBody {
    bytes: Bytes,
    open: Open,
    _held: Held,
}

impl AnswerBody {
    pub(super) fn new(bytes: Bytes, open: Open, held: Held) -> Self {
        Self { bytes, open, _held: held }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.bytes.is_empty() {
            return Poll::Ready(None);
        }
        self.open.step();
        let length = self.bytes.len().min(PIECE_BYTES_MAX);
        Poll::Ready(Some(Ok(Frame::data(self.bytes.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}
