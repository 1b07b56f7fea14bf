//! What nodes tell each other of a stream.

use serde::Serialize;

use super::names::Digest;

/// What a node offers of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "Digest")]
pub struct Offer {
    pub digest: Digest,
    pub properties: StreamProperties,
}

/// What a stream is, as far as retries depend on it. All streams are stateless.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamProperties {
    /// The handler takes care of `Idempotency-Key` itself: a message that carries one may run
    /// twice.
    pub takes_idempotency_keys: bool,
}

impl StreamProperties {
    /// What holds for both.
    pub fn and(self, other: Self) -> Self {
        Self {
            takes_idempotency_keys: self.takes_idempotency_keys && other.takes_idempotency_keys,
        }
    }
}

impl From<Offer> for Digest {
    fn from(offer: Offer) -> Self {
        offer.digest
    }
}
