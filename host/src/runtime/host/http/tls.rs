//! HTTPS for guests: sends requests as wasmtime does by default, but also trusts the certificate
//! authorities that the operator configures.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{ServerName, TrustAnchor};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::TlsConnector;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

/// Timeouts where the guest sets none; its deadline may be sooner.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(600);

const HTTPS_PORT: u16 = 443;

/// The TLS configuration with the certificate authorities that guests trust. Built once, as there
/// are many of them.
#[derive(Clone)]
pub(in crate::runtime) struct OutboundTls(TlsConnector);

/// The future that drives a connection; it must be polled until it ends.
pub(super) type Driven = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl OutboundTls {
    /// Trusts the authorities that browsers trust, plus `own`.
    pub(super) fn new(own: &[TrustAnchor<'static>]) -> Result<Self, rustls::Error> {
        let roots = RootCertStore {
            roots: [webpki_roots::TLS_SERVER_ROOTS, own].concat(),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(Self(
            Arc::new(config.with_root_certificates(roots).with_no_client_auth()).into(),
        ))
    }

    /// Sends a request, and returns the head of its response.
    pub(super) async fn send(
        &self,
        mut request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<(Response<Paced>, Driven), Error> {
        let connect_max = options.connect_timeout.unwrap_or(TIMEOUT_DEFAULT);
        let stream = timeout(connect_max, self.connect(request.uri()))
            .await
            .map_err(|_| Error::ConnectionTimeout)??;
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
        // A request to an origin server, not to a proxy, has only the path in its request line.
        let path = request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse().map_err(|_| Error::HttpRequestUriInvalid)?;
        let mut driven: Pin<Driven> =
            Box::pin(async move { connection.await.map_err(Error::from) });
        let response = {
            let first_byte_max = options.first_byte_timeout.unwrap_or(TIMEOUT_DEFAULT);
            let sending = timeout(first_byte_max, sender.send_request(request));
            tokio::pin!(sending);
            tokio::select! {
                biased;
                response = &mut sending => response,
                // The connection has ended, so the response or its error is available.
                ended = &mut driven => {
                    driven = Box::pin(std::future::ready(ended));
                    sending.await
                }
            }
        };
        let response = response.map_err(|_| Error::ConnectionReadTimeout)??;
        let pause_max = options.between_bytes_timeout.unwrap_or(TIMEOUT_DEFAULT);
        Ok((
            response.map(|body| Paced::new(body, pause_max)),
            Box::new(driven),
        ))
    }

    async fn connect(
        &self,
        uri: &Uri,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Error> {
        let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(Error::InvalidDnsNameError)?;
        let port = authority.port_u16().unwrap_or(HTTPS_PORT);
        let stream = TcpStream::connect((host, port))
            .await
            .map_err(Error::Connect)?;
        self.0.connect(name, stream).await.map_err(Error::Tls)
    }
}

/// A body with a timeout between two frames.
pub(super) struct Paced {
    body: Incoming,
    pause_max: Duration,
    paused: Pin<Box<Sleep>>,
}

impl Paced {
    fn new(body: Incoming, pause_max: Duration) -> Self {
        Self {
            body,
            pause_max,
            paused: Box::pin(sleep(pause_max)),
        }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => {
                let paused_until = Instant::now() + self.pause_max;
                self.paused.as_mut().reset(paused_until);
                Poll::Ready(frame.map(|frame| frame.map_err(Error::from)))
            }
            Poll::Pending => self
                .paused
                .as_mut()
                .poll(context)
                .map(|()| Some(Err(Error::ConnectionReadTimeout))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
