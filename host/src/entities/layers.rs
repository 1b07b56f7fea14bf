//! The state of one entity: what was committed last, the commit that the store is working on, and
//! what gathers on top of it. No I/O and no clock.

use std::sync::Arc;

use bytes::Bytes;

use super::commit::{Changes, Commit, CommitId, Delivery, EntityId, Mark, Outcome};
use super::record::{Kept, Once, RecordId, Recorded, RecordedUntil};
use crate::message::Sending;
use crate::state::{Name, Page, Range, Values};

/// The committed state, and up to two layers of writes on top of it.
#[derive(Debug, Default)]
pub(super) struct Layers {
    /// What was committed last, as far as this node knows; `None`: not loaded.
    committed: Option<Committed>,
    /// The commit that the store is working on.
    in_flight: Option<Layer>,
    /// The committer was told that there is something to commit, and has not taken it yet.
    is_handed_over: bool,
    /// What was written after it.
    gathering: Option<Layer>,
    next_number: u64,
    /// Counts the times at which uncommitted writes were dropped: what ran before is void.
    epoch: u64,
    /// The committed state turned out to be outdated while there were uncommitted writes: no message
    /// runs before their commit has ended, which it will without success.
    is_outdated: bool,
}

#[derive(Debug)]
struct Committed {
    /// `None`: nothing was committed ever.
    id: Option<CommitId>,
    values: Arc<Values>,
    recorded: Recorded,
    /// The store's mark at a moment at which this was its last commit.
    mark: Option<Mark>,
}

/// Writes that are not committed yet, on top of what is below.
#[derive(Debug)]
struct Layer {
    number: u64,
    id: CommitId,
    changes: Arc<Changes>,
}

/// Whether a message that has the turn repeats one that took effect.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Repetition {
    No,
    /// Of one that is not committed yet.
    Of(Kept),
    /// The store knows, under these ids.
    Unknown(Vec<RecordId>),
}

/// A run of a message: which state it sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    epoch: u64,
    /// Whether the committed state is in memory.
    pub(super) is_loaded: bool,
}

/// The state that a message sees, or a part of it, is not that of its run any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outdated;

/// The commits that a look at the store may find as the entity's last without contradiction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expected([Option<CommitId>; 2]);

/// Writes that are on top of the committed state, from the lowest to the uppermost.
#[derive(Debug)]
pub(super) struct Uncommitted(Vec<Arc<Changes>>);

impl Uncommitted {
    /// A page of committed values with these changes. They may be in it already.
    pub(super) fn on_top_of(&self, page: Page, range: &Range) -> Page {
        let on_top = |page: Page, changes: &Arc<Changes>| page.with(&changes.writes, range);
        self.0.iter().fold(page, on_top)
    }
}

/// How the commit in flight has ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// The number of its layer.
    pub(super) layer: u64,
    /// Messages may run again that could not as long as it was in flight.
    pub(super) was_outdated: bool,
}

impl Layers {
    /// A run that begins now; `None`: none may.
    pub(super) fn begin_run(&self) -> Option<Run> {
        (!self.is_outdated).then_some(Run {
            epoch: self.epoch,
            is_loaded: self.committed.is_some(),
        })
    }

    /// Whether messages may run.
    pub(super) fn may_run(&self) -> bool {
        !self.is_outdated
    }

    /// Whether what a run saw may still be committed.
    pub(super) fn is_valid(&self, run: Run) -> bool {
        run.epoch == self.epoch
    }

    /// Whether a run that ended without writes, on the commit `expected`, saw current state: the
    /// store was asked, and the last commit is `found`.
    pub(super) fn is_confirmed(
        &self,
        run: Run,
        expected: Option<CommitId>,
        found: Option<CommitId>,
    ) -> bool {
        match &self.committed {
            // Later messages committed on top of what this one saw, so it was current then.
            Some(committed) if self.is_valid(run) => found == expected || committed.id != expected,
            _ => false,
        }
    }

    /// Takes over what was loaded from the store, unless it is known already.
    pub(super) fn install(
        &mut self,
        id: Option<CommitId>,
        values: Arc<Values>,
        until: RecordedUntil,
    ) {
        if self.committed.is_none() {
            self.committed = Some(Committed {
                id,
                values,
                recorded: Recorded::new(until),
                mark: None,
            });
        }
    }

    /// The committed state, if it is loaded, for a read beside the queue.
    pub(super) fn snapshot(&self) -> Option<(Option<CommitId>, Arc<Values>)> {
        let committed = self.committed.as_ref()?;
        Some((committed.id, committed.values.clone()))
    }

