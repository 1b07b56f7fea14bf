//! Takes in request bodies, within limits of size and time.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::EXPECT;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use tokio::time::timeout;

/// How long such a body is read for at most.
const DISCARD_TIME_MAX: Duration = Duration::from_secs(5);

/// What is read and thrown away of a body that is too large, so that a client that sends before it
/// listens gets to see the answer.
const DISCARD_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the body has more than {bytes_max} bytes, the limit of this node (--max-body)")]
    TooLarge { bytes_max: usize },
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
) -> Result<Bytes, BodyError> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let read = timeout(time_max, read(&mut body, bytes_max)).await;
    if let Ok(Err(BodyError::TooLarge { .. })) = &read
        && !headers.contains_key(EXPECT)
    {
        // Whether all of it came does not change the answer.
        let _ = timeout(DISCARD_TIME_MAX, discard(&mut body)).await;
    }
    read.unwrap_or(Err(BodyError::Late(time_max)))
}

async fn read(body: &mut Incoming, bytes_max: usize) -> Result<Bytes, BodyError> {
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(BodyError::TooLarge { bytes_max });
    }
    match Limited::new(body, bytes_max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(BodyError::TooLarge { bytes_max }),
        Err(error) => Err(BodyError::Broken(error.to_string())),
    }
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
