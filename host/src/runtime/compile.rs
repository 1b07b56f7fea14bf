//! From bytes to a component that can be a handler: compiles it, off the request path, and checks
//! what it imports and exports. What is wrong is said so that its author knows what to do.

use std::panic::{AssertUnwindSafe, catch_unwind};

use semver::Version;
use tokio::sync::oneshot;
use wasmtime::component::Component;

use super::bindings::{EXPORT, HandlerPre};
use super::engine::Engine;
use super::instance::HostState;
use crate::message::{Limit, LimitKind, truncate};

/// The largest component file. JavaScript and Python ones take 12 to 18 MB.
pub const COMPONENT_BYTES_MAX: u64 = 64 << 20;

/// What wasmtime says of a component; some of it is the component's own.
const ERROR_TEXT_BYTES_MAX: usize = 4 << 10;

/// Names that one error lists, and how much of each.
const NAMES_MAX: usize = 10;
const NAME_BYTES_MAX: usize = 128;

/// What a WebAssembly file begins with, and then the version of a core module, or that of a
/// component.
const MAGIC: &[u8] = b"\0asm";
const CORE_MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// Packages that this host offers, and the version of each.
static OFFERED: [(&str, &str, Version); 8] = [
    (MESH, "logging types message-handler", MESH_VERSION),
    (
        "wasi:cli",
        "environment exit stdin stdout stderr terminal-input terminal-output terminal-stdin terminal-stdout terminal-stderr",
        WASI,
    ),
    ("wasi:clocks", "monotonic-clock wall-clock", WASI),
    ("wasi:filesystem", "types preopens", WASI),
    ("wasi:http", "types outgoing-handler", WASI),
    ("wasi:io", "error poll streams", WASI),
    ("wasi:random", "random insecure insecure-seed", WASI),
    (
        "wasi:sockets",
        "network instance-network ip-name-lookup tcp tcp-create-socket udp udp-create-socket",
        WASI,
    ),
];

const MESH: &str = "meshage:mesh";
const MESH_VERSION: Version = Version::new(0, 1, 0);
const WASI: Version = Version::new(0, 2, 12);

/// Why a component cannot be a handler. Each says what is wrong, what was expected, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("it is empty: it may still be being written; if not, copy it again")]
    Empty,
    #[error(
        "it is not WebAssembly: it begins with \"{begins}\", where a component begins with \"{}\"; build one with \
         `cargo build --release --target wasm32-wasip2`",
        show(MAGIC)
    )]
    NotWasm { begins: String },
    #[error(
        "it is a core WebAssembly module, but a component was expected; build it with `--target wasm32-wasip2`, or wrap it \
         with `wasm-tools component new`"
    )]
    CoreModule,
    #[error(
        "it has {bytes} bytes; the limit is {COMPONENT_BYTES_MAX}; leave out what it does not need, such as debug information"
    )]
    TooLarge { bytes: u64 },
    #[error(
        "it is not a valid component: {0}; it may be cut off or damaged, so build or copy it again"
    )]
    Invalid(String),
    #[error(
        "it exports {found}, but a handler exports `{EXPORT}`; write it with `#[meshage_sdk::handler]`, or against the world \
         `handler` of wit/mesh.wit{hint}"
    )]
    MissingExport { found: String, hint: &'static str },
    #[error("it {0} `{name}` in version {found}, but this host has {offered}; {advice}", name = .1.name, found = .1.found,
        offered = .1.offered, advice = .1.advice)]
    Version(Relation, Box<Gap>),
    #[error(
        "it imports {}, which this host does not offer; it offers meshage:mesh 0.1 and, of WASI 0.2, cli, clocks, filesystem, \
         http (outgoing), io, random and sockets; leave out what imports {}",
        list(.0),
        if .0.len() == 1 { "it" } else { "them" }
    )]
    MissingImport(Vec<String>),
    #[error("it was built against {name} {found}, and does not fit this host's {offered}: {1}; {advice}", name = .0.name,
        found = .0.found, offered = .0.offered, advice = .0.advice)]
    Mismatch(Box<Gap>, String),
    #[error("its first instance ran into its limit of {limit}; {advice}", limit = .0, advice = limit_advice(.0))]
    Limit(Limit),
    #[error(
        "its first instance could not be made: {0}; a handler must start without files and sockets, and with no more \
         environment than its manifest has"
    )]
    Trial(String),
    #[error("this node has no room for it now: {0}; it is tried again")]
    NoRoom(String),
    #[error("the compiler failed: {0}")]
    Compiler(String),
}

/// Two versions that do not fit.
#[derive(Debug)]
pub struct Gap {
    /// Of an interface or a package.
    name: String,
    found: Version,
    offered: Version,
    advice: &'static str,
}

/// What a component has to do with an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    Imports,
    Exports,
}

