//! One entity: the queue of its messages, and the turn; what they write is in `layers`. A state
//! machine without I/O and without a clock: what happens goes in, what to do comes out.
//!
//! Messages run one after the other. When one has ended, the next begins at once, on what the one
//! before it wrote; replies wait until what they rest on is committed. One commit is in flight at a
//! time; what is written meanwhile gathers into the next one.

use std::collections::VecDeque;
use std::sync::Arc;

use uuid::Uuid;

use super::commit::{Changes, CommitId, Outcome};
use super::crossing::{Crossed, Crossing, Meeting};
use super::layers::{Ended, Layers, Outdated, Run};
use crate::message::{Chain, PartitionKey, StreamName};

/// How often a message runs again because another node has committed in the meantime. More often
/// than that happens only while nodes disagree about who owns the entity.
const RERUNS_MAX: u8 = 3;

/// Places in the queue for which an entity without messages keeps the memory.
const IDLE_PLACES_MAX: usize = 4;

/// The place of a message in its entity's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seq(u64);

/// An entity that messages wait for, run on, or that is cached. `W` wakes who waits.
#[derive(Debug)]
pub(super) struct Entity<W> {
    next_seq: u64,
    /// By their place in the order.
    messages: VecDeque<Entry<W>>,
    /// Those that wait for their turn, in the same order.
    waiting: VecDeque<Seq>,
    /// Whose handler runs.
    turn: Option<Seq>,
    /// What it calls.
    crossing: Crossing,
    /// Who waits until what the message that has the turn saw is committed.
    settling: Vec<W>,
    /// What they see and write.
    pub(super) layers: Layers,
}

#[derive(Debug)]
struct Entry<W> {
    seq: Seq,
    phase: Phase,
    reruns: u8,
    waker: Option<W>,
    /// The handlers that wait for it.
    chain: Option<Arc<Chain>>,
    /// It would wait for a handler that waits for it: it is refused.
    is_crossed: bool,
    /// Its root, if its own call was refused for that reason: messages of older roots go first now.
    gave_way: Option<Uuid>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// For its turn.
    Waiting,
    /// Its handler runs, or has ended and what it rests on is being compared with the store.
    Running,
    Checking,
    /// Its handler has ended; its answer rests on this layer, and on all below.
    Resting {
        layer: u64,
    },
    Settled(Settled),
}

/// How it went on with a message whose handler has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// What its answer rests on is committed.
    Released,
    /// It ran on outdated state too often.
    Contended,
    /// The store did not commit; nothing was done.
    Unavailable,
    /// The store rejects what was written; nothing was done.
    Rejected,
}

/// What a message whose handler has ended waits for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finished {
    /// Until it is settled.
    Rests,
    /// It rests on nothing but the committed state: the store must still have this commit as the
    /// entity's last.
    Check(Option<CommitId>),
    /// It ran on outdated state: it waits for another turn.
    Again,
    Settled(Settled),
}

/// What is to be done after a change, once no lock is held.
#[derive(Debug)]
pub(super) struct Effects<W> {
    pub(super) wake: Vec<W>,
    /// The committer is to be told that there is something to commit.
    pub(super) hand_over: bool,
    /// More was written on top of what the committer knows of.
    pub(super) has_merged: bool,
}

impl<W> Default for Effects<W> {
    fn default() -> Self {
        Self {
            wake: Vec::new(),
            hand_over: false,
            has_merged: false,
        }
    }
}

/// The queue of an entity is full.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl<W> Default for Entity<W> {
    fn default() -> Self {
        Self {
            next_seq: 0,
            messages: VecDeque::new(),
            waiting: VecDeque::new(),
            turn: None,
            crossing: Crossing::default(),
            settling: Vec::new(),
            layers: Layers::default(),
        }
    }
}

impl<W> Entity<W> {
    /// Puts a message, for which the handlers of this chain wait, at the end of the queue.
    ///
    /// # Errors
    /// If there are `max` messages already that wait, run, or wait for their commit.
    pub(super) fn arrive(
        &mut self,
        max: usize,
        chain: Option<Arc<Chain>>,
    ) -> Result<(Seq, Effects<W>), Full> {
        if self.messages.len() >= max {
            return Err(Full);
        }
        let mut effects = Effects::default();
        let seq = Seq(self.next_seq);
        self.next_seq += 1;
        self.messages.push_back(Entry {
            seq,
            phase: Phase::Waiting,
            reruns: 0,
            waker: None,
            chain,
            is_crossed: false,
            gave_way: None,
        });
        self.waiting.push_back(seq);
        self.cross(seq, &mut effects);
        Ok((seq, effects))
    }

    /// Takes the turn, if the message is the next. Otherwise it is woken when it is.
    pub(super) fn take_turn(
        &mut self,
        seq: Seq,
        waker: impl FnOnce() -> W,
    ) -> Option<Result<Run, Crossed>> {
        if self.entry(seq).is_crossed {
            return Some(Err(Crossed));
        }
        if self.turn.is_none()
            && self.next() == Some(seq)
            && let Some(run) = self.layers.begin_run()
        {
            if let Ok(index) = self.waiting.binary_search(&seq) {
                self.waiting.remove(index);
            }
            self.turn = Some(seq);
            let entry = self.entry(seq);
            entry.phase = Phase::Running;
            entry.gave_way = None;
            return Some(Ok(run));
        }
        self.entry(seq).waker = Some(waker());
        None
    }

