//! Contracts: the ways to call a component. When a component is loaded, its exports decide which
//! one applies.

mod incoming_handler;
mod message_handler;
mod reply;

use wasmtime::Store;
use wasmtime::component::InstancePre;
use wasmtime::component::types::ComponentItem;

use super::engine::Engine;
use super::host::HostState;
use super::interfaces::{Package, split};
use super::limits::Instances;
use super::visible::Visible;
use crate::message::{Fault, Message, Reply};
use incoming_handler::IncomingHandler;
use message_handler::MessageHandler;
pub(super) use reply::{BadReply, NoReply};

/// One way to call a component.
pub(super) trait Call: Sized {
    /// The interface that a component of this contract exports, with its version.
    const EXPORT: &'static str;
    /// The expected export, for the error text if a component does not have it.
    const EXPECTED: &'static str;
    /// The interfaces of the contract: those that its components export, and the types that they
    /// import for that.
    const PACKAGES: &'static [Package];
    /// The exports of an instance.
    type Exports;
    /// What a handler receives in addition to the message itself.
    type Arguments<'m>;
    /// What a handler returns. It becomes a reply only after the call: a reply is larger, and would
    /// be moved with each result on the way.
    type Returned;

    /// Checks that a component has what the contract demands.
    ///
    /// # Errors
    /// Which export or type does not match.
    fn prepare(component: InstancePre<HostState>) -> wasmtime::Result<Self>;

    fn pre(&self) -> &InstancePre<HostState>;

    async fn instantiate(&self, store: &mut Store<HostState>) -> wasmtime::Result<Self::Exports>;

    /// Prepares the arguments of a call; the handler may see the `visible` headers. Needs no
    /// instance.
    ///
    /// # Errors
    /// Why the message cannot be passed to the handler.
    fn arguments<'m>(message: &'m Message, visible: &Visible)
    -> Result<Self::Arguments<'m>, Fault>;

    /// Calls an instance.
    async fn call(
        exports: &Self::Exports,
        store: &mut Store<HostState>,
        message: &Message,
        arguments: Self::Arguments<'_>,
    ) -> wasmtime::Result<Self::Returned>;

    /// Makes a reply of what the handler returned.
    ///
    /// # Errors
    /// Why it is none.
    fn reply(returned: Self::Returned) -> Result<Reply, NoReply>;
}

/// Every contract, in the order in which a component is matched against them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contract {
    MessageHandler,
    IncomingHandler,
}

/// A component that was checked against its contract.
pub(super) enum Prepared {
    MessageHandler(MessageHandler),
    IncomingHandler(IncomingHandler),
}

/// The exports of an instance, by contract.
pub(super) enum Exports {
    MessageHandler(<MessageHandler as Call>::Exports),
    IncomingHandler(<IncomingHandler as Call>::Exports),
}

/// The arguments of a call, by contract.
pub(super) enum Arguments<'m> {
    MessageHandler(<MessageHandler as Call>::Arguments<'m>),
    IncomingHandler(<IncomingHandler as Call>::Arguments<'m>),
}

/// What a handler returned, by its contract.
pub(super) enum Returned {
    MessageHandler(<MessageHandler as Call>::Returned),
    IncomingHandler(<IncomingHandler as Call>::Returned),
}

impl Contract {
    const ALL: [Self; 2] = [Self::MessageHandler, Self::IncomingHandler];

    /// The contract that error texts mention if none is known.
    pub(super) const DEFAULT: Self = Self::MessageHandler;

    /// The contract of a component with these exports, and the export that identifies it.
    pub(super) fn find(exports: &[String]) -> Option<(Self, &String)> {
        Self::ALL.into_iter().find_map(|contract| {
            let (wanted, _) = split(contract.export());
            let export = exports.iter().find(|name| split(name).0 == wanted)?;
            Some((contract, export))
        })
    }

    pub(super) fn export(self) -> &'static str {
        match self {
            Self::MessageHandler => MessageHandler::EXPORT,
            Self::IncomingHandler => IncomingHandler::EXPORT,
        }
    }

    /// The exports that a component is expected to have, for error texts.
    pub(super) fn expected() -> String {
        let expected = Self::ALL.map(|contract| match contract {
            Self::MessageHandler => MessageHandler::EXPECTED,
            Self::IncomingHandler => IncomingHandler::EXPECTED,
        });
        expected.join(", or ")
    }

    pub(super) fn packages() -> impl Iterator<Item = &'static Package> {
        Self::ALL.into_iter().flat_map(|contract| match contract {
            Self::MessageHandler => MessageHandler::PACKAGES,
            Self::IncomingHandler => IncomingHandler::PACKAGES,
        })
    }

    /// Checks that a component has what the contract demands.
    ///
    /// # Errors
    /// Which export or type does not match.
    pub(super) fn prepare(self, component: InstancePre<HostState>) -> wasmtime::Result<Prepared> {
        match self {
            Self::MessageHandler => {
                MessageHandler::prepare(component).map(Prepared::MessageHandler)
            }
            Self::IncomingHandler => {
                IncomingHandler::prepare(component).map(Prepared::IncomingHandler)
            }
        }
    }
}

