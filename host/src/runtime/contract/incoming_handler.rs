//! `wasi:http`: a component that exports `incoming-handler` sees a message as the HTTP request that
//! it was, below the address of its entity.

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{CONTENT_LENGTH, HOST};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::oneshot;
use tokio::task::coop::unconstrained;
use wasmtime::Store;
use wasmtime::component::InstancePre;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme as WasiScheme};
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::{Error, WasiHttpView};

use super::reply::{BadReply, NoReply, check_body, check_headers, check_status, is_of_handler};
use super::{Call, Visible};
use crate::message::{
    Failure, FailureKind, Fault, Message, Method, REPLY_BODY_BYTES_MAX, Reply, StreamName,
};
use crate::runtime::host::HostState;
use crate::runtime::interfaces::Package;

/// Headers that only the host sets.
const STREAM: HeaderName = HeaderName::from_static("meshage-stream");
const PARTITION_KEY: HeaderName = HeaderName::from_static("meshage-partition-key");
const MESSAGE_ID: HeaderName = HeaderName::from_static("meshage-message-id");
const BASE_PATH: HeaderName = HeaderName::from_static("meshage-base-path");

/// How many headers the host sets, the length included.
const OF_HOST: usize = 5;

/// What of a key is percent-encoded: all but what RFC 3986 calls unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A component that exports `wasi:http/incoming-handler`.
pub(in crate::runtime) struct IncomingHandler(ProxyPre<HostState>);

impl Call for IncomingHandler {
    const EXPORT: &'static str = "wasi:http/incoming-handler@0.2.12";
    const EXPECTED: &'static str = "`wasi:http/incoming-handler@0.2` (an HTTP server)";
    // The types are those of the requests that guests send.
    const PACKAGES: &'static [Package] = &[];
    type Exports = Proxy;
    type Arguments<'m> = Box<Request<Full<Bytes>>>;
    type Returned = Result<Response<Bytes>, BadReply>;

    fn prepare(component: InstancePre<HostState>) -> wasmtime::Result<Self> {
        ProxyPre::new(component).map(Self)
    }

    fn pre(&self) -> &InstancePre<HostState> {
        self.0.instance_pre()
    }

    async fn instantiate(&self, store: &mut Store<HostState>) -> wasmtime::Result<Proxy> {
        self.0.instantiate_async(store).await
    }

    fn arguments(message: &Message, visible: &Visible) -> Result<Box<Request<Full<Bytes>>>, Fault> {
        let mut request = Box::new(Request::new(Full::new(message.body.clone())));
        *request.method_mut() = http_method(message.method);
        *request.uri_mut() = uri(message)?;
        *request.headers_mut() = headers(message, visible);
        Ok(request)
    }

    async fn call(
        proxy: &Proxy,
        store: &mut Store<HostState>,
        _: &Message,
        request: Self::Arguments<'_>,
    ) -> wasmtime::Result<Self::Returned> {
        let (sender, response) = oneshot::channel();
        let mut http = store.data_mut().http();
        let request = request.map(|body| body.map_err(|never| -> Error { match never {} }));
        let request = http.new_incoming_request(WasiScheme::Http, request)?;
        let outparam = http.new_response_outparam(sender)?;
        let handler = proxy.wasi_http_incoming_handler();
        let handled = handler.call_handle(store, request, outparam);
        let answered = collect(response);
        tokio::pin!(handled, answered);
        tokio::select! {
            biased;
            answered = &mut answered => {
                // What it does afterwards is part of its call.
                handled.await?;
                Ok(answered)
            }
            handled = &mut handled => {
                handled?;
                // Nobody is there any more who could answer.
                let answered = unconstrained(answered).now_or_never();
                Ok(answered.unwrap_or(Err(BadReply::Unfinished)))
            }
        }
    }

    fn reply(returned: Self::Returned) -> Result<Reply, NoReply> {
        returned.and_then(check).map_err(NoReply::Bad)
    }
}

