//! The body of an answer while it is sent to the client.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::activity::{Activity, OpenRequest};
use crate::bodies::Reservation;

/// The body is sent in pieces of this size: HTTP/2 requests the next piece when the client has read
/// most of the earlier ones.
const PIECE_BYTES_MAX: usize = 64 * 1024;

pub(in crate::api) struct AnswerBody {
    bytes: Bytes,
    request: Request,
}

/// The request that this is the answer to.
enum Request {
    /// Ends when the body has been handed to hyper: little can still be unsent.
    Small(#[expect(dead_code, reason = "it counts while it lives")] OpenRequest),
    /// Ends when the last piece has been sent, and holds its memory reservation until then.
    Counted(Arc<Activity>),
}

/// Bytes with their memory reservation.
struct Counted {
    bytes: Bytes,
    _open: OpenRequest,
    _reservation: Reservation,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AnswerBody {
    pub(in crate::api) fn new(bytes: Bytes, open: OpenRequest, reservation: Reservation) -> Self {
        if !reservation.is_counted() {
            return Self {
                bytes,
                request: Request::Small(open),
            };
        }
        let request = Request::Counted(open.activity().clone());
        Self {
            bytes: Bytes::from_owner(Counted {
                bytes,
                _open: open,
                _reservation: reservation,
            }),
            request,
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.bytes.is_empty() {
            return Poll::Ready(None);
        }
        if let Request::Counted(activity) = &self.request {
            activity.step();
        }
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

/// Another body, whose request ends with it: a client that takes it slowly is not idle.
pub(in crate::api) struct Tracked<B> {
    body: B,
    open: OpenRequest,
}

impl<B> Tracked<B> {
    pub(in crate::api) fn new(body: B, open: OpenRequest) -> Self {
        Self { body, open }
    }
}

impl<B: Body + Unpin> Body for Tracked<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.open.activity().step();
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        // hyper drops a body that has ended before its last frame is written.
        false
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
