//! `meshage:mesh/calls`, and `call` of `messages`: what a handler asks of other entities and waits
//! for. Whoever made the handler's own call does the asking.

use std::sync::Arc;

use super::HostState;
use super::entity::{EntityCall, Loading, StateError};
use super::messages::{outgoing, types, wit_calls as wit};
use crate::message::{Failure, FailureKind, Fault, Method, Outcome, Outgoing, Reply};

/// The interface by which a handler calls others, without its version.
pub(in crate::runtime) const CALLS: &str = "meshage:mesh/calls";

/// Asks other entities for a handler.
pub trait Caller: Send + Sync + 'static {
    /// Asks once, and waits for the answer.
    ///
    /// # Errors
    /// Why the handler must end.
    fn call(&self, outgoing: Outgoing) -> Loading<'_, Outcome>;

    /// Asks until the message is delivered.
    ///
    /// # Errors
    /// Why the handler must end.
    fn deliver(&self, outgoing: Outgoing) -> Loading<'_, Result<(), Fault>>;
}

/// What one call of a handler works with, besides its message.
#[derive(Default)]
pub struct CallContext {
    /// If its stream is stateful.
    pub entity: Option<EntityCall>,
    /// If it may call others.
    pub caller: Option<Arc<dyn Caller>>,
    /// The text of the last failure of a call that would have waited for itself.
    pub cycle: Option<String>,
}

impl wit::Host for HostState {
    async fn call(
        &mut self,
        to: wit::Target,
        message: wit::Outgoing,
    ) -> wasmtime::Result<Result<wit::Reply, wit::Failure>> {
        self.ask(to, message).await
    }

    async fn send(
        &mut self,
        to: wit::Target,
        message: wit::Outgoing,
    ) -> wasmtime::Result<Result<(), wit::Failure>> {
        if self.entity().is_ok() {
            super::messages::send(self, to, message, 0, None)?;
            return Ok(Ok(()));
        }
        let outgoing = outgoing(to, message)?;
        if outgoing.method == Method::Get {
            return Err(super::messages::no_method(&outgoing.method));
        }
        let delivered = self.caller()?.deliver(outgoing).await?;
        Ok(delivered.map_err(|fault| self.failure(fault).into()))
    }
}

impl HostState {
    /// Calls an entity.
    pub(super) async fn ask(
        &mut self,
        to: wit::Target,
        message: wit::Outgoing,
    ) -> wasmtime::Result<Result<wit::Reply, wit::Failure>> {
        let outgoing = outgoing(to, message)?;
        if outgoing.method != Method::Get
            && let Ok(entity) = self.entity()
        {
            entity.check_write()?;
        }
        Ok(match self.caller()?.call(outgoing).await? {
            Ok(reply) => Ok(given(reply)),
            Err(fault) => Err(self.failure(fault).into()),
        })
    }

    fn caller(&self) -> Result<Arc<dyn Caller>, StateError> {
        let context = self.context.as_deref();
        let caller = context.and_then(|context| context.caller.clone());
        caller.ok_or(StateError::NoMessage)
    }

    /// What a handler gets instead of a reply.
    fn failure(&mut self, fault: Fault) -> Failure {
        let kind = match fault {
            Fault::Failure(failure) => return failure,
            Fault::Cycle(text) => {
                if let Some(context) = &mut self.context {
                    context.cycle = Some(text.clone());
                }
                let kind = FailureKind::Internal;
                return Failure { kind, text };
            }
            ref fault if fault.nothing_ran() => FailureKind::Unavailable,
            _ => FailureKind::Internal,
        };
        let text = fault.to_string();
        Failure { kind, text }
    }
}

/// A reply as a handler gets it.
fn given(reply: Reply) -> wit::Reply {
    let headers = reply.headers.iter();
    let headers = headers.filter_map(|(name, value)| {
        let value = std::str::from_utf8(value.as_bytes()).ok()?;
        Some((name.as_str().to_owned(), value.to_owned()))
    });
    wit::Reply {
        status: reply.status.as_u16(),
        headers: headers.collect(),
        body: reply.body.to_vec(),
    }
}

impl From<Failure> for types::Failure {
    fn from(Failure { kind, text }: Failure) -> Self {
        match kind {
            FailureKind::Invalid => Self::Invalid(text),
            FailureKind::NotFound => Self::NotFound(text),
            FailureKind::Conflict => Self::Conflict(text),
            FailureKind::Unavailable => Self::Unavailable(text),
            FailureKind::Internal => Self::Internal(text),
        }
    }
}
