//! A loaded handler: its compiled component, its warm instances, and the deadlines of its calls.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::time::timeout_at;
use tracing::{error, warn};
use wasmtime::WasmBacktrace;

use super::compile::{compile, mismatch};
use super::contract::{BadReply, NoReply, Prepared};
use super::engine::Engine;
use super::host::{self, CALLS, CallContext, Grants, MESSAGES, STATE, StateError};
use super::instance::{Instance, Interrupted, Stopped};
use super::limits::Limits;
use super::load_error::{LoadError, one_line};
use super::manifest::Manifest;
use super::pool::Pool;
use crate::message::{
    Failure, FailureKind, Fault, Limit, LimitKind, Message, Outcome, Refusal, Reply, StreamName,
    truncate,
};
use crate::telemetry::PluginMetrics;

/// Maximum of the logged error with its backtrace: twenty frames, whose function names the guest
/// chooses.
const ERROR_TEXT_BYTES_MAX: usize = 16 << 10;

/// Maximum of the text that says what a handler cannot ask for.
const INVALID_TEXT_BYTES_MAX: usize = 2 << 10;

/// How often one message may trigger the reclaiming of idle instances: enough to reclaim all 1,000
/// instances of the node, eight at a time.
const RECLAIMS_MAX: u32 = 128;

/// Runs messages on one version of one stream's handler.
pub struct Handler {
    engine: Engine,
    stream: StreamName,
    limits: Limits,
    component: Prepared,
    grants: Grants,
    /// State that its instances share.
    shared: host::Shared,
    pool: Arc<Pool<Instance>>,
    metrics: PluginMetrics,
    is_stateful: bool,
    may_call: bool,
}

/// The deadline of one call.
#[derive(Debug, Clone, Copy)]
pub struct CallDeadline {
    pub at: Instant,
    /// Whether it comes from the plugin's own timeout rather than from the message's deadline.
    is_own: bool,
}

impl CallDeadline {
    pub fn at(&self) -> Instant {
        self.at
    }
}

impl Handler {
    /// Compiles a component, checks that it is a handler, and makes its first instance.
    ///
    /// # Errors
    /// Why the component cannot be a handler, and how to fix it.
    pub async fn load(
        engine: &Engine,
        stream: StreamName,
        component: Bytes,
        Manifest { mut limits, grants }: Manifest,
    ) -> Result<Self, LoadError> {
        let component = compile(engine.clone(), component).await?;
        limits.instances.get_or_insert(component.instances());
        let is_stateful = [STATE, MESSAGES]
            .into_iter()
            .any(|interface| component.imports(engine, interface));
        let may_call = component.imports(engine, CALLS)
            || component.imports_function(engine, MESSAGES, "call");
        let handler = Self {
            is_stateful,
            may_call,
            engine: engine.clone(),
            metrics: PluginMetrics::new(&stream),
            shared: engine.host.share(&stream, &grants),
            grants,
            stream,
            component,
            pool: engine.pools.new_pool(),
            limits,
        };
        let trial = handler.trial().await?;
        handler.pool.put(trial);
        Ok(handler)
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The capabilities that its manifest grants.
    pub fn grants(&self) -> &Grants {
        &self.grants
    }

    /// Whether it imports `state` or `messages`.
    pub fn is_stateful(&self) -> bool {
        self.is_stateful
    }

    /// Whether it answers HTTP requests, whatever their path and method.
    pub fn takes_http(&self) -> bool {
        self.component.takes_http()
    }

    /// Whether it may call other entities while it runs.
    pub fn may_call(&self) -> bool {
        self.may_call
    }

    /// Number of warm, idle instances.
    pub fn idle_instances(&self) -> usize {
        self.pool.len()
    }

    /// The deadline of a call that begins now: the message's deadline, or the end of the plugin's
    /// own timeout, whichever is first.
    pub fn call_deadline(&self, now: Instant, deadline: Instant) -> CallDeadline {
        let own = now + self.limits.timeout;
        CallDeadline {
            at: own.min(deadline),
            is_own: own < deadline,
        }
    }

    /// Runs a message, on a warm instance if there is one. Dropping the future stops the guest. A
    /// stateful handler works on the entity in `context`, which has what it wrote when the call has
    /// ended.
    ///
    /// # Errors
    /// Why the call brought no reply.
    pub async fn call(
        &self,
        message: &Message,
        context: &mut Option<Box<CallContext>>,
        deadline: CallDeadline,
        on_start: impl FnOnce(),
    ) -> Outcome {
        let run = self.run(message, context, deadline.at, on_start);
        let called = timeout_at(deadline.at.into(), run).await;
        match called {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(Ended::Interrupted)) => Err(self.late(deadline)),
            Ok(Err(Ended::Fault(fault))) => Err(fault),
            Err(_) => {
                let (stream, message) = (&self.stream, message.id);
                warn!(event = "handler-late", %stream, message_id = %message, "stopped a handler that waited, for the host or for its turn, past its deadline");
                Err(self.late(deadline))
            }
        }
    }

