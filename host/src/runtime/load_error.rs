//! Why a component cannot be a handler: tells its author what is wrong, what was expected, and what
//! to do.

use std::fmt;

use semver::Version;

use super::contract::Contract;
use super::host;
use super::interfaces::{MESH, package};
use crate::message::{Limit, LimitKind, truncate};

/// The largest component file. Python's take 20 MB.
pub const COMPONENT_BYTES_MAX: u64 = 64 << 20;

/// The first bytes of every WebAssembly file.
pub(super) const MAGIC: &[u8] = b"\0asm";

/// How much of a wasmtime error is quoted; parts of that text come from the component.
const ERROR_TEXT_BYTES_MAX: usize = 4 << 10;

/// How many names one error lists, and how much of each.
const NAMES_MAX: usize = 10;
const NAME_BYTES_MAX: usize = 128;

/// Why a component cannot be a handler.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("it is empty: it may still be being written; if not, copy it again")]
    Empty,
    #[error(
        "it is not WebAssembly: it begins with \"{begins}\", where a component begins with \"{}\"; build one with \
         `cargo build --release --target wasm32-wasip2`",
        MAGIC.escape_ascii()
    )]
    NotWasm { begins: String },
    #[error(
        "it is a core WebAssembly module that does not say what it is as a component; build it with an SDK for components, \
         with `--target wasm32-wasip2`"
    )]
    CoreModule,
    #[error(
        "it is a core WebAssembly module of which no component can be made: {0}; build it with `--target wasm32-wasip2`"
    )]
    BadModule(String),
    #[error(
        "it has {bytes} bytes; the limit is {COMPONENT_BYTES_MAX}; leave out what it does not need, such as debug information"
    )]
    TooLarge { bytes: u64 },
    #[error(
        "it is not a valid component: {0}; it may be cut off or damaged, so build or copy it again"
    )]
    Invalid(String),
    #[error(
        "it is a component, but this node cannot run it: {0}; build it for WASI 0.2, without proposals that are not finished"
    )]
    Unsupported(String),
    #[error("it exports {found}, but a handler exports {expected}{hint}", expected = Contract::expected())]
    MissingExport { found: String, hint: &'static str },
    #[error("it {0} `{name}` in version {found}, but this host has {offered}; {advice}", name = .1.name, found = .1.found,
        offered = .1.offered, advice = .1.advice())]
    Version(Relation, Box<Gap>),
    #[error(
        "it imports {}, which this host does not offer; it offers {}; leave out what imports {}",
        list(.0),
        host::offered(),
        if .0.len() == 1 { "it" } else { "them" }
    )]
    MissingImport(Vec<String>),
    #[error("it was built against {name} {found}, and does not fit this host's {offered}: {1}; {advice}", name = .0.name,
        found = .0.found, offered = .0.offered, advice = .0.advice())]
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

/// Two incompatible versions.
#[derive(Debug)]
pub struct Gap {
    /// The name of an interface or a package.
    pub(super) name: String,
    pub(super) found: Version,
    pub(super) offered: Version,
}

/// Whether a component imports or exports an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    Imports,
    Exports,
}

impl LoadError {
    /// Whether the error is permanent for this component, so that a retry is pointless.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::NoRoom(_) => false,
            // The node may have been slow.
            Self::Limit(limit) => limit.kind != LimitKind::Time,
            _ => true,
        }
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Imports => "imports",
            Self::Exports => "exports",
        })
    }
}

impl Gap {
    fn advice(&self) -> &'static str {
        let (is_mesh, is_newer) = (package(&self.name) == MESH, self.found > self.offered);
        match (is_mesh, is_newer) {
            (true, true) => {
                "run a newer meshage-host, or build the plugin with the meshage-sdk of this host's version"
            }
            (true, false) => "build the plugin again with the meshage-sdk of this host's version",
            (false, true) => {
                "build the plugin for an older WASI 0.2, such as with `--target wasm32-wasip2`, or run a newer meshage-host"
            }
            (false, false) => "build the plugin again with newer tools, for WASI 0.2",
        }
    }
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

/// Names, quoted and limited for an error text.
pub(super) fn list(names: &[String]) -> String {
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

/// The error with its causes, on one line and without backtraces.
pub(super) fn one_line(error: &impl fmt::Display) -> String {
    truncate(format!("{error:#}"), ERROR_TEXT_BYTES_MAX)
        .lines()
        .map(str::trim)
        .collect::<Vec<_>>()
        .join(" ")
}
