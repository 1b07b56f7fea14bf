//! The data that travels through the mesh: names, messages, replies and faults. Pure data; knows no
//! clock, no I/O and no layer above.

mod chain;
mod fault;
mod limit;
mod names;
mod offer;
mod problem_type;
mod release;
mod reply;
mod request;
mod sending;
mod short_hash;
mod store_time;
mod trace;
mod watched;

pub use chain::{CHAIN_MAX, Caller, Chain};
pub use fault::{Failure, FailureKind, Fault, ForeignFault, Refusal};
pub use limit::{Limit, LimitKind};
pub use names::{
    Digest, NAME_BYTES_MAX, NameError, NodeId, PARTITION_KEY_BYTES_MAX, PartitionKey,
    RESERVED_STREAM, StreamName,
};
pub use offer::{Offer, StreamProperties};
pub use problem_type::ProblemType;
pub use release::{
    NoRelease, RELEASE_PART_BYTES, ReleaseId, Revision, SharedRelease, SharedReleases,
};
pub use reply::{Answer, Outcome, REPLY_BODY_BYTES_MAX, Reply};
pub use request::{
    BODY_BYTES_MAX, CONNECTION_HEADERS, IDEMPOTENCY_KEY, Message, Method, RESERVED_HEADERS,
};
pub use sending::{Outgoing, SENT_MAX, Sending, Sends, TIMER};
pub use short_hash::short_hash;
pub use store_time::StoreTime;
pub use trace::{TRACEPARENT, TRACESTATE, Trace};
pub use watched::{Stage, Watched};

/// Truncates a text to at most `bytes_max` bytes, at a character boundary.
pub fn truncate(mut text: String, bytes_max: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}
