//! Requests of guests to the hosts that the manifest allows: `wasi:http`, outgoing, and
//! `meshage:mesh/http`.

mod access;
mod link;
mod send;
mod tls;
mod whole;

use std::sync::Arc;
use std::time::Instant;

use wasmtime::component::Linker;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::{Begun, Capability, HostSettings, HostState};
use crate::message::StreamName;
use crate::runtime::entry::{Entry, ManifestError};
use crate::runtime::guest_log::GuestLog;
use crate::runtime::interfaces::Package;
use access::{Access, AllowedHosts};
use send::Sender;
use tls::OutboundTls;
use whole::UnderWay;

/// Maximum size of the headers of one request or response.
const FIELDS_BYTES_MAX: usize = 64 << 10;

/// The manifest key.
const ALLOWED_HOSTS: &str = "allowed_hosts";

/// The state of one instance.
pub(super) struct Http {
    context: WasiHttpCtx,
    sender: Sender,
    under_way: UnderWay,
}

impl Capability for Http {
    const PACKAGES: &'static [Package] = &[
        Package::wasi(
            "wasi:http",
            "http (outgoing)",
            &["types", "outgoing-handler"],
        ),
        Package::mesh(&["http"]),
    ];
    const KEYS: &'static [&'static str] = &[ALLOWED_HOSTS];
    type Node = OutboundTls;
    type Grant = AllowedHosts;
    type Shared = Access;

    fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
        link::add_to_linker(linker)?;
        whole::add_to_linker(linker)
    }

    fn start(settings: &HostSettings) -> wasmtime::Result<OutboundTls> {
        Ok(OutboundTls::new(&settings.outbound_authorities)?)
    }

    fn read(allowed: &mut AllowedHosts, entry: Entry<'_>) -> Result<bool, ManifestError> {
        if entry.key() != ALLOWED_HOSTS {
            return Ok(false);
        }
        let expected = "a list of hosts with their ports, such as [\"api.example.com:443\"]";
        let read = |host: &str| host.parse().map_err(|_| expected.to_owned());
        allowed.0 = entry.list(expected, read)?;
        Ok(true)
    }

    fn share(tls: &OutboundTls, stream: &StreamName, allowed: &AllowedHosts) -> Access {
        Access::new(stream.clone(), allowed.0.clone(), tls.clone())
    }

    fn instance(access: &Arc<Access>, _: &GuestLog) -> Self {
        let mut context = WasiHttpCtx::new();
        context.set_field_size_limit(FIELDS_BYTES_MAX);
        let sender = Sender {
            access: access.clone(),
            // Set when the instance starts.
            deadline: Instant::now(),
            view: None,
            trace: None,
        };
        Self {
            context,
            sender,
            under_way: UnderWay::default(),
        }
    }

    fn begin(&mut self, call: &Begun<'_>) {
        self.sender.deadline = call.deadline;
        self.sender.view = call.view.cloned();
        self.sender.trace = call.trace;
    }

    fn end(&mut self) {
        self.sender.view = None;
        self.under_way = UnderWay::default();
    }
}

impl WasiHttpView for HostState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let Http {
            context, sender, ..
        } = &mut self.held.http;
        WasiHttpCtxView {
            hooks: sender,
            table: &mut self.resources,
            ctx: context,
        }
    }
}
