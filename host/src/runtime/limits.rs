//! What one plugin may take.

use std::time::Duration;

use http::HeaderName;

use crate::message::REPLY_BODY_BYTES_MAX;

/// Elements of all tables of one instance: large interpreters have some ten thousand functions.
pub(super) const TABLE_ELEMENTS_MAX: usize = 100_000;

/// The stack of a guest: what native threads have by default is 4 to 16 times as much, but a
/// guest's own data is in its linear memory, not here.
pub(super) const STACK_BYTES_MAX: usize = 512 << 10;

/// What a guest may hand to the host at once: the largest reply with its headers, and room for what
/// the host makes of it.
pub(super) const TRANSFER_BYTES_MAX: usize = REPLY_BODY_BYTES_MAX + (1 << 20);

/// The limits of one plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Request headers that the handler may see, besides `content-type`.
    pub headers: Vec<HeaderName>,
    /// It takes care of `Idempotency-Key` itself, and so sees the header, too.
    pub takes_idempotency_keys: bool,
    /// One call, from its acceptance to its reply, waiting included.
    pub timeout: Duration,
    /// Linear memories of one instance together, in bytes.
    pub memory_bytes_max: usize,
    /// Calls that run at once.
    pub concurrency: usize,
    /// Calls that wait for one of those; the next one is refused as overloaded.
    pub queue: usize,
    pub instances: Instances,
}

/// How long an instance lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instances {
    /// A new instance for every message.
    Fresh,
    /// An instance runs up to so many messages, one after the other.
    Reuse { calls_max: u64 },
}

impl Limits {
    /// A Rust handler needs 2 MiB, a JavaScript or Python one about 30.
    pub const MEMORY_BYTES_MAX: usize = 64 << 20;
    /// Enough to keep every core busy while some calls wait for the host.
    pub const CONCURRENCY: usize = 64;
    /// At 2 µs a call, 2 ms of work; at 1 ms a call, 16 ms on each of 64 instances.
    pub const QUEUE: usize = 1024;
    /// What a guest leaks for each message is given back after so many; a new instance for ten
    /// thousand messages costs each of them a few nanoseconds.
    pub const CALLS_PER_INSTANCE_MAX: u64 = 10_000;

    /// The defaults, with the node's own timeout.
    pub fn with_timeout(timeout: Duration) -> Self {
        Self {
            headers: Vec::new(),
            takes_idempotency_keys: false,
            timeout,
            memory_bytes_max: Self::MEMORY_BYTES_MAX,
            concurrency: Self::CONCURRENCY,
            queue: Self::QUEUE,
            instances: Instances::Reuse {
                calls_max: Self::CALLS_PER_INSTANCE_MAX,
            },
        }
    }
}

impl Instances {
    /// Messages that one instance may run.
    pub(super) fn calls_max(self) -> u64 {
        match self {
            Self::Fresh => 1,
            Self::Reuse { calls_max } => calls_max,
        }
    }
}
