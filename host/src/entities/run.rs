//! Runs a message of a stateful stream: at its turn, or beside the queue if it is a read. Its answer
//! leaves once what it rests on is committed and was found to be current.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use metrics::counter;
use tokio::time::{sleep, timeout, timeout_at};

use super::cell::{Cell, Ticket};
use super::commit::{Changes, CommitId, Delivery};
use super::crossing::Crossed;
use super::entity::{Finished, Settled};
use super::layers::Run;
use super::letter::own_timer;
use super::record::Once;
use super::store::{Found, LookError, Seen, What};
use super::turn::HeldTurn;
use super::view::{Snapshot, TurnView};
use super::{Active, Entities, EntityMessage, Way};
use crate::bodies::{NoRoom, Reservation};
use crate::calls::{Turn, after_acting, random};
use crate::message::{Fault, Limit, LimitKind, Message, Outcome, Refusal, Reply, Sends, Stage};
use crate::plugins::{Place, Plugin, run};
use crate::runtime::{CallContext, CallDeadline, EntityCall, StateError, StateView};
use crate::state::{VALUE_BYTES_MAX, Values, Writes};
use crate::telemetry::{StageClock, names};

/// How long a message waits before its second re-run, and before later ones: at least, and at most.
/// The first comes at once, as a takeover needs no more. If there is another, two nodes take
/// themselves for the owner, and by then they may have heard of each other.
const BACK_OFF: [[Duration; 2]; 2] = [
    [Duration::from_millis(10), Duration::from_millis(40)],
    [Duration::from_millis(200), Duration::from_millis(500)],
];

/// Maximum size of the body of a reply that may have to be kept, that of a value.
const REPLY_BYTES_MAX: usize = VALUE_BYTES_MAX;

/// How often a message runs again because its handler's call and that of another waited for each
/// other.
const CROSSED_MAX: usize = 3;

/// How long it waits before each of them, at least and at most: until then the chain that was older has
/// passed, with everything that it calls. The first comes at once if that one waits here already.
const CROSSED_PAUSES: [[Duration; 2]; CROSSED_MAX] = [
    [Duration::from_millis(10), Duration::from_millis(40)],
    [Duration::from_millis(100), Duration::from_millis(300)],
    [Duration::from_secs(1), Duration::from_secs(2)],
];

/// How long a call waits behind one and the same call of an older chain, before it is looked whether
/// it still does. Then that one may wait for it, in a circle of several entities.
const PATIENCE: Duration = Duration::from_millis(250);

/// How often a read runs beside the queue. If the state changed under it each time, it takes a turn
/// in the queue.
const READS_MAX: usize = 3;

/// What all runs of one message need.
struct Work {
    entities: Arc<Entities>,
    active: Arc<Active>,
    /// The version for the case that the stream is gone.
    plugin: Arc<Plugin>,
    message: Arc<Message>,
    admitted_at: Instant,
    deadline: Instant,
    /// Its handler has called others in a way that may have changed something.
    has_acted: AtomicBool,
}

/// How a message ended at its turn.
struct Done {
    outcome: Outcome,
    changes: Changes,
    /// The memory of the changes, which stays reserved until the answer leaves.
    _reservation: Reservation,
}

impl Done {
    fn without_changes(outcome: Outcome) -> Self {
        Self {
            outcome,
            changes: Changes::default(),
            _reservation: Reservation::default(),
        }
    }
}

impl Entities {
    /// Runs an admitted message.
    pub async fn run(
        self: Arc<Self>,
        admitted: EntityMessage,
        message: Arc<Message>,
        admitted_at: Instant,
        deadline: Instant,
    ) -> Outcome {
        let EntityMessage {
            plugin,
            active,
            way,
        } = admitted;
        let work = Work {
            entities: self,
            active,
            plugin,
            message,
            admitted_at,
            deadline,
            has_acted: AtomicBool::new(false),
        };
        let outcome = match way {
            Way::Read(cell) => work.read(cell).await,
            Way::Turn(ticket) => work.take_turns(ticket).await,
        };
        if let Err(Fault::Refused(Refusal::StateUnavailable)) = outcome {
            counter!(names::STATE_REFUSED).increment(1);
        }
        if work.has_acted.load(Ordering::Relaxed) {
            return after_acting(outcome);
        }
        outcome
    }
}

