//! What operators see of entities: keys of a stream, and one entity with its values.

use std::sync::Arc;

use metrics::gauge;

use super::commit::EntityId;
use super::store::{Found, Listing, Look, Seen, Store, What};
use super::{Entities, StateLocation};
use crate::message::{PartitionKey, StreamName};
use crate::state::{Name, Page, Range};
use crate::telemetry::names;

/// An entity as the store has it.
#[derive(Debug)]
pub struct Described {
    /// The id of its last commit.
    pub commit_id: String,
    /// Its first values, in the order of their names.
    pub values: Page,
    /// Messages that wait for their turn on this node, run, or wait for their commit.
    pub queued: usize,
    /// Whether this node has it in memory.
    pub is_active: bool,
}

/// The store, and what of it is in memory.
#[derive(Debug)]
pub struct Status {
    /// Its kind.
    pub store: &'static str,
    pub is_working: bool,
    pub entities: usize,
    pub bytes: usize,
}

impl Entities {
    /// Nothing if no stateful plugin was loaded: the store is not open then.
    pub fn status(&self) -> Option<Status> {
        let active = self.active.get()?;
        Some(Status {
            store: match self.config.location {
                StateLocation::Sqlite(_) => "sqlite",
                StateLocation::Postgres(_) => "postgres",
                StateLocation::Nowhere(_) => "none",
            },
            is_working: active.store.is_working(),
            entities: active.cache.entities(),
            bytes: active.cache.bytes(),
        })
    }

    /// The keys of a stream's entities that begin with `prefix` and come after `after`, at most
    /// `limit`; each with the id of its last commit.
    ///
    /// # Errors
    /// If there is no store, or it does not work.
    pub async fn list(
        &self,
        stream: StreamName,
        prefix: String,
        after: String,
        limit: usize,
    ) -> Result<Vec<(String, String)>, String> {
        let listing = Listing {
            stream,
            prefix,
            after,
            limit,
        };
        let Seen { found, .. } = self.ask(Look::Entities(listing)).await?;
        let Found::Entities(keys) = found else {
            return Err("the store answers something else".into());
        };
        let keys = keys.into_iter();
        Ok(keys.map(|(key, id)| (key, id.to_string())).collect())
    }

    /// One entity with its first values after the name `after`; `None`: nothing was committed to it
    /// ever.
    ///
    /// # Errors
    /// If there is no store, or it does not work.
    pub async fn describe(
        &self,
        stream: &StreamName,
        key: &PartitionKey,
        after: Name,
        limit: usize,
    ) -> Result<Option<Described>, String> {
        let entity = Arc::new(EntityId {
            stream: stream.clone(),
            key: key.clone(),
        });
        let range = Range::new("", &after, limit);
        let Seen { last, found } = self.ask(Look::At(entity, What::Page(range))).await?;
        let (Some(last), Found::Page(values)) = (last, found) else {
            return Ok(None);
        };
        let cell = self
            .active
            .get()
            .and_then(|active| active.cache.peek(stream, key));
        Ok(Some(Described {
            commit_id: last.to_string(),
            values,
            queued: cell.as_ref().map_or(0, |cell| cell.lock().queued()),
            is_active: cell.is_some(),
        }))
    }

    pub(super) fn store(&self) -> Result<&Store, String> {
        let active = self.active.get();
        let active = active.ok_or("no stateful plugin was loaded, so no store is open")?;
        Ok(&active.store)
    }

    async fn ask(&self, look: Look) -> Result<Seen, String> {
        let seen = self.store()?.look(look).await;
        seen.map_err(|error| error.to_string())
    }

    /// Sets the gauges of what is in memory.
    pub fn show_gauges(&self) {
        if let Some(active) = self.active.get() {
            gauge!(names::STATE_ENTITIES).set(active.cache.entities() as f64);
            gauge!(names::STATE_CACHED_BYTES).set(active.cache.bytes() as f64);
        }
    }
}
