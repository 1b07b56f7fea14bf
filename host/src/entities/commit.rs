//! A commit: what is written to one entity at once, and how it went.

use std::fmt;
use std::sync::Arc;

use uuid::{NoContext, Timestamp, Uuid};

use super::record::{Record, RecordedUntil};
use crate::message::{PartitionKey, Sends, StoreTime, StreamName};
use crate::state::Writes;

/// An entity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct EntityId {
    pub(super) stream: StreamName,
    pub(super) key: PartitionKey,
}

impl EntityId {
    /// Stream and key, as they are ordered.
    pub(super) fn name(&self) -> (&str, &str) {
        (self.stream.as_str(), self.key.as_str())
    }
}

/// The id of a commit. It is compared for equality alone: ids are never used again, also if a store
/// is set back to an older backup.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct CommitId(Uuid);

/// A moment of a store: as long as it has the same one, nothing was committed to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark(pub(super) [u8; 48]);

/// What is committed to one entity, all or nothing.
#[derive(Debug, Clone)]
pub(super) struct Commit {
    pub(super) entity: Arc<EntityId>,
    /// The commit that must be the entity's last one; `None`: there must be none.
    pub(super) expected: Option<CommitId>,
    pub(super) id: CommitId,
    pub(super) changes: Arc<Changes>,
    /// What the entity's row says of its records afterwards.
    pub(super) recorded: RecordedUntil,
}

/// What messages have changed.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes {
    pub(super) writes: Writes,
    /// Of those of them that may be repeated.
    pub(super) records: Vec<Record>,
    /// The moment after which one of them takes no effect any more.
    pub(super) not_after: Option<StoreTime>,
    /// What they send.
    pub(super) sends: Sends,
    /// Those of them that handlers sent: they must not have taken effect, nor been
    /// cancelled.
    pub(super) delivered: Vec<Delivery>,
}

/// A message that a handler has sent.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    pub(super) id: Uuid,
    /// Its name, if it is a timer of the entity that it is for.
    pub(super) timer: Option<Arc<str>>,
}

/// How a commit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Committed,
    /// The entity's last commit was another one than expected, or it came too late for one of the
    /// messages, or one of those that were sent took effect before. Nothing was written.
    Fenced,
    /// The store could not commit. Nothing was written.
    Unavailable,
    /// The store rejects this commit, and would do so again. Nothing was written.
    Rejected,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
            && self.records.is_empty()
            && self.sends.is_empty()
            && self.delivered.is_empty()
    }

    /// Adds what a later message has changed.
    pub(super) fn append(&mut self, later: Self) {
        self.writes.append(later.writes);
        self.records.extend(later.records);
        self.sends.append(later.sends);
        self.delivered.extend(later.delivered);
        self.not_after = self.not_after.into_iter().chain(later.not_after).min();
    }

    /// An estimate of the memory that they take.
    pub(super) fn memory(&self) -> usize {
        let records = self.records.iter().map(Record::memory);
        self.writes.memory() + records.sum::<usize>() + self.sends.memory()
    }
}

impl From<Writes> for Changes {
    fn from(writes: Writes) -> Self {
        Self {
            writes,
            ..Self::default()
        }
    }
}

impl CommitId {
    pub(super) fn new() -> Self {
        Self(Uuid::new_v7(Timestamp::now(NoContext)))
    }

    pub(super) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    pub(super) fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.stream, self.key)
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