impl Work {
    /// Runs beside the queue, on committed state.
    async fn read(&self, cell: Arc<Cell>) -> Outcome {
        for _ in 0..READS_MAX {
            let snapshot = cell.lock().layers.snapshot();
            let is_loaded = snapshot.is_some();
            let (last, values) = match snapshot {
                Some(snapshot) => snapshot,
                None => self.load(&cell).await?,
            };
            let view = Arc::new(Snapshot::new(
                self.active.clone(),
                cell.clone(),
                last,
                values,
            ));
            // What was loaded just now needs no other look.
            let check = async {
                if is_loaded {
                    self.last(&cell, last).await
                } else {
                    Ok(last)
                }
            };
            let ((outcome, _), found) = tokio::join!(self.run(view, None), check);
            if is_outdated(&outcome) {
                continue;
            }
            if !rests_on_state(&outcome) {
                return outcome;
            }
            let found = found?;
            if found == last {
                return outcome;
            }
            cell.lock().layers.read_contradicted(last, found);
        }
        let ticket = self.active.ticket(cell, &self.plugin, &self.message);
        self.take_turns(ticket.map_err(Fault::Refused)?).await
    }

    /// Runs when it is this message's turn, and again if the state turns out to be outdated.
    async fn take_turns(&self, ticket: Ticket) -> Outcome {
        let once = Once::of(&ticket.cell.id, &self.message);
        let delivery = self.message.is_sent.then(|| Delivery {
            id: self.message.id,
            timer: own_timer(&self.message.headers, &ticket.cell.id).map(Into::into),
        });
        let CallDeadline { at: call_ends, .. } = self
            .plugin
            .handler
            .call_deadline(self.admitted_at, self.deadline);
        let (mut reruns, mut crossed) = (0, 0);
        let mut pause = None;
        loop {
            let clock = StageClock::start(&self.message, Stage::Waiting);
            let turn = async {
                if let Some(time) = pause.take() {
                    sleep(time).await;
                }
                wait_for_turn(&ticket).await
            };
            let turn = timeout_at(call_ends.into(), turn).await;
            let Ok(turn) = turn else {
                return Err(Fault::Refused(Refusal::WaitedTooLong));
            };
            let turn = turn.map_err(|Crossed| Fault::Refused(Refusal::Crossed))?;
            if !turn.is_loaded {
                self.load(&ticket.cell).await?;
            }
            drop(clock);
            let held = HeldTurn::new(self.active.clone(), ticket.cell.clone(), ticket.seq(), turn);
            let view = TurnView(held);
            let replayed = match &delivery {
                // Before it acts on others it must know.
                Some(delivery) => {
                    let asks = reruns > 0 || self.plugin.handler.may_call();
                    self.is_delivered(&view, delivery, asks).await
                }
                None => self.replay(&view, once.as_ref()).await,
            };
            let mut done = match replayed {
                Some(outcome) => Done::without_changes(outcome),
                None => self.take_turn(view, once.as_ref()).await,
            };
            if let (Ok(reply), Some(delivery)) = (&done.outcome, &delivery)
                && !reply.is_replayed
            {
                done.changes.delivered.push(delivery.clone());
            }
            let Done {
                outcome,
                changes,
                _reservation,
            } = done;
            if is_crossed(&outcome) && self.message.chain.is_none() {
                if crossed == CROSSED_MAX {
                    return Err(Fault::Refused(Refusal::Contended));
                }
                let goes_at_once = ticket.give_way(self.message.id) && crossed == 0;
                pause = (!goes_at_once).then(|| random(CROSSED_PAUSES[crossed]));
                crossed += 1;
                continue;
            }
            let finished = if is_outdated(&outcome) {
                ticket.give_up_run(turn)
            } else if rests_on_state(&outcome) {
                ticket.finish(turn, changes)
            } else {
                return outcome;
            };
            let settled = {
                let _clock = StageClock::start(&self.message, Stage::Committing);
                self.settle(&ticket, turn, finished).await?
            };
            match settled {
                Some(Settled::Released) => return outcome,
                // Another node may run it still, without what it was rejected with.
                Some(Settled::Rejected) if self.message.is_repeated.get().is_some() => {
                    return Err(Fault::DeadlineExceeded);
                }
                Some(Settled::Rejected) => return Err(Fault::Crashed),
                Some(Settled::Contended) => return Err(Fault::Refused(Refusal::Contended)),
                Some(Settled::Unavailable) => {
                    return Err(Fault::Refused(Refusal::StateUnavailable));
                }
                None => {
                    reruns += 1;
                    pause = back_off(reruns);
                    counter!(names::STATE_RERUNS).increment(1);
                }
            }
        }
    }

