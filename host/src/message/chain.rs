//! Chains of calls: which handlers wait for a message. They tell when a call would wait for itself.

use std::sync::Arc;

use uuid::Uuid;

use super::names::{PartitionKey, StreamName};
use super::request::Message;

/// Handlers that wait for one message at most.
pub const CHAIN_MAX: usize = 32;

/// The entities whose handlers wait for a message, from the one that began to the one that calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The message with which it began. Its id begins with the time: of two chains the one with the
    /// smaller root is the older.
    pub root: Uuid,
    pub callers: Vec<(StreamName, PartitionKey)>,
}

impl Chain {
    /// That of the messages with which the handler of this one calls. `None`: it is too long.
    pub fn through(message: &Message) -> Option<Arc<Self>> {
        let mut chain = match &message.chain {
            Some(chain) => Self::clone(chain),
            None => Self {
                root: message.id,
                callers: Vec::new(),
            },
        };
        let caller = (message.stream.clone(), message.partition_key.clone());
        chain.callers.push(caller);
        (chain.callers.len() <= CHAIN_MAX).then(|| Arc::new(chain))
    }

    pub fn has(&self, stream: &StreamName, key: &PartitionKey) -> bool {
        self.callers.iter().any(|(s, k)| s == stream && k == key)
    }

    pub fn is_younger_than(&self, root: Uuid) -> bool {
        self.root > root
    }

    /// As the text of a call to an entity that waits for it already.
    pub fn cycle(&self, stream: &StreamName, key: &PartitionKey) -> String {
        let entity = |stream: &StreamName, key: &PartitionKey| format!("{stream}/{key}");
        let callers = self.callers.iter().map(|(s, k)| entity(s, k));
        let chain: Vec<String> = callers.chain([entity(stream, key)]).collect();
        format!("a call that would wait for itself: {}", chain.join(" → "))
    }
}
