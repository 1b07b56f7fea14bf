//! One instance of a component, with all the state that belongs to it alone.

use std::io;
use std::pin::pin;
use std::time::Instant;

use wasmtime::component::ResourceTableError;
use wasmtime::{PoolConcurrencyLimitError, Store, Trap, UpdateDeadline, WasmBacktrace};

use super::contract::{Arguments, Exports, Prepared, Returned};
use super::engine::Engine;
use super::host::{self, CallContext, HostState, RESOURCES_MAX, StateError};
use super::limits::{Instances, Limits, STACK_BYTES_MAX, TRANSFER_BYTES_MAX};
use super::turns::Turn;
use crate::message::{Limit, LimitKind, Message, StreamName};

/// The text of wasmtime's error when a guest hands over more than [`TRANSFER_BYTES_MAX`]; the error
/// has no public type.
const TRANSFER_ERROR: &str = "too much data is being copied between the host and the guest";

/// An instance, ready for the next message.
pub(super) struct Instance {
    store: Store<HostState>,
    exports: Exports,
    turn: Turn,
    calls: u64,
    memory_bytes_at_first: usize,
}

/// Why an instance could not be made, or its call did not complete.
#[derive(Debug)]
pub(super) struct Stopped {
    /// The limit that the guest exceeded, if that is the cause.
    pub(super) limit: Option<Limit>,
    pub(super) error: wasmtime::Error,
    /// The last lines of the guest's stderr, such as its panic message.
    pub(super) stderr: Option<String>,
}

impl Stopped {
    /// Whether there was no free slot in the pool, or no memory from the system, for an instance.
    /// No guest code has run then.
    pub(super) fn is_out_of_capacity(&self) -> bool {
        let has_begun = self.error.is::<WasmBacktrace>();
        let cause = self.error.root_cause();
        let is_of_system = cause.is::<io::Error>() || cause.is::<rustix::io::Errno>();
        !has_begun && (self.error.is::<PoolConcurrencyLimitError>() || is_of_system)
    }
}

/// A guest was stopped because its deadline passed.
#[derive(Debug, thiserror::Error)]
#[error("the deadline passed")]
pub(super) struct Interrupted;

impl Instance {
    pub(super) async fn new(
        engine: &Engine,
        prepared: &Prepared,
        stream: &StreamName,
        shared: &host::Shared,
        limits: &Limits,
        deadline: Instant,
    ) -> Result<Self, Stopped> {
        let state = HostState::new(stream.clone(), shared, limits.memory_bytes_max, deadline);
        let mut store = Store::new(&engine.wasmtime, state);
        store.limiter(|state| &mut state.budget);
        store.set_hostcall_fuel(TRANSFER_BYTES_MAX);
        // The callback runs at every tick of the epoch: it yields when the guest's turn is over,
        // and stops the guest once its deadline has passed.
        store.set_epoch_deadline(1);
        let clock = engine.clock.clone();
        store.epoch_deadline_callback(move |context| {
            if Instant::now() >= context.data().deadline {
                return Err(Interrupted.into());
            }
            clock.note_call();
            Ok(if context.data().turn.tick() {
                UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()))
            } else {
                UpdateDeadline::Continue(1)
            })
        });
        let turn = store.data().turn.clone();
        let made = {
            let guest = pin!(prepared.instantiate(&mut store));
            engine.turns.run(guest, &turn).await
        };
        match made {
            Ok(exports) => {
                let memory_bytes_at_first = store.data().budget.memory_bytes();
                Ok(Self {
                    store,
                    exports,
                    turn,
                    calls: 0,
                    memory_bytes_at_first,
                })
            }
            Err(error) => Err(stopped(&store, error)),
        }
    }

    /// Runs one message. After an error, or when the future is dropped before it completes, the
    /// instance is in an unknown state and must be dropped too.
    pub(super) async fn call(
        &mut self,
        engine: &Engine,
        message: &Message,
        arguments: Arguments<'_>,
        context: &mut Option<Box<CallContext>>,
        deadline: Instant,
    ) -> Result<Returned, Stopped> {
        self.calls += 1;
        let state = self.store.data_mut();
        state.begin(message, deadline, context.take());
        self.store.set_epoch_deadline(1);
        let result = {
            let guest = pin!(self.exports.call(&mut self.store, message, arguments));
            engine.turns.run(guest, &self.turn).await
        };
        *context = self.store.data_mut().end();
        result.map_err(|error| stopped(&self.store, error))
    }

    /// Whether the instance should be retired: it has run as many messages as it may, has used half
    /// of its room to grow, or holds half of its host resources (a leak).
    pub(super) fn should_retire(&mut self, limits: &Limits) -> bool {
        let state = self.store.data_mut();
        let room = limits
            .memory_bytes_max
            .saturating_sub(self.memory_bytes_at_first);
        let calls_max = limits.instances.unwrap_or(Instances::REUSE).calls_max();
        self.calls >= calls_max
            || state.budget.memory_bytes() > self.memory_bytes_at_first + room / 2
            || state.resources_held() > RESOURCES_MAX / 2
    }
}

/// Collects what is known about why an instance was stopped.
fn stopped(store: &Store<HostState>, error: wasmtime::Error) -> Stopped {
    let limit = |kind, max: usize| Limit {
        kind,
        max: max as u64,
    };
    let limit = if error.downcast_ref::<Trap>() == Some(&Trap::StackOverflow) {
        Some(limit(LimitKind::StackBytes, STACK_BYTES_MAX))
    } else if matches!(error.downcast_ref(), Some(ResourceTableError::Full)) {
        Some(limit(LimitKind::Resources, RESOURCES_MAX))
    } else if let Some(StateError::Limit(limit)) = error.downcast_ref() {
        Some(*limit)
    } else if error.root_cause().to_string().starts_with(TRANSFER_ERROR) {
        Some(limit(LimitKind::TransferBytes, TRANSFER_BYTES_MAX))
    } else {
        store.data().budget.refused()
    };
    Stopped {
        limit,
        error,
        stderr: store.data().last_words(),
    }
}