    /// The outcome of a message that took effect already. `None`: it did not.
    async fn replay(&self, view: &TurnView, once: Option<&Once>) -> Option<Outcome> {
        let once = once?;
        let is_late = |not_after| self.active.store.now() >= not_after;
        if once.not_after.is_some_and(is_late) {
            return Some(Err(Fault::Refused(Refusal::WaitedTooLong)));
        }
        let repeats = timeout_at(self.deadline.into(), view.repeats(once)).await;
        let Ok(repeats) = repeats else {
            return Some(Err(Fault::DeadlineExceeded));
        };
        match repeats {
            Ok(None) => None,
            Ok(Some(kept)) => {
                counter!(names::STATE_REPLAYS).increment(1);
                Some(once.replay(&kept, self.entities.bodies))
            }
            Err(error) => Some(Err(fault_of_view(error))),
        }
    }

    /// The outcome of a message that a handler sent, and that took effect already or was cancelled.
    /// That a first run finds out with its commit, unless it `asks`.
    async fn is_delivered(
        &self,
        view: &TurnView,
        delivery: &Delivery,
        asks: bool,
    ) -> Option<Outcome> {
        let gone = view.is_gone(delivery, asks);
        let Ok(gone) = timeout_at(self.deadline.into(), gone).await else {
            return Some(Err(Fault::DeadlineExceeded));
        };
        match gone {
            Ok(false) => None,
            Ok(true) => Some(Ok(Reply {
                status: StatusCode::NO_CONTENT,
                headers: HeaderMap::new(),
                body: Bytes::new(),
                is_replayed: true,
                reservation: Reservation::default(),
            })),
            Err(error) => Some(Err(fault_of_view(error))),
        }
    }

    /// Runs the handler at the message's turn.
    async fn take_turn(&self, view: TurnView, once: Option<&Once>) -> Done {
        let turn = view.0.clone();
        let (mut outcome, mut call) = self.run(Arc::new(view), Some(turn)).await;
        if let Ok(reply) = &outcome
            && !self.message.is_read()
            && reply.body.len() > REPLY_BYTES_MAX
        {
            outcome = Err(Fault::LimitExceeded(Limit {
                kind: LimitKind::StateReplyBytes,
                max: REPLY_BYTES_MAX as u64,
            }));
            call = None;
        }
        let (Ok(reply), Some(mut call)) = (&outcome, call) else {
            let mut changes = Changes::default();
            if let (Some(once), Err(fault)) = (once, &outcome)
                && rests_on_state(&outcome)
            {
                changes.records = once.record_of_failure(fault).into_iter().collect();
                changes.not_after = once.not_after;
            }
            return Done {
                outcome,
                changes,
                _reservation: Reservation::default(),
            };
        };
        let mut changes = Changes::from(call.writes);
        changes.sends = call.sends;
        changes.sends.continue_trace(&self.message.headers);
        if let Some(once) = once {
            let wrote = !changes.is_empty();
            let keys_until = self.active.store.now();
            let keys_until = keys_until.later(self.entities.config.idempotency_ttl);
            changes.records = once.record(reply, wrote, keys_until).into_iter().collect();
            changes.not_after = once.not_after;
            let reserved = call
                .reservation
                .resize(self.entities.bodies, changes.memory());
            if let Err(NoRoom) = reserved {
                return Done::without_changes(Err(Fault::Refused(Refusal::NoRoom)));
            }
        }
        Done {
            outcome,
            changes,
            _reservation: call.reservation,
        }
    }

    /// Waits until what the answer rests on is committed. `None`: the message runs again.
    async fn settle(
        &self,
        ticket: &Ticket,
        turn: Run,
        mut finished: Finished,
    ) -> Result<Option<Settled>, Fault> {
        loop {
            finished = match finished {
                Finished::Settled(settled) => return Ok(Some(settled)),
                Finished::Again => return Ok(None),
                Finished::Rests => timeout_at(self.deadline.into(), ticket.settled())
                    .await
                    .map_err(|_| Fault::DeadlineExceeded)?,
                Finished::Check(expected) => {
                    let found = self.last(&ticket.cell, expected).await?;
                    ticket.checked(turn, expected, found)
                }
            };
        }
    }

    /// Loads the entity from the store, into the cache too.
    async fn load(&self, cell: &Arc<Cell>) -> Result<(Option<CommitId>, Arc<Values>), Fault> {
        let Seen { last, found } = self.look(cell, What::Values).await?;
        let Found::Values(values, recorded) = found else {
            return Err(Fault::Crashed);
        };
        let values = Arc::new(values);
        cell.lock().layers.install(last, values.clone(), recorded);
        cell.recharge(&self.active);
        Ok((last, values))
    }

    /// The entity's last commit, which is `expected`, probably.
    async fn last(
        &self,
        cell: &Cell,
        expected: Option<CommitId>,
    ) -> Result<Option<CommitId>, Fault> {
        timeout_at(self.deadline.into(), self.active.last(cell, expected))
            .await
            .map_err(|_| Fault::DeadlineExceeded)?
            .map_err(fault_of)
    }

