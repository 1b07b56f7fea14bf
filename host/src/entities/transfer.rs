//! Moves state between stores, and writes it out. Nothing of the mesh is needed for it.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::commit::{Commit, CommitId, EntityId, Outcome};
use super::outbox::Outbox;
use super::record::{RecordId, RecordedUntil};
use super::store::{
    Found, Imported, Listing, Look, Make, Order, Outstanding, Store, StoreError, What,
};
use super::{StateLocation, open};
use crate::message::{PartitionKey, StreamName};
use crate::state::{Name, PAGE_VALUES_MAX, Range, Writes, shown};

/// Entities that are read, and written, at once.
const BATCH: usize = 128;

/// Messages and kept replies, of up to a megabyte each, that are read and written at once.
const MESSAGES_BATCH: usize = 16;

/// How often an entity is read again because it was written meanwhile.
const READS_MAX: usize = 10;

/// Entities in the other store that are named.
const NAMED_MAX: usize = 10;

/// Why state cannot be moved.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("what there is to say cannot be written: {0}")]
    Output(#[from] io::Error),
}

/// What a copy has done.
#[derive(Debug, Default)]
pub struct Copied {
    pub copied: usize,
    /// Entities that the other store had already, from an earlier copy.
    pub there: usize,
    /// Entities that the other store has with another last commit: they were left as they are.
    pub differ: usize,
    /// The first of them.
    pub named: Vec<String>,
    /// Replies that are kept for repetitions, and messages and timers that have no answer yet; without
    /// those that the other store had already.
    pub records: u64,
    pub sends: u64,
}

/// An entity with all its values.
struct Whole {
    entity: Arc<EntityId>,
    last: CommitId,
    recorded: RecordedUntil,
    values: Vec<(Name, Bytes)>,
}

/// Writes every entity of a stream, or of all, as a line of JSON, in the order of their names.
///
/// # Errors
/// If the store cannot be read, or a line not be written.
pub async fn export(
    from: &StateLocation,
    cluster: &str,
    stream: Option<StreamName>,
    mut write: impl FnMut(&str) -> io::Result<()>,
) -> Result<(), TransferError> {
    let store = open_that_is_there(from, cluster).await?;
    each_batch(&store, stream, async |entities| {
        for entity in entities {
            write(&entity.line())?;
        }
        Ok(())
    })
    .await?;
    store.close().await;
    Ok(())
}

/// Copies every entity to another store, each with its last commit's id. An entity that is there
/// already is left as it is, so a copy can be repeated.
///
/// # Errors
/// If a store does not work. What was copied until then stays.
pub async fn copy(
    from: &StateLocation,
    to: &StateLocation,
    cluster: &str,
) -> Result<Copied, TransferError> {
    let (from, from_id) = open(
        from,
        cluster,
        Make::Never,
        outbox(),
        CancellationToken::new(),
    )
    .await?;
    let (to, to_id) = open(
        to,
        cluster,
        Make::IfMissing,
        outbox(),
        CancellationToken::new(),
    )
    .await?;
    if from_id == to_id {
        return Err(StoreError("both are the same store".into()).into());
    }
    // What belongs to an entity comes before it: once an entity is there, what it has sent may have been
    // delivered.
    let mut copied = Copied {
        records: copy_records(&from, &to).await?,
        sends: copy_sends(&from, &to).await?,
        ..Copied::default()
    };
    each_batch(&from, None, async |entities| {
        let puts = entities.into_iter().map(|entity| put(&to, entity));
        for (entity, put) in try_join_all(puts).await? {
            copied.note(&entity, put);
        }
        Ok(())
    })
    .await?;
    from.close().await;
    to.close().await;
    Ok(copied)
}

async fn copy_records(from: &Store, to: &Store) -> Result<u64, StoreError> {
    let (mut after, mut copied) = (RecordId::FIRST, 0);
    loop {
        let look = Look::Records(after, MESSAGES_BATCH);
        let Found::Records(records, last) = from.look(look).await?.found else {
            return Err(unexpected());
        };
        let sends = Vec::new();
        copied += to.order(Order::Import(Imported { records, sends })).await?;
        match last {
            Some(last) => after = last,
            None => return Ok(copied),
        }
    }
}

async fn copy_sends(from: &Store, to: &Store) -> Result<u64, StoreError> {
    let mut copied = 0;
    let mut wanted = Outstanding {
        is_stuck: false,
        after: Uuid::nil(),
        limit: MESSAGES_BATCH,
        with_text: true,
    };
    loop {
        let (sends, last) = from.outstanding(&wanted).await?;
        let records = Vec::new();
        copied += to.order(Order::Import(Imported { records, sends })).await?;
        match last {
            Some(last) => wanted.after = last,
            None => return Ok(copied),
        }
    }
}

/// Opens a store that must be there.
///
/// # Errors
/// If it cannot be opened.
pub(super) async fn open_that_is_there(
    from: &StateLocation,
    cluster: &str,
) -> Result<Store, StoreError> {
    let ended = CancellationToken::new();
    let (store, _) = open(from, cluster, Make::Never, outbox(), ended).await?;
    Ok(store)
}

/// Delivers nothing.
fn outbox() -> Arc<Outbox> {
    Outbox::new("copy".try_into().expect("it is a name"))
}

