//! Capabilities: what guests can import from the host. Each is a unit of its own: what it links,
//! what it reads from a manifest, what it holds for the node, for a plugin and for an instance, and
//! what it does when a call begins. The list at the end of this file is all that names them.

mod http;
mod log;
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
use crate::message::StreamName;

pub(super) use state::{HostState, RESOURCES_MAX};

/// Settings of the node that capabilities depend on.
#[derive(Debug, Clone, Default)]
pub struct HostSettings {
    /// Authorities whom guests trust in HTTPS, besides those that browsers trust.
    pub outbound_authorities: Vec<TrustAnchor<'static>>,
}

/// Something that guests can import. A value is what one instance holds of it.
trait Capability: Sized + Send + 'static {
    /// The interfaces that it offers.
    const PACKAGES: &'static [Package];
    /// The keys of a manifest that it reads, for error texts.
    const KEYS: &'static [&'static str] = &[];
    /// What the whole node shares.
    type Node: Clone + Send + Sync + 'static;
    /// What a manifest grants. Serialized it is a map, which `GET /plugins` shows: without what may
    /// be secret.
    type Grant: Clone + std::fmt::Debug + Default + PartialEq + Eq + Serialize + Send + Sync;
    /// What the instances of one version of a plugin share.
    type Shared: Send + Sync + 'static;

    /// Puts its functions into the linker.
    ///
    /// # Errors
    /// A bug: a name is taken.
    fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()>;

    /// # Errors
    /// What it lacks of the system.
    fn start(settings: &HostSettings) -> wasmtime::Result<Self::Node>;

    /// Reads a key of a manifest, if it is one of its own, and says whether it was.
    ///
    /// # Errors
    /// What is wrong with the value, and what would be right.
    fn read(_: &mut Self::Grant, _: Entry<'_>) -> Result<bool, ManifestError> {
        Ok(false)
    }

    /// What a version of a plugin gets.
    fn share(node: &Self::Node, stream: &StreamName, grant: &Self::Grant) -> Self::Shared;

    fn instance(shared: &Arc<Self::Shared>, log: &GuestLog) -> Self;

    /// A call begins, or the start of the instance: it ends at the deadline.
    fn begin(&mut self, _deadline: Instant) {}
}

/// Everything that the host holds, for each capability.
macro_rules! capabilities {
    ($($name:ident: $capability:ty),+ $(,)?) => {
        /// What the node shares.
        #[derive(Clone)]
        pub(super) struct NodeShared {
            $($name: <$capability as Capability>::Node),+
        }

        /// What a manifest grants.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
        pub struct Grants {
            $(#[serde(flatten)] $name: <$capability as Capability>::Grant),+
        }

        /// What the instances of one version of a plugin share.
        pub(super) struct Shared {
            $($name: Arc<<$capability as Capability>::Shared>),+
        }

        /// What one instance holds.
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
            /// Reads a key of a manifest, if it is one of a capability's.
            ///
            /// # Errors
            /// What is wrong with the value, and what would be right.
            pub(super) fn read(&mut self, entry: Entry<'_>) -> Result<bool, ManifestError> {
                Ok($(<$capability>::read(&mut self.$name, entry)?)||+)
            }
        }

        impl Held {
            fn new(shared: &Shared, log: &GuestLog) -> Self {
                Self { $($name: <$capability>::instance(&shared.$name, log)),+ }
            }

            fn begin(&mut self, deadline: Instant) {
                $(self.$name.begin(deadline);)+
            }
        }

        /// Puts the functions of every capability into a linker.
        pub(super) fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
            $(<$capability>::link(linker)?;)+
            Ok(())
        }

        /// The keys of a manifest that capabilities read.
        pub(super) fn manifest_keys() -> impl Iterator<Item = &'static str> {
            [$(<$capability>::KEYS),+].into_iter().flatten().copied()
        }

        /// What guests can import.
        pub(super) fn packages() -> impl Iterator<Item = &'static Package> {
            [$(<$capability>::PACKAGES),+].into_iter().flatten()
        }
    };
}

capabilities! {
    wasi: wasi::Wasi,
    http: http::Http,
    log: log::Log,
}

/// What guests can import, for error texts.
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
