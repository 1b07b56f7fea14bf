//! Outbound HTTP of guests: to the hosts that the manifest allows, and within limits of time, size
//! and number. Everything else is denied.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Uri, uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Body;
use tokio::sync::Semaphore;
use tokio::time::timeout_at;
use tracing::warn;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_http::p2::bindings::http::types::{HostOutgoingRequest as _, Method, Scheme};
use wasmtime_wasi_http::p2::types::HostOutgoingRequest as OutgoingRequest;
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpHooks, WasiHttpView, default_send_request,
};

use super::outbound_tls::OutboundTls;
use crate::message::StreamName;

/// Requests of one plugin under way at once; a further one is refused.
const REQUESTS_MAX: usize = 64;

/// The body of a request, and that of its response.
const BODY_BYTES_MAX: usize = 16 << 20;

/// The headers of one request or response, and what it has of a body in memory.
const FIELDS_BYTES_MAX: usize = 64 << 10;
const CHUNK_BYTES_MAX: usize = 64 << 10;

/// A method, scheme or authority.
const TEXT_BYTES_MAX: usize = 8 << 10;

/// Hosts that the log names for each version of a plugin: what a guest makes up has an end.
const TOLD_MAX: usize = 32;

/// The interface in the version of the linker's; it serves every 0.2.
const TYPES: &str = "wasi:http/types@0.2.12";

/// How long a connection may take to be made. No guest needs to learn later that a host is down.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// A host that a plugin may send requests to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHost {
    /// In lower case; an IPv6 address in brackets.
    name: String,
    port: u16,
}

/// The text is not `host:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a host and its port")]
pub struct NotAHost;

impl FromStr for AllowedHost {
    type Err = NotAHost;

    fn from_str(text: &str) -> Result<Self, NotAHost> {
        let authority: uri::Authority = text.parse().map_err(|_| NotAHost)?;
        match authority.port_u16() {
            Some(port)
                if port > 0 && !text.contains(['@', '*']) && !authority.host().is_empty() =>
            {
                Ok(Self {
                    name: authority.host().to_ascii_lowercase(),
                    port,
                })
            }
            _ => Err(NotAHost),
        }
    }
}

impl std::fmt::Display for AllowedHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.name, self.port)
    }
}

/// The hosts of which the log has told something, which is once for each.
type Told = Mutex<BTreeSet<String>>;

fn host_of(uri: &Uri) -> &str {
    uri.authority().map_or("", |authority| authority.as_str())
}

fn is_new(told: &Told, host: &str) -> bool {
    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
    told.len() < TOLD_MAX && told.insert(host.to_owned())
}

/// What the instances of one plugin share.
pub(super) struct Grant {
    stream: StreamName,
    allowed: Vec<AllowedHost>,
    tls: OutboundTls,
    running: Arc<Semaphore>,
    denied: Told,
    tls_failed: Told,
}

impl Grant {
    pub(super) fn new(stream: StreamName, allowed: Vec<AllowedHost>, tls: OutboundTls) -> Self {
        Self {
            stream,
            allowed,
            tls,
            running: Arc::new(Semaphore::new(REQUESTS_MAX)),
            denied: Told::default(),
            tls_failed: Told::default(),
        }
    }

    /// Says of a host that the handler may not ask it: its author may have forgotten to name it.
    fn tell_denied(&self, uri: &Uri) {
        let host = host_of(uri);
        if is_new(&self.denied, host) {
            let (stream, scheme) = (&self.stream, uri.scheme_str());
            warn!(event = "host-denied", %stream, host, scheme, "a handler may not ask this host: its manifest does not name it (allowed_hosts)");
        }
    }

    /// Says of a host that there is no TLS with it, mostly for its certificate: the operator may
    /// have to name an authority.
    fn tell_tls_failed(&self, uri: &Uri, error: &io::Error) {
        let host = host_of(uri);
        if is_new(&self.tls_failed, host) {
            warn!(event = "host-tls-failed", stream = %self.stream, host, %error, "no HTTPS with a host that a handler asks; authorities beside those of browsers are named by --outbound-ca");
        }
    }

    fn allows(&self, uri: &Uri) -> bool {
        let Some(authority) = uri.authority() else {
            return false;
        };
        let default_port = if uri.scheme() == Some(&uri::Scheme::HTTPS) {
            443
        } else {
            80
        };
        let port = authority.port_u16().unwrap_or(default_port);
        // Who names a user in an address wants to deceive someone.
        !authority.as_str().contains('@')
            && self
                .allowed
                .iter()
                .any(|host| host.port == port && host.name.eq_ignore_ascii_case(authority.host()))
    }
}

/// The outbound side of one instance.
pub(super) struct Outbound {
    grant: Arc<Grant>,
    /// That of the running call: what it begins ends by then.
    pub(super) deadline: Instant,
}

impl Outbound {
    pub(super) fn new(grant: Arc<Grant>, deadline: Instant) -> Self {
        Self { grant, deadline }
    }
}

