//! An active entity: the state machine of `entity` with its lock, and the tasks that wait for it.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use uuid::Uuid;

use super::Active;
use super::commit::{Changes, Commit, CommitId, EntityId, Outcome};
use super::crossing::Crossed;
use super::entity::{Effects, Entity, Finished, Full, Seq};
use super::layers::Run;
use super::store::CommitOwner;
use crate::lanes::{LaneWaker, wake_all};
use crate::message::Chain;

/// An active entity.
pub(super) struct Cell {
    pub(super) id: Arc<EntityId>,
    entity: Mutex<Entity<LaneWaker>>,
    /// Whether it was used since the cache last looked for something to drop.
    used: AtomicBool,
    /// The memory of values and writes that the cache counts for it.
    charged: AtomicUsize,
    /// How many messages may write something soon, as the store was told last.
    coming: AtomicUsize,
}

/// The place of a message in the order of its entity's messages, until it is dropped.
pub(super) struct Ticket {
    pub(super) cell: Arc<Cell>,
    /// Messages of other entities wait for its answer.
    pub(super) holds_others: bool,
    seq: Seq,
    active: Arc<Active>,
}

impl Cell {
    pub(super) fn new(id: EntityId) -> Self {
        Self {
            id: Arc::new(id),
            entity: Mutex::default(),
            used: AtomicBool::new(true),
            charged: AtomicUsize::new(0),
            coming: AtomicUsize::new(0),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Entity<LaneWaker>> {
        self.entity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note_use(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it was used since this was last called.
    pub(super) fn take_use(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }
}

impl Cell {
    /// Has the cache count the memory that the values and writes take now.
    pub(super) fn recharge(&self, active: &Active) {
        let memory = self.lock().layers.memory();
        self.charge(memory, active);
    }

    fn charge(&self, now: usize, active: &Active) {
        let before = self.charged.swap(now, Ordering::Relaxed);
        if now > before {
            active.cache.grow(now - before);
        } else if now < before {
            active.cache.shrink(before - now);
        }
    }

    /// Tells the store how many messages may write something soon.
    fn announce(&self, entity: &Entity<LaneWaker>, active: &Active) {
        let coming = entity.coming();
        let before = self.coming.swap(coming, Ordering::Relaxed);
        active.store.note_coming(before, coming);
    }

    pub(super) fn charged(&self) -> usize {
        self.charged.load(Ordering::Relaxed)
    }
}

impl CommitOwner for Cell {
    fn begin_commit(&self) -> Option<Commit> {
        self.lock().layers.begin_commit(&self.id)
    }

    fn commit_ended(&self, outcome: Outcome, wake: &mut Vec<LaneWaker>) -> bool {
        let effects = self.lock().commit_ended(outcome);
        wake.extend(effects.wake);
        effects.hand_over
    }
}

impl Ticket {
    /// Joins the queue of an entity.
    ///
    /// # Errors
    /// If there are `max` messages in it.
    pub(super) fn new(
        cell: Arc<Cell>,
        active: Arc<Active>,
        max: usize,
        chain: Option<Arc<Chain>>,
    ) -> Result<Self, Full> {
        let holds_others = chain.as_ref().is_some_and(|chain| chain.holds_any());
        let mut entity = cell.lock();
        let (seq, effects) = entity.arrive(max, chain)?;
        cell.announce(&entity, &active);
        drop(entity);
        wake_all(effects.wake);
        Ok(Self {
            cell,
            holds_others,
            seq,
            active,
        })
    }

    /// Waits for the turn.
    pub(super) async fn turn(&self) -> Result<Run, Crossed> {
        poll_fn(|context| {
            let turn = self
                .cell
                .lock()
                .take_turn(self.seq, || LaneWaker::new(context));
            turn.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// The call of an older chain that it waits for at this moment.
    pub(super) fn waits_for_older(&self) -> Option<u32> {
        self.cell.lock().waits_for_older(self.seq)
    }

    /// Gives back the turn: the handler's call was refused. Returns whether another one goes first now.
    pub(super) fn give_way(&self, root: Uuid) -> bool {
        self.change(|entity| entity.give_way(self.seq, root))
    }

    pub(super) fn seq(&self) -> Seq {
        self.seq
    }

    /// Gives back the turn: the handler has ended, and wrote this.
    pub(super) fn finish(&self, run: Run, changes: Changes) -> Finished {
        self.change(|entity| entity.finish(self.seq, run, changes))
    }

    /// Gives back the turn: the state turned out to be outdated.
    pub(super) fn give_up_run(&self, run: Run) -> Finished {
        self.change(|entity| entity.give_up_run(self.seq, run))
    }

    /// The store was asked what the entity's last commit is.
    pub(super) fn checked(
        &self,
        run: Run,
        expected: Option<CommitId>,
        found: Option<CommitId>,
    ) -> Finished {
        self.change(|entity| entity.checked(self.seq, run, expected, found))
    }

    /// Waits until what the answer rests on is committed, or is not.
    pub(super) async fn settled(&self) -> Finished {
        poll_fn(|context| {
            let settled = self
                .cell
                .lock()
                .settled(self.seq, || LaneWaker::new(context));
            settled.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Changes the entity, has the cache count its memory, and does what follows from the change.
    fn change<R>(
        &self,
        change: impl FnOnce(&mut Entity<LaneWaker>) -> (R, Effects<LaneWaker>),
    ) -> R {
        let mut entity = self.cell.lock();
        let (result, effects) = change(&mut entity);
        let memory = entity.layers.memory();
        self.cell.announce(&entity, &self.active);
        drop(entity);
        self.cell.charge(memory, &self.active);
        if effects.hand_over {
            self.active.store.submit(self.cell.clone());
        } else if effects.has_merged {
            self.active.store.note_merged();
        }
        wake_all(effects.wake);
        result
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.change(|entity| ((), entity.leave(self.seq)));
    }
}