    fn late(&self, deadline: CallDeadline) -> Fault {
        if deadline.is_own {
            Fault::LimitExceeded(self.time_limit())
        } else {
            Fault::DeadlineExceeded
        }
    }

    async fn run(
        &self,
        message: &Message,
        context: &mut Option<Box<CallContext>>,
        deadline: Instant,
        on_start: impl FnOnce(),
    ) -> Result<Reply, Ended> {
        let arguments = self.component.arguments(message, &self.limits.headers);
        let arguments = arguments.map_err(Ended::Fault)?;
        on_start();
        self.engine.clock.note_call();
        let mut instance = match self.pool.take() {
            Some(instance) => instance,
            // Boxed, as it is rare: otherwise every call's future would reserve space for it.
            None => Box::pin(self.instance(deadline))
                .await
                .map_err(|stopped| self.ended(message, &stopped))?,
        };
        let returned = instance
            .call(&self.engine, message, arguments, context, deadline)
            .await;
        let returned = returned.map_err(|stopped| self.ended(message, &stopped))?;
        if !instance.should_retire(&self.limits) {
            self.pool.put(instance);
        }
        let reply = returned.reply();
        reply.map_err(|no_reply| {
            let cycle = context.as_mut().and_then(|context| context.cycle.take());
            Ended::Fault(self.no_reply(message, no_reply, cycle))
        })
    }

    /// The fault that the caller sees when a handler returned no reply.
    fn no_reply(&self, message: &Message, no_reply: NoReply, cycle: Option<String>) -> Fault {
        let error = match no_reply {
            // It returns what it got from its call.
            NoReply::Failure(failure) if Some(&failure.text) == cycle.as_ref() => {
                return Fault::Cycle(failure.text);
            }
            NoReply::Failure(failure) => return Fault::Failure(failure),
            NoReply::Bad(error) => error,
        };
        error!(event = "bad-reply", stream = %self.stream, message_id = %message.id, %error, "a reply was dropped");
        match error {
            BadReply::Limit(limit) => Fault::LimitExceeded(limit),
            BadReply::Status(_)
            | BadReply::Header(_)
            | BadReply::Nothing
            | BadReply::Unfinished
            | BadReply::Error(_) => Fault::Crashed,
        }
    }

    /// Makes an instance. When the node has run out of instances, idle ones of the plugins that
    /// have most of them are reclaimed first.
    async fn instance(&self, deadline: Instant) -> Result<Instance, Stopped> {
        let mut reclaims = 0;
        loop {
            match self.make_instance(deadline).await {
                // Other waiting calls may take the freed instances, so it may take several rounds.
                Err(stopped)
                    if stopped.is_out_of_capacity()
                        && reclaims < RECLAIMS_MAX
                        && self.engine.pools.reclaim() =>
                {
                    reclaims += 1;
                }
                made => return made,
            }
        }
    }

    async fn make_instance(&self, deadline: Instant) -> Result<Instance, Stopped> {
        self.metrics.instances_made.increment(1);
        Instance::new(
            &self.engine,
            &self.component,
            &self.stream,
            &self.shared,
            &self.limits,
            deadline,
        )
        .await
    }

