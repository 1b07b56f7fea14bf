//! The host's state for one instance: the capabilities, and what they all need.

use std::time::Instant;

use wasmtime::component::ResourceTable;

use super::{Begun, CallContext, Held, Shared};
use crate::message::{Message, StreamName};
use crate::runtime::budget::Budget;
use crate::runtime::guest_log::GuestLog;
use crate::runtime::turns::Turn;

/// Handles (WASI streams, pollables, requests) that one instance may hold at once. The largest,
/// requests in flight with headers and a body, take some 128 KiB.
pub(in crate::runtime) const RESOURCES_MAX: usize = 500;

/// The host's state for one instance.
pub(in crate::runtime) struct HostState {
    pub(super) held: Held,
    /// Handles of all capabilities.
    pub(super) resources: ResourceTable,
    pub(super) log: GuestLog,
    pub(in crate::runtime) budget: Budget,
    pub(in crate::runtime) deadline: Instant,
    pub(in crate::runtime) turn: Turn,
    /// What the call works with, if its handler has state or may call others.
    pub(in crate::runtime) context: Option<Box<CallContext>>,
}

impl HostState {
    pub(in crate::runtime) fn new(
        stream: StreamName,
        shared: &Shared,
        memory_bytes_max: usize,
        deadline: Instant,
    ) -> Self {
        let log = GuestLog::new(stream);
        let mut resources = ResourceTable::new();
        resources.set_max_capacity(RESOURCES_MAX);
        let mut held = Held::new(shared, &log);
        held.begin(&Begun {
            deadline,
            view: None,
            trace: None,
        });
        Self {
            held,
            resources,
            log,
            budget: Budget::new(memory_bytes_max),
            deadline,
            turn: Turn::default(),
            context: None,
        }
    }

    /// Called when a call begins.
    pub(in crate::runtime) fn begin(
        &mut self,
        message: &Message,
        deadline: Instant,
        context: Option<Box<CallContext>>,
    ) {
        self.deadline = deadline;
        self.context = context;
        let entity = self
            .context
            .as_deref()
            .and_then(|context| context.entity.as_ref());
        self.held.begin(&Begun {
            deadline,
            view: entity.map(|entity| &entity.view),
            trace: message.trace,
        });
        self.budget.begin();
        self.log.begin(message.id);
    }

    /// Called when the call has ended.
    pub(in crate::runtime) fn end(&mut self) -> Option<Box<CallContext>> {
        self.log.end();
        self.held.end();
        self.context.take()
    }

    /// The last lines that the guest wrote to stderr.
    pub(in crate::runtime) fn last_words(&self) -> Option<String> {
        self.log.last_words()
    }

    /// The number of handles that the instance holds.
    pub(in crate::runtime) fn resources_held(&mut self) -> usize {
        self.resources.iter_mut().count()
    }
}
