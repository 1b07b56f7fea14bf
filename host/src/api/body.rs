//! Takes in request bodies, within limits of size and time.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::EXPECT;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::time::timeout;

use super::bodies::{Bodies, Held, NoRoom};

/// How long such a body is read for at most.
const DISCARD_TIME_MAX: Duration = Duration::from_secs(5);

/// What is read and thrown away of a body that is too large, so that a client that sends before it
/// listens gets to see the answer.
const DISCARD_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the body has more than {bytes_max} bytes, the limit of this node (--max-body)")]
    TooLarge { bytes_max: usize },
    #[error("the bodies of all requests and answers that are under way take as much memory as they may")]
    NoRoom,
    #[error("the body did not arrive within {0:?}")]
    Late(Duration),
    #[error("the body did not arrive: {0}")]
    Broken(String),
}

/// The whole body, without a copy when it came in one piece.
pub(super) async fn collect(
    mut body: Incoming,
    headers: &HeaderMap,
    bytes_max: usize,
    time_max: Duration,
    bodies: &Arc<Bodies>,
    held: &mut Held,
) -> Result<Bytes, BodyError> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let read = timeout(time_max, read(&mut body, bytes_max, bodies, held)).await;
    if let Ok(Err(BodyError::TooLarge { .. } | BodyError::NoRoom)) = &read
        && !headers.contains_key(EXPECT)
    {
        // Whether all of it came does not change the answer.
        let _ = timeout(DISCARD_TIME_MAX, discard(&mut body)).await;
    }
    read.unwrap_or(Err(BodyError::Late(time_max)))
}

async fn read(
    body: &mut Incoming,
    bytes_max: usize,
    bodies: &Arc<Bodies>,
    held: &mut Held,
) -> Result<Bytes, BodyError> {
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(BodyError::TooLarge { bytes_max });
    }
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| BodyError::Broken(error.to_string()))?;
        let Ok(piece) = frame.into_data() else { continue };
        let bytes = first.len() + whole.len() + piece.len();
        if bytes > bytes_max {
            return Err(BodyError::TooLarge { bytes_max });
        }
        held.make_room(bodies, bytes).map_err(|NoRoom| BodyError::NoRoom)?;
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
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

async fn discard(body: &mut Incoming) {
    if body.size_hint().lower() > DISCARD_BYTES_MAX {
        return;
    }
    let mut discarded = 0;
    while let Some(Ok(frame)) = body.frame().await {
        discarded += frame.data_ref().map_or(0, |data| data.len() as u64);
        if discarded > DISCARD_BYTES_MAX {
            return;
        }
    }
}
