//! The body of an answer, on its way to the client.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::activity::{Activity, Open};
use crate::bodies::Reservation;

/// It goes in pieces of this size: HTTP/2 asks for the next one when the client has taken most of
/// those before.
const PIECE_BYTES_MAX: usize = 64 * 1024;

pub(in crate::api) struct AnswerBody {
    bytes: Bytes,
    request: Request,
}

/// The request that this is the answer to.
enum Request {
    /// It is over when the body was handed on: what may still be on its way is little.
    Small(#[expect(dead_code, reason = "it counts while it lives")] Open),
    /// It is over when the last piece was sent, and takes its room until then.
    Counted(Arc<Activity>),
}

/// Bytes with the room that they take.
struct Counted {
    bytes: Bytes,
    _open: Open,
    _room: Reservation,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AnswerBody {
    pub(in crate::api) fn new(bytes: Bytes, open: Open, room: Reservation) -> Self {
        if !room.is_counted() {
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
                _room: room,
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
