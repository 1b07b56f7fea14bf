//! What travels through the mesh: names, messages, replies, and the ways in which there is no reply.
//! Pure data; knows no clock, no I/O and no layer above.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode, header};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::bodies::{Bodies, NoRoom, Room, SetAside};

/// Longest partition key, in bytes after percent-decoding. An entity's name, not a document: it is
/// hashed, logged and sent with every forward.
pub const PARTITION_KEY_BYTES_MAX: usize = 1024;

/// Longest stream name or node id, in bytes. Both are gossiped, and used in file names and headers.
pub const NAME_BYTES_MAX: usize = 128;

/// Largest body that a node can be configured to take: it is held in memory, and sent in chunks
/// between nodes.
pub const BODY_BYTES_MAX: usize = 64 << 20;

/// The largest body of a reply. A reply is held in memory on the node that runs the handler and on
/// the one that was asked.
pub const REPLY_BODY_BYTES_MAX: usize = 16 << 20;

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

/// The stream name that no plugin may take: `/api/broadcast/…` is a route.
pub const RESERVED_STREAM: &str = "broadcast";

/// The stable id of a node: what keys are placed by.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct NodeId(Arc<str>);

/// The logical name of a handler.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct StreamName(Arc<str>);

/// The entity, within its stream, that a message is for.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PartitionKey(Arc<str>);

/// The SHA-256 of a plugin's component, in hexadecimal: which version of a stream a node offers.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct Digest(Arc<str>);

impl Digest {
    /// Takes a text for a digest, as gossip brought it.
    pub fn from_text(text: &str) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is no name, key or id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("it is empty")]
    Empty,
    #[error("it has {bytes} bytes; the limit is {bytes_max}")]
    TooLong { bytes: usize, bytes_max: usize },
    #[error("it has {0:?} in it; letters, digits, '-', '_' and '.' (not first) are allowed")]
    Character(char),
    #[error("{RESERVED_STREAM:?} is reserved for the broadcast route")]
    Reserved,
}

fn check_length(text: &str, bytes_max: usize) -> Result<(), NameError> {
    match text.len() {
        0 => Err(NameError::Empty),
        bytes if bytes > bytes_max => Err(NameError::TooLong { bytes, bytes_max }),
        _ => Ok(()),
    }
}

fn check_name(text: &str) -> Result<(), NameError> {
    check_length(text, NAME_BYTES_MAX)?;
    let wrong = text.chars().enumerate().find(|(i, c)| {
        let allowed = c.is_ascii_alphanumeric() || matches!(c, '-' | '_') || (*c == '.' && *i > 0);
        !allowed
    });
    match wrong {
        Some((_, c)) => Err(NameError::Character(c)),
        None => Ok(()),
    }
}

impl TryFrom<&str> for NodeId {
    type Error = NameError;

    fn try_from(text: &str) -> Result<Self, NameError> {
        check_name(text)?;
        Ok(Self(text.into()))
    }
}

impl TryFrom<&str> for StreamName {
    type Error = NameError;

    fn try_from(text: &str) -> Result<Self, NameError> {
        check_name(text)?;
        if text == RESERVED_STREAM {
            return Err(NameError::Reserved);
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<&str> for PartitionKey {
    type Error = NameError;

    fn try_from(text: &str) -> Result<Self, NameError> {
        check_length(text, PARTITION_KEY_BYTES_MAX)?;
        Ok(Self(text.into()))
    }
}

macro_rules! text_newtype {
    ($($name:ident),*) => {$(
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::try_from(text.as_str())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        // A map keyed by the name can be asked with a `&str`.
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }
    )*};
}

text_newtype!(NodeId, StreamName, PartitionKey);

/// What a node offers of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "Digest")]
pub struct Offer {
    pub digest: Digest,
    /// Its handler takes care of `Idempotency-Key` itself: a message that carries one may run twice.
    pub takes_idempotency_keys: bool,
}

impl From<Offer> for Digest {
    fn from(offer: Offer) -> Self {
        offer.digest
    }
}

/// The methods of the public API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Whether doing it twice is as doing it once: by its method, or by the handler's care.
    pub fn may_run_twice(&self, takes_idempotency_keys: bool) -> bool {
        self.method.is_idempotent() || takes_idempotency_keys && self.headers.contains_key(IDEMPOTENCY_KEY)
    }
}

/// What a handler answered.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// That of the body on this node.
    pub room: Room,
}

impl Reply {
    /// The reply with its body in the room that was set aside for it, which grows if it must.
    ///
    /// # Errors
    /// If there is no more: the reply is lost.
    pub fn in_room(mut self, aside: SetAside, bodies: &Bodies) -> Outcome {
        self.room = aside.fill(self.body.len()).map_err(|NoRoom| Fault::no_room(bodies))?;
        Ok(self)
    }
}

/// What a handler refused with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    Invalid,
    NotFound,
    Conflict,
    Unavailable,
    Internal,
}

