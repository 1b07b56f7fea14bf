//! What a node gossips about each stream that it offers.

use serde::Serialize;

use super::names::Digest;

/// A node's offer of one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "Digest")]
pub struct Offer {
    pub digest: Digest,
    pub properties: StreamProperties,
}

/// The properties of a stream that decide about retries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamProperties {
    /// The handler implements `Idempotency-Key`: a message with that header may run twice.
    pub takes_idempotency_keys: bool,
    /// Its entities have state.
    pub is_stateful: bool,
    /// A repetition of a message is known by its record.
    pub keeps_records: bool,
    /// The handler answers HTTP requests, whatever their path and method.
    pub takes_http: bool,
}

impl StreamProperties {
    /// The properties of a stream that one node offers with these and another with those: what
    /// holds whichever of them runs a message.
    pub fn and(self, other: Self) -> Self {
        Self {
            takes_idempotency_keys: self.takes_idempotency_keys && other.takes_idempotency_keys,
            is_stateful: self.is_stateful || other.is_stateful,
            keeps_records: self.keeps_records && other.keeps_records,
            takes_http: self.takes_http && other.takes_http,
        }
    }
}

impl From<Offer> for Digest {
    fn from(offer: Offer) -> Self {
        offer.digest
    }
}
