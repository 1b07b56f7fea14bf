//! The message: what is sent to an entity.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, header};
use uuid::Uuid;

use super::chain::Chain;
use super::names::{PartitionKey, StreamName};
use super::offer::StreamProperties;
use super::store_time::StoreTime;
use super::trace::Trace;
use super::watched::Watched;

/// Upper limit for the configured body size: a body is held in memory, and sent in chunks between
/// nodes.
pub const BODY_BYTES_MAX: usize = 64 << 20;

/// The beginning of the names of headers that only nodes set: those of clients and of handlers are
/// dropped.
pub const RESERVED_HEADERS: &str = "meshage-";

/// Hop-by-hop headers: they describe one connection, not the message, and are never forwarded.
pub const CONNECTION_HEADERS: [HeaderName; 10] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The methods of the public API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Options,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    /// Every method that a client may use, as the `Allow` header lists them.
    pub const ALLOWED: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

    pub fn from_http(method: &http::Method) -> Option<Self> {
        Some(match *method {
            http::Method::GET => Self::Get,
            http::Method::HEAD => Self::Head,
            http::Method::OPTIONS => Self::Options,
            http::Method::POST => Self::Post,
            http::Method::PUT => Self::Put,
            http::Method::PATCH => Self::Patch,
            http::Method::DELETE => Self::Delete,
            _ => return None,
        })
    }

    /// The method of this name, if it is one for messages, and not only for HTTP.
    pub fn of_message(name: &str) -> Option<Self> {
        [Self::Get, Self::Post, Self::Put, Self::Patch, Self::Delete]
            .into_iter()
            .find(|method| method.as_str() == name)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }

    /// What it is to those who know only the methods of messages: a HEAD is a GET whose answer is
    /// sent without its body.
    pub fn for_messages(self) -> Self {
        match self {
            Self::Head | Self::Options => Self::Get,
            other => other,
        }
    }

    /// Whether it only asks (RFC 9110, section 9.2.1).
    pub fn is_safe(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Options)
    }

    /// Whether doing it twice is the same as doing it once (RFC 9110, section 9.2.2).
    pub fn is_idempotent(self) -> bool {
        self.is_safe() || matches!(self, Self::Put | Self::Delete)
    }
}

/// One message, addressed to the entity (`stream`, `partition_key`).
#[derive(Debug, Clone)]
pub struct Message {
    pub id: Uuid,
    pub stream: StreamName,
    pub partition_key: PartitionKey,
    pub method: Method,
    /// What came after the key, from its `/` on, as the client sent it; empty if nothing did. Only
    /// handlers of HTTP have a use for it.
    pub path: String,
    /// As the client sent it, without the leading `?`; empty if there was none.
    pub query: String,
    /// The end-to-end headers of the request. The runtime decides which of them a handler sees.
    pub headers: HeaderMap,
    pub body: Bytes,
    /// It goes to every candidate.
    pub is_broadcast: bool,
    /// The moment after which it takes no effect any more on a stateful stream. Set before it
    /// first goes to another node: from then on whoever runs it keeps a record until then, by which
    /// a repetition is known.
    pub not_after: OnceLock<StoreTime>,
    /// Set when a node was lost with it that may run it still: whatever it comes to elsewhere is kept
    /// as a record, so that it comes to nothing else there.
    pub is_repeated: OnceLock<()>,
    /// A handler sent it: the store keeps it under its id until it has taken effect.
    pub is_sent: bool,
    /// The handlers that wait for it, if a handler calls with it.
    pub chain: Option<Arc<Chain>>,
    /// The span that what is done for it belongs to; none if it is not traced.
    pub trace: Option<Trace>,
    /// What is noted on its way, if somebody wants to know.
    pub watched: Option<Arc<Watched>>,
}

/// With this header a client asks that a request takes effect only once, however often it is sent
/// (draft-ietf-httpapi-idempotency-key-header). Nodes see to it on stateful streams; on others the
/// handler may.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

impl Message {
    /// Whether a stateful stream treats it as a read, which cannot write: it may run on nodes that
    /// do not own the entity, or beside other messages.
    pub fn is_read(&self) -> bool {
        self.method.is_safe() || self.is_broadcast
    }

    pub fn has_idempotency_key(&self) -> bool {
        self.headers.contains_key(IDEMPOTENCY_KEY)
    }

    /// Whether its client may send it again: a second run has no other effect than the first.
    pub fn may_run_twice(&self, stream: StreamProperties) -> bool {
        let has_key = || self.has_idempotency_key();
        if stream.is_stateful {
            // Another message may have come in between, also if it is a PUT.
            self.is_read() || has_key()
        } else {
            self.method.is_idempotent() || stream.takes_idempotency_keys && has_key()
        }
    }

    /// Whether a node may send it to another one although it may have run.
    pub fn may_be_repeated(&self, stream: StreamProperties) -> bool {
        let is_recorded = stream.keeps_records && self.not_after.get().is_some();
        self.is_sent || is_recorded || self.may_run_twice(stream)
    }
}