    /// Whose turn is next: the first in the order, unless it has given way to older ones.
    fn next(&self) -> Option<Seq> {
        let &first = self.waiting.front()?;
        let Some(root) = self.entry_of(first).gave_way else {
            return Some(first);
        };
        let roots = self.waiting.iter().filter_map(|&seq| {
            let chain = self.entry_of(seq).chain.as_ref()?;
            Some((chain.root, seq))
        });
        let oldest = roots.filter(|(other, _)| *other < root).min();
        Some(oldest.map_or(first, |(_, seq)| seq))
    }

    /// Whether what the message that has the turn saw is committed. `None`: it is woken when that may
    /// have changed.
    pub(super) fn is_settled(
        &mut self,
        seq: Seq,
        run: Run,
        waker: impl FnOnce() -> W,
    ) -> Option<Result<(), Outdated>> {
        if self.turn != Some(seq) || !self.layers.is_valid(run) || !self.layers.may_run() {
            return Some(Err(Outdated));
        }
        if self.layers.are_committed() {
            return Some(Ok(()));
        }
        self.settling.push(waker());
        None
    }

    /// The message that has the turn calls another entity, and waits for its turn, unless it reads there;
    /// `root` is that of its chain.
    pub(super) fn begin_call(
        &mut self,
        root: Uuid,
        to: Option<(StreamName, PartitionKey)>,
    ) -> Effects<W> {
        let mut effects = Effects::default();
        self.crossing.begin(root, to);
        for index in 0..self.waiting.len() {
            self.cross(self.waiting[index], &mut effects);
        }
        effects
    }

    /// A message waits for the turn, and the message that has it may wait for that one: the younger of
    /// the two chains is refused.
    fn cross(&mut self, seq: Seq, effects: &mut Effects<W>) {
        let index = self.index(seq);
        let entry = &mut self.messages[index];
        let Some(chain) = &entry.chain else { return };
        match self.crossing.meet(chain) {
            Meeting::Nobody => {}
            Meeting::Waiting => {
                entry.is_crossed = true;
                effects.wake.extend(entry.waker.take());
            }
            Meeting::Turn => {
                if let Some(turn) = self.turn {
                    effects.wake.extend(self.entry(turn).waker.take());
                }
            }
        }
    }

    /// Whether the call of the message that has the turn is to end. If not, it is woken when it is.
    pub(super) fn is_call_crossed(&mut self, seq: Seq, waker: impl FnOnce() -> W) -> bool {
        let is_crossed = self.crossing.is_crossed();
        if !is_crossed && self.turn == Some(seq) {
            self.entry(seq).waker = Some(waker());
        }
        is_crossed
    }

    /// The call has ended.
    pub(super) fn end_call(&mut self, seq: Seq) {
        if self.turn == Some(seq) {
            self.crossing.end();
        }
    }

    /// The call that a waiting message waits for, if that is of an older chain.
    pub(super) fn waits_for_older(&self, seq: Seq) -> Option<u32> {
        let chain = self.entry_of(seq).chain.as_ref()?;
        self.crossing.older_than(chain)
    }

    fn end_turn(&mut self) {
        self.turn = None;
        self.crossing.end();
    }

    /// The message that has the turn, of this root, gives it back: its call was refused. Older ones go
    /// first, if there are any.
    pub(super) fn give_way(&mut self, seq: Seq, root: Uuid) -> (bool, Effects<W>) {
        let mut effects = Effects::default();
        self.end_turn();
        let entry = self.entry(seq);
        entry.phase = Phase::Waiting;
        entry.gave_way = Some(root);
        if let Err(index) = self.waiting.binary_search(&seq) {
            self.waiting.insert(index, seq);
        }
        self.wake_next(&mut effects);
        (self.next() != Some(seq), effects)
    }

    /// The handler of the message that has the turn has ended, with these changes; without any if it
    /// failed.
    pub(super) fn finish(
        &mut self,
        seq: Seq,
        run: Run,
        changes: Changes,
    ) -> (Finished, Effects<W>) {
        let mut effects = Effects::default();
        self.end_turn();
        let finished = if !self.layers.is_valid(run) || !self.layers.may_run() {
            self.run_again(seq)
        } else if !changes.is_empty() {
            let layer = self.layers.write(changes);
            self.entry(seq).phase = Phase::Resting { layer };
            effects.hand_over = self.layers.hand_over();
            effects.has_merged = !effects.hand_over;
            Finished::Rests
        } else {
            self.rest(seq)
        };
        self.wake_next(&mut effects);
        (finished, effects)
    }

    /// The answer rests on the uppermost layer, or on the committed state alone.
    fn rest(&mut self, seq: Seq) -> Finished {
        let (phase, finished) = match self.layers.top() {
            Some(layer) => (Phase::Resting { layer }, Finished::Rests),
            None => (Phase::Checking, Finished::Check(self.layers.last())),
        };
        self.entry(seq).phase = phase;
        finished
    }

    /// The store was asked, after the message's run: the entity's last commit is `found`, and the
    /// message ran on `expected`.
    pub(super) fn checked(
        &mut self,
        seq: Seq,
        run: Run,
        expected: Option<CommitId>,
        found: Option<CommitId>,
    ) -> (Finished, Effects<W>) {
        let mut effects = Effects::default();
        let finished = if self.layers.is_confirmed(run, expected, found) {
            Finished::Settled(Settled::Released)
        } else if self.layers.is_valid(run) && !self.layers.are_committed() {
            // What is not committed yet was written after this one's run: if it is committed, nobody
            // else has been there.
            self.rest(seq)
        } else {
            if self.layers.is_valid(run) {
                self.layers.mark_outdated();
            }
            let finished = self.run_again(seq);
            self.wake_next(&mut effects);
            finished
        };
        (finished, effects)
    }