impl Prepared {
    /// The component, ready to be instantiated.
    pub(super) fn pre(&self) -> &InstancePre<HostState> {
        match self {
            Self::MessageHandler(prepared) => prepared.pre(),
            Self::IncomingHandler(prepared) => prepared.pre(),
        }
    }

    /// How long its instances live, if its manifest does not say. Of HTTP handlers some fail at their
    /// second request (those of StarlingMonkey, as of 0.23), as the usual hosts make an instance for each.
    pub(super) fn instances(&self) -> Instances {
        match self {
            Self::MessageHandler(_) => Instances::REUSE,
            Self::IncomingHandler(_) => Instances::Fresh,
        }
    }

    /// Whether it answers HTTP requests, whatever their path and method.
    pub(super) fn takes_http(&self) -> bool {
        matches!(self, Self::IncomingHandler(_))
    }

    /// Whether the component imports an interface, named without its version.
    pub(super) fn imports(&self, engine: &Engine, interface: &str) -> bool {
        let ty = self.pre().component().component_type();
        ty.imports(&engine.wasmtime)
            .any(|(name, _)| split(name).0 == interface)
    }

    /// Whether the component imports this function of an interface, named without its version.
    pub(super) fn imports_function(&self, engine: &Engine, interface: &str, name: &str) -> bool {
        let ty = self.pre().component().component_type();
        ty.imports(&engine.wasmtime).any(|(import, item)| {
            let ComponentItem::ComponentInstance(instance) = item.ty else {
                return false;
            };
            split(import).0 == interface && instance.get_export(&engine.wasmtime, name).is_some()
        })
    }

    /// Prepares the arguments of a call; the handler may see the `visible` headers.
    ///
    /// # Errors
    /// Why the message cannot be passed to the handler.
    pub(super) fn arguments<'m>(
        &self,
        message: &'m Message,
        visible: &Visible,
    ) -> Result<Arguments<'m>, Fault> {
        match self {
            Self::MessageHandler(_) => {
                MessageHandler::arguments(message, visible).map(Arguments::MessageHandler)
            }
            Self::IncomingHandler(_) => {
                IncomingHandler::arguments(message, visible).map(Arguments::IncomingHandler)
            }
        }
    }

    pub(super) async fn instantiate(
        &self,
        store: &mut Store<HostState>,
    ) -> wasmtime::Result<Exports> {
        match self {
            Self::MessageHandler(prepared) => prepared
                .instantiate(store)
                .await
                .map(Exports::MessageHandler),
            Self::IncomingHandler(prepared) => prepared
                .instantiate(store)
                .await
                .map(Exports::IncomingHandler),
        }
    }
}

impl Exports {
    /// Calls an instance. The arguments are those of its own contract.
    pub(super) async fn call(
        &self,
        store: &mut Store<HostState>,
        message: &Message,
        arguments: Arguments<'_>,
    ) -> wasmtime::Result<Returned> {
        match (self, arguments) {
            (Self::MessageHandler(exports), Arguments::MessageHandler(arguments)) => {
                MessageHandler::call(exports, store, message, arguments)
                    .await
                    .map(Returned::MessageHandler)
            }
            (Self::IncomingHandler(exports), Arguments::IncomingHandler(arguments)) => {
                // Boxed: it is larger than the other, which is to take no more room for it.
                Box::pin(IncomingHandler::call(exports, store, message, arguments))
                    .await
                    .map(Returned::IncomingHandler)
            }
            (Self::MessageHandler(_) | Self::IncomingHandler(_), _) => {
                unreachable!("the arguments are of the component that the instance is of")
            }
        }
    }
}

impl Returned {
    /// Makes a reply of what the handler returned.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn reply(self) -> Result<Reply, NoReply> {
        match self {
            Self::MessageHandler(returned) => MessageHandler::reply(returned),
            Self::IncomingHandler(returned) => IncomingHandler::reply(returned),
        }
    }
}
