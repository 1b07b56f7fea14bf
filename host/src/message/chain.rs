//! Chains of calls: which handlers wait for a message. They tell when a call would wait for itself.

use std::sync::Arc;

use uuid::Uuid;

use super::names::{PartitionKey, StreamName};

/// Handlers that wait for one message at most.
pub const CHAIN_MAX: usize = 32;

/// The handlers that wait for a message, from the one that began to the one that calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Begins with the time at which the chain began: of two chains the one with the smaller root is
    /// the older.
    pub root: Uuid,
    /// The message with which it began may come again long after its deadline: a handler sent it, or it
    /// has an `Idempotency-Key`. What it calls is known by then.
    pub comes_again: bool,
    pub callers: Vec<Caller>,
}

/// A handler that waits for its call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub stream: StreamName,
    pub key: PartitionKey,
    /// Other messages of its entity wait for it.
    pub has_turn: bool,
}

impl Caller {
    fn is(&self, stream: &StreamName, key: &PartitionKey) -> bool {
        self.stream == *stream && self.key == *key
    }
}

impl Chain {
    /// That of the messages with which this caller calls. `None`: it is too long.
    pub fn with(mut self, caller: Caller) -> Option<Arc<Self>> {
        self.callers.push(caller);
        (self.callers.len() <= CHAIN_MAX).then(|| Arc::new(self))
    }

    pub fn has(&self, stream: &StreamName, key: &PartitionKey) -> bool {
        self.callers.iter().any(|caller| caller.is(stream, key))
    }

    /// Whether messages of this entity wait for the chain.
    pub fn holds(&self, stream: &StreamName, key: &PartitionKey) -> bool {
        let mut callers = self.callers.iter();
        callers.any(|caller| caller.has_turn && caller.is(stream, key))
    }

    /// Whether messages of any entity do.
    pub fn holds_any(&self) -> bool {
        self.callers.iter().any(|caller| caller.has_turn)
    }

    pub fn is_younger_than(&self, root: Uuid) -> bool {
        self.root > root
    }

    /// As the text of a call to an entity that waits for it already.
    pub fn cycle(&self, stream: &StreamName, key: &PartitionKey) -> String {
        let entity = |stream: &StreamName, key: &PartitionKey| format!("{stream}/{key}");
        let callers = self.callers.iter();
        let callers = callers.map(|caller| entity(&caller.stream, &caller.key));
        let chain: Vec<String> = callers.chain([entity(stream, key)]).collect();
        format!("a call that would wait for itself: {}", chain.join(" → "))
    }
}