impl LoadError {
    /// Whether it stays so as long as the component is what it is.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::NoRoom(_) => false,
            // It may be the node that was slow.
            Self::Limit(limit) => limit.kind != LimitKind::Time,
            _ => true,
        }
    }
}

impl std::fmt::Display for Relation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Imports => "imports",
            Self::Exports => "exports",
        })
    }
}

/// Compiles and checks a component, on a thread of its own: what is small need not wait for what is
/// large.
pub(super) async fn compile(
    engine: Engine,
    bytes: Vec<u8>,
) -> Result<HandlerPre<HostState>, LoadError> {
    let (sender, compiled) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("load".into())
        .spawn(move || {
            // What compiles is a stranger's; a bug that it finds must not end the node.
            let result = catch_unwind(AssertUnwindSafe(|| compile_and_check(&engine, &bytes)));
            // Nobody waits for it any more: then it is not needed.
            let _ = sender.send(result);
        });
    thread.map_err(|error| LoadError::NoRoom(error.to_string()))?;
    match compiled.await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) | Err(_) => Err(LoadError::Compiler("it panicked".into())),
    }
}

fn compile_and_check(engine: &Engine, bytes: &[u8]) -> Result<HandlerPre<HostState>, LoadError> {
    check_beginning(bytes)?;
    let turn = engine.compile_turns.take(bytes);
    let compiled = Component::from_binary(&engine.wasmtime, bytes);
    drop(turn);
    engine.note_compiled();
    let component = compiled.map_err(|error| LoadError::Invalid(one_line(&error)))?;
    let ty = component.component_type();
    let imports: Vec<String> = ty
        .imports(&engine.wasmtime)
        .map(|(name, _)| name.to_owned())
        .collect();
    let exports: Vec<String> = ty
        .exports(&engine.wasmtime)
        .map(|(name, _)| name.to_owned())
        .collect();
    check_exports(&exports)?;
    check_imports(&imports)?;
    engine
        .linker
        .instantiate_pre(&component)
        .and_then(HandlerPre::new)
        .map_err(|error| mismatch(engine, &component, &error))
}

/// The error for a component whose names are right, but not what they stand for.
pub(super) fn mismatch(
    engine: &Engine,
    component: &Component,
    error: &wasmtime::Error,
) -> LoadError {
    let problem = one_line(error);
    let ty = component.component_type();
    let (imports, exports) = (ty.imports(&engine.wasmtime), ty.exports(&engine.wasmtime));
    // The one that is spoken of, or else the handler itself.
    let names = imports
        .map(|(name, _)| name)
        .chain(exports.map(|(name, _)| name));
    let name = names
        .filter(|name| problem.contains(*name))
        .last()
        .unwrap_or(EXPORT);
    let (interface, found) = split(name);
    let package = package(interface);
    let offered = OFFERED
        .iter()
        .find(|(name, ..)| *name == package)
        .map_or(MESH_VERSION, |(.., version)| version.clone());
    let found = found.unwrap_or_else(|| offered.clone());
    let advice = advice(package, found > offered);
    LoadError::Mismatch(
        Box::new(Gap {
            name: package.to_owned(),
            found,
            offered,
            advice,
        }),
        problem,
    )
}

fn check_beginning(bytes: &[u8]) -> Result<(), LoadError> {
    if bytes.is_empty() {
        return Err(LoadError::Empty);
    }
    if !bytes.starts_with(MAGIC) {
        return Err(LoadError::NotWasm {
            begins: show(&bytes[..bytes.len().min(8)]),
        });
    }
    // A module's header ends with its version, a component's with version and layer.
    if bytes.starts_with(CORE_MODULE) {
        return Err(LoadError::CoreModule);
    }
    Ok(())
}

fn check_exports(exports: &[String]) -> Result<(), LoadError> {
    let (wanted, _) = split(EXPORT);
    let Some(export) = exports.iter().find(|name| split(name).0 == wanted) else {
        let found = if exports.is_empty() {
            "nothing".into()
        } else {
            list(exports)
        };
        return Err(LoadError::MissingExport {
            found,
            hint: hint(exports),
        });
    };
    check_version(Relation::Exports, export)
}

/// What else it seems to be.
fn hint(exports: &[String]) -> &'static str {
    let is = |name: &str| exports.iter().any(|export| split(export).0 == name);
    if is("wasi:cli/run") {
        "; this one is a program: a handler is a library (`crate-type = [\"cdylib\"]`) without `main`"
    } else if is("wasi:http/incoming-handler") {
        "; this one is an HTTP server of wasi:http"
    } else {
        ""
    }
}

fn check_imports(imports: &[String]) -> Result<(), LoadError> {
    let missing: Vec<String> = imports
        .iter()
        .filter(|name| !is_offered(name))
        .cloned()
        .collect();
    if !missing.is_empty() {
        return Err(LoadError::MissingImport(missing));
    }
    imports
        .iter()
        .try_for_each(|name| check_version(Relation::Imports, name))
}