    /// How a message that rests was settled. `None`: not yet, it is woken then.
    pub(super) fn settled(&mut self, seq: Seq, waker: impl FnOnce() -> W) -> Option<Finished> {
        let entry = self.entry(seq);
        match entry.phase {
            Phase::Settled(settled) => Some(Finished::Settled(settled)),
            Phase::Waiting => Some(Finished::Again),
            Phase::Running | Phase::Checking | Phase::Resting { .. } => {
                entry.waker = Some(waker());
                None
            }
        }
    }

    /// The message that has the turn saw that the state is outdated: it waits for another turn.
    pub(super) fn give_up_run(&mut self, seq: Seq, run: Run) -> (Finished, Effects<W>) {
        let mut effects = Effects::default();
        self.end_turn();
        if self.layers.is_valid(run) {
            self.layers.mark_outdated();
        }
        let finished = self.run_again(seq);
        self.wake_next(&mut effects);
        (finished, effects)
    }

    /// A message is gone: it has been answered, or nobody waits for it any more.
    pub(super) fn leave(&mut self, seq: Seq) -> Effects<W> {
        let mut effects = Effects::default();
        if let Ok(index) = self.messages.binary_search_by_key(&seq, |entry| entry.seq) {
            self.messages.remove(index);
        }
        if let Ok(index) = self.waiting.binary_search(&seq) {
            self.waiting.remove(index);
        }
        if self.turn == Some(seq) {
            self.end_turn();
        }
        if self.messages.is_empty() {
            self.messages.shrink_to(IDLE_PLACES_MAX);
            self.waiting.shrink_to(IDLE_PLACES_MAX);
        }
        self.wake_next(&mut effects);
        effects
    }

    /// The store has done with the commit in flight.
    pub(super) fn commit_ended(&mut self, outcome: Outcome) -> Effects<W> {
        let mut effects = Effects::default();
        let Some(Ended {
            layer,
            was_outdated,
        }) = self.layers.commit_ended(outcome)
        else {
            return effects;
        };
        effects.wake.append(&mut self.settling);
        if outcome == Outcome::Committed {
            self.settle(&mut effects, |resting| {
                (resting <= layer).then_some(Settled::Released)
            });
            effects.hand_over = self.layers.hand_over();
            if was_outdated {
                self.wake_next(&mut effects);
            }
            return effects;
        }
        self.settle(&mut effects, |resting| match outcome {
            Outcome::Unavailable => Some(Settled::Unavailable),
            Outcome::Rejected if resting <= layer => Some(Settled::Rejected),
            _ => None,
        });
        for index in 0..self.messages.len() {
            if let Phase::Resting { .. } = self.messages[index].phase {
                let seq = self.messages[index].seq;
                self.run_again(seq);
                effects.wake.extend(self.messages[index].waker.take());
            }
        }
        self.wake_next(&mut effects);
        effects
    }

    /// Settles the messages that rest on layers, as `how` says for each layer.
    fn settle(&mut self, effects: &mut Effects<W>, how: impl Fn(u64) -> Option<Settled>) {
        for entry in &mut self.messages {
            if let Phase::Resting { layer } = entry.phase
                && let Some(settled) = how(layer)
            {
                entry.phase = Phase::Settled(settled);
                effects.wake.extend(entry.waker.take());
            }
        }
    }

    /// Whether nothing but the cached state is left.
    pub(super) fn is_idle(&self) -> bool {
        self.messages.is_empty() && self.layers.are_committed()
    }

    /// Messages that wait, run, or wait for their commit.
    pub(super) fn queued(&self) -> usize {
        self.messages.len()
    }

    /// Messages that may write something yet: they wait for their turn, or run.
    pub(super) fn coming(&self) -> usize {
        self.waiting.len() + usize::from(self.turn.is_some())
    }

    fn run_again(&mut self, seq: Seq) -> Finished {
        let entry = self.entry(seq);
        entry.reruns += 1;
        if entry.reruns > RERUNS_MAX {
            entry.phase = Phase::Settled(Settled::Contended);
            return Finished::Settled(Settled::Contended);
        }
        entry.phase = Phase::Waiting;
        if let Err(index) = self.waiting.binary_search(&seq) {
            self.waiting.insert(index, seq);
        }
        Finished::Again
    }

    /// Wakes the message whose turn is next.
    fn wake_next(&mut self, effects: &mut Effects<W>) {
        if self.turn.is_none() {
            // What the message left behind may still wait.
            effects.wake.append(&mut self.settling);
        }
        if self.turn.is_none()
            && self.layers.may_run()
            && let Some(seq) = self.next()
        {
            effects.wake.extend(self.entry(seq).waker.take());
        }
    }

    fn entry(&mut self, seq: Seq) -> &mut Entry<W> {
        let index = self.index(seq);
        &mut self.messages[index]
    }

    fn entry_of(&self, seq: Seq) -> &Entry<W> {
        &self.messages[self.index(seq)]
    }

