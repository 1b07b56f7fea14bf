//! The protocol by which a message of a stateful stream takes effect once: commits, the fence,
//! records, `not-after`, takeovers. One entity, two nodes that both take themselves for its owner, and
//! messages that are sent to the first of them and, when that one is lost, to the second, while the
//! first may go on. The checker tries every order of steps; the tests also take one rule away at a
//! time, and see that it was needed.
//!
//! Left out: layers of uncommitted writes (the random schedules of `host/src/entities/entity.rs` have
//! them), batches, and what a store does in a crash.

use stateright::{Model, Property};

pub const MESSAGES: usize = 2;
pub const NODES: usize = 2;

/// A rule of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A commit is void if the entity's last commit is not the one that the run saw.
    Fence,
    /// What was written is committed with a record, and a message is looked up before it runs.
    Records,
    /// The store is asked for records that others may have committed before the entity was loaded.
    LookUps,
    /// A message with which a node was lost leaves a record of its failure as well.
    RecordsOfFailures,
    /// A commit is void once its message's time is over, and only then its record is deleted.
    NotAfter,
    /// Answers that rest on state leave after the store was asked whether it is current.
    Gate,
}

/// The protocol, perhaps without one of its rules.
#[derive(Debug, Clone, Copy, Default)]
pub struct Protocol {
    pub without: Option<Rule>,
}

/// What a run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    Wrote,
    /// It replied, and wrote nothing.
    Read,
    Failed,
}

/// What the caller learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    Ended(End),
    NotRun,
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Store {
    /// The entity's last commit; ids are never used again.
    last: u8,
    /// How often each message took effect.
    effects: [u8; MESSAGES],
    records: [Option<End>; MESSAGES],
    /// What the entity's row says: the latest `not-after` of its records.
    until: u8,
    /// Messages whose time is over, by the store's clock.
    late: [bool; MESSAGES],
}

/// What a node knows of the entity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Known {
    last: u8,
    /// The row's `until` when it was loaded.
    until: u8,
    /// Records that this node committed.
    recent: [bool; MESSAGES],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Run {
    None,
    Waits {
        is_repeated: bool,
    },
    Ended {
        is_repeated: bool,
        saw: u8,
        end: End,
    },
}

/// The caller's side of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Sent {
    Not,
    /// To this node; those before it were lost.
    To(usize),
    Answered(Answer),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    store: Store,
    known: [Option<Known>; NODES],
    runs: [[Run; MESSAGES]; NODES],
    sent: [Sent; MESSAGES],
    /// Messages that got their answer from a record.
    replayed: [bool; MESSAGES],
    /// An answer rested on state that was outdated.
    is_stale: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    Send(usize),
    /// The node that has the message is lost: it goes to the next, if there is one.
    Lose(usize),
    /// The message has its turn on the node, and comes to this end, unless it took effect before.
    Run(usize, usize, End),
    /// What it came to is committed, or found to be current; or it waits for another turn.
    Settle(usize, usize),
    /// The store's clock passes the message's time.
    Pass(usize),
    /// Its record is deleted.
    Sweep(usize),
    /// The node forgets the entity.
    Evict(usize),
}

/// A message's `not-after`.
fn not_after(message: usize) -> u8 {
    message as u8 + 1
}

impl Protocol {
    fn has(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    /// # Panics
    /// Never: both are within bounds.
    fn run(&self, world: &mut World, node: usize, message: usize, end: End) {
        let Run::Waits { is_repeated } = world.runs[node][message] else {
            return;
        };
        let World { store, known, .. } = world;
        if self.has(Rule::NotAfter) && store.late[message] {
            return world.answer(node, message, Answer::NotRun);
        }
        let known = known[node].get_or_insert(Known {
            last: store.last,
            until: store.until,
            recent: [false; MESSAGES],
        });
        let may_be_there =
            known.recent[message] || self.has(Rule::LookUps) && not_after(message) <= known.until;
        if self.has(Rule::Records) && may_be_there {
            if store.last != known.last {
                world.known[node] = None;
                return;
            }
            if let Some(end) = store.records[message] {
                world.replayed[message] = true;
                return world.answer(node, message, Answer::Ended(end));
            }
        }
        let saw = known.last;
        world.runs[node][message] = Run::Ended {
            is_repeated,
            saw,
            end,
        };
    }

    fn settle(&self, world: &mut World, node: usize, message: usize) {
        let Run::Ended {
            is_repeated,
            saw,
            end,
        } = world.runs[node][message]
        else {
            return;
        };
        let keeps = match end {
            End::Wrote => true,
            End::Read | End::Failed => is_repeated && self.has(Rule::RecordsOfFailures),
        };
        let store = &mut world.store;
        let is_current = store.last == saw;
        let is_good = if keeps {
            (is_current || !self.has(Rule::Fence))
                && !(store.late[message] && self.has(Rule::NotAfter))
        } else {
            is_current || !self.has(Rule::Gate)
        };
        if !is_good {
            world.known[node] = None;
            world.runs[node][message] = Run::Waits { is_repeated };
            return;
        }
        if keeps {
            store.last += 1;
            store.effects[message] += u8::from(end == End::Wrote);
            if self.has(Rule::Records) {
                store.records[message] = Some(end);
                store.until = store.until.max(not_after(message));
            }
            if let Some(known) = &mut world.known[node] {
                known.last = store.last;
                known.recent[message] = true;
            }
        }
        world.is_stale |= !keeps && !is_current;
        world.answer(node, message, Answer::Ended(end));
    }
}

impl World {
    /// The node answers; nobody hears it if it was given up.
    fn answer(&mut self, node: usize, message: usize, answer: Answer) {
        self.runs[node][message] = Run::None;
        if self.sent[message] == Sent::To(node) {
            // A refusal says nothing of those that were lost before.
            let is_known = node == 0 || answer != Answer::NotRun;
            let answer = if is_known { answer } else { Answer::Unknown };
            self.sent[message] = Sent::Answered(answer);
        }
    }

