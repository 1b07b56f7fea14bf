//! The call that the message with the turn waits for, and other calls that wait for the turn: when one
//! would wait for the other. Pure.

use uuid::Uuid;

use crate::message::{Chain, PartitionKey, StreamName};

/// A message and another would have waited for each other.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Crossed;

/// What the message that has the turn calls.
#[derive(Debug, Default)]
pub(super) struct Crossing {
    call: Option<Box<Call>>,
    /// How many calls there were.
    calls: u32,
}

#[derive(Debug)]
struct Call {
    /// The root of its chain.
    root: Uuid,
    /// Whose turn it waits for.
    to: Option<(StreamName, PartitionKey)>,
    is_crossed: bool,
}

/// Who has to give way when a call waits for the turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meeting {
    /// Neither waits for the other.
    Nobody,
    /// The one that waits is the younger.
    Waiting,
    /// The one that has the turn is.
    Turn,
}

impl Crossing {
    /// The message that has the turn calls; its chain has this root.
    pub(super) fn begin(&mut self, root: Uuid, to: Option<(StreamName, PartitionKey)>) {
        self.calls = self.calls.wrapping_add(1);
        self.call = Some(Box::new(Call {
            root,
            to,
            is_crossed: false,
        }));
    }

    /// The call, or the turn, has ended.
    pub(super) fn end(&mut self) {
        self.call = None;
    }

    /// Whether the call is to end.
    pub(super) fn is_crossed(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.is_crossed)
    }

    /// A message for which the handlers of this chain wait is waiting for the turn.
    pub(super) fn meet(&mut self, chain: &Chain) -> Meeting {
        let Some(call) = &mut self.call else {
            return Meeting::Nobody;
        };
        let waits_for = |(stream, key): &_| chain.holds(stream, key);
        if chain.root == call.root || !call.to.as_ref().is_some_and(waits_for) {
            Meeting::Nobody
        } else if chain.is_younger_than(call.root) {
            Meeting::Waiting
        } else {
            call.is_crossed = true;
            Meeting::Turn
        }
    }

    /// The number of the call, if it is of an older chain than this one: it may be that it waits for
    /// this one, over several others.
    pub(super) fn older_than(&self, chain: &Chain) -> Option<u32> {
        let call = self.call.as_ref()?;
        chain.is_younger_than(call.root).then_some(self.calls)
    }
}
