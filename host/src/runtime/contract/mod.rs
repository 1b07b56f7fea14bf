//! Contracts: the ways in which a component is called. One of them is chosen for each component, by
//! what it exports, when it is loaded.

mod message_handler;

use http::HeaderName;
use wasmtime::Store;
use wasmtime::component::InstancePre;

use super::host::HostState;
use super::interfaces::{Package, split};
use crate::message::{Failure, Limit, Message, Reply};
use message_handler::MessageHandler;

/// One way to call a component.
pub(super) trait Call: Sized {
    /// The interface that a component of this contract exports, with its version.
    const EXPORT: &'static str;
    /// What error texts say to an author whose component does not export it.
    const EXPECTED: &'static str;
    /// Interfaces that belong to the contract: what its components export, and the types that they
    /// import for that.
    const PACKAGES: &'static [Package];
    /// What an instance exports.
    type Exports;
    /// What a message is for a handler, beside the message itself.
    type Arguments<'m>;

    /// Checks that a component has what the contract demands.
    ///
    /// # Errors
    /// What does not fit.
    fn prepare(component: InstancePre<HostState>) -> wasmtime::Result<Self>;

    fn pre(&self) -> &InstancePre<HostState>;

    async fn instantiate(&self, store: &mut Store<HostState>) -> wasmtime::Result<Self::Exports>;

    /// Makes ready what the handler gets, which may see the `visible` headers. No instance is needed
    /// for it.
    ///
    /// # Errors
    /// What is wrong with the message.
    fn arguments<'m>(
        message: &'m Message,
        visible: &[HeaderName],
    ) -> Result<Self::Arguments<'m>, Failure>;

    /// Calls an instance.
    async fn call(
        exports: &Self::Exports,
        store: &mut Store<HostState>,
        message: &Message,
        arguments: Self::Arguments<'_>,
    ) -> wasmtime::Result<Result<Reply, NoReply>>;
}

/// What a handler returned instead of a reply.
#[derive(Debug)]
pub(super) enum NoReply {
    Failure(Failure),
    Bad(BadReply),
}

/// Why what a handler returned is no HTTP reply. For the log; the caller learns of a limit, or only
/// that it failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadReply {
    #[error("the handler replied with the status {0}; 200 to 599 are allowed")]
    Status(u16),
    #[error("the handler replied with the header {0:?}, which is no header name with a value")]
    Header(String),
    #[error("the handler exceeded its limit of {0}")]
    Limit(Limit),
}

/// Every contract, in the order in which a component is held against them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contract {
    MessageHandler,
}

/// A component that was checked against its contract.
pub(super) enum Prepared {
    MessageHandler(MessageHandler),
}

/// What an instance exports by its contract.
pub(super) enum Exports {
    MessageHandler(<MessageHandler as Call>::Exports),
}

/// What a message is for a handler, by its contract.
pub(super) enum Arguments<'m> {
    MessageHandler(message_handler::Headers<'m>),
}

impl Contract {
    const ALL: [Self; 1] = [Self::MessageHandler];

    /// The one that error texts speak of where none is known.
    pub(super) const DEFAULT: Self = Self::MessageHandler;

    /// The contract of a component with these exports, and the export by which it is known.
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
        }
    }

    /// What a component is to export, for error texts.
    pub(super) fn expected() -> String {
        let expected = Self::ALL.map(|contract| match contract {
            Self::MessageHandler => MessageHandler::EXPECTED,
        });
        expected.join(", or ")
    }

    pub(super) fn packages() -> impl Iterator<Item = &'static Package> {
        Self::ALL.into_iter().flat_map(|contract| match contract {
            Self::MessageHandler => MessageHandler::PACKAGES,
        })
    }

    /// Checks that a component has what the contract demands.
    ///
    /// # Errors
    /// What does not fit.
    pub(super) fn prepare(self, component: InstancePre<HostState>) -> wasmtime::Result<Prepared> {
        match self {
            Self::MessageHandler => {
                MessageHandler::prepare(component).map(Prepared::MessageHandler)
            }
        }
    }
}

impl Prepared {
    /// The component, ready to be instantiated.
    pub(super) fn pre(&self) -> &InstancePre<HostState> {
        match self {
            Self::MessageHandler(prepared) => prepared.pre(),
        }
    }

    /// Makes ready what the handler gets, which may see the `visible` headers.
    ///
    /// # Errors
    /// What is wrong with the message.
    pub(super) fn arguments<'m>(
        &self,
        message: &'m Message,
        visible: &[HeaderName],
    ) -> Result<Arguments<'m>, Failure> {
        match self {
            Self::MessageHandler(_) => {
                MessageHandler::arguments(message, visible).map(Arguments::MessageHandler)
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
        }
    }
}

impl Exports {
    /// Calls an instance. The arguments are those of its own contract.
    pub(super) fn call<'a>(
        &'a self,
        store: &'a mut Store<HostState>,
        message: &'a Message,
        arguments: Arguments<'a>,
    ) -> impl Future<Output = wasmtime::Result<Result<Reply, NoReply>>> + Send + 'a {
        match (self, arguments) {
            (Self::MessageHandler(exports), Arguments::MessageHandler(arguments)) => {
                MessageHandler::call(exports, store, message, arguments)
            }
        }
    }
}
