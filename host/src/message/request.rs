//! The message: what is sent to an entity.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, header};
use uuid::Uuid;

use super::names::{PartitionKey, StreamName};
use super::offer::StreamProperties;

/// Largest body that a node can be configured to take: it is held in memory, and sent in chunks
/// between nodes.
pub const BODY_BYTES_MAX: usize = 64 << 20;

/// Headers that speak of one connection, not of the message: they end where they arrive.
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
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    /// Every method that a client may use, as the `Allow` header lists them.
    pub const ALLOWED: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

    /// That of a message. HEAD is a GET of which only the head is answered.
    pub fn from_http(method: &http::Method) -> Option<Self> {
        Some(match *method {
            http::Method::GET | http::Method::HEAD => Self::Get,
            http::Method::POST => Self::Post,
            http::Method::PUT => Self::Put,
            http::Method::PATCH => Self::Patch,
            http::Method::DELETE => Self::Delete,
            _ => return None,
        })
    }

    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Get, Self::Post, Self::Put, Self::Patch, Self::Delete]
            .into_iter()
            .find(|method| method.as_str() == name)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }

    /// Whether doing it twice is the same as doing it once (RFC 9110, section 9.2.2).
    pub fn is_idempotent(self) -> bool {
        matches!(self, Self::Get | Self::Put | Self::Delete)
    }
}

/// One message, addressed to the entity (`stream`, `partition_key`).
#[derive(Debug, Clone)]
pub struct Message {
    pub id: Uuid,
    pub stream: StreamName,
    pub partition_key: PartitionKey,
    pub method: Method,
    /// As it was sent, without the leading `?`; empty if there was none.
    pub query: String,
    /// The end-to-end headers of the request. What a handler sees of them is the runtime's to say.
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// By this header a client wants to have a request done once, however often it sends it
/// (draft-ietf-httpapi-idempotency-key-header). Somebody has to see to that.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

impl Message {
    /// Whether running it twice has the same effect as running it once: because of its method, or
    /// because the handler takes care of that.
    pub fn may_run_twice(&self, stream: StreamProperties) -> bool {
        self.method.is_idempotent()
            || stream.takes_idempotency_keys && self.headers.contains_key(IDEMPOTENCY_KEY)
    }
}
