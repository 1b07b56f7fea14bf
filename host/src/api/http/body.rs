//! Reads request bodies, within limits of size and time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::EXPECT;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::time::timeout;

use crate::bodies::{BodyMemory, NoRoom, Reservation};
use crate::message::Refusal;

/// Maximum time for reading a body that is discarded.
const DISCARD_TIME_MAX: Duration = Duration::from_secs(5);

/// Maximum size of a body that is read and discarded, so that a client that sends before it reads
/// gets to see the answer.
const DISCARD_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub(in crate::api) enum BodyError {
    #[error("the body has more than {bytes_max} bytes, the limit of this node (--max-body)")]
    TooLarge { bytes_max: usize },
    #[error("{}", Refusal::NoRoom)]
    NoRoom,
    #[error("the body did not arrive within {0:?}")]
    Late(Duration),
    #[error("the body did not arrive: {0}")]
    Broken(String),
}

/// Reads the whole body, without a copy if it arrives in one piece. Its memory is reserved as it
/// arrives.
pub(in crate::api) async fn collect(
    body: &mut Incoming,
    bytes_max: usize,
    time_max: Duration,
    bodies: &'static BodyMemory,
    reservation: &mut Reservation,
) -> Result<Bytes, BodyError> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let read = timeout(time_max, read(body, bytes_max, bodies, reservation)).await;
    read.unwrap_or(Err(BodyError::Late(time_max)))
}

/// Reads a body to its end and discards it, within limits. Returns whether it reached the end.
pub(in crate::api) async fn discard(body: &mut Incoming, headers: &HeaderMap) -> bool {
    if body.is_end_stream() {
        return true;
    }
    // A client that sent `Expect: 100-continue` has not sent the body yet, and gets the final
    // answer instead.
    if headers.contains_key(EXPECT) || body.size_hint().lower() > DISCARD_BYTES_MAX {
        return false;
    }
    timeout(DISCARD_TIME_MAX, discard_all(body))
        .await
        .unwrap_or(false)
}

async fn read(
    body: &mut Incoming,
    bytes_max: usize,
    bodies: &'static BodyMemory,
    reservation: &mut Reservation,
) -> Result<Bytes, BodyError> {
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(BodyError::TooLarge { bytes_max });
    }
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| BodyError::Broken(error.to_string()))?;
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        let bytes = first.len() + whole.len() + piece.len();
        if bytes > bytes_max {
            return Err(BodyError::TooLarge { bytes_max });
        }
        reservation
            .resize(bodies, bytes)
            .map_err(|NoRoom| BodyError::NoRoom)?;
        if bytes == piece.len() {
            first = piece;
        } else {
            if whole.is_empty() {
                whole.reserve(bytes + body.size_hint().lower() as usize);
                whole.extend_from_slice(&std::mem::take(&mut first));
            }
            whole.extend_from_slice(&piece);
        }
    }
    Ok(if whole.is_empty() {
        first
    } else {
        whole.freeze()
    })
}

async fn discard_all(body: &mut Incoming) -> bool {
    let mut discarded = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        discarded += frame.data_ref().map_or(0, |data| data.len() as u64);
        if discarded > DISCARD_BYTES_MAX {
            return false;
        }
    }
    true
}
