//! Makes a reply of what a handler has answered, if that is valid HTTP and within the limits.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};

use crate::bodies::Reservation;
use crate::message::{
    CONNECTION_HEADERS, Failure, Limit, LimitKind, REPLY_BODY_BYTES_MAX, RESERVED_HEADERS, Reply,
};

/// Maximum size of all reply headers, names and values together: the most that common clients
/// accept.
const REPLY_HEADER_BYTES_MAX: usize = 64 * 1024;

/// Maximum number of reply headers; clients accept about a hundred.
const REPLY_HEADERS_MAX: usize = 256;

/// What a handler returned instead of a reply.
#[derive(Debug)]
pub(in crate::runtime) enum NoReply {
    Failure(Failure),
    Bad(BadReply),
}

/// Why the value that a handler returned is not a valid HTTP reply. For the log; the caller only
/// learns which limit was exceeded, or that the handler failed.
#[derive(Debug, thiserror::Error)]
pub(in crate::runtime) enum BadReply {
    #[error("the handler replied with the status {0}; 200 to 599 are allowed")]
    Status(u16),
    #[error("the handler replied with the header {0:?}, which is no header name with a value")]
    Header(String),
    #[error("the handler exceeded its limit of {0}")]
    Limit(Limit),
    #[error("the handler ended without an answer: `response-outparam.set` was not called")]
    Nothing,
    #[error(
        "the handler ended before the body of its answer did: `outgoing-body.finish` was not called, or the body is not as long as its `content-length`"
    )]
    Unfinished,
    #[error("the handler answered with the error {0}")]
    Error(String),
}

/// What a handler has answered, within the limits.
pub(super) fn reply(status: StatusCode, headers: HeaderMap, body: Bytes) -> Reply {
    Reply {
        status,
        headers,
        body,
        is_replayed: false,
        reservation: Reservation::default(),
    }
}

pub(super) fn check_status(status: u16) -> Result<StatusCode, BadReply> {
    match StatusCode::from_u16(status) {
        Ok(code) if (200..600).contains(&status) => Ok(code),
        _ => Err(BadReply::Status(status)),
    }
}

pub(super) fn check_body(bytes: usize) -> Result<(), BadReply> {
    check_size(LimitKind::ReplyBodyBytes, bytes, REPLY_BODY_BYTES_MAX)
}

/// Checks how many headers there are, and the bytes of all of them.
pub(super) fn check_headers(
    count: usize,
    sizes: impl Iterator<Item = usize>,
) -> Result<(), BadReply> {
    check_size(LimitKind::ReplyHeaders, count, REPLY_HEADERS_MAX)?;
    check_size(
        LimitKind::ReplyHeaderBytes,
        sizes.sum(),
        REPLY_HEADER_BYTES_MAX,
    )
}

/// Whether a header is the handler's to set: those that frame HTTP, and those of nodes, are not.
pub(super) fn is_of_handler(name: &HeaderName) -> bool {
    !CONNECTION_HEADERS.contains(name) && !name.as_str().starts_with(RESERVED_HEADERS)
}

fn check_size(kind: LimitKind, size: usize, max: usize) -> Result<(), BadReply> {
    if size > max {
        Err(BadReply::Limit(Limit {
            kind,
            max: max as u64,
        }))
    } else {
        Ok(())
    }
}