impl Copied {
    fn note(&mut self, entity: &EntityId, put: Put) {
        match put {
            Put::Copied => self.copied += 1,
            Put::There => self.there += 1,
            Put::Differs => {
                self.differ += 1;
                if self.named.len() < NAMED_MAX {
                    self.named.push(entity.to_string());
                }
            }
        }
    }
}

enum Put {
    Copied,
    There,
    Differs,
}

async fn put(to: &Store, whole: Whole) -> Result<(Arc<EntityId>, Put), StoreError> {
    let Whole {
        entity,
        last,
        recorded,
        values,
    } = whole;
    let mut writes = Writes::default();
    for (name, value) in values {
        writes.put(name, Some(value));
    }
    let commit = Commit {
        entity: entity.clone(),
        expected: None,
        id: last,
        changes: Arc::new(writes.into()),
        recorded,
    };
    let put = match to.commit_one(commit).await {
        Outcome::Committed => Put::Copied,
        Outcome::Fenced => {
            let there = to.look(Look::At(entity.clone(), What::Last)).await?;
            if there.last == Some(last) {
                Put::There
            } else {
                Put::Differs
            }
        }
        Outcome::Unavailable => return Err(StoreError(format!("{entity} could not be written"))),
        Outcome::Rejected => return Err(StoreError(format!("{entity} was rejected"))),
    };
    Ok((entity, put))
}

/// Reads all entities of a stream, or of all streams, in the order of their names.
async fn each_batch(
    store: &Store,
    only: Option<StreamName>,
    mut take: impl AsyncFnMut(Vec<Whole>) -> Result<(), TransferError>,
) -> Result<(), TransferError> {
    let mut next = match &only {
        Some(stream) => Some(stream.clone()),
        None => stream_after(store, "").await?,
    };
    while let Some(stream) = next {
        let mut after = String::new();
        loop {
            let keys = keys_after(store, &stream, &after).await?;
            let Some((last, _)) = keys.last() else { break };
            after.clone_from(last);
            let mut entities = Vec::with_capacity(keys.len());
            for (key, _) in keys {
                let key = key_of(&stream, key)?;
                let stream = stream.clone();
                entities.push(read(store, Arc::new(EntityId { stream, key })));
            }
            take(try_join_all(entities).await?).await?;
        }
        next = match only {
            Some(_) => None,
            None => stream_after(store, stream.as_str()).await?,
        };
    }
    Ok(())
}

async fn stream_after(store: &Store, after: &str) -> Result<Option<StreamName>, StoreError> {
    match store.look(Look::StreamAfter(after.to_owned())).await?.found {
        Found::Stream(None) => Ok(None),
        Found::Stream(Some(name)) => StreamName::try_from(name.as_str())
            .map(Some)
            .map_err(|error| StoreError(format!("the stream {name:?} cannot be one: {error}"))),
        _ => Err(unexpected()),
    }
}

async fn keys_after(
    store: &Store,
    stream: &StreamName,
    after: &str,
) -> Result<Vec<(String, CommitId)>, StoreError> {
    let listing = Listing {
        stream: stream.clone(),
        prefix: String::new(),
        after: after.to_owned(),
        limit: BATCH,
    };
    match store.look(Look::Entities(listing)).await?.found {
        Found::Entities(keys) => Ok(keys),
        _ => Err(unexpected()),
    }
}

/// # Errors
/// If no message can have it.
fn key_of(stream: &StreamName, key: String) -> Result<PartitionKey, StoreError> {
    PartitionKey::try_from(key.as_str()).map_err(|error| {
        StoreError(format!(
            "the row {stream}/{key} was not written by meshage, as no message can have its key ({error}): delete it, or give it another key"
        ))
    })
}

/// Reads all values of an entity, of one moment.
async fn read(store: &Store, entity: Arc<EntityId>) -> Result<Whole, StoreError> {
    for _ in 0..READS_MAX {
        if let Some(whole) = read_once(store, &entity).await? {
            return Ok(whole);
        }
    }
    Err(StoreError(format!(
        "{entity} was written each time it was read: stop what writes to it"
    )))
}

/// `None`: it was written meanwhile.
async fn read_once(store: &Store, entity: &Arc<EntityId>) -> Result<Option<Whole>, StoreError> {
    let seen = store.look(Look::At(entity.clone(), What::Values)).await?;
    let Found::Values(_, recorded) = seen.found else {
        return Err(unexpected());
    };
    let mut values = Vec::new();
    let mut first = seen.last;
    let mut range = Range::new("", "", PAGE_VALUES_MAX);
    loop {
        let seen = store
            .look(Look::At(entity.clone(), What::Page(range.clone())))
            .await?;
        let (Some(last), Found::Page(page)) = (seen.last, seen.found) else {
            return Err(unexpected());
        };
        if *first.get_or_insert(last) != last {
            return Ok(None);
        }
        values.extend(page.values);
        match page.until {
            Some(until) => range = range.behind(&until),
            None => {
                let entity = entity.clone();
                return Ok(Some(Whole {
                    entity,
                    last,
                    recorded,
                    values,
                }));
            }
        }
    }
}

fn unexpected() -> StoreError {
    StoreError("it answers something else".into())
}

impl Whole {
    fn line(&self) -> String {
        let values: Vec<_> = self
            .values
            .iter()
            .map(|(name, value)| shown(name, value))
            .collect();
        json!({
            "stream": self.entity.stream,
            "partitionKey": self.entity.key,
            "commitId": self.last.to_string(),
            "values": values,
        })
        .to_string()
    }
}
