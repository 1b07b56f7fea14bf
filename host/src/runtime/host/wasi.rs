//! WASI 0.2's `cli` world. Deny by default: no files, no sockets, no name look-ups, and only the
//! environment of the manifest. What a guest writes to stdout and stderr goes to its log.

use std::fmt;
use std::sync::Arc;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use wasmtime::component::Linker;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::{Capability, HostSettings, HostState};
use crate::message::StreamName;
use crate::runtime::entry::{Entry, ManifestError};
use crate::runtime::guest_log::{GuestLog, Stdio};
use crate::runtime::interfaces::Package;

/// Maximum of random bytes per request of a guest.
const RANDOM_BYTES_MAX: u64 = 1 << 20;

/// The key in a manifest, and in `GET /plugins`.
const ENV: &str = "env";

/// The state of one instance.
pub(super) struct Wasi(WasiCtx);

/// The environment of the handler: names and values.
#[derive(Clone, Default, PartialEq, Eq)]
pub(in crate::runtime) struct Environment(Vec<(String, String)>);

impl Environment {
    /// Names only: values may be secrets.
    fn names(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.names().fmt(f)
    }
}

impl Serialize for Environment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(ENV, &self.names())?;
        map.end()
    }
}

impl Capability for Wasi {
    const PACKAGES: &'static [Package] = &[
        Package::wasi(
            "wasi:cli",
            "cli",
            &[
                "environment",
                "exit",
                "stdin",
                "stdout",
                "stderr",
                "terminal-input",
                "terminal-output",
                "terminal-stdin",
                "terminal-stdout",
                "terminal-stderr",
            ],
        ),
        Package::wasi("wasi:clocks", "clocks", &["monotonic-clock", "wall-clock"]),
        Package::wasi("wasi:filesystem", "filesystem", &["types", "preopens"]),
        Package::wasi("wasi:io", "io", &["error", "poll", "streams"]),
        Package::wasi(
            "wasi:random",
            "random",
            &["random", "insecure", "insecure-seed"],
        ),
        Package::wasi(
            "wasi:sockets",
            "sockets",
            &[
                "network",
                "instance-network",
                "ip-name-lookup",
                "tcp",
                "tcp-create-socket",
                "udp",
                "udp-create-socket",
            ],
        ),
    ];
    const KEYS: &'static [&'static str] = &[ENV];
    type Node = ();
    type Grant = Environment;
    type Shared = Environment;

    fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
        wasmtime_wasi::p2::add_to_linker_async(linker)
    }

    fn start(_: &HostSettings) -> wasmtime::Result<()> {
        Ok(())
    }

    fn read(environment: &mut Environment, entry: Entry<'_>) -> Result<bool, ManifestError> {
        if entry.key() != ENV {
            return Ok(false);
        }
        let check_text = |text: &str| {
            if text.contains('\0') {
                Err("a text, such as \"hello\"")
            } else {
                Ok(())
            }
        };
        let check_name = |name: &str| {
            if name.is_empty() || name.contains(['=', '\0']) {
                Err("a name that is not empty and without '='")
            } else {
                Ok(())
            }
        };
        let expected = "a table of texts, such as { GREETING = \"hello\" }";
        environment.0 = entry.table(expected, check_text, check_name)?;
        Ok(true)
    }

    fn share((): &(), _: &StreamName, environment: &Environment) -> Environment {
        environment.clone()
    }

    fn instance(environment: &Arc<Environment>, log: &GuestLog) -> Self {
        let mut context = WasiCtx::builder();
        context
            .stdout(log.output(Stdio::Out))
            .stderr(log.output(Stdio::Err))
            .allow_tcp(false)
            .allow_udp(false)
            .max_random_size(RANDOM_BYTES_MAX);
        for (name, value) in &environment.0 {
            context.env(name, value);
        }
        Self(context.build())
    }
}

impl WasiView for HostState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.held.wasi.0,
            table: &mut self.resources,
        }
    }
}
