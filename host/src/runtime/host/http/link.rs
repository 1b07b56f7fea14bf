//! Adds `wasi:http` to a linker, with limits on texts that the library accepts at any length.

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::http::types::{HostOutgoingRequest as _, Method, Scheme};
use wasmtime_wasi_http::p2::types::HostOutgoingRequest as OutgoingRequest;

/// Maximum size of a method, scheme or authority.
const TEXT_BYTES_MAX: usize = 8 << 10;

/// The interface with the linker's version; it serves every 0.2.
const TYPES: &str = "wasi:http/types@0.2.12";

/// Adds `wasi:http` to a linker.
pub(super) fn add_to_linker<T: WasiHttpView + 'static>(
    linker: &mut Linker<T>,
) -> wasmtime::Result<()> {
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    linker.allow_shadowing(true);
    let mut types = linker.instance(TYPES)?;
    types.func_wrap(
        "[method]outgoing-request.set-method",
        |mut store: StoreContextMut<'_, T>,
         (request, method): (Resource<OutgoingRequest>, Method)| {
            let is_long = matches!(&method, Method::Other(text) if text.len() > TEXT_BYTES_MAX);
            Ok((if is_long {
                Err(())
            } else {
                store.data_mut().http().set_method(request, method)?
            },))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-scheme",
        |mut store: StoreContextMut<'_, T>,
         (request, scheme): (Resource<OutgoingRequest>, Option<Scheme>)| {
            let is_long =
                matches!(&scheme, Some(Scheme::Other(text)) if text.len() > TEXT_BYTES_MAX);
            Ok((if is_long {
                Err(())
            } else {
                store.data_mut().http().set_scheme(request, scheme)?
            },))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-authority",
        |mut store: StoreContextMut<'_, T>,
         (request, authority): (Resource<OutgoingRequest>, Option<String>)| {
            let is_long = authority
                .as_ref()
                .is_some_and(|text| text.len() > TEXT_BYTES_MAX);
            Ok((if is_long {
                Err(())
            } else {
                store.data_mut().http().set_authority(request, authority)?
            },))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}
