//! Makes a component of a core module that an SDK for components has built for WASI preview 1
//! (`wasm32-wasip1`). Pure.

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wasmparser::{Parser, Payload};
use wit_component::ComponentEncoder;

/// The first bytes of a core module: the magic bytes, then its version. A component has a version
/// and a layer there.
const BEGINNING: &[u8] = b"\0asm\x01\0\0\0";

/// The beginning of the names of sections in which SDKs say what a module is as a component.
const SECTION: &str = "component-type";

pub(super) fn is_core_module(bytes: &[u8]) -> bool {
    bytes.starts_with(BEGINNING)
}

/// Whether the module says what it is as a component.
pub(super) fn has_world(module: &[u8]) -> bool {
    Parser::new(0)
        .parse_all(module)
        .filter_map(Result::ok)
        .any(|payload| matches!(payload, Payload::CustomSection(section) if section.name().starts_with(SECTION)))
}

/// The component of a module.
///
/// # Errors
/// Why there is none.
pub(super) fn component(module: &[u8]) -> anyhow::Result<Vec<u8>> {
    ComponentEncoder::default()
        .module(module)?
        .adapter(
            WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME,
            WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
        )?
        .encode()
}