    fn index(&self, seq: Seq) -> usize {
        let index = self.messages.binary_search_by_key(&seq, |entry| entry.seq);
        index.expect("who has a place in the order is in the queue until it leaves")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::{Arc, OnceLock};

    use bytes::Bytes;

    use super::super::commit::{Commit, Delivery, EntityId};
    use super::super::layers::{Outdated, Repetition};
    use super::super::record::{Kept, Once, Record, RecordedUntil};
    use super::*;
    use crate::bodies::{BodyMemory, Reservation};
    use crate::message::{
        Caller, Method, Outgoing, PartitionKey, Reply, Sending, StoreTime, StreamName,
    };
    use crate::state::{Range, Values, Writes};

    /// Schedules that are tried. Each is another order of arrivals, ends, commits, fences, failures
    /// of the store, and messages that nobody waits for any more.
    const SCHEDULES: u64 = 20_000;

    const STEPS: usize = 60;

    static BODIES: OnceLock<&BodyMemory> = OnceLock::new();

    fn bodies() -> &'static BodyMemory {
        BodyMemory::new(1 << 20)
    }

    /// Chooses what happens next (xorshift64*); a schedule is its seed.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
        }
    }

    /// A store with one entity, whose only value is a list of who wrote to it.
    #[derive(Default)]
    struct Store {
        last: Option<CommitId>,
        list: String,
        /// Who wrote on other nodes.
        elsewhere: Vec<String>,
        records: BTreeMap<[u8; 16], Kept>,
        recorded: RecordedUntil,
        /// Messages that handlers sent here, and that took effect.
        gone: BTreeSet<Uuid>,
    }

    impl Store {
        fn values(&self) -> Values {
            if self.list.is_empty() {
                return Values::none();
            }
            let list = Bytes::copy_from_slice(self.list.as_bytes());
            Values::new([("list".into(), list)], true)
        }

        fn commit(&mut self, commit: &Commit) -> Outcome {
            let mut delivered = commit.changes.delivered.iter();
            if commit.expected != self.last || delivered.any(|sent| self.gone.contains(&sent.id)) {
                return Outcome::Fenced;
            }
            let delivered = commit.changes.delivered.iter();
            self.gone.extend(delivered.map(|sent| sent.id));
            self.last = Some(commit.id);
            if let Some(Some(list)) = commit.changes.writes.get("list") {
                self.list = String::from_utf8(list.to_vec()).unwrap();
            }
            self.keep(&commit.changes.records);
            assert_eq!(self.recorded, commit.recorded);
            Outcome::Committed
        }

        fn keep(&mut self, records: &[Record]) {
            for record in records {
                let id = *record.id.as_bytes();
                let earlier = self.records.insert(id, record.kept.clone());
                assert_eq!(earlier, None, "a message took effect twice");
                self.recorded.messages = self.recorded.messages.max(record.until);
            }
        }

        /// Another node writes.
        fn commit_elsewhere(&mut self, who: usize) {
            self.last = Some(CommitId::new());
            self.elsewhere.push(format!("other{who}"));
            self.list += &format!("other{who} ");
        }

        /// Another node runs a message that writes, if it did not take effect yet.
        fn run_elsewhere(&mut self, name: u64) {
            let once = Once::of_number(name);
            if let Some(delivery) = delivery_of(name) {
                if self.gone.insert(delivery.id) {
                    self.last = Some(CommitId::new());
                    self.list += &format!("{name} ");
                }
            } else if !self.records.contains_key(once.id.as_bytes()) {
                self.last = Some(CommitId::new());
                self.keep(&[record_of(&once, &self.list)]);
                self.list += &format!("{name} ");
            }
        }
    }

    /// Some messages that write were sent by a handler.
    fn delivery_of(name: u64) -> Option<Delivery> {
        (name % 6 == 4).then(|| Delivery {
            id: Uuid::from_u128(name.into()),
            timer: None,
        })
    }

    /// The record of a message whose reply is what it saw.
    fn record_of(once: &Once, saw: &str) -> Record {
        let reply = Reply {
            status: http::StatusCode::OK,
            headers: http::HeaderMap::new(),
            body: Bytes::copy_from_slice(saw.as_bytes()),
            is_replayed: false,
            reservation: Reservation::default(),
        };
        once.record(&reply, true, StoreTime::default()).unwrap()
    }

    /// Whose message it is, under whichever place in the order.
    #[derive(Debug, Clone, Copy)]
    struct Sent {
        name: u64,
        /// It got the reply of an earlier one.
        is_replay: bool,
        runs: usize,
    }

    impl Sent {
        /// A message writes if its number is even.
        fn writes(self) -> bool {
            self.name.is_multiple_of(2) && !self.is_replay
        }
    }

    /// A message, as the task of its request sees it.
    #[derive(Debug)]
    enum Task {
        Waits,
        Runs {
            run: Run,
            saw: String,
        },
        Checks {
            run: Run,
            expected: Option<CommitId>,
            saw: String,
        },
        Rests {
            run: Run,
            saw: String,
        },
    }

    /// Everything around one entity.
    struct World {
        random: Random,
        entity: Entity<Seq>,
        id: Arc<EntityId>,
        store: Store,
        tasks: BTreeMap<Seq, Task>,
        sent: BTreeMap<Seq, Sent>,
        names: u64,
        is_handed_over: bool,
        in_flight: Option<Commit>,
        /// What was answered, and the list that was seen then.
        released: BTreeMap<Seq, (Sent, String)>,
        log: Vec<String>,
    }

    impl World {
        fn new(seed: u64) -> Self {
            let stream = StreamName::try_from("cart").unwrap();
            let key = PartitionKey::try_from("ada").unwrap();
            Self {
                random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
                entity: Entity::default(),
                id: Arc::new(EntityId { stream, key }),
                store: Store::default(),
                tasks: BTreeMap::new(),
                sent: BTreeMap::new(),
                names: 0,
                is_handed_over: false,
                in_flight: None,
                released: BTreeMap::new(),
                log: Vec::new(),
            }
        }

        fn note(&mut self, what: impl Into<String>) {
            self.log.push(what.into());
        }

        fn effects(&mut self, effects: Effects<Seq>) {
            if effects.hand_over {
                assert!(!self.is_handed_over && self.in_flight.is_none());
                self.is_handed_over = true;
            }
        }

        fn answered(&mut self, seq: Seq, finished: Finished, run: Run, saw: String) {
            match finished {
                Finished::Rests => {
                    self.tasks.insert(seq, Task::Rests { run, saw });
                }
                Finished::Check(expected) => {
                    let task = Task::Checks { run, expected, saw };
                    self.tasks.insert(seq, task);
                }
                Finished::Again => {
                    self.tasks.insert(seq, Task::Waits);
                }
                Finished::Settled(settled) => {
                    self.tasks.remove(&seq);
                    let effects = self.entity.leave(seq);
                    self.effects(effects);
                    if settled == Settled::Released {
                        self.released.insert(seq, (self.sent[&seq], saw));
                    }
                }
            }
        }

        fn step(&mut self, count: usize) {
            match self.random.below(20) {
                0..4 => {
                    if let Ok((seq, _)) = self.entity.arrive(8, None) {
                        let is_repetition = self.names > 0 && self.random.below(4) == 0;
                        let name = if is_repetition {
                            self.random.below(self.names as usize) as u64
                        } else {
                            self.names
                        };
                        self.names = self.names.max(name + 1);
                        let sent = Sent {
                            name,
                            is_replay: false,
                            runs: 0,
                        };
                        self.sent.insert(seq, sent);
                        self.note(format!("{name} arrives {seq:?}"));
                        self.tasks.insert(seq, Task::Waits);
                    }
                }
                4 => self.commit_ends(),
                5 => self.commit_begins(),
                6 => {
                    let name = self.random.below(self.names as usize + 1) as u64;
                    if name < self.names && name.is_multiple_of(2) {
                        self.note(format!("{name} runs elsewhere"));
                        self.store.run_elsewhere(name);
                    } else {
                        self.note("elsewhere");
                        self.store.commit_elsewhere(count);
                    }
                }
                7 => self.someone_leaves(),
                8 => self.someone_reads(),
                _ => self.a_task_goes_on(),
            }
        }

        fn commit_begins(&mut self) {
            if std::mem::take(&mut self.is_handed_over) {
                self.in_flight = self.entity.layers.begin_commit(&self.id);
                self.note(format!("commit begins: {:?}", self.in_flight));
            }
        }

        fn commit_ends(&mut self) {
            let Some(commit) = self.in_flight.take() else {
                return;
            };
            let outcome = match self.random.below(8) {
                0 => Outcome::Unavailable,
                1 => Outcome::Rejected,
                _ => self.store.commit(&commit),
            };
            self.note(format!("commit {:?} {outcome:?}", commit.id));
            let effects = self.entity.commit_ended(outcome);
            self.effects(effects);
        }

        /// Beside the queue: what it sees must be the committed state, or be found out.
        fn someone_reads(&mut self) {
            let Some((last, values)) = self.entity.layers.snapshot() else {
                return;
            };
            let found = self.store.last;
            if found != last {
                self.note("a read is contradicted");
                self.entity.layers.read_contradicted(last, found);
            } else if let Some(list) = values.get("list") {
                let list = list.map(|list| list.to_vec()).unwrap_or_default();
                assert_eq!(String::from_utf8(list).unwrap(), self.store.list);
            }
        }

        fn someone_leaves(&mut self) {
            let Some(seq) = self.any() else { return };
            self.note(format!("leaves {seq:?}"));
            self.tasks.remove(&seq);
            let effects = self.entity.leave(seq);
            self.effects(effects);
        }

        fn any(&mut self) -> Option<Seq> {
            let count = self.tasks.len();
            if count == 0 {
                return None;
            }
            let index = self.random.below(count);
            self.tasks.keys().nth(index).copied()
        }

        fn a_task_goes_on(&mut self) {
            if let Some(seq) = self.any() {
                self.go_on(seq);
            }
        }

        fn go_on(&mut self, seq: Seq) {
            let Some(task) = self.tasks.remove(&seq) else {
                return;
            };
            match task {
                Task::Waits => self.begin(seq),
                Task::Runs { run, saw } => self.end(seq, run, saw),
                Task::Checks { run, expected, saw } => {
                    let found = self.store.last;
                    let (finished, effects) = self.entity.checked(seq, run, expected, found);
                    self.note(format!("checked {seq:?} {finished:?}"));
                    self.effects(effects);
                    self.answered(seq, finished, run, saw);
                }
                Task::Rests { run, saw } => match self.entity.settled(seq, || seq) {
                    Some(finished) => {
                        self.note(format!("settled {seq:?} {finished:?}"));
                        self.answered(seq, finished, run, saw);
                    }
                    None => {
                        self.tasks.insert(seq, Task::Rests { run, saw });
                    }
                },
            }
        }

        fn begin(&mut self, seq: Seq) {
            let Some(run) = self.entity.take_turn(seq, || seq) else {
                self.tasks.insert(seq, Task::Waits);
                return;
            };
            let run = run.unwrap();
            if !run.is_loaded {
                // Now and then values are loaded one by one.
                let values = if self.random.below(2) == 0 {
                    Values::default()
                } else {
                    self.store.values()
                };
                let (last, recorded) = (self.store.last, self.store.recorded);
                self.entity.layers.install(last, values.into(), recorded);
            }
            self.sent.get_mut(&seq).unwrap().runs += 1;
            let replayed = match delivery_of(self.sent[&seq].name) {
                Some(delivery) => self.is_gone(seq, run, &delivery),
                None => self.replay(seq, run),
            };
            match replayed {
                Ok(None) => {}
                Ok(Some(saw)) => {
                    self.note(format!("replays {seq:?}"));
                    self.sent.get_mut(&seq).unwrap().is_replay = true;
                    self.tasks.insert(seq, Task::Runs { run, saw });
                    return;
                }
                Err(Outdated) => return self.outdated(seq, run),
            }
            self.sent.get_mut(&seq).unwrap().is_replay = false;
            // Values are looked up one after the other; only one of them is ever written.
            let other = self.value(run, "other");
            let saw = other.and_then(|_| self.value(run, "list"));
            let saw = saw.and_then(|saw| Ok((saw, self.scan(run)?)));
            match saw {
                Ok((saw, scanned)) => {
                    assert_eq!(saw, scanned);
                    let saw = String::from_utf8(saw.unwrap_or_default().to_vec()).unwrap();
                    self.note(format!("runs {seq:?} on {saw:?}"));
                    self.tasks.insert(seq, Task::Runs { run, saw });
                }
                Err(Outdated) => self.outdated(seq, run),
            }
        }

        fn outdated(&mut self, seq: Seq, run: Run) {
            self.note(format!("outdated {seq:?}"));
            let (finished, effects) = self.entity.give_up_run(seq, run);
            self.effects(effects);
            self.answered(seq, finished, run, String::new());
        }

        /// Whether the message took effect already. A first run finds out with its commit.
        fn is_gone(
            &mut self,
            seq: Seq,
            run: Run,
            delivery: &Delivery,
        ) -> Result<Option<String>, Outdated> {
            let mut is_gone = self.entity.layers.is_gone(run, delivery)?;
            if !is_gone && self.sent[&seq].runs > 1 {
                let before = self.entity.layers.expected(run)?;
                let last = self.store.last;
                is_gone = self.store.gone.contains(&delivery.id);
                // While the store looks.
                if self.random.below(4) == 0 {
                    self.commit_ends();
                }
                self.entity.layers.compare(run, before, last)?;
            }
            Ok(is_gone.then(String::new))
        }

        /// What the message replied when it took effect.
        fn replay(&mut self, seq: Seq, run: Run) -> Result<Option<String>, Outdated> {
            let once = Once::of_number(self.sent[&seq].name);
            let kept = match self.entity.layers.repetition(run, &once)? {
                Repetition::No => None,
                Repetition::Of(kept) => Some(kept),
                Repetition::Unknown(ids) => {
                    assert_eq!(ids, [once.id]);
                    let before = self.entity.layers.expected(run)?;
                    let last = self.store.last;
                    let kept = self.store.records.get(once.id.as_bytes()).cloned();
                    // While the store looks.
                    if self.random.below(4) == 0 {
                        self.commit_ends();
                    }
                    self.entity.layers.compare(run, before, last)?;
                    kept
                }
            };
            let replay = kept.map(|kept| once.replay(&kept, BODIES.get_or_init(bodies)).unwrap());
            Ok(replay.map(|reply| String::from_utf8(reply.body.to_vec()).unwrap()))
        }

        fn value(&mut self, run: Run, name: &str) -> Result<Option<Bytes>, Outdated> {
            if let Some(known) = self.entity.layers.get(run, name)? {
                return Ok(known);
            }
            let before = self.entity.layers.expected(run)?;
            let found = self.store.last;
            let list = self.store.list.clone();
            let value = (name == "list" && !list.is_empty()).then(|| Bytes::from(list));
            self.entity
                .layers
                .learn(run, before, found, name.into(), value)?;
            let known = self.entity.layers.get(run, name)?;
            Ok(known.expect("it was learned"))
        }

        /// The list, found by a scan.
        fn scan(&mut self, run: Run) -> Result<Option<Bytes>, Outdated> {
            let range = Range::new("", "", 10);
            let page = match self.entity.layers.page(run, &range)? {
                Some(page) => page,
                None => {
                    let before = self.entity.layers.expected(run)?;
                    let uncommitted = self.entity.layers.uncommitted(run)?;
                    let (last, values) = (self.store.last, self.store.values());
                    // While the store looks.
                    if self.random.below(4) == 0 {
                        self.commit_ends();
                    }
                    self.entity.layers.compare(run, before, last)?;
                    uncommitted.on_top_of(values.page(&range).unwrap(), &range)
                }
            };
            Ok(page.values.into_iter().next().map(|(_, list)| list))
        }

        fn end(&mut self, seq: Seq, run: Run, saw: String) {
            let mut changes = Changes::default();
            let sent = self.sent[&seq];
            if sent.writes() {
                let list = format!("{saw}{} ", sent.name);
                changes
                    .writes
                    .put("list".into(), Some(list.into_bytes().into()));
                match delivery_of(sent.name) {
                    Some(delivery) => changes.delivered.push(delivery),
                    None => {
                        let once = Once::of_number(sent.name);
                        changes.records.push(record_of(&once, &saw));
                    }
                }
            }
            let (finished, effects) = self.entity.finish(seq, run, changes);
            self.note(format!("ends {seq:?} {finished:?}"));
            self.effects(effects);
            self.answered(seq, finished, run, saw);
        }

        /// Lets everything come to its end, without further faults.
        fn drain(&mut self) {
            for _ in 0..10_000 {
                self.commit_begins();
                if let Some(commit) = self.in_flight.take() {
                    let outcome = self.store.commit(&commit);
                    self.note(format!("commit {outcome:?}"));
                    let effects = self.entity.commit_ended(outcome);
                    self.effects(effects);
                }
                match self.any() {
                    Some(seq) => self.go_on(seq),
                    None if self.in_flight.is_none() && !self.is_handed_over => return,
                    None => {}
                }
            }
            panic!("it never ends: {:?}", self.entity);
        }

        fn check(&self) {
            let list: Vec<&str> = self.store.list.split_whitespace().collect();
            for other in &self.store.elsewhere {
                let times = list.iter().filter(|name| *name == other).count();
                assert_eq!(times, 1, "{other} is in {list:?}");
            }
            for name in 0..self.names {
                let name = name.to_string();
                let times = list.iter().filter(|other| **other == name).count();
                assert!(times <= 1, "{name} is in {list:?}");
            }
            let mut last = None;
            for (seq, (sent, saw)) in &self.released {
                assert!(
                    self.store.list.starts_with(saw.as_str()),
                    "{seq:?} saw {saw:?}, which is not a beginning of {:?}",
                    self.store.list
                );
                if sent.name.is_multiple_of(2) {
                    let name = sent.name.to_string();
                    let place = list.iter().position(|other| *other == name);
                    assert!(place.is_some(), "{sent:?} is in {list:?}");
                    if sent.writes() {
                        assert!(last < place, "{seq:?} overtook another");
                        last = place;
                    }
                }
            }
            assert!(self.entity.is_idle());
        }
    }

    #[test]
    fn whatever_happens_what_was_answered_is_there_once_and_in_order() {
        let (mut released, mut seen) = (0, 0);
        for seed in 1..=SCHEDULES {
            let mut world = World::new(seed);
            let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                for count in 0..STEPS {
                    world.step(count);
                }
                world.drain();
                world.check();
            }));
            if let Err(panic) = run {
                eprintln!("schedule {seed}:\n{}", world.log.join("\n"));
                std::panic::resume_unwind(panic);
            }
            released += world.released.len();
            seen += world.entity.next_seq as usize;
        }
        // Faults are frequent, but most messages get through.
        assert!(released * 2 > seen, "{released} of {seen}");
    }

    fn one() -> (Entity<Seq>, Arc<EntityId>) {
        let stream = StreamName::try_from("cart").unwrap();
        let key = PartitionKey::try_from("ada").unwrap();
        (Entity::default(), Arc::new(EntityId { stream, key }))
    }

    fn write(value: &'static str) -> Writes {
        let mut writes = Writes::default();
        writes.put("a".into(), Some(Bytes::from_static(value.as_bytes())));
        writes
    }

    #[test]
    fn writes_that_wait_become_one_commit() {
        let (mut entity, id) = one();
        let seqs: Vec<Seq> = (0..4).map(|_| entity.arrive(8, None).unwrap().0).collect();
        let run = |entity: &mut Entity<Seq>, number: usize, value| {
            let run = entity.take_turn(seqs[number], || seqs[number]);
            let run = run.unwrap().unwrap();
            if !run.is_loaded {
                entity
                    .layers
                    .install(None, Values::none().into(), RecordedUntil::default());
            }
            let (finished, effects) = entity.finish(seqs[number], run, write(value).into());
            assert_eq!(finished, Finished::Rests);
            effects.hand_over
        };
        assert!(run(&mut entity, 0, "1"));
        assert!(!run(&mut entity, 1, "2"), "it was told already");
        let first = entity.layers.begin_commit(&id).unwrap();
        assert_eq!(first.changes.writes, write("2"));
        assert!(!run(&mut entity, 2, "3") && !run(&mut entity, 3, "4"));
        assert_eq!(entity.settled(seqs[0], || seqs[0]), None);
        assert!(entity.commit_ended(Outcome::Committed).hand_over);
        let next = entity.layers.begin_commit(&id).unwrap();
        assert_eq!(
            (next.expected, &next.changes.writes),
            (Some(first.id), &write("4"))
        );
        let released = Some(Finished::Settled(Settled::Released));
        assert_eq!(entity.settled(seqs[1], || seqs[1]), released);
        assert_eq!(entity.settled(seqs[2], || seqs[2]), None);
    }

    #[test]
    fn the_queue_has_its_limit() {
        let (mut entity, _) = one();
        let first = entity.arrive(2, None).unwrap().0;
        entity.arrive(2, None).unwrap();
        assert_eq!(entity.arrive(2, None).unwrap_err(), Full);
        entity.leave(first);
        entity.arrive(2, None).unwrap();
    }

    #[test]
    fn who_is_fenced_too_often_is_told_so() {
        let (mut entity, id) = one();
        let seq = entity.arrive(2, None).unwrap().0;
        for _ in 0..=RERUNS_MAX {
            let run = entity.take_turn(seq, || seq).unwrap().unwrap();
            entity
                .layers
                .install(None, Values::none().into(), RecordedUntil::default());
            entity.finish(seq, run, write("1").into());
            entity.layers.begin_commit(&id).unwrap();
            entity.commit_ended(Outcome::Fenced);
        }
        let settled = Some(Finished::Settled(Settled::Contended));
        assert_eq!(entity.settled(seq, || seq), settled);
    }

    /// A timer may come before this node has heard that what set it is committed.
    #[test]
    fn a_timer_is_not_replaced_by_itself() {
        let (mut entity, _) = one();
        let (setting, _) = entity.arrive(9, None).unwrap();
        let first = entity.take_turn(setting, || setting).unwrap().unwrap();
        entity
            .layers
            .install(None, Values::none().into(), RecordedUntil::default());
        let sending = Sending {
            id: Uuid::from_u128(7),
            outgoing: Outgoing {
                stream: name_of(A).0,
                partition_key: name_of(A).1,
                method: Method::Post,
                query: String::new(),
                headers: http::HeaderMap::new(),
                body: Bytes::new(),
            },
            delay: std::time::Duration::ZERO,
        };
        let mut changes = Changes::default();
        changes.sends.send(Some("t".into()), sending);
        entity.finish(setting, first, changes);
        let (seq, _) = entity.arrive(9, None).unwrap();
        let second = entity.take_turn(seq, || seq).unwrap().unwrap();
        let is_gone = |id| {
            let delivery = Delivery {
                id: Uuid::from_u128(id),
                timer: Some("t".into()),
            };
            entity.layers.is_gone(second, &delivery).unwrap()
        };
        assert!(!is_gone(7));
        assert!(is_gone(6), "it was replaced");
    }

    const A: &str = "a";
    const B: &str = "b";

    fn name_of(key: &str) -> (StreamName, PartitionKey) {
        let stream = StreamName::try_from("cart").unwrap();
        (stream, PartitionKey::try_from(key).unwrap())
    }

    /// The chain of a call by the entity of this key, which began with the message of this number.
    fn chain(root: u128, key: &str) -> Option<Arc<Chain>> {
        Some(Arc::new(Chain {
            root: Uuid::from_u128(root),
            comes_again: false,
            callers: vec![Caller {
                stream: name_of(key).0,
                key: name_of(key).1,
                has_turn: true,
            }],
        }))
    }

    /// An entity whose first message, of root 5, has the turn, and calls the entity `a`.
    fn calling() -> (Entity<Seq>, Seq, Run) {
        let (mut entity, _) = one();
        let (holder, _) = entity.arrive(9, None).unwrap();
        let run = entity.take_turn(holder, || holder).unwrap().unwrap();
        assert!(
            entity
                .begin_call(Uuid::from_u128(5), Some(name_of(A)))
                .wake
                .is_empty()
        );
        (entity, holder, run)
    }

    #[test]
    fn a_younger_call_from_whom_the_turn_waits_for_is_refused() {
        let (mut entity, holder, _) = calling();
        let (younger, _) = entity.arrive(9, chain(6, A)).unwrap();
        assert_eq!(entity.take_turn(younger, || younger), Some(Err(Crossed)));
        assert!(!entity.is_call_crossed(holder, || holder));
        // One that comes from elsewhere waits, whatever its age.
        let (elsewhere, _) = entity.arrive(9, chain(6, B)).unwrap();
        assert_eq!(entity.take_turn(elsewhere, || elsewhere), None);
        assert_eq!(entity.waits_for_older(elsewhere), Some(1));
    }

    #[test]
    fn an_older_call_goes_before_the_one_that_it_has_interrupted() {
        let (mut entity, holder, _) = calling();
        let (before, _) = entity.arrive(9, None).unwrap();
        assert!(!entity.is_call_crossed(holder, || holder));
        let (older, effects) = entity.arrive(9, chain(4, A)).unwrap();
        assert_eq!(effects.wake, [holder]);
        assert!(entity.is_call_crossed(holder, || holder));
        assert_eq!(entity.take_turn(older, || older), None);
        entity.end_call(holder);
        let (goes_first, effects) = entity.give_way(holder, Uuid::from_u128(5));
        assert!(goes_first);
        assert_eq!(effects.wake, [older]);
        for waits in [holder, before] {
            assert_eq!(entity.take_turn(waits, || waits), None);
        }
        entity.take_turn(older, || older).unwrap().unwrap();
        // Then the order is as it was.
        assert_eq!(entity.leave(older).wake, [holder]);
        assert_eq!(entity.take_turn(before, || before), None);
        entity.take_turn(holder, || holder).unwrap().unwrap();
    }

    #[test]
    fn calls_that_wait_already_are_found_when_the_turn_calls() {
        let (mut entity, _) = one();
        let (holder, _) = entity.arrive(9, None).unwrap();
        entity.take_turn(holder, || holder).unwrap().unwrap();
        let (younger, _) = entity.arrive(9, chain(6, A)).unwrap();
        assert_eq!(entity.take_turn(younger, || younger), None);
        let effects = entity.begin_call(Uuid::from_u128(5), Some(name_of(A)));
        assert_eq!(effects.wake, [younger]);
        assert_eq!(entity.take_turn(younger, || younger), Some(Err(Crossed)));
        // The same chain does not cross itself: a copy of its message waits.
        entity.end_call(holder);
        let (copy, _) = entity.arrive(9, chain(5, A)).unwrap();
        entity.begin_call(Uuid::from_u128(5), Some(name_of(A)));
        assert_eq!(entity.take_turn(copy, || copy), None);
    }
}