    fn lose(&mut self, message: usize) {
        let Sent::To(node) = self.sent[message] else {
            return;
        };
        let next = node + 1;
        if next < NODES {
            self.sent[message] = Sent::To(next);
            self.runs[next][message] = Run::Waits { is_repeated: true };
        } else {
            self.sent[message] = Sent::Answered(Answer::Unknown);
        }
    }

    /// Whether what the caller was told is so.
    fn is_told_truly(&self, message: usize) -> bool {
        let effects = self.store.effects[message];
        match self.sent[message] {
            Sent::Answered(Answer::Ended(End::Wrote)) => effects == 1,
            Sent::Answered(Answer::Ended(End::Read | End::Failed) | Answer::NotRun) => effects == 0,
            Sent::Answered(Answer::Unknown) | Sent::Not | Sent::To(_) => true,
        }
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            store: Store {
                last: 0,
                effects: [0; MESSAGES],
                records: [None; MESSAGES],
                until: 0,
                late: [false; MESSAGES],
            },
            known: [const { None }; NODES],
            runs: [[Run::None; MESSAGES]; NODES],
            sent: [Sent::Not; MESSAGES],
            replayed: [false; MESSAGES],
            is_stale: false,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for message in 0..MESSAGES {
            match world.sent[message] {
                Sent::Not => steps.push(Step::Send(message)),
                Sent::To(_) => steps.push(Step::Lose(message)),
                Sent::Answered(_) => {}
            }
            // The clock passes the times in their order.
            let is_next = message == 0 || world.store.late[message - 1];
            if is_next && !world.store.late[message] {
                steps.push(Step::Pass(message));
            }
            let may_sweep = world.store.late[message];
            if may_sweep && world.store.records[message].is_some() {
                steps.push(Step::Sweep(message));
            }
            for node in 0..NODES {
                match world.runs[node][message] {
                    Run::None => {}
                    Run::Waits { .. } => {
                        let ends = [End::Wrote, End::Read, End::Failed];
                        steps.extend(ends.map(|end| Step::Run(node, message, end)));
                    }
                    Run::Ended { .. } => steps.push(Step::Settle(node, message)),
                }
            }
        }
        for node in 0..NODES {
            // Not while a message has its turn.
            let is_idle = !world.runs[node]
                .iter()
                .any(|run| matches!(run, Run::Ended { .. }));
            if world.known[node].is_some() && is_idle {
                steps.push(Step::Evict(node));
            }
        }
        // One turn at a time.
        steps.retain(|step| match step {
            Step::Run(node, ..) => !world.runs[*node]
                .iter()
                .any(|run| matches!(run, Run::Ended { .. })),
            _ => true,
        });
    }

    fn next_state(&self, before: &World, step: Step) -> Option<World> {
        let mut world = before.clone();
        match step {
            Step::Send(message) => {
                world.sent[message] = Sent::To(0);
                world.runs[0][message] = Run::Waits { is_repeated: false };
            }
            Step::Lose(message) => world.lose(message),
            Step::Run(node, message, end) => self.run(&mut world, node, message, end),
            Step::Settle(node, message) => self.settle(&mut world, node, message),
            Step::Pass(message) => world.store.late[message] = true,
            Step::Sweep(message) => world.store.records[message] = None,
            Step::Evict(node) => world.known[node] = None,
        }
        (world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("a message takes effect once at most", |_, world: &World| {
                world.store.effects.iter().all(|effects| *effects <= 1)
            }),
            Property::always("what the caller is told is so", |_, world: &World| {
                (0..MESSAGES).all(|message| world.is_told_truly(message))
            }),
            Property::always("no answer rests on outdated state", |_, world: &World| {
                !world.is_stale
            }),
            Property::sometimes(
                "a repetition is answered from a record",
                |_, world: &World| world.replayed.contains(&true),
            ),
            Property::sometimes("all messages take effect", |_, world: &World| {
                world.store.effects == [1; MESSAGES]
            }),
        ]
    }

    fn within_boundary(&self, world: &World) -> bool {
        // A protocol without a rule may go on for ever.
        world.store.last <= 2 * MESSAGES as u8 + 2
    }
}

#[cfg(test)]
mod tests {
    use stateright::Checker;

    use super::*;

    #[test]
    fn a_message_takes_effect_once_and_its_caller_is_told_truly() {
        let checker = Protocol::default().checker().threads(2).spawn_bfs().join();
        println!("{} states", checker.unique_state_count());
        checker.assert_properties();
    }

    #[test]
    fn every_rule_is_needed() {
        for rule in [
            Rule::Fence,
            Rule::Records,
            Rule::LookUps,
            Rule::RecordsOfFailures,
            Rule::NotAfter,
            Rule::Gate,
        ] {
            let without = Protocol {
                without: Some(rule),
            };
            let checker = without.checker().threads(2).spawn_bfs().join();
            let broken = [
                "a message takes effect once at most",
                "what the caller is told is so",
                "no answer rests on outdated state",
            ];
            assert!(
                broken
                    .iter()
                    .any(|property| checker.discovery(property).is_some()),
                "{rule:?}"
            );
        }
    }
}
