//! What a handler sees of its entity: at its turn, the state that the message before it left; in a
//! read beside the queue, one committed version.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use metrics::counter;

use super::Active;
use super::cell::Cell;
use super::commit::{CommitId, Delivery};
use super::layers::{Outdated, Repetition};
use super::record::{Kept, Once};
use super::store::{Found, Look, LookError, Seen, What};
use super::turn::HeldTurn;
use crate::runtime::{Loading, StateError, StateView};
use crate::state::{Name, Page, Range, Values};
use crate::telemetry::names;

/// The state at a message's turn.
pub(super) struct TurnView(pub(super) HeldTurn);

/// One committed version.
pub(super) struct Snapshot {
    active: Arc<Active>,
    cell: Arc<Cell>,
    pub(super) last: Option<CommitId>,
    values: Mutex<Arc<Values>>,
}

impl From<Outdated> for StateError {
    fn from(Outdated: Outdated) -> Self {
        Self::Outdated
    }
}

impl From<LookError> for StateError {
    fn from(error: LookError) -> Self {
        match error {
            LookError::Data(_) => Self::Unreadable,
            LookError::Store(_) => Self::Unavailable,
        }
    }
}

impl Active {
    pub(super) async fn look(&self, cell: &Cell, what: What) -> Result<Seen, LookError> {
        let entity = cell.id.clone();
        if let What::Values = what {
            counter!(names::STATE_LOADS).increment(1);
        }
        self.store.look(Look::At(entity, what)).await
    }

    /// The entity's last commit, which is `expected`, probably.
    pub(super) async fn last(
        &self,
        cell: &Cell,
        expected: Option<CommitId>,
    ) -> Result<Option<CommitId>, LookError> {
        let mark = self.store.mark();
        if mark.is_some_and(|mark| cell.lock().layers.was_last_at(expected, mark)) {
            return Ok(expected);
        }
        let Seen { last, .. } = self.look(cell, What::Last).await?;
        if let Some(mark) = mark {
            cell.lock().layers.note_last_at(last, mark);
        }
        Ok(last)
    }
}

impl TurnView {
    /// Whether a message that was sent took effect already, or was cancelled: by what is not committed
    /// yet, and, if the store is to be asked, by what is.
    ///
    /// # Errors
    /// Why that cannot be told.
    pub(super) async fn is_gone(
        &self,
        delivery: &Delivery,
        asks: bool,
    ) -> Result<bool, StateError> {
        let before = {
            let entity = self.0.cell.lock();
            if entity.layers.is_gone(self.0.run, delivery)? {
                return Ok(true);
            }
            entity.layers.expected(self.0.run)?
        };
        if !asks {
            return Ok(false);
        }
        let seen = self.0.active.look(&self.0.cell, What::Sent(delivery.id));
        let Seen { last, found } = seen.await?;
        self.0
            .cell
            .lock()
            .layers
            .compare(self.0.run, before, last)?;
        match found {
            Found::Sent(is_there) => Ok(!is_there),
            _ => Err(StateError::Unavailable),
        }
    }

    /// What is kept of an earlier message that this one repeats.
    ///
    /// # Errors
    /// Why that cannot be told.
    pub(super) async fn repeats(&self, once: &Once) -> Result<Option<Kept>, StateError> {
        let (before, ids) = {
            let entity = self.0.cell.lock();
            match entity.layers.repetition(self.0.run, once)? {
                Repetition::No => return Ok(None),
                Repetition::Of(kept) => return Ok(Some(kept)),
                Repetition::Unknown(ids) => (entity.layers.expected(self.0.run)?, ids),
            }
        };
        for id in ids {
            let seen = self.0.active.look(&self.0.cell, What::Record(id));
            let Seen { last, found } = seen.await?;
            self.0
                .cell
                .lock()
                .layers
                .compare(self.0.run, before, last)?;
            match found {
                // The entity has no commits.
                Found::Nothing => return Ok(None),
                Found::Record(None) => {}
                Found::Record(kept) => return Ok(kept),
                _ => return Err(StateError::Unavailable),
            }
        }
        Ok(None)
    }
}

