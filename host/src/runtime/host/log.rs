//! `meshage:mesh/logging`: entries of the node's log.

use std::sync::Arc;

use wasmtime::component::{HasSelf, Linker};

use super::{Capability, HostSettings, HostState};
use crate::message::StreamName;
use crate::runtime::guest_log::GuestLog;
use crate::runtime::interfaces::Package;

wasmtime::component::bindgen!({
    path: "../wit",
    interfaces: "import meshage:mesh/logging@0.1.0;",
});

use meshage::mesh::logging;

/// Has no state of its own: every instance has a log anyway, which also takes its stdout and
/// stderr.
pub(super) struct Log;

impl Capability for Log {
    const PACKAGES: &'static [Package] = &[Package::mesh(&["logging"])];
    type Node = ();
    type Grant = ();
    type Shared = ();

    fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
        logging::add_to_linker::<_, HasSelf<_>>(linker, |state: &mut HostState| state)
    }

    fn start(_: &HostSettings) -> wasmtime::Result<()> {
        Ok(())
    }

    fn share((): &(), _: &StreamName, (): &()) {}

    fn instance(_: &Arc<()>, _: &GuestLog) -> Self {
        Self
    }
}

impl logging::Host for HostState {
    fn log(&mut self, level: logging::Level, text: String) {
        let level = match level {
            logging::Level::Trace => tracing::Level::TRACE,
            logging::Level::Debug => tracing::Level::DEBUG,
            logging::Level::Info => tracing::Level::INFO,
            logging::Level::Warn => tracing::Level::WARN,
            logging::Level::Error => tracing::Level::ERROR,
        };
        self.log.entry(level, text);
    }
}
