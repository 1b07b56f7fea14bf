//! Handlers written in WebAssembly's text format: the smallest possible guest, and code that no
//! compiler generates.

use anyhow::Result;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Answers nothing but the status 200, to measure what a call costs without its guest.
pub const NOTHING: &str = r#"
    ;; the reply: ok, status 200, no headers, an empty body
    (data (i32.const 0) "\00\00\00\00\c8\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00")
    (func (export "meshage:mesh/message-handler@VERSION#handle")
        (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
        (global.set $next (i32.const 1024))
        (i32.const 0))
"#;

/// Grows its table until it gets no more, and then traps.
pub const TABLE_BOMB: &str = r#"
    (table $table 1 funcref)
    (func (export "meshage:mesh/message-handler@VERSION#handle")
        (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
        (loop $again
            (br_if $again (i32.ne (table.grow $table (ref.null func) (i32.const 1000)) (i32.const -1))))
        unreachable)
"#;

/// The component of a handler whose core module has these fields. The module has a memory of one
/// page. Data from the host is allocated from address 1024 upwards, and freed only by setting
/// `$next` back.
///
/// # Errors
/// The fields are not a valid module, or do not match the contract.
pub fn handler(fields: &str) -> Result<Vec<u8>> {
    handler_against("0.1.0", fields)
}

/// Like [`handler`], but built against another version of the contract.
///
/// # Errors
/// The fields are not a valid module, or do not match the contract.
pub fn handler_against(version: &str, fields: &str) -> Result<Vec<u8>> {
    let fields = fields.replace("VERSION", version);
    let contract = include_str!("../../../wit/mesh.wit")
        .replace("meshage:mesh@0.1.0", &format!("meshage:mesh@{version}"));
    let module = format!(
        r#"(module
            (memory (export "memory") 1)
            (global $next (mut i32) (i32.const 1024))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $at i32)
                (local.set $at
                    (i32.and
                        (i32.add (global.get $next) (i32.sub (local.get 2) (i32.const 1)))
                        (i32.sub (i32.const 0) (local.get 2))))
                (global.set $next (i32.add (local.get $at) (local.get 3)))
                (local.get $at))
            {fields})"#
    );
    let mut module = wat::parse_str(module)?;
    let mut resolve = Resolve::default();
    let package = resolve.push_str("mesh.wit", &contract)?;
    let world = resolve.select_world(&[package], Some("handler"))?;
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    ComponentEncoder::default()
        .module(&module)?
        .validate(true)
        .encode()
}

#[cfg(test)]
mod tests {
    #[test]
    fn they_are_components() {
        for fields in [super::NOTHING, super::TABLE_BOMB] {
            super::handler(fields).unwrap();
        }
    }
}