impl StateView for TurnView {
    fn settled(&self) -> Loading<'_, ()> {
        Box::pin(self.0.settled())
    }

    fn get(&self, name: &str) -> Result<Option<Option<Bytes>>, StateError> {
        Ok(self.0.cell.lock().layers.get(self.0.run, name)?)
    }

    fn load<'a>(&'a self, name: &'a str) -> Loading<'a, Option<Bytes>> {
        Box::pin(async move {
            let before = self.0.cell.lock().layers.expected(self.0.run)?;
            let name: Name = name.into();
            let seen = self.0.active.look(&self.0.cell, What::Value(name.clone()));
            let Seen { last, found } = seen.await?;
            let value = value_of(found)?;
            let learned =
                self.0
                    .cell
                    .lock()
                    .layers
                    .learn(self.0.run, before, last, name, value.clone());
            learned?;
            self.0.cell.recharge(&self.0.active);
            Ok(value)
        })
    }

    fn scan<'a>(&'a self, range: &'a Range) -> Loading<'a, Page> {
        Box::pin(async move {
            let (before, uncommitted) = {
                let entity = self.0.cell.lock();
                if let Some(page) = entity.layers.page(self.0.run, range)? {
                    return Ok(page);
                }
                (
                    entity.layers.expected(self.0.run)?,
                    entity.layers.uncommitted(self.0.run)?,
                )
            };
            let seen = self.0.active.look(&self.0.cell, What::Page(range.clone()));
            let Seen { last, found } = seen.await?;
            self.0
                .cell
                .lock()
                .layers
                .compare(self.0.run, before, last)?;
            Ok(uncommitted.on_top_of(page_of(found)?, range))
        })
    }
}

impl Snapshot {
    pub(super) fn new(
        active: Arc<Active>,
        cell: Arc<Cell>,
        last: Option<CommitId>,
        values: Arc<Values>,
    ) -> Self {
        let values = Mutex::new(values);
        Self {
            active,
            cell,
            last,
            values,
        }
    }

    fn values(&self) -> std::sync::MutexGuard<'_, Arc<Values>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found, if it is of this version.
    async fn look(&self, what: What) -> Result<Found, StateError> {
        let Seen { last, found } = self.active.look(&self.cell, what).await?;
        if last == self.last {
            return Ok(found);
        }
        self.cell.lock().layers.read_contradicted(self.last, last);
        Err(StateError::Outdated)
    }
}

impl StateView for Snapshot {
    fn settled(&self) -> Loading<'_, ()> {
        Box::pin(async { self.look(What::Last).await.map(drop) })
    }

    fn get(&self, name: &str) -> Result<Option<Option<Bytes>>, StateError> {
        Ok(self.values().get(name).map(|value| value.cloned()))
    }

    fn load<'a>(&'a self, name: &'a str) -> Loading<'a, Option<Bytes>> {
        Box::pin(async move {
            let value = value_of(self.look(What::Value(name.into())).await?)?;
            Arc::make_mut(&mut self.values()).learn(name.into(), value.clone());
            Ok(value)
        })
    }

    fn scan<'a>(&'a self, range: &'a Range) -> Loading<'a, Page> {
        Box::pin(async move {
            if let Some(page) = self.values().page(range) {
                return Ok(page);
            }
            page_of(self.look(What::Page(range.clone())).await?)
        })
    }
}

fn value_of(found: Found) -> Result<Option<Bytes>, StateError> {
    match found {
        Found::Value(value) => Ok(value),
        _ => Err(StateError::Unavailable),
    }
}

fn page_of(found: Found) -> Result<Page, StateError> {
    match found {
        Found::Page(page) => Ok(page),
        _ => Err(StateError::Unavailable),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::cache::Cache;
    use super::super::commit::{EntityId, Outcome};
    use super::super::record::RecordedUntil;
    use super::super::store::Store;
    use super::*;
    use crate::message::{PartitionKey, StreamName};
    use crate::state::Writes;

    fn bytes(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    #[tokio::test]
    async fn a_scan_has_what_is_committed_while_the_store_looks() {
        let cell = Arc::new(Cell::new(EntityId {
            stream: StreamName::try_from("cart").unwrap(),
            key: PartitionKey::try_from("ada").unwrap(),
        }));
        let committed = CommitId::new();
        let asked = cell.clone();
        let store = Store::answered_by(move || {
            asked.lock().commit_ended(Outcome::Committed);
            // It began to look before that.
            let values = [("a".into(), bytes("1"))];
            Seen {
                last: Some(committed),
                found: Found::Page(Page::of(values.into_iter(), 10)),
            }
        });
        let (seq, run) = {
            let mut entity = cell.lock();
            let (first, _) = entity.arrive(2, None).unwrap();
            let run = entity.take_turn(first, || unreachable!()).unwrap().unwrap();
            let loaded = Values::new([("a".into(), bytes("1"))], false);
            entity
                .layers
                .install(Some(committed), loaded.into(), RecordedUntil::default());
            let mut writes = Writes::default();
            writes.put("b".into(), Some(bytes("2")));
            entity.finish(first, run, writes.into());
            entity.layers.begin_commit(&cell.id).unwrap();
            let (second, _) = entity.arrive(2, None).unwrap();
            let run = entity.take_turn(second, || unreachable!()).unwrap();
            (second, run.unwrap())
        };
        let active = Arc::new(Active {
            store,
            store_id: Uuid::nil(),
            cache: Cache::new(1 << 20),
        });
        let view = TurnView(HeldTurn::new(active, cell, seq, run));
        let page = view.scan(&Range::new("", "", 10)).await.unwrap();
        let names: Vec<&str> = page.values.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["a", "b"]);
    }
}
