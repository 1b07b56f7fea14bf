//! The limits of one call, as they appear in faults.

use std::fmt;

/// A limit of one call, and how much it allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    pub kind: LimitKind,
    pub max: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitKind {
    /// In milliseconds.
    Time,
    /// In bytes, like all others with `Bytes` in the name.
    MemoryBytes,
    TableElements,
    StackBytes,
    /// Handles that the host holds for one instance: WASI streams, pollables, requests.
    Resources,
    /// Data that a guest passes to the host at once.
    TransferBytes,
    ReplyBodyBytes,
    ReplyHeaders,
    ReplyHeaderBytes,
    /// The memory for all bodies of a node: there was no room for a reply.
    BodiesBytes,
    /// The name of a value of an entity's state; empty, or with U+0000, is not allowed either.
    StateNameBytes,
    StateValueBytes,
    /// All that one message writes.
    StateWrittenBytes,
    /// The reply of a message that is no read, which may have to be kept.
    StateReplyBytes,
    /// Messages that it sends.
    SentMessages,
    /// The headers of one of them, or of a call.
    SentHeaders,
    SentHeaderBytes,
    /// Handlers that wait for one call.
    ChainedCalls,
}

impl LimitKind {
    pub const ALL: [Self; 18] = [
        Self::Time,
        Self::MemoryBytes,
        Self::TableElements,
        Self::StackBytes,
        Self::Resources,
        Self::TransferBytes,
        Self::ReplyBodyBytes,
        Self::ReplyHeaders,
        Self::ReplyHeaderBytes,
        Self::BodiesBytes,
        Self::StateNameBytes,
        Self::StateValueBytes,
        Self::StateWrittenBytes,
        Self::StateReplyBytes,
        Self::SentMessages,
        Self::SentHeaders,
        Self::SentHeaderBytes,
        Self::ChainedCalls,
    ];

    /// Its name in the peer protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::Time => "time-ms",
            Self::MemoryBytes => "memory-bytes",
            Self::TableElements => "table-elements",
            Self::StackBytes => "stack-bytes",
            Self::Resources => "resources",
            Self::TransferBytes => "transfer-bytes",
            Self::ReplyBodyBytes => "reply-body-bytes",
            Self::ReplyHeaders => "reply-headers",
            Self::ReplyHeaderBytes => "reply-header-bytes",
            Self::BodiesBytes => "bodies-bytes",
            Self::StateNameBytes => "state-name-bytes",
            Self::StateValueBytes => "state-value-bytes",
            Self::StateWrittenBytes => "state-written-bytes",
            Self::StateReplyBytes => "state-reply-bytes",
            Self::SentMessages => "sent-messages",
            Self::SentHeaders => "sent-headers",
            Self::SentHeaderBytes => "sent-header-bytes",
            Self::ChainedCalls => "chained-calls",
        }
    }
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
            LimitKind::StateNameBytes => write!(
                f,
                "1 to {max} bytes, none of them zero, in the name of a value, or of a timer"
            ),
            LimitKind::StateValueBytes => write!(f, "{} MiB in a value", max >> 20),
            LimitKind::StateReplyBytes => write!(
                f,
                "{} MiB in the reply of a message that is no GET (it may have to be kept)",
                max >> 20
            ),
            LimitKind::SentMessages => write!(f, "{max} messages that a message sends"),
            LimitKind::SentHeaders => write!(f, "{max} headers in a message that is sent"),
            LimitKind::SentHeaderBytes => {
                write!(f, "{} KiB of headers in a message that is sent", max >> 10)
            }
            LimitKind::ChainedCalls => write!(f, "{max} handlers that wait for one call"),
            LimitKind::StateWrittenBytes => write!(f, "{} MiB of writes of a message", max >> 20),
        }
    }
}