    /// Makes the first instance, which shows that the component can be instantiated at all.
    async fn trial(&self) -> Result<Instance, LoadError> {
        let deadline = Instant::now() + self.limits.timeout;
        let trial = timeout_at(deadline.into(), self.instance(deadline)).await;
        trial
            .map_err(|_| LoadError::Limit(self.time_limit()))?
            .map_err(|stopped| match stopped.limit {
                Some(limit) => LoadError::Limit(limit),
                None if stopped.error.is::<Interrupted>() => LoadError::Limit(self.time_limit()),
                None if stopped.is_out_of_capacity() => LoadError::NoRoom(one_line(&stopped.error)),
                // No guest code has run yet, so the exports have the wrong types.
                None if !stopped.error.is::<WasmBacktrace>() => mismatch(
                    &self.engine,
                    self.component.pre().component(),
                    &stopped.error,
                ),
                None => LoadError::Trial(one_line(&stopped.error)),
            })
    }

    fn time_limit(&self) -> Limit {
        let timeout_ms = u64::try_from(self.limits.timeout.as_millis()).unwrap_or(u64::MAX);
        Limit {
            kind: LimitKind::Time,
            max: timeout_ms,
        }
    }

    /// The result for the caller after an instance was stopped; all other details go to the log,
    /// with the guest's own backtrace.
    fn ended(&self, message: &Message, stopped: &Stopped) -> Ended {
        let (stream, message, stderr) = (&self.stream, message.id, stopped.stderr.as_deref());
        let error = truncate(with_causes(&stopped.error), ERROR_TEXT_BYTES_MAX);
        if stopped.error.is::<Interrupted>() {
            warn!(event = "handler-interrupted", %stream, message_id = %message, error, stderr, "stopped a handler that ran into its deadline");
            return Ended::Interrupted;
        }
        if stopped.is_out_of_capacity() {
            warn!(event = "no-instance", %stream, message_id = %message, error, "refused a message: the node has no room for another instance");
            return Ended::Fault(Fault::Refused(Refusal::Overloaded));
        }
        if let Some(error) = stopped.error.downcast_ref::<StateError>()
            && let Some(fault) = fault_of(error)
        {
            if let StateError::Invalid(text) = error {
                warn!(event = "handler-invalid", %stream, message_id = %message, text, "a handler was stopped at what it cannot ask for");
            }
            return Ended::Fault(fault);
        }
        if let Some(limit) = stopped.limit {
            error!(event = "handler-limit", %stream, message_id = %message, %limit, error, stderr, "a handler was stopped at a limit");
            return Ended::Fault(Fault::LimitExceeded(limit));
        }
        error!(event = "handler-crashed", %stream, message_id = %message, error, stderr, "a handler crashed");
        Ended::Fault(Fault::Crashed)
    }
}

/// The error with its causes and the guest's backtrace, but without the host's own, which `RUST_BACKTRACE` adds.
fn with_causes(error: &wasmtime::Error) -> String {
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    causes.join("\ncaused by: ")
}

/// The fault for a call that a function of `state` ended; `None` if it is the handler's own.
fn fault_of(error: &StateError) -> Option<Fault> {
    match error {
        StateError::Outdated => Some(Fault::Refused(Refusal::Contended)),
        StateError::Unavailable => Some(Fault::Refused(Refusal::StateUnavailable)),
        StateError::Unreadable => Some(Fault::Crashed),
        StateError::NoRoom => Some(Fault::Refused(Refusal::NoRoom)),
        StateError::ReadOnly => Some(Fault::ReadOnly),
        StateError::Crossed => Some(Fault::Refused(Refusal::Crossed)),
        StateError::WaitedTooLong => Some(Fault::DeadlineExceeded),
        StateError::Invalid(text) => Some(Fault::Failure(Failure {
            kind: FailureKind::Internal,
            text: truncate(text.clone(), INVALID_TEXT_BYTES_MAX),
        })),
        StateError::Limit(_) | StateError::NoMessage => None,
    }
}

/// Why a call brought no reply.
enum Ended {
    /// The deadline passed while the guest ran.
    Interrupted,
    Fault(Fault),
}