    /// Whether the store had this as the entity's last commit when it had this mark.
    pub(super) fn was_last_at(&self, id: Option<CommitId>, mark: Mark) -> bool {
        let committed = self.committed.as_ref();
        committed.is_some_and(|committed| committed.id == id && committed.mark == Some(mark))
    }

    /// The store has this as the entity's last commit, and had this mark before that was found.
    pub(super) fn note_last_at(&mut self, id: Option<CommitId>, mark: Mark) {
        if let Some(committed) = &mut self.committed
            && committed.id == id
        {
            committed.mark = Some(mark);
        }
    }

    /// A value as the message that has the turn sees it. `Ok(None)`: it must be loaded.
    pub(super) fn get(&self, run: Run, name: &str) -> Result<Option<Option<Bytes>>, Outdated> {
        let committed = self.committed(run)?;
        let written = self
            .layers()
            .rev()
            .find_map(|layer| layer.changes.writes.get(name));
        Ok(match written {
            Some(value) => Some(value.cloned()),
            None => committed.values.get(name).map(|value| value.cloned()),
        })
    }

    /// Whether the message that has the turn repeats an earlier one.
    pub(super) fn repetition(&self, run: Run, once: &Once) -> Result<Repetition, Outdated> {
        let committed = self.committed(run)?;
        let mut records = self.layers().flat_map(|layer| &layer.changes.records);
        if let Some(record) = records.find(|record| once.ids().any(|id| id == record.id)) {
            return Ok(Repetition::Of(record.kept.clone()));
        }
        let may_be_there = |id: &RecordId| committed.recorded.may_have(*id, once);
        let unknown: Vec<RecordId> = once.ids().filter(may_be_there).collect();
        Ok(if unknown.is_empty() {
            Repetition::No
        } else {
            Repetition::Unknown(unknown)
        })
    }

    /// Whether the message that has the turn was sent by a handler, and took effect already, or was
    /// cancelled, by what is not committed yet.
    pub(super) fn is_gone(&self, run: Run, delivery: &Delivery) -> Result<bool, Outdated> {
        self.committed(run)?;
        Ok(self.layers().any(|layer| {
            let Changes {
                sends, delivered, ..
            } = &*layer.changes;
            let timer = delivery.timer.as_ref();
            let set = timer.and_then(|name| sends.timers.get(name));
            // It comes before this node has heard that what set it is committed.
            let is_itself = |sending: &Sending| sending.id == delivery.id;
            delivered.iter().any(|earlier| earlier.id == delivery.id)
                || set.is_some_and(|set| !set.as_ref().is_some_and(is_itself))
        }))
    }

    /// A page of values as the message that has the turn sees it, if all values are known.
    /// `Ok(None)`: it must be loaded, and what is [uncommitted](Layers::uncommitted) is put on top.
    pub(super) fn page(&self, run: Run, range: &Range) -> Result<Option<Page>, Outdated> {
        let page = self.committed(run)?.values.page(range);
        Ok(page.map(|page| self.layered().on_top_of(page, range)))
    }

    /// What is not committed at the moment. Until the message that has the turn ends nobody writes
    /// more, so that it goes on top of whatever is committed meanwhile: of that, too.
    pub(super) fn uncommitted(&self, run: Run) -> Result<Uncommitted, Outdated> {
        self.committed(run)?;
        Ok(self.layered())
    }

    fn layered(&self) -> Uncommitted {
        Uncommitted(self.layers().map(|layer| layer.changes.clone()).collect())
    }

    /// What a look at the store that begins or ends now may find.
    pub(super) fn expected(&self, run: Run) -> Result<Expected, Outdated> {
        let committed = self.committed(run)?.id;
        let in_flight = self.in_flight.as_ref().map(|layer| layer.id);
        Ok(Expected([committed, in_flight.or(committed)]))
    }

    /// Takes over a value that was loaded during a run: the store said that the entity's last
    /// commit was `found`, and `before` was expected when the look began.
    pub(super) fn learn(
        &mut self,
        run: Run,
        before: Expected,
        found: Option<CommitId>,
        name: Name,
        value: Option<Bytes>,
    ) -> Result<(), Outdated> {
        self.compare(run, before, found)?;
        let is_overwritten = self
            .layers()
            .any(|layer| layer.changes.writes.get(&name).is_some());
        // A commit that ended during the look may have written it: it was not in it before, as
        // only this message has run since.
        if let Some(committed) = &mut self.committed
            && !is_overwritten
            && committed.values.get(&name).is_none()
        {
            Arc::make_mut(&mut committed.values).learn(name, value);
        }
        Ok(())
    }