    /// Looks at the store until the deadline.
    async fn look(&self, cell: &Cell, what: What) -> Result<Seen, Fault> {
        timeout_at(self.deadline.into(), self.active.look(cell, what))
            .await
            .map_err(|_| Fault::DeadlineExceeded)?
            .map_err(fault_of)
    }

    /// Calls the handler, on the plugin's current version, at its turn or beside the queue. Returns what
    /// it wrote, too.
    async fn run(
        &self,
        view: Arc<dyn StateView>,
        turn: Option<HeldTurn>,
    ) -> (Outcome, Option<EntityCall>) {
        if Instant::now() >= self.deadline {
            return (Err(Fault::Refused(Refusal::WaitedTooLong)), None);
        }
        let current = self.entities.catalog.plugin(self.message.stream.as_str());
        let plugin = current.unwrap_or_else(|| self.plugin.clone());
        let may_call = plugin.handler.may_call();
        let deadline: CallDeadline = plugin
            .handler
            .call_deadline(self.admitted_at, self.deadline);
        let entity = EntityCall {
            view,
            may_write: turn.is_some() && !self.message.is_read(),
            writes: Writes::default(),
            sends: Sends::default(),
            reservation: Reservation::default(),
            bodies: self.entities.bodies,
        };
        let mut context = Some(Box::new(CallContext {
            entity: Some(entity),
            ..CallContext::default()
        }));
        let place = match Place::new(plugin) {
            Ok(place) => place,
            Err(refusal) => return (Err(Fault::Refused(refusal)), None),
        };
        let bodies = self.entities.bodies;
        let outcome = if may_call {
            let turn = turn.map(|turn| Arc::new(turn) as Arc<dyn Turn>);
            let calling = self
                .entities
                .calls
                .calling(&self.message, place, deadline.at(), turn);
            let calling = Arc::new(calling);
            context.as_mut().expect("it was just made").caller = Some(calling.clone());
            let place = &calling.place;
            let outcome = run(place, &self.message, &mut context, deadline, bodies).await;
            self.has_acted
                .fetch_or(calling.has_acted(), Ordering::Relaxed);
            outcome
        } else {
            run(&place, &self.message, &mut context, deadline, bodies).await
        };
        (outcome, context.and_then(|context| context.entity))
    }
}

/// Waits for the turn. A call does not wait for a handler that, over others, waits for it.
async fn wait_for_turn(ticket: &Ticket) -> Result<Run, Crossed> {
    let mut before = None;
    loop {
        // Others hold nothing up that somebody else could wait for.
        if !ticket.holds_others {
            return ticket.turn().await;
        }
        if let Ok(turn) = timeout(PATIENCE, ticket.turn()).await {
            return turn;
        }
        let older = ticket.waits_for_older();
        if older.is_some() && older == before {
            return Err(Crossed);
        }
        before = older;
    }
}

/// How long a message waits before its run, after so many.
fn back_off(reruns: usize) -> Option<Duration> {
    let again = reruns.checked_sub(2)?;
    Some(random(BACK_OFF[again.min(BACK_OFF.len() - 1)]))
}

fn fault_of_view(error: StateError) -> Fault {
    match error {
        StateError::Outdated => Fault::Refused(Refusal::Contended),
        StateError::Unreadable => Fault::Crashed,
        _ => Fault::Refused(Refusal::StateUnavailable),
    }
}

fn fault_of(error: LookError) -> Fault {
    tracing::debug!(%error, "a look at the store failed");
    match error {
        LookError::Data(_) => Fault::Crashed,
        LookError::Store(_) => Fault::Refused(Refusal::StateUnavailable),
    }
}

/// Whether the run was ended because its state was outdated.
fn is_outdated(outcome: &Outcome) -> bool {
    matches!(outcome, Err(Fault::Refused(Refusal::Contended)))
}

/// Whether the run was ended because a call and another waited for each other.
fn is_crossed(outcome: &Outcome) -> bool {
    matches!(outcome, Err(Fault::Refused(Refusal::Crossed)))
}

/// Whether the outcome may follow from what the handler saw of the state. It then leaves only once
/// that is committed.
fn rests_on_state(outcome: &Outcome) -> bool {
    match outcome {
        Ok(_)
        | Err(Fault::Failure(_) | Fault::Crashed | Fault::IdempotencyKeyReused | Fault::Cycle(_)) => {
            true
        }
        Err(Fault::LimitExceeded(limit)) => limit.kind != LimitKind::Time,
        Err(_) => false,
    }
}
