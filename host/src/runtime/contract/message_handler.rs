//! The mesh's own contract, `wit/mesh.wit`: a component that exports `message-handler`.

use bytes::Bytes;
use http::header::InvalidHeaderName;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use uuid::Uuid;
use wasmtime::Store;
use wasmtime::component::InstancePre;

use super::{BadReply, Call, NoReply};
use crate::bodies::Reservation;
use crate::message::{
    CONNECTION_HEADERS, Failure, FailureKind, Limit, LimitKind, Message, REPLY_BODY_BYTES_MAX,
    RESERVED_HEADERS, Reply, TIMER, truncate,
};
use crate::runtime::host::HostState;
use crate::runtime::interfaces::Package;

wasmtime::component::bindgen!({
    path: "../wit",
    inline: "package meshage:host; world handler { export meshage:mesh/message-handler@0.1.0; }",
    world: "meshage:host/handler",
    ownership: Borrowing { duplicate_if_necessary: true },
    exports: { default: async },
});

use exports::meshage::mesh::message_handler as wit;

/// Maximum size of all reply headers, names and values together: the most that common clients
/// accept.
const REPLY_HEADER_BYTES_MAX: usize = 64 * 1024;

/// Maximum number of reply headers; clients accept about a hundred.
const REPLY_HEADERS_MAX: usize = 256;

/// Capacity reserved for the headers that HTTP adds: node, date and length.
const HEADERS_OF_HTTP: usize = 3;

/// Maximum size of a failure's text, which is for people to read. The rest is cut off.
const FAILURE_TEXT_BYTES_MAX: usize = 8 * 1024;

/// Names and values.
pub(in crate::runtime) type Headers<'m> = Vec<(&'m str, &'m str)>;

/// A component that exports `message-handler`.
pub(in crate::runtime) struct MessageHandler(HandlerPre<HostState>);

impl Call for MessageHandler {
    const EXPORT: &'static str = "meshage:mesh/message-handler@0.1.0";
    const EXPECTED: &'static str = "`meshage:mesh/message-handler@0.1.0`; write it with `#[meshage_sdk::handler]`, or \
        against the world `handler` of wit/mesh.wit";
    const PACKAGES: &'static [Package] = &[Package::mesh(&["types", "message-handler"])];
    type Exports = Handler;
    /// The headers that the handler may see.
    type Arguments<'m> = Headers<'m>;
    type Returned = Result<wit::Reply, wit::Failure>;

    fn prepare(component: InstancePre<HostState>) -> wasmtime::Result<Self> {
        HandlerPre::new(component).map(Self)
    }

    fn pre(&self) -> &InstancePre<HostState> {
        self.0.instance_pre()
    }

    async fn instantiate(&self, store: &mut Store<HostState>) -> wasmtime::Result<Handler> {
        self.0.instantiate_async(store).await
    }

    fn arguments<'m>(message: &'m Message, visible: &[HeaderName]) -> Result<Headers<'m>, Failure> {
        visible_headers(message, visible).map_err(not_utf8)
    }

    async fn call(
        exports: &Handler,
        store: &mut Store<HostState>,
        message: &Message,
        headers: Self::Arguments<'_>,
    ) -> wasmtime::Result<Self::Returned> {
        let mut id = Uuid::encode_buffer();
        let argument = wit::Message {
            id: message.id.as_hyphenated().encode_lower(&mut id),
            stream: message.stream.as_str(),
            partition_key: message.partition_key.as_str(),
            method: message.method.as_str(),
            query: &message.query,
            headers: &headers,
            body: &message.body,
        };
        exports
            .meshage_mesh_message_handler()
            .call_handle(store, argument)
            .await
    }

    fn reply(returned: Self::Returned) -> Result<Reply, NoReply> {
        match returned {
            Ok(reply) => check_reply(reply).map_err(NoReply::Bad),
            Err(failure) => Err(NoReply::Failure(failure.into())),
        }
    }
}

fn not_utf8(name: &HeaderName) -> Failure {
    let text = format!(
        "the header {name:?} is not UTF-8 text, which is what handlers are given; encode it"
    );
    Failure {
        kind: FailureKind::Invalid,
        text,
    }
}

/// The headers that a handler may see: `content-type`, the name of a timer, and those that its
/// manifest names.
///
/// # Errors
/// The name of a header whose value is not UTF-8: it cannot be passed to the handler, and must not
/// be left out silently.
fn visible_headers<'a>(
    message: &'a Message,
    declared: &[HeaderName],
) -> Result<Vec<(&'a str, &'a str)>, &'a HeaderName> {
    // A single pass: a request has few headers, and a lookup takes longer than skipping a few.
    let visible = message.headers.iter().filter(|(name, _)| {
        **name == header::CONTENT_TYPE || declared.contains(name) || **name == TIMER
    });
    visible
        .map(|(name, value)| {
            Ok((
                name.as_str(),
                std::str::from_utf8(value.as_bytes()).map_err(|_| name)?,
            ))
        })
        .collect()
}

fn check_reply(reply: wit::Reply) -> Result<Reply, BadReply> {
    let status = match StatusCode::from_u16(reply.status) {
        Ok(status) if (200..600).contains(&reply.status) => status,
        _ => return Err(BadReply::Status(reply.status)),
    };
    check_size(
        LimitKind::ReplyBodyBytes,
        reply.body.len(),
        REPLY_BODY_BYTES_MAX,
    )?;
    check_size(
        LimitKind::ReplyHeaders,
        reply.headers.len(),
        REPLY_HEADERS_MAX,
    )?;
    let header_bytes = reply
        .headers
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    check_size(
        LimitKind::ReplyHeaderBytes,
        header_bytes,
        REPLY_HEADER_BYTES_MAX,
    )?;
    // The headers of HTTP itself are added later.
    let mut headers = HeaderMap::with_capacity(reply.headers.len() + HEADERS_OF_HTTP);
    for (name, value) in reply.headers {
        let (Ok(parsed), Ok(value)) = (header_name(&name), HeaderValue::try_from(value)) else {
            return Err(BadReply::Header(truncate(name, FAILURE_TEXT_BYTES_MAX)));
        };
        if !CONNECTION_HEADERS.contains(&parsed) && !parsed.as_str().starts_with(RESERVED_HEADERS) {
            headers.append(parsed, value);
        }
    }
    Ok(Reply {
        status,
        headers,
        body: Bytes::from(reply.body),
        is_replayed: false,
        reservation: Reservation::default(),
    })
}

fn header_name(name: &str) -> Result<HeaderName, InvalidHeaderName> {
    // Shortcut for the header that almost every reply has.
    if name == header::CONTENT_TYPE {
        Ok(header::CONTENT_TYPE)
    } else {
        HeaderName::from_bytes(name.as_bytes())
    }
}

fn check_size(kind: LimitKind, size: usize, max: usize) -> Result<(), BadReply> {
    if size > max {
        Err(BadReply::Limit(Limit {
            kind,
            max: max as u64,
        }))
    } else {
        Ok(())
    }
}

impl From<wit::Failure> for Failure {
    fn from(failure: wit::Failure) -> Self {
        let (kind, text) = match failure {
            wit::Failure::Invalid(text) => (FailureKind::Invalid, text),
            wit::Failure::NotFound(text) => (FailureKind::NotFound, text),
            wit::Failure::Conflict(text) => (FailureKind::Conflict, text),
            wit::Failure::Unavailable(text) => (FailureKind::Unavailable, text),
            wit::Failure::Internal(text) => (FailureKind::Internal, text),
        };
        Self {
            kind,
            text: truncate(text, FAILURE_TEXT_BYTES_MAX),
        }
    }
}
