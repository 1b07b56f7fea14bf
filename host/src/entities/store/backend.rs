//! What a database must be able to do, to be a store of entities. The conformance tests in
//! `conformance` run on every one.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::super::commit::{Commit, CommitId, EntityId, Outcome};
use super::super::letter::Waiting;
use super::super::outbox::{Chores, Tended};
use super::super::record::{Kept, Record, RecordId, RecordedUntil};
use crate::message::{StoreTime, StreamName};
use crate::state::{Name, Page, Range, Values};

/// Values that are loaded together with an entity, and their bytes, the last one not counted.
/// Others are loaded when they are asked for.
pub(super) const LOADED_VALUES_MAX: usize = 32;
pub(super) const LOADED_BYTES_MAX: usize = 64 << 10;

/// What to do if there is no store where one is to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::entities) enum Make {
    /// One is made.
    IfMissing,
    Never,
}

impl Make {
    /// # Errors
    /// If it must not be made.
    pub(super) fn check(self) -> Result<(), StoreError> {
        match self {
            Self::IfMissing => Ok(()),
            Self::Never => Err(StoreError("there is no state of meshage".into())),
        }
    }
}

/// One connection to the database.
pub(super) trait Backend: Send {
    /// Commits in one transaction. For each commit it compares the entity's last commit with the
    /// expected one, and the store's clock with the moment that is not to have passed, and writes all
    /// of it or nothing. What it returns is on disk. The outcomes are
    /// in the order of the commits, which are of different entities.
    ///
    /// # Errors
    /// If nothing was committed.
    fn commit(
        &mut self,
        commits: &[Commit],
    ) -> impl Future<Output = Result<Vec<Outcome>, StoreError>> + Send;

    /// Looks at what is committed. All of it is at least as new as the last commit that had ended
    /// when this was called; each answer is of one moment.
    ///
    /// # Errors
    /// If nothing could be read, or something of it is nothing that meshage has written.
    fn look(&mut self, looks: &[Look])
    -> impl Future<Output = Result<Vec<Seen>, LookError>> + Send;

    /// Deletes some of the records that nobody can ask for any more.
    ///
    /// # Errors
    /// If it could not.
    fn sweep(&mut self) -> impl Future<Output = Result<Swept, StoreError>> + Send;

    /// Does what is to be done at the outbox, and takes messages that are due.
    ///
    /// # Errors
    /// If it could not; nothing was taken.
    fn tend(&mut self, chores: &Chores) -> impl Future<Output = Result<Tended, StoreError>> + Send;

    /// Does what somebody outside of the mesh's own work asks for. Returns how many rows it changed.
    ///
    /// # Errors
    /// If it could not; a part of it may be done.
    fn carry_out(&mut self, order: &Order) -> impl Future<Output = Result<u64, StoreError>> + Send;
}

/// What operators ask for.
#[derive(Debug)]
pub(in crate::entities) enum Order {
    /// Delivers these messages, which were tried before, as if they were new.
    Retry(Vec<Uuid>),
    /// Takes over what another store has of entities that are not there yet.
    Import(Imported),
}

/// What belongs to no entity's own rows.
#[derive(Debug, Default)]
pub(in crate::entities) struct Imported {
    pub(in crate::entities) records: Vec<(EntityId, Record)>,
    pub(in crate::entities) sends: Vec<Waiting>,
}

/// What a sweep has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Swept {
    /// The store's clock.
    pub(super) now: StoreTime,
    /// Whether there is more to delete.
    pub(super) is_more: bool,
}

/// Records that a sweep looks at.
pub(super) const SWEPT_MAX: usize = 1000;

/// How looks failed.
#[derive(Debug, Clone, thiserror::Error)]
pub(in crate::entities) enum LookError {
    /// One of them asks for, or finds, what cannot be read; the store works.
    #[error("{0}")]
    Data(StoreError),
    #[error("{0}")]
    Store(StoreError),
}

impl From<LookError> for StoreError {
    fn from(error: LookError) -> Self {
        match error {
            LookError::Data(error) | LookError::Store(error) => error,
        }
    }
}

/// A question to the store.
#[derive(Debug, Clone)]
pub(in crate::entities) enum Look {
    At(Arc<EntityId>, What),
    /// The entities of a stream.
    Entities(Listing),
    /// The first stream with entities after this one, by the bytes of its name; empty: the first.
    StreamAfter(String),
    /// Messages that were sent and have no answer, in the order of their ids.
    Sends(Outstanding),
    /// Records after this id, in the order of their ids; at most so many.
    Records(RecordId, usize),
}

/// Which messages.
#[derive(Debug, Clone)]
pub(in crate::entities) struct Outstanding {
    /// Only those that are not tried again by themselves.
    pub(in crate::entities) is_stuck: bool,
    /// Only ids after this one.
    pub(in crate::entities) after: Uuid,
    pub(in crate::entities) limit: usize,
    /// What they say, too.
    pub(in crate::entities) with_text: bool,
}

/// For errors.
impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(entity, _) => write!(f, "{entity}"),
            Self::Entities(listing) => write!(f, "the entities of {}", listing.stream),
            Self::StreamAfter(_) => f.write_str("the streams"),
            Self::Sends(_) => f.write_str("the messages that were sent"),
            Self::Records(..) => f.write_str("the records"),
        }
    }
}

/// Which entities of a stream, in the order of their keys' bytes.
#[derive(Debug, Clone)]
pub(in crate::entities) struct Listing {
    pub(in crate::entities) stream: StreamName,
    pub(in crate::entities) prefix: String,
    /// Only keys after this one; empty: from the beginning.
    pub(in crate::entities) after: String,
    pub(in crate::entities) limit: usize,
}

#[derive(Debug, Clone)]
pub(in crate::entities) enum What {
    /// The last commit alone.
    Last,
    /// Its values, or some of them if they are many or large.
    Values,
    /// One value.
    Value(Name),
    /// Some values.
    Page(Range),
    /// What is kept of a message.
    Record(RecordId),
    /// Whether a message that was sent to it is still to take effect.
    Sent(Uuid),
}

/// What was seen.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::entities) struct Seen {
    /// The entity's last commit; `None`: nothing was committed to it ever.
    pub(in crate::entities) last: Option<CommitId>,
    pub(in crate::entities) found: Found,
}

#[derive(Debug, PartialEq, Eq)]
pub(in crate::entities) enum Found {
    Nothing,
    Values(Values, RecordedUntil),
    Value(Option<Bytes>),
    Page(Page),
    /// Keys, each with the last commit. What somebody wrote by hand may be no key.
    Entities(Vec<(String, CommitId)>),
    Stream(Option<String>),
    Record(Option<Kept>),
    Sent(bool),
    /// Each with the id of the last row, if there may be more. Rows that somebody wrote by hand may be
    /// missing.
    Sends(Vec<Waiting>, Option<Uuid>),
    Records(Vec<(EntityId, Record)>, Option<RecordId>),
}

/// Why the store cannot be used now.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub(in crate::entities) String);
