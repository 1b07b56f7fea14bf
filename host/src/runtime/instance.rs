//! One instance of a component, with everything that belongs to it alone.

use std::time::Instant;

use tracing::{debug, error, info, trace, warn};
use uuid::Uuid;
use wasmtime::component::ResourceTable;
use wasmtime::{Store, StoreLimits, StoreLimitsBuilder, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::bindings::{self, HandlerPre, cut, logging, wit};
use super::limits::{Limits, TABLE_ELEMENTS_MAX};
use super::output::Output;
use crate::message::{Message, StreamName};

/// Handles (streams, pollables, clocks) that one instance may hold at once.
const RESOURCES_MAX: usize = 1_000;

/// Core instances, memories and tables of one component: far more than any toolchain makes.
const PARTS_MAX: usize = 32;

/// One log entry of a guest; the rest is cut off.
const LOG_TEXT_BYTES_MAX: usize = 8 * 1024;

/// What the host keeps for one instance.
pub(super) struct HostState {
    wasi: WasiCtx,
    resources: ResourceTable,
    limits: StoreLimits,
    stream: StreamName,
    message: Uuid,
    deadline: Instant,
    outputs: [Output; 2],
}

/// An instance, ready for the next message.
pub(super) struct Instance {
    store: Store<HostState>,
    exports: bindings::Handler,
}

/// A guest was stopped because its deadline passed.
#[derive(Debug, thiserror::Error)]
#[error("the deadline passed")]
pub(super) struct Interrupted;

impl Instance {
    pub(super) async fn new(
        engine: &wasmtime::Engine,
        pre: &HandlerPre<HostState>,
        stream: &StreamName,
        limits: &Limits,
        deadline: Instant,
    ) -> wasmtime::Result<Self> {
        let mut store = Store::new(engine, HostState::new(stream.clone(), limits, deadline));
        store.limiter(|state| &mut state.limits);
        // At every tick a busy guest lets others run, until its time is over.
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|context| {
            if Instant::now() < context.data().deadline {
                // Tokio's own yield lets its I/O and timers run before this guest goes on.
                Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
            } else {
                Err(Interrupted.into())
            }
        });
        let exports = pre.instantiate_async(&mut store).await?;
        Ok(Self { store, exports })
    }

    /// Runs one message. After an error, or when the call is dropped before its end, the instance is
    /// in an unknown state and must be dropped too.
    pub(super) async fn call(
        &mut self,
        message: &Message,
        limits: &Limits,
        deadline: Instant,
    ) -> wasmtime::Result<Result<wit::Reply, wit::Failure>> {
        let state = self.store.data_mut();
        state.message = message.id;
        state.deadline = deadline;
        for output in &state.outputs {
            output.begin(message.id);
        }
        self.store.set_epoch_deadline(1);

        let headers = bindings::visible_headers(message, &limits.headers);
        let mut id = Uuid::encode_buffer();
        let argument = wit::Message {
            id: message.id.as_hyphenated().encode_lower(&mut id),
            stream: message.stream.as_str(),
            partition_key: message.partition_key.as_str(),
            method: message.method.as_str(),
            query: &message.query,
            headers: &headers,
            body: &message.body,
        };
        let result = self.exports.meshage_mesh_message_handler().call_handle(&mut self.store, argument).await;
        for output in &self.store.data().outputs {
            output.end();
        }
        result
    }
}

impl HostState {
    fn new(stream: StreamName, limits: &Limits, deadline: Instant) -> Self {
        let outputs = [Output::new(stream.clone(), "stdout"), Output::new(stream.clone(), "stderr")];
        let mut resources = ResourceTable::new();
        resources.set_max_capacity(RESOURCES_MAX);
        // Deny by default: no files, no environment, no sockets, no name look-ups.
        let wasi = WasiCtx::builder()
            .stdout(outputs[0].clone())
            .stderr(outputs[1].clone())
            .allow_tcp(false)
            .allow_udp(false)
            .build();
        let limits = StoreLimitsBuilder::new()
            .memory_size(limits.memory_bytes_max)
            .table_elements(TABLE_ELEMENTS_MAX)
            .instances(PARTS_MAX)
            .memories(PARTS_MAX)
            .tables(PARTS_MAX)
            .build();
        Self { wasi, resources, limits, stream, message: Uuid::nil(), deadline, outputs }
    }
}

impl WasiView for HostState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.resources }
    }
}

impl logging::Host for HostState {
    fn log(&mut self, level: logging::Level, text: String) {
        let text = cut(text, LOG_TEXT_BYTES_MAX);
        let (stream, message) = (&self.stream, self.message);
        match level {
            logging::Level::Trace => trace!(target: "guest", %stream, message_id = %message, "{text}"),
            logging::Level::Debug => debug!(target: "guest", %stream, message_id = %message, "{text}"),
            logging::Level::Info => info!(target: "guest", %stream, message_id = %message, "{text}"),
            logging::Level::Warn => warn!(target: "guest", %stream, message_id = %message, "{text}"),
            logging::Level::Error => error!(target: "guest", %stream, message_id = %message, "{text}"),
        }
    }
}
