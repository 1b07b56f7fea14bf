//! `meshage:mesh/messages`: what a handler sends. It is collected like what it writes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::{NoContext, Timestamp, Uuid};
use wasmtime::component::{HasSelf, Linker};

use super::entity::{StateError, check_name, limit};
use super::{Capability, HostSettings, HostState};
use crate::message::{
    CONNECTION_HEADERS, LimitKind, Method, Outgoing, PartitionKey, RESERVED_HEADERS, Sending,
    StreamName,
};
use crate::runtime::guest_log::GuestLog;
use crate::runtime::interfaces::Package;
use crate::state::VALUE_BYTES_MAX;

wasmtime::component::bindgen!({
    path: "../wit",
    interfaces: "import meshage:mesh/messages@0.1.0; import meshage:mesh/calls@0.1.0;",
    imports: {
        "meshage:mesh/messages.call": async | trappable,
        "meshage:mesh/calls.call": async | trappable,
        "meshage:mesh/calls.send": async | trappable,
        default: trappable,
    },
});

pub(super) use meshage::mesh::calls as wit_calls;
use meshage::mesh::messages as wit;
pub(super) use meshage::mesh::types;

/// The most headers of a message, and the most bytes of all of them, as in replies.
const HEADERS_MAX: usize = 256;
const HEADER_BYTES_MAX: usize = 64 << 10;

/// `messages` and `calls`. It has no state of its own: what a call sends is in its entity, and who calls
/// comes with the call.
pub(super) struct Messages;

impl Capability for Messages {
    const PACKAGES: &'static [Package] = &[Package::mesh(&["messages", "calls", "outgoing"])];
    type Node = ();
    type Grant = ();
    type Shared = ();

    fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
        wit::add_to_linker::<_, HasSelf<_>>(linker, |state: &mut HostState| state)?;
        wit_calls::add_to_linker::<_, HasSelf<_>>(linker, |state: &mut HostState| state)
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
        send(self, to, message, delay_ms, name)
    }

    fn cancel(&mut self, name: String) -> wasmtime::Result<()> {
        let call = self.entity()?;
        call.check_write()?;
        call.sends.cancel(timer_name(name)?);
        Ok(call.reserve()?)
    }

    async fn call(
        &mut self,
        to: wit::Target,
        message: wit::Outgoing,
    ) -> wasmtime::Result<Result<wit::Reply, wit::Failure>> {
        self.ask(to, message).await
    }
}

/// Sends a message when the call's writes are committed.
pub(super) fn send(
    state: &mut HostState,
    to: wit::Target,
    message: wit::Outgoing,
    delay_ms: u64,
    name: Option<String>,
) -> wasmtime::Result<()> {
    let call = state.entity()?;
    call.check_write()?;
    let name = name.map(timer_name).transpose()?;
    let outgoing = outgoing(to, message)?;
    if outgoing.method == Method::Get {
        return Err(no_method(&outgoing.method));
    }
    let sending = Sending {
        id: Uuid::new_v7(Timestamp::now(NoContext)),
        outgoing,
        delay: Duration::from_millis(delay_ms),
    };
    call.sends.send(name, sending);
    Ok(call.reserve()?)
}

pub(super) fn no_method(method: &Method) -> wasmtime::Error {
    invalid(format!(
        "cannot send with the method {}: it is POST, PUT, PATCH or DELETE",
        method.as_str()
    ))
}

/// What no handler can ask for.
fn invalid(text: String) -> wasmtime::Error {
    StateError::Invalid(text).into()
}

/// # Errors
/// If it cannot be one: it is a name of a value, and the value of a header when the timer comes.
fn timer_name(name: String) -> wasmtime::Result<Arc<str>> {
    check_name(&name)?;
    HeaderValue::from_str(&name).map_err(|_| {
        invalid(format!(
            "a timer cannot be named {name:?}: it has a control character in it"
        ))
    })?;
    Ok(name.into())
}

