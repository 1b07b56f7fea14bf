//! The host's state for one instance: the capabilities, and what they all need.

use std::time::Instant;

use uuid::Uuid;
use wasmtime::component::ResourceTable;

use super::{EntityCall, Held, Shared};
use crate::message::StreamName;
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
    /// What the call works on, if its stream is stateful.
    pub(in crate::runtime) entity: Option<Box<EntityCall>>,
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
        held.begin(deadline);
        Self {
            held,
            resources,
            log,
            budget: Budget::new(memory_bytes_max),
            deadline,
            turn: Turn::default(),
            entity: None,
        }
    }

    /// Called when a call begins.
    pub(in crate::runtime) fn begin(&mut self, message: Uuid, deadline: Instant) {
        self.deadline = deadline;
        self.held.begin(deadline);
        self.budget.begin();
        self.log.begin(message);
    }

    /// Called when the call has ended.
    pub(in crate::runtime) fn end(&self) {
        self.log.end();
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
