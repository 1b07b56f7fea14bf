//! What one plugin may take: the limits of its calls and instances.

use std::time::Duration;

use http::HeaderName;

/// Elements of one table: large interpreters have some ten thousand functions.
pub(super) const TABLE_ELEMENTS_MAX: usize = 100_000;

/// Limits and grants of one plugin.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Request headers that the handler may see, besides `content-type`.
    pub headers: Vec<HeaderName>,
    /// One call, from its acceptance to its reply, waiting included.
    pub timeout: Duration,
    /// Linear memory of one instance, in bytes.
    pub memory_bytes_max: usize,
    /// Calls that run at once.
    pub concurrency: usize,
    /// Calls that wait for one of those; the next one is refused as overloaded.
    pub queue: usize,
}

impl Limits {
    /// A Rust handler needs 2 MiB, a JavaScript or Python one about 30.
    pub const MEMORY_BYTES_MAX: usize = 64 << 20;
    /// Enough to keep every core busy while some calls wait for the host.
    pub const CONCURRENCY: usize = 64;
    /// At 2 µs a call, 2 ms of work; at 1 ms a call, 16 ms on each of 64 instances.
    pub const QUEUE: usize = 1024;

    /// The defaults, with the node's own timeout.
    pub fn with_timeout(timeout: Duration) -> Self {
        Self {
            headers: Vec::new(),
            timeout,
            memory_bytes_max: Self::MEMORY_BYTES_MAX,
            concurrency: Self::CONCURRENCY,
            queue: Self::QUEUE,
        }
    }
}
