//! The limits of one plugin: time, memory, concurrency.

use std::time::Duration;

use super::visible::Visible;
use crate::message::REPLY_BODY_BYTES_MAX;

/// Elements of all tables of one instance together: large interpreters have some ten thousand
/// functions.
pub(super) const TABLE_ELEMENTS_MAX: usize = 100_000;

/// The stack of a guest. With a quarter of it CPython would not come to its own limit of 1,000 frames,
/// which is an error that a handler can handle. Only what a guest has used takes memory.
pub(super) const STACK_BYTES_MAX: usize = 2 << 20;

/// The stack on which a guest runs: what the host does for it comes on top.
pub(super) const FIBER_STACK_BYTES: usize = STACK_BYTES_MAX + (1 << 20);

/// How much a guest may pass to the host at once: the largest reply with its headers, plus the
/// host's own overhead for it.
pub(super) const TRANSFER_BYTES_MAX: usize = REPLY_BODY_BYTES_MAX + (1 << 20);

/// The limits of one plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The headers that the handler sees.
    pub headers: Visible,
    /// The handler implements `Idempotency-Key` itself, so it also sees that header.
    pub takes_idempotency_keys: bool,
    /// Maximum time of one call, from its acceptance to its reply, waiting included.
    pub timeout: Duration,
    /// Maximum size of all linear memories of one instance together.
    pub memory_bytes_max: usize,
    /// Maximum of calls that run at once.
    pub concurrency: usize,
    /// Maximum of calls that wait for one of those to end; the next one is refused as overloaded.
    pub queue: usize,
    /// Of a stateful stream: maximum of messages of one entity that wait for their turn, run, or
    /// wait for their commit.
    pub queue_per_key: usize,
    /// `None`: as is usual for handlers of its kind.
    pub instances: Option<Instances>,
}

/// How long an instance lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instances {
    /// A new instance for every message.
    Fresh,
    /// An instance runs up to `calls_max` messages, one after the other.
    Reuse { calls_max: u64 },
}

impl Limits {
    /// A Rust handler needs 2 MiB, a JavaScript or Python one about 30.
    pub const MEMORY_BYTES_MAX: usize = 64 << 20;
    /// Enough to keep every core busy while some calls wait for the host.
    pub const CONCURRENCY: usize = 64;
    /// A full queue is 2 ms of work at 2 µs a call; at 1 ms a call, 16 ms on each of 64 instances.
    pub const QUEUE: usize = 1024;
    /// As much as the queue of a stateless stream: with group commit, 50 ms of work.
    pub const QUEUE_PER_KEY: usize = 1024;
    /// Bounds the leaks of a guest: retiring the instance frees them. A new instance every ten
    /// thousand messages costs each message a few nanoseconds.
    pub const CALLS_PER_INSTANCE_MAX: u64 = 10_000;

    /// The defaults, with the node's timeout.
    pub fn with_timeout(timeout: Duration) -> Self {
        Self {
            headers: Visible::default(),
            takes_idempotency_keys: false,
            timeout,
            memory_bytes_max: Self::MEMORY_BYTES_MAX,
            concurrency: Self::CONCURRENCY,
            queue: Self::QUEUE,
            queue_per_key: Self::QUEUE_PER_KEY,
            instances: None,
        }
    }
}

impl Instances {
    pub const REUSE: Self = Self::Reuse {
        calls_max: Limits::CALLS_PER_INSTANCE_MAX,
    };

    /// Messages that one instance may run.
    pub(super) fn calls_max(self) -> u64 {
        match self {
            Self::Fresh => 1,
            Self::Reuse { calls_max } => calls_max,
        }
    }
}
