//! A loaded handler: its compiled component, its warm instances, and the limits in front of them.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout_at;
use tracing::{error, warn};
use wasmtime::PoolConcurrencyLimitError;
use wasmtime::component::Component;

use super::bindings::{self, EXPORT, HandlerPre};
use super::engine::Engine;
use super::instance::{HostState, Instance, Interrupted};
use super::limits::Limits;
use crate::message::{Fault, Message, Outcome, Refusal, StreamName};

/// The largest body of a reply. A reply is held in memory on the node that runs the handler and on
/// the one that was asked.
const REPLY_BODY_BYTES_MAX: usize = 16 << 20;

/// Why a component cannot be a handler.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(
        "it is a core WebAssembly module, not a component: build it with `--target wasm32-wasip2`, or wrap it with \
         `wasm-tools component new`"
    )]
    CoreModule,
    #[error("it is not a WebAssembly component: {0}")]
    NotAComponent(String),
    #[error("it does not export `{EXPORT}`, which makes a handler; it exports {found}")]
    MissingExport { found: String },
    #[error("it does not fit this host: {0}")]
    Mismatch(String),
    #[error("a trial instance could not be made: {0}")]
    Trial(String),
}

/// Runs the messages of one version of one stream.
pub struct Handler {
    engine: Engine,
    stream: StreamName,
    limits: Limits,
    pre: HandlerPre<HostState>,
    warm: Mutex<Vec<Instance>>,
    running: Semaphore,
    waiting: AtomicUsize,
    calls: AtomicU64,
}

impl Handler {
    /// Compiles a component, checks that it is a handler, and makes its first instance.
    ///
    /// # Errors
    /// What is wrong with the component, and what would be right.
    pub async fn load(
        engine: &Engine,
        stream: StreamName,
        component: Vec<u8>,
        limits: Limits,
    ) -> Result<Self, LoadError> {
        let compiling = engine.clone();
        let pre = tokio::task::spawn_blocking(move || compile(&compiling, &component))
            .await
            .map_err(|error| LoadError::NotAComponent(format!("the compiler failed: {error}")))??;
        let handler = Self {
            engine: engine.clone(),
            stream,
            pre,
            warm: Mutex::default(),
            running: Semaphore::new(limits.concurrency),
            waiting: AtomicUsize::new(0),
            calls: AtomicU64::new(0),
            limits,
        };
        let deadline = Instant::now() + handler.limits.timeout;
        let trial = timeout_at(deadline.into(), handler.instantiate(deadline))
            .await
            .map_err(|_| LoadError::Trial(format!("it took longer than {:?}", handler.limits.timeout)))?
            .map_err(|error| LoadError::Trial(format!("{error:#}")))?;
        handler.put_back(trial);
        Ok(handler)
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Warm instances that wait for a message.
    pub fn idle_instances(&self) -> usize {
        self.warm.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Messages that have begun to run, ever.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Messages that run now.
    pub fn running(&self) -> usize {
        self.limits.concurrency - self.running.available_permits()
    }

    /// Runs a message: on a warm instance if there is one, and until the deadline or the plugin's own
    /// timeout, whichever is first. Dropping the call stops the guest.
    pub async fn invoke(&self, message: &Message, deadline: Instant) -> Outcome {
        let deadline = deadline.min(Instant::now() + self.limits.timeout);
        match timeout_at(deadline.into(), self.run(message, deadline)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Fault::DeadlineExceeded),
        }
    }

    async fn run(&self, message: &Message, deadline: Instant) -> Outcome {
        let _running = self.admit().await?;
        self.calls.fetch_add(1, Ordering::Relaxed);
        let taken = self.warm.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut instance = match taken {
            Some(instance) => instance,
            None => self.instantiate(deadline).await.map_err(|error| self.fault(message, &error))?,
        };
        let result = instance.call(message, &self.limits, deadline).await;
        let result = result.map_err(|error| self.fault(message, &error))?;
        self.put_back(instance);
        let reply = result.map_err(|failure| Fault::Failure(failure.into()))?;
        bindings::check_reply(reply, REPLY_BODY_BYTES_MAX).map_err(|error| {
            error!(stream = %self.stream, message_id = %message.id, %error, "a reply was dropped");
            Fault::Crashed
        })
    }

    /// Takes a place among the running calls, or waits for one in a bounded, fair queue.
    async fn admit(&self) -> Result<SemaphorePermit<'_>, Fault> {
        if let Ok(permit) = self.running.try_acquire() {
            return Ok(permit);
        }
        let waiting = Waiting::join(&self.waiting, self.limits.queue).ok_or(Fault::Refused(Refusal::Overloaded))?;
        let permit = self.running.acquire().await;
        drop(waiting);
        // The semaphore is never closed.
        permit.map_err(|_| Fault::Refused(Refusal::Leaving))
    }

    async fn instantiate(&self, deadline: Instant) -> wasmtime::Result<Instance> {
        Instance::new(&self.engine.wasmtime, &self.pre, &self.stream, &self.limits, deadline).await
    }

    fn put_back(&self, instance: Instance) {
        self.warm.lock().unwrap_or_else(PoisonError::into_inner).push(instance);
    }

    /// What an error of wasmtime means to the caller; everything else about it goes to the log.
    fn fault(&self, message: &Message, error: &wasmtime::Error) -> Fault {
        let (stream, message) = (&self.stream, message.id);
        if error.is::<Interrupted>() {
            warn!(%stream, message_id = %message, "stopped a handler that ran into its deadline");
            return Fault::DeadlineExceeded;
        }
        if error.is::<PoolConcurrencyLimitError>() {
            warn!(%stream, message_id = %message, "refused a message: every instance of the node is in use");
            return Fault::Refused(Refusal::Overloaded);
        }
        error!(%stream, message_id = %message, error = format!("{error:?}"), "a handler crashed");
        Fault::Crashed
    }
}

/// A place in the queue, for as long as it is held.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn join(waiting: &'a AtomicUsize, limit: usize) -> Option<Self> {
        let place = Self(waiting);
        // On refusal the place is given back by being dropped.
        (waiting.fetch_add(1, Ordering::Relaxed) < limit).then_some(place)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn compile(engine: &Engine, bytes: &[u8]) -> Result<HandlerPre<HostState>, LoadError> {
    // A module's header ends with its version, a component's with version and layer.
    if bytes.starts_with(b"\0asm\x01\0\0\0") {
        return Err(LoadError::CoreModule);
    }
    let component = Component::from_binary(&engine.wasmtime, bytes)
        .map_err(|error| LoadError::NotAComponent(format!("{error:#}")))?;
    if component.get_export_index(None, EXPORT).is_none() {
        let ty = component.component_type();
        let exports: Vec<String> = ty.exports(&engine.wasmtime).map(|(name, _)| format!("`{name}`")).collect();
        let found = if exports.is_empty() { "nothing".to_owned() } else { exports.join(", ") };
        return Err(LoadError::MissingExport { found });
    }
    engine
        .linker
        .instantiate_pre(&component)
        .and_then(HandlerPre::new)
        .map_err(|error| LoadError::Mismatch(format!("{error:#}")))
}
