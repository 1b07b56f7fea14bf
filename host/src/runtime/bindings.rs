//! What wasmtime makes of `wit/`, and the way between it and the mesh's own types.

use bytes::Bytes;
use http::header::InvalidHeaderName;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::bodies::Room;
use crate::message::{
    CONNECTION_HEADERS, Failure, FailureKind, Limit, LimitKind, Message, REPLY_BODY_BYTES_MAX,
    Reply, truncate,
};

wasmtime::component::bindgen!({
    path: "../wit",
    world: "handler",
    ownership: Borrowing { duplicate_if_necessary: true },
    exports: { default: async },
});

pub(super) use exports::meshage::mesh::message_handler as wit;
pub(super) use meshage::mesh::logging;

/// What a component of this contract exports.
pub(super) const EXPORT: &str = "meshage:mesh/message-handler@0.1.0";

/// The largest set of reply headers, names and values together: what common clients accept at most.
const REPLY_HEADER_BYTES_MAX: usize = 64 * 1024;

/// The headers that a handler may see: `content-type`, and those that its manifest names.
///
/// # Errors
/// The name of one whose value is not UTF-8: a handler cannot be shown it, and must not miss it.
pub(super) fn visible_headers<'a>(
    message: &'a Message,
    declared: &[HeaderName],
) -> Result<Vec<(&'a str, &'a str)>, &'a HeaderName> {
    // In one pass: a request has few headers, and looking one up takes longer than reading past
    // some.
    let visible = message
        .headers
        .iter()
        .filter(|(name, _)| **name == header::CONTENT_TYPE || declared.contains(name));
    visible
        .map(|(name, value)| {
            Ok((
                name.as_str(),
                std::str::from_utf8(value.as_bytes()).map_err(|_| name)?,
            ))
        })
        .collect()
}

/// Headers of one reply; clients accept about a hundred.
const REPLY_HEADERS_MAX: usize = 256;

/// Of the node, the date, the length.
const HEADERS_OF_HTTP: usize = 3;

/// The text of a failure: it is for a person to read. The rest is cut off.
const FAILURE_TEXT_BYTES_MAX: usize = 8 * 1024;

/// Why what a handler returned is no HTTP reply. For the log; the caller learns of a limit, or only
/// that it failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadReply {
    #[error("the handler replied with the status {0}; 200 to 599 are allowed")]
    Status(u16),
    #[error("the handler replied with the header {0:?}, which is no header name with a value")]
    Header(String),
    #[error("the handler exceeded its limit of {0}")]
    Limit(Limit),
}

pub(super) fn check_reply(reply: wit::Reply) -> Result<Reply, BadReply> {
    let status = match StatusCode::from_u16(reply.status) {
        Ok(status) if (200..600).contains(&reply.status) => status,
        _ => return Err(BadReply::Status(reply.status)),
    };
    check_size(
        LimitKind::ReplyBodyBytes,
        reply.body.len(),
        REPLY_BODY_BYTES_MAX,
    )?;
    check_size(
        LimitKind::ReplyHeaders,
        reply.headers.len(),
        REPLY_HEADERS_MAX,
    )?;
    let header_bytes = reply
        .headers
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    check_size(
        LimitKind::ReplyHeaderBytes,
        header_bytes,
        REPLY_HEADER_BYTES_MAX,
    )?;
    // Those of HTTP itself come on top.
    let mut headers = HeaderMap::with_capacity(reply.headers.len() + HEADERS_OF_HTTP);
    for (name, value) in reply.headers {
        let (Ok(parsed), Ok(value)) = (header_name(&name), HeaderValue::try_from(value)) else {
            return Err(BadReply::Header(truncate(name, FAILURE_TEXT_BYTES_MAX)));
        };
        if !CONNECTION_HEADERS.contains(&parsed) && !parsed.as_str().starts_with("meshage-") {
            headers.append(parsed, value);
        }
    }
    Ok(Reply {
        status,
        headers,
        body: Bytes::from(reply.body),
        room: Room::default(),
    })
}

fn header_name(name: &str) -> Result<HeaderName, InvalidHeaderName> {
    // The one that almost every reply has needs no reading.
    if name == header::CONTENT_TYPE {
        Ok(header::CONTENT_TYPE)
    } else {
        HeaderName::from_bytes(name.as_bytes())
    }
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

impl From<wit::Failure> for Failure {
    fn from(failure: wit::Failure) -> Self {
        let (kind, text) = match failure {
            wit::Failure::Invalid(text) => (FailureKind::Invalid, text),
            wit::Failure::NotFound(text) => (FailureKind::NotFound, text),
            wit::Failure::Conflict(text) => (FailureKind::Conflict, text),
            wit::Failure::Unavailable(text) => (FailureKind::Unavailable, text),
            wit::Failure::Internal(text) => (FailureKind::Internal, text),
        };
        Self {
            kind,
            text: truncate(text, FAILURE_TEXT_BYTES_MAX),
        }
    }
}