/// Why there is no reply. Nodes tell each other by the number of the variant: new ones come last.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Fault {
    #[error("the handler refused: {}", .0.text)]
    Failure(Failure),
    /// It trapped, or replied with something that is no HTTP.
    #[error("the handler crashed")]
    Crashed,
    /// The time that the message had was over; it may have run.
    #[error("the deadline passed")]
    DeadlineExceeded,
    #[error("refused: {0}")]
    Refused(Refusal),
    /// No candidate could be reached.
    #[error("no node that offers the stream could be reached")]
    Unreachable,
    /// The node that had the message is gone; whether it ran cannot be known.
    #[error("the node that had the message was lost")]
    Lost,
    #[error("no node offers the stream")]
    NoCandidate,
    /// It was stopped because it wanted more than its plugin may take.
    #[error("the handler was stopped at its limit of {0}")]
    LimitExceeded(Limit),
}

/// A limit of one call, and how much it allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    pub kind: LimitKind,
    pub max: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LimitKind {
    /// In milliseconds.
    Time,
    /// In bytes, as all that follow which say so.
    MemoryBytes,
    TableElements,
    StackBytes,
    /// What the host holds for one instance: streams, pollables, requests.
    Resources,
    /// What goes from the guest to the host at once.
    TransferBytes,
    ReplyBodyBytes,
    ReplyHeaders,
    ReplyHeaderBytes,
    /// What all bodies of a node may take, when a reply was made that found no room.
    BodiesBytes,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let max = self.max;
        match self.kind {
            LimitKind::Time => write!(f, "{max} ms (timeout_ms)"),
            LimitKind::MemoryBytes => write!(f, "{} MiB of memory (memory_mb)", max >> 20),
            LimitKind::TableElements => write!(f, "{max} table elements"),
            LimitKind::StackBytes => write!(f, "{} KiB of stack", max >> 10),
            LimitKind::Resources => write!(f, "{max} open resources"),
            LimitKind::TransferBytes => write!(f, "{} MiB handed to the host at once", max >> 20),
            LimitKind::ReplyBodyBytes => write!(f, "{} MiB in the body of a reply", max >> 20),
            LimitKind::ReplyHeaders => write!(f, "{max} headers in a reply"),
            LimitKind::ReplyHeaderBytes => write!(f, "{} KiB of headers in a reply", max >> 10),
            LimitKind::BodiesBytes => write!(f, "{} MiB for all bodies of a node", max >> 20),
        }
    }
}

/// Why a node did not run a message that it was given. Nothing ran. New variants come last, as above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error, Serialize, Deserialize)]
pub enum Refusal {
    #[error("the node does not offer the stream")]
    NotOffered,
    #[error("the node is starting")]
    Starting,
    #[error("the node is leaving")]
    Leaving,
    #[error("every instance of the node is in use, or too many calls wait for the owner")]
    Overloaded,
    #[error("as many messages wait for the handler already as may (queue)")]
    QueueFull,
    #[error("it waited for its turn until its time was over, and did not run")]
    WaitedTooLong,
    #[error("the bodies of all messages and answers that are under way take as much memory as they may")]
    NoRoom,
}

impl Refusal {
    /// Its name in logs and metrics.
    pub fn kind(self) -> &'static str {
        match self {
            Self::NotOffered => "not-offered",
            Self::Starting => "starting",
            Self::Leaving => "leaving",
            Self::Overloaded => "overloaded",
            Self::QueueFull => "queue-full",
            Self::WaitedTooLong => "waited-too-long",
            Self::NoRoom => "no-room",
        }
    }
}

impl Fault {
    /// A reply was made, and found no room.
    pub fn no_room(bodies: &Bodies) -> Self {
        Self::LimitExceeded(Limit { kind: LimitKind::BodiesBytes, max: bodies.bytes_max() as u64 })
    }

    /// Whether it is certain that no handler saw the message, so that it may be sent again.
    pub fn nothing_ran(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Unreachable | Self::NoCandidate => true,
            Self::Failure(failure) => failure.kind == FailureKind::Unavailable,
            Self::Crashed | Self::LimitExceeded(_) | Self::DeadlineExceeded | Self::Lost => false,
        }
    }
}

/// The beginning of a text, up to so many bytes.
pub fn cut(mut text: String, bytes_max: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}

/// How one message ended, and on which node.
#[derive(Debug)]
pub struct Answer {
    pub node: NodeId,
    pub outcome: Outcome,
    /// Whether the message may be sent again, though it may have run.
    pub may_run_twice: bool,
}

pub type Outcome = Result<Reply, Fault>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!(StreamName::try_from("orders.v2_a-B").is_ok());
        assert_eq!(StreamName::try_from(""), Err(NameError::Empty));
        assert_eq!(StreamName::try_from("a b"), Err(NameError::Character(' ')));
        assert_eq!(StreamName::try_from(".hidden"), Err(NameError::Character('.')));
        assert_eq!(StreamName::try_from("broadcast"), Err(NameError::Reserved));
        assert!(NodeId::try_from("broadcast").is_ok());
        assert_eq!(NodeId::try_from("n".repeat(129).as_str()), Err(NameError::TooLong { bytes: 129, bytes_max: 128 }));
    }

    #[test]
    fn keys_are_any_text_up_to_their_limit() {
        assert!(PartitionKey::try_from("a/b ü\u{0}").is_ok());
        assert!(PartitionKey::try_from("k".repeat(1024).as_str()).is_ok());
        assert!(PartitionKey::try_from("k".repeat(1025).as_str()).is_err());
        assert_eq!(PartitionKey::try_from(""), Err(NameError::Empty));
    }
}