/// Whether there is an interface of this name, in whatever version.
fn is_offered(name: &str) -> bool {
    let (name, _) = split(name);
    name.split_once('/').is_some_and(|(package, interface)| {
        OFFERED.iter().any(|(offered, interfaces, _)| {
            *offered == package && interfaces.split(' ').any(|offered| offered == interface)
        })
    })
}

fn check_version(relation: Relation, name: &str) -> Result<(), LoadError> {
    let (interface, Some(found)) = split(name) else {
        return Ok(());
    };
    let package = package(interface);
    let Some((_, _, offered)) = OFFERED.iter().find(|(name, ..)| *name == package) else {
        return Ok(());
    };
    if are_compatible(&found, offered) {
        return Ok(());
    }
    let advice = advice(package, found > *offered);
    let gap = Gap {
        name: interface.to_owned(),
        found,
        offered: offered.clone(),
        advice,
    };
    Err(LoadError::Version(relation, Box::new(gap)))
}

fn advice(package: &str, is_newer: bool) -> &'static str {
    match (package, is_newer) {
        (MESH, true) => {
            "run a newer meshage-host, or build the plugin with the meshage-sdk of this host's version"
        }
        (MESH, false) => "build the plugin again with the meshage-sdk of this host's version",
        (_, true) => {
            "build the plugin for an older WASI 0.2, such as with `--target wasm32-wasip2`, or run a newer meshage-host"
        }
        (_, false) => "build the plugin again with newer tools, for WASI 0.2",
    }
}

/// Whether what was built against the one version runs with the other: as Cargo and the component
/// model have it, the first number that is not zero decides. A pre-release is compatible with
/// itself alone.
fn are_compatible(one: &Version, other: &Version) -> bool {
    let line = |version: &Version| match (version.major, version.minor) {
        (0, 0) => (0, 0, version.patch),
        (0, minor) => (0, minor, 0),
        (major, _) => (major, 0, 0),
    };
    one == other || (line(one) == line(other) && one.pre.is_empty() && other.pre.is_empty())
}

/// `ns:package/interface@1.2.3` as its name and its version.
fn split(name: &str) -> (&str, Option<Version>) {
    match name.rsplit_once('@') {
        Some((name, version)) => (name, Version::parse(version).ok()),
        None => (name, None),
    }
}

fn package(interface: &str) -> &str {
    interface.split('/').next().unwrap_or(interface)
}

fn limit_advice(limit: &Limit) -> &'static str {
    match limit.kind {
        LimitKind::MemoryBytes => {
            "raise memory_mb in its manifest, or build it with less initial memory"
        }
        LimitKind::Time => {
            "raise timeout_ms in its manifest, or let it do less before its first message"
        }
        _ => "let it take less before its first message",
    }
}

fn list(names: &[String]) -> String {
    let shown = names
        .iter()
        .take(NAMES_MAX)
        .map(|name| format!("`{}`", truncate(name.clone(), NAME_BYTES_MAX)));
    let mut list = shown.collect::<Vec<_>>().join(", ");
    if names.len() > NAMES_MAX {
        list += &format!(" and {} more", names.len() - NAMES_MAX);
    }
    list
}

/// Bytes as text, for people.
fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// The causes of an error, without the places in wasmtime's own code or the guest's.
pub(super) fn one_line(error: &wasmtime::Error) -> String {
    truncate(format!("{error:#}"), ERROR_TEXT_BYTES_MAX)
        .lines()
        .map(str::trim)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn versions_are_compatible_as_semver_has_it() {
        let check = |one: &str, other: &str, expected| {
            assert_eq!(
                are_compatible(&one.parse().unwrap(), &other.parse().unwrap()),
                expected,
                "{one} {other}"
            );
        };
        check("0.1.0", "0.1.9", true);
        check("0.2.0", "0.1.0", false);
        check("0.0.1", "0.0.2", false);
        check("1.2.0", "1.9.0", true);
        check("2.0.0", "1.0.0", false);
        check("0.2.0-rc-1", "0.2.0", false);
    }

    #[test]
    fn every_compatible_version_is_taken() {
        check_exports(&names(&["meshage:mesh/message-handler@0.1.7"])).unwrap();
        check_imports(&names(&[
            "meshage:mesh/logging@0.1.0",
            "wasi:io/poll@0.2.6",
            "wasi:http/types@0.2.0",
        ]))
        .unwrap();
    }

    #[test]
    fn every_missing_import_is_named() {
        let error = check_imports(&names(&[
            "a:b/c@1.0.0",
            "wasi:io/poll@0.2.6",
            "wasi:keyvalue/store@0.2.0",
            "plain",
        ]));
        let text = error.unwrap_err().to_string();
        assert!(
            text.starts_with(
                "it imports `a:b/c@1.0.0`, `wasi:keyvalue/store@0.2.0`, `plain`, which"
            ),
            "{text}"
        );
    }
}
