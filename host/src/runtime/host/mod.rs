//! Capabilities: what guests can import from the host. Each is one unit: what it links, which
//! manifest keys it reads, its state for the node, for a plugin and for an instance, and what it
//! does when a call begins. Only the list at the end of this file names them.

mod calls;
mod entity;
mod http;
mod log;
mod messages;
mod state;
mod wasi;

use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::TrustAnchor;
use serde::Serialize;
use wasmtime::component::Linker;

use super::entry::{Entry, ManifestError};
use super::guest_log::GuestLog;
use super::interfaces::{MESH, MESH_VERSION, Package};
use crate::message::{StreamName, Trace};

pub(super) use calls::CALLS;
pub use calls::{CallContext, Caller};
pub use entity::{EntityCall, Loading, StateError, StateView};
pub(super) use entity::{MESSAGES, STATE};
pub(super) use state::{HostState, RESOURCES_MAX};

/// Node settings that capabilities need.
#[derive(Debug, Clone, Default)]
pub struct HostSettings {
    /// Certificate authorities that guests trust for HTTPS, in addition to those that browsers
    /// trust.
    pub outbound_authorities: Vec<TrustAnchor<'static>>,
}

/// Something that guests can import. A value of the type is the state of one instance.
trait Capability: Sized + Send + 'static {
    /// The interfaces that it offers.
    const PACKAGES: &'static [Package];
    /// The manifest keys that it reads, for error texts.
    const KEYS: &'static [&'static str] = &[];
    /// State shared by the whole node.
    type Node: Clone + Send + Sync + 'static;
    /// What a manifest grants. It serializes as a map, which `GET /plugins` shows, so it must leave
    /// out possible secrets.
    type Grant: Clone + std::fmt::Debug + Default + PartialEq + Eq + Serialize + Send + Sync;
    /// State shared by the instances of one version of a plugin.
    type Shared: Send + Sync + 'static;

    /// Adds its functions to the linker.
    ///
    /// # Errors
    /// If a name is already taken, which is a bug.
    fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()>;

    /// # Errors
    /// Which system resource is missing.
    fn start(settings: &HostSettings) -> wasmtime::Result<Self::Node>;

    /// Reads a manifest key. Returns `false` if the key is not its own.
    ///
    /// # Errors
    /// Why the value is invalid, and what is allowed.
    fn read(_: &mut Self::Grant, _: Entry<'_>) -> Result<bool, ManifestError> {
        Ok(false)
    }

    /// Makes the shared state for one version of a plugin.
    fn share(node: &Self::Node, stream: &StreamName, grant: &Self::Grant) -> Self::Shared;

    fn instance(shared: &Arc<Self::Shared>, log: &GuestLog) -> Self;

    /// Called when a call, or the start of the instance, begins.
    fn begin(&mut self, _call: &Begun<'_>) {}

    /// Called when the call has ended.
    fn end(&mut self) {}
}

/// A call, or the start of an instance.
pub(super) struct Begun<'c> {
    /// It must end by then.
    deadline: Instant,
    /// What a call with state sees of it.
    view: Option<&'c Arc<dyn StateView>>,
    /// What it does belongs to this span, if its message is traced.
    trace: Option<Trace>,
}

/// Generates the host's state, with one field per capability.
macro_rules! capabilities {
    ($($name:ident: $capability:ty),+ $(,)?) => {
        /// State shared by the whole node.
        #[derive(Clone)]
        pub(super) struct NodeShared {
            $($name: <$capability as Capability>::Node),+
        }

        /// What a manifest grants.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
        pub struct Grants {
            $(#[serde(flatten)] $name: <$capability as Capability>::Grant),+
        }

        /// State shared by the instances of one version of a plugin.
        pub(super) struct Shared {
            $($name: Arc<<$capability as Capability>::Shared>),+
        }

        /// The state of one instance.
        struct Held {
            $($name: $capability),+
        }

        impl NodeShared {
            pub(super) fn start(settings: &HostSettings) -> wasmtime::Result<Self> {
                Ok(Self { $($name: <$capability>::start(settings)?),+ })
            }

            pub(super) fn share(&self, stream: &StreamName, grants: &Grants) -> Shared {
                Shared {
                    $($name: <$capability>::share(&self.$name, stream, &grants.$name).into()),+
                }
            }
        }

        impl Grants {
            /// Reads a manifest key. Returns `false` if it belongs to no capability.
            ///
            /// # Errors
            /// Why the value is invalid, and what is allowed.
            pub(super) fn read(&mut self, entry: Entry<'_>) -> Result<bool, ManifestError> {
                Ok($(<$capability>::read(&mut self.$name, entry)?)||+)
            }
        }

        impl Held {
            fn new(shared: &Shared, log: &GuestLog) -> Self {
                Self { $($name: <$capability>::instance(&shared.$name, log)),+ }
            }

            fn begin(&mut self, call: &Begun<'_>) {
                $(self.$name.begin(call);)+
            }

            fn end(&mut self) {
                $(self.$name.end();)+
            }
        }

        /// Adds the functions of every capability to a linker.
        pub(super) fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
            $(<$capability>::link(linker)?;)+
            Ok(())
        }

        /// The manifest keys that capabilities read.
        pub(super) fn manifest_keys() -> impl Iterator<Item = &'static str> {
            [$(<$capability>::KEYS),+].into_iter().flatten().copied()
        }

        /// The packages that guests can import from.
        pub(super) fn packages() -> impl Iterator<Item = &'static Package> {
            [$(<$capability>::PACKAGES),+].into_iter().flatten()
        }
    };
}

capabilities! {
    wasi: wasi::Wasi,
    http: http::Http,
    log: log::Log,
    state: entity::State,
    messages: messages::Messages,
}

/// The packages that guests can import from, for error texts.
pub(super) fn offered() -> String {
    let mut titles: Vec<&str> = packages()
        .filter_map(|package| package.wasi_title)
        .collect();
    titles.sort_unstable();
    let last = titles.pop().unwrap_or_default();
    format!(
        "{MESH} {}.{} and, of WASI 0.2, {} and {last}",
        MESH_VERSION.major,
        MESH_VERSION.minor,
        titles.join(", ")
    )
}
