//! `meshage:mesh/messages`: what a handler sends. It is collected like what it writes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::{NoContext, Timestamp, Uuid};
use wasmtime::component::{HasSelf, Linker};
use wasmtime::error::format_err;

use super::entity::{check_name, limit};
use super::{Capability, HostSettings, HostState};
use crate::message::{
    CONNECTION_HEADERS, LimitKind, Method, PartitionKey, RESERVED_HEADERS, SENT_MAX, Sending,
    StreamName,
};
use crate::runtime::guest_log::GuestLog;
use crate::runtime::interfaces::Package;
use crate::state::VALUE_BYTES_MAX;

wasmtime::component::bindgen!({
    path: "../wit",
    interfaces: "import meshage:mesh/messages@0.1.0;",
    imports: { default: trappable },
});

use meshage::mesh::messages as wit;
use meshage::mesh::types;

/// Has no state of its own: what a call sends is in its entity.
pub(super) struct Messages;

impl Capability for Messages {
    const PACKAGES: &'static [Package] = &[Package::mesh(&["messages"])];
    type Node = ();
    type Grant = ();
    type Shared = ();

    fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
        wit::add_to_linker::<_, HasSelf<_>>(linker, |state: &mut HostState| state)
    }

    fn start(_: &HostSettings) -> wasmtime::Result<()> {
        Ok(())
    }

    fn share((): &(), _: &StreamName, (): &()) {}

    fn instance(_: &Arc<()>, _: &GuestLog) -> Self {
        Self
    }
}

impl types::Host for HostState {}

impl wit::Host for HostState {
    fn send(
        &mut self,
        to: wit::Target,
        message: wit::Outgoing,
        delay_ms: u64,
        name: Option<String>,
    ) -> wasmtime::Result<()> {
        let call = self.entity()?;
        call.check_write()?;
        let name = name.map(Arc::<str>::from);
        if let Some(name) = &name {
            check_name(name)?;
        }
        if message.body.len() > VALUE_BYTES_MAX {
            return Err(limit(LimitKind::StateValueBytes, VALUE_BYTES_MAX).into());
        }
        let sending = sending(to, message, Duration::from_millis(delay_ms))?;
        call.sends.send(name, sending);
        if call.sends.len() > SENT_MAX {
            return Err(limit(LimitKind::SentMessages, SENT_MAX).into());
        }
        Ok(call.reserve()?)
    }

    fn cancel(&mut self, name: String) -> wasmtime::Result<()> {
        let call = self.entity()?;
        call.check_write()?;
        check_name(&name)?;
        call.sends.cancel(name.into());
        if call.sends.len() > SENT_MAX {
            return Err(limit(LimitKind::SentMessages, SENT_MAX).into());
        }
        Ok(call.reserve()?)
    }
}

/// # Errors
/// Why no message can be like that.
fn sending(to: wit::Target, message: wit::Outgoing, delay: Duration) -> wasmtime::Result<Sending> {
    let wit::Target {
        stream,
        partition_key,
    } = to;
    let wit::Outgoing {
        method,
        query,
        headers: given,
        body,
    } = message;
    let method = Method::from_name(&method)
        .filter(|method| *method != Method::Get)
        .ok_or_else(|| {
            format_err!("cannot send with the method {method:?}: it is POST, PUT, PATCH or DELETE")
        })?;
    let mut headers = HeaderMap::with_capacity(given.len());
    for (name, value) in given {
        let parsed = HeaderName::from_bytes(name.as_bytes());
        let header = parsed.ok().zip(HeaderValue::from_str(&value).ok());
        let (name, value) =
            header.ok_or_else(|| format_err!("cannot send the header {name:?}: {value:?}"))?;
        // Those belong to nodes and to connections, as in replies.
        if !name.as_str().starts_with(RESERVED_HEADERS) && !CONNECTION_HEADERS.contains(&name) {
            headers.append(name, value);
        }
    }
    Ok(Sending {
        id: Uuid::new_v7(Timestamp::now(NoContext)),
        stream: StreamName::try_from(stream.as_str())
            .map_err(|error| format_err!("cannot send to the stream {stream:?}: {error}"))?,
        partition_key: PartitionKey::try_from(partition_key.as_str())
            .map_err(|error| format_err!("cannot send to the key {partition_key:?}: {error}"))?,
        method,
        query,
        headers,
        body: Bytes::from(body),
        delay,
        due: Default::default(),
    })
}
