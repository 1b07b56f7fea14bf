//! Sends the requests of guests: to allowed hosts only, and within limits of time, size and number.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri;
use http_body_util::{BodyExt, Limited};
use hyper::body::Body;
use tokio::time::timeout_at;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks, default_send_request};

use super::access::Access;
use crate::message::Trace;
use crate::runtime::host::StateView;
use crate::telemetry::traces;

/// Maximum size of a request body, and of a response body.
pub(super) const BODY_BYTES_MAX: usize = 16 << 20;

/// How much of a request or response body is buffered at once.
const CHUNK_BYTES_MAX: usize = 64 << 10;

/// Connect timeout, TLS handshake included. No guest needs more time to learn that a host is down.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Sends the requests of one instance.
pub(super) struct Sender {
    pub(super) access: Arc<Access>,
    /// The deadline of the running call; requests must end by then.
    pub(super) deadline: Instant,
    /// What the call sees of its entity: nothing is sent before that is committed.
    pub(super) view: Option<Arc<dyn StateView>>,
    /// The span that its requests belong to, if its message is traced.
    pub(super) trace: Option<Trace>,
}

pub(super) type Connection = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl WasiHttpHooks for Sender {
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
        match self.sending(request, options.unwrap_or_default()) {
            Ok(sending) => Box::new(sending),
            Err(error) => Box::new(async { Err(error) }),
        }
    }
}

impl Sender {
    /// What sends a request, and ends with the head of its answer and with the connection, which must be
    /// polled for the body to come.
    ///
    /// # Errors
    /// If the host is not allowed, or too many requests are under way.
    pub(super) fn sending(
        &self,
        request: http::Request<WasiBody>,
        mut options: RequestOptions,
    ) -> Result<
        impl Future<Output = Result<(http::Response<WasiBody>, Connection), Error>> + Send + use<>,
        Error,
    > {
        if !self.access.allows(request.uri()) {
            self.access.log_denied(request.uri());
            return Err(Error::HttpRequestDenied);
        }
        let permit = self.access.permits.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Error::ConnectionLimitReached)?;
        let connect_max = options.connect_timeout.unwrap_or(CONNECT_MAX);
        options.connect_timeout = Some(connect_max.min(CONNECT_MAX));
        let mut request = request;
        let mut span = traces::outbound(self.trace.as_ref(), &mut request);
        let request = request.map(|body| {
            bounded(body, || {
                Error::HttpRequestBodySize(Some(BODY_BYTES_MAX as u64))
            })
        });
        let is_https = request.uri().scheme() == Some(&uri::Scheme::HTTPS);
        let deadline = self.deadline.into();
        let (access, view) = (self.access.clone(), self.view.clone());
        Ok(async move {
            let sending = async {
                if let Some(view) = view {
                    let settled = view.settled().await;
                    settled.map_err(|error| Error::InternalError(Some(error.to_string())))?;
                }
                if is_https {
                    let uri = request.uri().clone();
                    let sent = access.tls.send(request, options).await;
                    if let Err(Error::Tls(error)) = &sent {
                        access.log_tls_failed(&uri, error);
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
            match &sent {
                Ok((response, _)) => span.is_answered(response.status()),
                Err(error) => span.fail(&variant(error)),
            }
            drop(span);
            let (response, connection) = sent?;
            let connection: Connection = Box::new(async move {
                let _permit = permit;
                let driven = timeout_at(deadline, Box::into_pin(connection)).await;
                driven.unwrap_or(Err(Error::HttpResponseTimeout))
            });
            Ok((response, connection))
        })
    }
}

/// The name of an error, without what it says of this one.
fn variant(error: &Error) -> String {
    let name = format!("{error:?}");
    let end = name.find(|it: char| !it.is_ascii_alphanumeric());
    name[..end.unwrap_or(name.len())].to_owned()
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
