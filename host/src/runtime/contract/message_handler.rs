//! The mesh's own contract, `wit/mesh.wit`: a component that exports `message-handler`.

use http::header::InvalidHeaderName;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use uuid::Uuid;
use wasmtime::Store;
use wasmtime::component::InstancePre;

use super::reply::{BadReply, NoReply, check_body, check_headers, check_status, is_of_handler};
use super::{Call, Visible};
use crate::message::{Failure, FailureKind, Fault, Message, Method, Reply, truncate};
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
    const EXPECTED: &'static str = "`meshage:mesh/message-handler@0.1.0` (written with `#[meshage_sdk::handler]`, or \
        against the world `handler` of wit/mesh.wit)";
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

    fn arguments<'m>(message: &'m Message, visible: &Visible) -> Result<Headers<'m>, Fault> {
        // A client that ends its path with a slash means the key.
        if !matches!(&*message.path, "" | "/") || message.method == Method::Options {
            return Err(Fault::NoRoute);
        }
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
            method: message.method.for_messages().as_str(),
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

fn not_utf8(name: &HeaderName) -> Fault {
    let text = format!(
        "the header {name:?} is not UTF-8 text, which is what handlers are given; encode it"
    );
    Fault::Failure(Failure {
        kind: FailureKind::Invalid,
        text,
    })
}

/// The headers that a handler may see.
///
/// # Errors
/// The name of a header whose value is not UTF-8: it cannot be passed to the handler, and must not
/// be left out silently.
fn visible_headers<'a>(
    message: &'a Message,
    visible: &Visible,
) -> Result<Headers<'a>, &'a HeaderName> {
    // A single pass: a request has few headers, and a lookup takes longer than skipping a few.
    visible
        .of(&message.headers)
        .map(|(name, value)| {
            Ok((
                name.as_str(),
                std::str::from_utf8(value.as_bytes()).map_err(|_| name)?,
            ))
        })
        .collect()
}

fn check_reply(reply: wit::Reply) -> Result<Reply, BadReply> {
    let status = check_status(reply.status)?;
    check_body(reply.body.len())?;
    let sizes = reply.headers.iter();
    check_headers(
        reply.headers.len(),
        sizes.map(|(name, value)| name.len() + value.len()),
    )?;
    // The headers of HTTP itself are added later.
    let mut headers = HeaderMap::with_capacity(reply.headers.len() + HEADERS_OF_HTTP);
    for (name, value) in reply.headers {
        let (Ok(parsed), Ok(value)) = (header_name(&name), HeaderValue::try_from(value)) else {
            return Err(BadReply::Header(truncate(name, FAILURE_TEXT_BYTES_MAX)));
        };
        if is_of_handler(&parsed) {
            headers.append(parsed, value);
        }
    }
    Ok(super::reply::reply(status, headers, reply.body.into()))
}

fn header_name(name: &str) -> Result<HeaderName, InvalidHeaderName> {
    // Shortcut for the header that almost every reply has.
    if name == header::CONTENT_TYPE {
        Ok(header::CONTENT_TYPE)
    } else {
        HeaderName::from_bytes(name.as_bytes())
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
