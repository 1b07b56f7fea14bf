//! Turns bytes into a component that can be a handler: compiles it, off the request path, and
//! checks its imports and exports.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use tokio::sync::oneshot;
use wasmtime::component::Component;

use super::contract::{Contract, Prepared};
use super::core_module::{component, has_world, is_core_module};
use super::engine::Engine;
use super::host;
use super::interfaces::{MESH_VERSION, Package, are_compatible, package, split};
use super::load_error::{Gap, LoadError, MAGIC, Relation, list, one_line};
use super::outline::{Outline, is_whole};
use crate::background;

/// Compiles and checks a component on a thread of its own, so that small components do not wait for
/// large ones.
pub(super) async fn compile(engine: Engine, bytes: Bytes) -> Result<Prepared, LoadError> {
    let (sender, compiled) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("load".into())
        .spawn(move || {
            // The component is untrusted; a compiler bug that it triggers must not end the node.
            let result = catch_unwind(AssertUnwindSafe(|| {
                // Held by who waits, so that nobody waits for it who could get on.
                let _turn = engine.compile_locks.take(&bytes);
                background::run(move || compile_and_check(&engine, &bytes))
            }));
            // If the receiver is gone, the result is not needed.
            let _ = sender.send(result);
        });
    thread.map_err(|error| LoadError::NoRoom(error.to_string()))?;
    match compiled.await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) | Err(_) => Err(LoadError::Compiler("it panicked".into())),
    }
}

fn compile_and_check(engine: &Engine, bytes: &[u8]) -> Result<Prepared, LoadError> {
    check_beginning(bytes)?;
    let bytes = &*as_component(bytes)?;
    let outline = Outline::read(bytes);
    let outline = outline.map_err(|error| LoadError::Invalid(error.to_string()))?;
    let contract = find_contract(&outline.exports)?;
    check_imports(&outline.imports)?;
    let compiled = Component::from_binary(&engine.wasmtime, bytes);
    engine.note_compiled();
    let component = compiled.map_err(|error| {
        let problem = one_line(&error);
        if is_whole(bytes) {
            LoadError::Unsupported(problem)
        } else {
            LoadError::Invalid(problem)
        }
    })?;
    engine
        .linker
        .instantiate_pre(&component)
        .and_then(|pre| contract.prepare(pre))
        .map_err(|error| mismatch(engine, &component, &error))
}

/// The error for a component whose imports and exports have the right names but the wrong types.
pub(super) fn mismatch(
    engine: &Engine,
    component: &Component,
    error: &wasmtime::Error,
) -> LoadError {
    let problem = one_line(error);
    let ty = component.component_type();
    let (imports, exports) = (ty.imports(&engine.wasmtime), ty.exports(&engine.wasmtime));
    // The interface that the error text names, or else the contract's.
    let names = imports
        .map(|(name, _)| name)
        .chain(exports.map(|(name, _)| name));
    let named = names.filter(|name| problem.contains(split(name).0)).last();
    let (interface, found) = split(named.unwrap_or(Contract::DEFAULT.export()));
    let name = package(interface).to_owned();
    let offered = packages()
        .find(|package| package.name == name)
        .map_or(MESH_VERSION, |package| package.version.clone());
    let found = found.unwrap_or_else(|| offered.clone());
    LoadError::Mismatch(
        Box::new(Gap {
            name,
            found,
            offered,
        }),
        problem,
    )
}

fn check_beginning(bytes: &[u8]) -> Result<(), LoadError> {
    if bytes.is_empty() {
        return Err(LoadError::Empty);
    }
    if !bytes.starts_with(MAGIC) {
        let begins = bytes[..bytes.len().min(8)].escape_ascii().to_string();
        return Err(LoadError::NotWasm { begins });
    }
    Ok(())
}

/// The component itself, or that of a core module.
fn as_component(bytes: &[u8]) -> Result<Cow<'_, [u8]>, LoadError> {
    if !is_core_module(bytes) {
        return Ok(bytes.into());
    }
    if !has_world(bytes) {
        return Err(LoadError::CoreModule);
    }
    let component = component(bytes);
    let component = component.map_err(|error| LoadError::BadModule(one_line(&error)))?;
    Ok(component.into())
}

fn find_contract(exports: &[String]) -> Result<Contract, LoadError> {
    let Some((contract, export)) = Contract::find(exports) else {
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
    check_version(Relation::Exports, export)?;
    Ok(contract)
}

/// A hint, for the error text, at what kind of component it is instead.
fn hint(exports: &[String]) -> &'static str {
    let is = |name: &str| exports.iter().any(|export| split(export).0 == name);
    if is("wasi:cli/run") {
        "; this one is a program: a handler is a library (`crate-type = [\"cdylib\"]`) without `main`"
    } else if is("wasi:http/handler") || is("wasi:http/service") {
        "; this one is an HTTP server of WASI 0.3: build it for WASI 0.2 (`wasi:http/proxy`)"
    } else {
        ""
    }
}

fn check_imports(imports: &[String]) -> Result<(), LoadError> {
    let is_offered = |name: &String| packages().any(|package| package.has(name));
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

/// The packages that components may import from, or export from as handlers.
fn packages() -> impl Iterator<Item = &'static Package> {
    host::packages().chain(Contract::packages())
}

fn check_version(relation: Relation, name: &str) -> Result<(), LoadError> {
    let (interface, Some(found)) = split(name) else {
        return Ok(());
    };
    let Some(package) = packages().find(|offered| offered.name == package(interface)) else {
        return Ok(());
    };
    if are_compatible(&found, &package.version) {
        return Ok(());
    }
    let gap = Gap {
        name: interface.to_owned(),
        found,
        offered: package.version.clone(),
    };
    Err(LoadError::Version(relation, Box::new(gap)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn every_compatible_version_is_taken() {
        find_contract(&names(&["meshage:mesh/message-handler@0.1.7"])).unwrap();
        check_imports(&names(&[
            "meshage:mesh/logging@0.1.0",
            "meshage:mesh/types@0.1.3",
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