type Connection = Box<dyn Future<Output = Result<(), Error>> + Send>;

/// Puts `wasi:http` into a linker. What takes texts of any length takes shorter ones here.
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

/// What bounds the size of each resource of `wasi:http`.
pub(super) fn context() -> WasiHttpCtx {
    let mut context = WasiHttpCtx::new();
    context.set_field_size_limit(FIELDS_BYTES_MAX);
    context
}

impl WasiHttpHooks for Outbound {
    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES_MAX
    }

    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Connection,
    ) -> Box<dyn Future<Output = Result<(http::Response<WasiBody>, Connection), Error>> + Send>
    {
        let deadline = self.deadline.into();
        if !self.grant.allows(request.uri()) {
            self.grant.tell_denied(request.uri());
            return Box::new(async { Err(Error::HttpRequestDenied) });
        }
        let Ok(place) = self.grant.running.clone().try_acquire_owned() else {
            return Box::new(async { Err(Error::ConnectionLimitReached) });
        };
        let mut options = options.unwrap_or_default();
        options.connect_timeout = Some(
            options
                .connect_timeout
                .unwrap_or(CONNECT_MAX)
                .min(CONNECT_MAX),
        );
        let request = request.map(|body| {
            bounded(body, || {
                Error::HttpRequestBodySize(Some(BODY_BYTES_MAX as u64))
            })
        });
        let is_https = request.uri().scheme() == Some(&uri::Scheme::HTTPS);
        let grant = self.grant.clone();
        Box::new(async move {
            let sending = async {
                if is_https {
                    let uri = request.uri().clone();
                    let sent = grant.tls.send(request, options).await;
                    if let Err(Error::Tls(error)) = &sent {
                        grant.tell_tls_failed(&uri, error);
                    }
                    let (response, connection) = sent?;
                    return Ok((response.map(bounded_response), connection));
                }
                let (response, connection) = default_send_request(request, Some(options)).await?;
                Ok((
                    response.map(bounded_response),
                    Box::new(connection) as Connection,
                ))
            };
            let sent: Result<_, Error> = timeout_at(deadline, sending)
                .await
                .unwrap_or(Err(Error::HttpResponseTimeout));
            let (response, connection) = sent?;
            let connection: Connection = Box::new(async move {
                let _place = place;
                let driven = timeout_at(deadline, Box::into_pin(connection)).await;
                driven.unwrap_or(Err(Error::HttpResponseTimeout))
            });
            Ok((response, connection))
        })
    }
}

fn bounded_response<B: Body<Data = Bytes, Error = Error> + Send + 'static>(body: B) -> WasiBody {
    bounded(body, || {
        Error::HttpResponseBodySize(Some(BODY_BYTES_MAX as u64))
    })
}

/// A body that ends with an error past its limit.
fn bounded<B>(body: B, too_large: impl Fn() -> Error + Send + 'static) -> WasiBody
where
    B: Body<Data = Bytes, Error = Error> + Send + 'static,
{
    Limited::new(body, BODY_BYTES_MAX)
        .map_err(move |error| {
            error
                .downcast::<Error>()
                .map_or_else(|_| too_large(), |error| *error)
        })
        .boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(allowed: &str, uri: &str, expected: bool) {
        let grant = Grant::new(
            StreamName::try_from("s").unwrap(),
            vec![allowed.parse().unwrap()],
            OutboundTls::new(&[]).unwrap(),
        );
        assert_eq!(
            grant.allows(&uri.parse().unwrap()),
            expected,
            "{allowed} {uri}"
        );
    }

    #[test]
    fn only_the_named_host_and_port_are_allowed() {
        check("api.example.com:443", "https://api.example.com/a?b", true);
        check("api.example.com:443", "https://API.example.com:443/", true);
        check("api.example.com:443", "http://api.example.com/", false);
        check("api.example.com:80", "http://api.example.com/", true);
        check(
            "api.example.com:443",
            "https://api.example.com:8443/",
            false,
        );
        check(
            "api.example.com:443",
            "https://api.example.com.evil.org/",
            false,
        );
        check(
            "api.example.com:443",
            "https://evil.api.example.com/",
            false,
        );
        check(
            "api.example.com:443",
            "https://api.example.com@evil.org/",
            false,
        );
        check(
            "api.example.com:443",
            "https://evil.org@api.example.com/",
            false,
        );
        check("[::1]:8080", "http://[::1]:8080/", true);
    }

    #[test]
    fn a_host_has_a_port() {
        for wrong in [
            "",
            "api.example.com",
            "api.example.com:0",
            "*.example.com:443",
            "a@b:443",
            "http://a:443",
            ":443",
        ] {
            assert_eq!(wrong.parse::<AllowedHost>(), Err(NotAHost), "{wrong}");
        }
        assert_eq!(
            "API.example.com:443"
                .parse::<AllowedHost>()
                .unwrap()
                .to_string(),
            "api.example.com:443"
        );
    }
}