fn http_method(method: Method) -> http::Method {
    match method {
        Method::Get => http::Method::GET,
        Method::Head => http::Method::HEAD,
        Method::Options => http::Method::OPTIONS,
        Method::Post => http::Method::POST,
        Method::Put => http::Method::PUT,
        Method::Patch => http::Method::PATCH,
        Method::Delete => http::Method::DELETE,
    }
}

/// The address as the handler sees it: what is below its entity.
fn uri(message: &Message) -> Result<Uri, Fault> {
    let path = match &*message.path {
        "" => "/",
        path => path,
    };
    let path = match &*message.query {
        "" => path.to_owned(),
        query => format!("{path}?{query}"),
    };
    let path = PathAndQuery::try_from(path).map_err(|_| {
        let text = "its path, or its query, is none of a URL: encode what they are made of";
        Fault::Failure(Failure {
            kind: FailureKind::Invalid,
            text: text.into(),
        })
    })?;
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority(&message.headers, &message.stream));
    parts.path_and_query = Some(path);
    Ok(Uri::from_parts(parts).expect("it has all parts"))
}

/// The host that the client has addressed. Handlers address a stream.
fn authority(headers: &HeaderMap, stream: &StreamName) -> Authority {
    let host = headers.get(HOST);
    host.and_then(|host| Authority::try_from(host.as_bytes()).ok())
        .or_else(|| Authority::try_from(stream.as_str()).ok())
        .unwrap_or_else(|| Authority::from_static("localhost"))
}

fn headers(message: &Message, visible: &Visible) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(message.headers.len() + OF_HOST);
    let seen = visible.of(&message.headers);
    headers.extend(seen.map(|(name, value)| (name.clone(), value.clone())));
    if !message.body.is_empty() || !message.method.is_safe() {
        headers.insert(CONTENT_LENGTH, message.body.len().into());
    }
    let key = utf8_percent_encode(message.partition_key.as_str(), RESERVED).to_string();
    let stream = message.stream.as_str();
    for (name, value) in [
        (STREAM, stream.to_owned()),
        (BASE_PATH, format!("/api/{stream}/{key}")),
        (PARTITION_KEY, key),
        (MESSAGE_ID, message.id.to_string()),
    ] {
        let value = HeaderValue::try_from(value);
        headers.insert(
            name,
            value.expect("names of streams, and what is encoded, are ASCII"),
        );
    }
    headers
}

type Sent = Result<hyper::Response<HyperOutgoingBody>, ErrorCode>;

/// Takes in the answer while the handler writes it.
async fn collect(response: oneshot::Receiver<Sent>) -> Result<Response<Bytes>, BadReply> {
    let response = response.await.map_err(|_| BadReply::Nothing)?;
    let response = response.map_err(|error| BadReply::Error(format!("{error:?}")))?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, REPLY_BODY_BYTES_MAX).collect().await;
    let body = body.map_err(|error| {
        if error.is::<LengthLimitError>() {
            let too_large = check_body(REPLY_BODY_BYTES_MAX + 1);
            too_large.expect_err("it is over the limit")
        } else {
            BadReply::Unfinished
        }
    })?;
    Ok(Response::from_parts(head, body.to_bytes()))
}

fn check(response: Response<Bytes>) -> Result<Reply, BadReply> {
    let (mut head, body) = response.into_parts();
    let status = check_status(head.status.as_u16())?;
    let sizes = head.headers.iter();
    let sizes = sizes.map(|(name, value)| name.as_str().len() + value.len());
    check_headers(head.headers.len(), sizes)?;
    let names = head.headers.keys();
    let reserved: Vec<HeaderName> = names.filter(|name| !is_of_handler(name)).cloned().collect();
    for name in reserved {
        head.headers.remove(name);
    }
    Ok(super::reply::reply(status, head.headers, body))
}