    /// Compares what the store said with what was expected. If it contradicts, all that rests on
    /// the committed state is void.
    pub(super) fn compare(
        &mut self,
        run: Run,
        before: Expected,
        found: Option<CommitId>,
    ) -> Result<(), Outdated> {
        let after = self.expected(run)?;
        if before.0.contains(&found) || after.0.contains(&found) {
            return Ok(());
        }
        self.mark_outdated();
        Err(Outdated)
    }

    /// A read of the committed state, whose last commit was `read`, saw that it is `found`.
    pub(super) fn read_contradicted(&mut self, read: Option<CommitId>, found: Option<CommitId>) {
        let is_own = self.in_flight.as_ref().map(|layer| layer.id) == found;
        let is_current = self
            .committed
            .as_ref()
            .is_some_and(|committed| committed.id == read);
        // Otherwise it is only that this node's own commits are ahead of the read.
        if is_current && !(is_own && found.is_some()) {
            self.mark_outdated();
        }
    }

    /// An estimate of the memory of the values and writes.
    pub(super) fn memory(&self) -> usize {
        let committed = self.committed.as_ref();
        let values = committed.map_or(0, |committed| {
            committed.values.memory() + committed.recorded.memory()
        });
        let writes: usize = self.layers().map(|layer| layer.changes.memory()).sum();
        values + writes
    }

    /// The store has done with the commit in flight. If it did not commit, what ran on top is void,
    /// too.
    pub(super) fn commit_ended(&mut self, outcome: Outcome) -> Option<Ended> {
        let layer = self.in_flight.take()?;
        if outcome != Outcome::Committed {
            self.gathering = None;
            self.committed = None;
            self.epoch += 1;
        } else if let Some(committed) = &mut self.committed {
            committed.id = Some(layer.id);
            committed.mark = None;
            committed.recorded.add(&layer.changes.records);
            if !layer.changes.writes.is_empty() {
                Arc::make_mut(&mut committed.values).apply(&layer.changes.writes);
            }
        }
        Some(Ended {
            layer: layer.number,
            was_outdated: std::mem::take(&mut self.is_outdated),
        })
    }

    fn committed(&self, run: Run) -> Result<&Committed, Outdated> {
        match &self.committed {
            Some(committed) if run.epoch == self.epoch && !self.is_outdated => Ok(committed),
            _ => Err(Outdated),
        }
    }

    /// From the lowest to the uppermost.
    fn layers(&self) -> impl DoubleEndedIterator<Item = &Layer> {
        self.in_flight.iter().chain(&self.gathering)
    }

    /// Whether nothing is uncommitted.
    pub(super) fn are_committed(&self) -> bool {
        self.in_flight.is_none() && self.gathering.is_none()
    }

    /// The number of the uppermost one, if anything is uncommitted.
    pub(super) fn top(&self) -> Option<u64> {
        self.layers().next_back().map(|layer| layer.number)
    }

    /// The last commit, as far as this node knows.
    pub(super) fn last(&self) -> Option<CommitId> {
        self.committed.as_ref()?.id
    }

    /// Adds changes to those that gather. Returns the number of their layer.
    pub(super) fn write(&mut self, changes: Changes) -> u64 {
        if let Some(layer) = &mut self.gathering {
            Arc::make_mut(&mut layer.changes).append(changes);
            return layer.number;
        }
        let number = self.next_number;
        self.next_number += 1;
        self.gathering = Some(Layer {
            number,
            id: CommitId::new(),
            changes: Arc::new(changes),
        });
        number
    }

    /// Whether the committer is to be told that something has gathered.
    pub(super) fn hand_over(&mut self) -> bool {
        let is_news = self.gathering.is_some() && self.in_flight.is_none() && !self.is_handed_over;
        self.is_handed_over |= is_news;
        is_news
    }

    /// The committer takes what has gathered. `None`: it was void in the meantime.
    pub(super) fn begin_commit(&mut self, entity: &Arc<EntityId>) -> Option<Commit> {
        self.is_handed_over = false;
        let layer = self.gathering.take()?;
        let committed = self.committed.as_ref();
        let commit = Commit {
            entity: entity.clone(),
            expected: self.last(),
            id: layer.id,
            changes: layer.changes.clone(),
            recorded: committed.map_or_else(RecordedUntil::default, |committed| {
                committed.recorded.with(&layer.changes.records)
            }),
        };
        self.in_flight = Some(layer);
        Some(commit)
    }

    /// The committed state is outdated: it is loaded again once no writes are left on top of it. Those
    /// that are there go to the store all the same, on the commit that they were made on, so that
    /// it finds out for each message that rests on them.
    pub(super) fn mark_outdated(&mut self) {
        if self.are_committed() {
            self.committed = None;
            self.epoch += 1;
        } else {
            self.is_outdated = true;
        }
    }
}
