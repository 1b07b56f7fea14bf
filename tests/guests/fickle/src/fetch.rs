//! HTTP requests that the guest makes, by `wasi:http`.

use meshage_sdk::Reply;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingResponse, OutgoingRequest, Scheme,
};
use wasip2::io::streams::StreamError;

/// Outgoing requests that a plugin may have in flight.
const REQUESTS_MAX: usize = 64;

/// GETs `host:port/path`, or the same behind `https://`. Replies with status and body as they came,
/// or with 599 and the error.
pub(crate) fn get(target: &str) -> Reply {
    match try_get(target) {
        Ok((status, body)) => Reply::new(status).with_body("application/octet-stream", body),
        Err(error) => Reply::new(599).with_body("text/plain", error),
    }
}

/// GETs `host:port/path`, and waits until that is answered or has failed.
pub(crate) fn wait_for(target: &str) -> Result<(), String> {
    try_get(target).map(drop)
}

/// Begins a hundred requests to a server that never answers, and returns how many were refused as
/// too many.
pub(crate) fn begin_many(target: &str) -> usize {
    let begun: Vec<_> = (0..100)
        .map(|_| begin(target).expect("it is a target"))
        .collect();
    let refused = begun[REQUESTS_MAX..].iter().filter(|coming| {
        // Requests beyond the limit fail at once.
        coming.subscribe().block();
        let answer = coming
            .get()
            .and_then(|answer| answer.expect("it is taken once").err());
        matches!(answer, Some(ErrorCode::ConnectionLimitReached))
    });
    refused.count()
}

/// Whether the host accepts an authority of this many bytes.
pub(crate) fn takes_authority(bytes: usize) -> bool {
    OutgoingRequest::new(Fields::new())
        .set_authority(Some(&"a".repeat(bytes)))
        .is_ok()
}

fn try_get(target: &str) -> Result<(u16, Vec<u8>), String> {
    let coming = begin(target)?;
    coming.subscribe().block();
    let response = coming
        .get()
        .expect("it is ready")
        .expect("it is taken once")
        .map_err(show)?;
    Ok((response.status(), read(&response)?))
}

fn begin(target: &str) -> Result<FutureIncomingResponse, String> {
    let (scheme, target) = match target.strip_prefix("https://") {
        Some(target) => (Scheme::Https, target),
        None => (Scheme::Http, target),
    };
    let (authority, path) = target.split_once('/').unwrap_or((target, ""));
    let request = OutgoingRequest::new(Fields::new());
    let set = request
        .set_scheme(Some(&scheme))
        .and_then(|()| request.set_authority(Some(authority)))
        .and_then(|()| request.set_path_with_query(Some(&format!("/{path}"))));
    set.map_err(|()| "it is no target".to_owned())?;
    outgoing_handler::handle(request, None).map_err(show)
}

fn read(response: &IncomingResponse) -> Result<Vec<u8>, String> {
    let body = response.consume().expect("it is consumed once");
    let stream = body.stream().expect("it is taken once");
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(64 * 1024) {
            Ok(chunk) => bytes.extend(chunk),
            Err(StreamError::Closed) => return Ok(bytes),
            Err(StreamError::LastOperationFailed(error)) => return Err(error.to_debug_string()),
        }
    }
}

fn show(error: ErrorCode) -> String {
    format!("{error:?}")
}