/// # Errors
/// Why no message can be like that.
pub(super) fn outgoing(to: wit::Target, message: wit::Outgoing) -> wasmtime::Result<Outgoing> {
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
    if body.len() > VALUE_BYTES_MAX {
        return Err(limit(LimitKind::StateValueBytes, VALUE_BYTES_MAX).into());
    }
    let method = Method::of_message(&method).ok_or_else(|| {
        invalid(format!(
            "cannot send with the method {method:?}: it is POST, PUT, PATCH or DELETE, or GET for a call"
        ))
    })?;
    if format!("/?{query}").parse::<PathAndQuery>().is_err() {
        return Err(invalid(format!(
            "cannot send the query {query:?}: it is to be percent-encoded"
        )));
    }
    if given.len() > HEADERS_MAX {
        return Err(limit(LimitKind::SentHeaders, HEADERS_MAX).into());
    }
    let header_bytes = given.iter().map(|(name, value)| name.len() + value.len());
    if header_bytes.sum::<usize>() > HEADER_BYTES_MAX {
        return Err(limit(LimitKind::SentHeaderBytes, HEADER_BYTES_MAX).into());
    }
    let mut headers = HeaderMap::with_capacity(given.len());
    for (name, value) in given {
        let parsed = HeaderName::from_bytes(name.as_bytes());
        let header = parsed.ok().zip(HeaderValue::from_str(&value).ok());
        let (name, value) =
            header.ok_or_else(|| invalid(format!("cannot send the header {name:?}: {value:?}")))?;
        // Those belong to nodes and to connections, as in replies.
        if !name.as_str().starts_with(RESERVED_HEADERS) && !CONNECTION_HEADERS.contains(&name) {
            headers.append(name, value);
        }
    }
    Ok(Outgoing {
        stream: StreamName::try_from(stream.as_str())
            .map_err(|error| invalid(format!("cannot send to the stream {stream:?}: {error}")))?,
        partition_key: PartitionKey::try_from(partition_key.as_str()).map_err(|error| {
            invalid(format!("cannot send to the key {partition_key:?}: {error}"))
        })?,
        method,
        query,
        headers,
        body: Bytes::from(body),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut wit::Target, &mut wit::Outgoing), problem: &str) {
        let mut to = wit::Target {
            stream: "ledger".into(),
            partition_key: "2026".into(),
        };
        let mut message = wit::Outgoing {
            method: "POST".into(),
            query: "a=%20&b".into(),
            headers: vec![("x-a".into(), "1".into())],
            body: b"{}".to_vec(),
        };
        change(&mut to, &mut message);
        let error = outgoing(to, message).unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
    }

    #[test]
    fn what_no_message_can_be_is_said() {
        check(|to, _| to.stream = "a/b".into(), "the stream \"a/b\"");
        check(|to, _| to.partition_key.clear(), "the key \"\"");
        check(
            |_, message| message.method = "HEAD".into(),
            "it is POST, PUT",
        );
        // It would end the line on which it is stored.
        let injected = "a\r\nmeshage-timer: x";
        check(
            |_, message| message.query = injected.into(),
            "percent-encoded",
        );
        check(
            |_, message| message.headers[0].1 = "a\r\nb: c".into(),
            "the header \"x-a\"",
        );
    }

    #[test]
    fn headers_have_their_limits() {
        let many = vec![("x-a".to_owned(), "1".to_owned()); HEADERS_MAX + 1];
        check(|_, message| message.headers = many, "256 headers");
        let large = "x".repeat(HEADER_BYTES_MAX);
        check(
            |_, message| message.headers[0].1 = large,
            "64 KiB of headers",
        );
    }

    #[test]
    fn the_name_of_a_timer_is_one_of_a_header() {
        assert_eq!(&*timer_name("läuft ab".into()).unwrap(), "läuft ab");
        for name in ["", "a\nb", "a\0"] {
            timer_name(name.into()).unwrap_err();
        }
    }

    #[test]
    fn headers_of_nodes_are_left_out() {
        let to = wit::Target {
            stream: "ledger".into(),
            partition_key: "2026".into(),
        };
        let headers = ["meshage-timer", "connection", "x-a"];
        let message = wit::Outgoing {
            method: "PUT".into(),
            query: String::new(),
            headers: headers.map(|name| (name.into(), "1".into())).to_vec(),
            body: Vec::new(),
        };
        let sent = outgoing(to, message).unwrap();
        assert_eq!(sent.headers.keys().collect::<Vec<_>>(), ["x-a"]);
    }
}
